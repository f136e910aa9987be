"""Three tiers: a posterior that raw weights call converged and predictions do not, shared starts,
and LOO."""

import dataclasses
import itertools

import arviz as az
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from arviz_stats.base import array_stats
from known import DATA, Conjugate
from numpyro.infer.util import log_density

from probattn import InputError
from probattn.inference import diagnose, leave_one_out, sample_posterior
from probattn.inference.fitting.fit import Fit, mixture_log_prob
from probattn.models import LanguageModel

# A symbol is repeated ten times in thirteen, else changed: on the circle of two-dimensional
# embeddings the four symbols have three orders, all equally probable. Rotations make raw weights of
# all chains agree, whichever order each is in.
RINGS = LanguageModel(5, 2, 2)
SAME = [(i, i) for i in range(1, 5)]
SWITCH = [(i, j) for i in range(1, 5) for j in range(1, 5) if i != j]
TRAIN = np.array(SAME * 30 + SWITCH * 3, np.int32)
HELD = np.array([(1, 2), (2, 1), (3, 4), (4, 3)] * 2 + [(1, 3), (3, 1), (2, 4), (4, 2)], np.int32)


def prior_starts(model, data, seed, chains):
    """Draws from the prior of finite density, the same in both precisions, in unconstrained
    coordinates."""
    from probattn.inference.fitting.unconstrained import unconstrain

    rng, starts = np.random.default_rng(seed), []
    while len(starts) < chains:
        params = {
            name: jnp.asarray(
                rng.normal(size=p.shape()) * np.broadcast_to(np.sqrt(p.variance), p.shape()), float
            )
            for name, p in model.priors().items()
        }
        if np.isfinite(log_density(model, (data,), {}, params)[0]):
            starts.append(unconstrain(model, jnp.asarray(data), params))
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *starts)


@pytest.fixture(scope="module")
def rings():
    """Four of eight chains from the prior, those whose raw weights agree although their predictions
    do not."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "probattn.inference.fitting.posterior.start_points",
            lambda model, data, *_: (prior_starts(model, data, 2, 8), 0.0),
        )
        fit = sample_posterior(
            RINGS,
            TRAIN,
            key=jax.random.key(0),
            num_chains=8,
            num_warmup=250,
            num_samples=500,
            max_tree_depth=7,
            start="prior",
            progress=False,
        )
    fours = [list(four) for four in itertools.combinations(range(8), 4)]
    raw = np.concatenate([value.reshape(8, 500, -1) for value in fit.draws.values()], axis=-1)
    total = fit.draw_log_prob(HELD).sum(-1)
    agree = [
        four
        for four in fours
        if array_stats.rhat(raw[four], chain_axis=0, draw_axis=1).max() < 1.045
    ]
    four = max(agree, key=lambda four: az.rhat(total[four]))
    draws, stats = (
        {name: value[four] for name, value in part.items()} for part in (fit.draws, fit.stats)
    )
    return dataclasses.replace(fit, draws=draws, stats=stats, origins=(0, 1, 2, 3))


def test_raw_weights_look_converged_and_predictions_are_not(rings):
    found = diagnose(rings, HELD)
    raw, identified, predictive = found.tiers
    assert (raw.name, identified.name, predictive.name) == ("raw", "identified", "predictive")
    print(found)
    assert raw.rhat < 1.05
    assert predictive.rhat > 1.5
    assert not found.verdict.converged
    assert any("(predictive)" in finding for finding in found.verdict.findings)
    assert any("Raw weights look converged" in note for note in found.verdict.notes)


def sampled(draws, origins=(), **fields):
    """A fit of a normal mean with the draws (chains, draws) of it."""
    stats = {"diverging": np.zeros(draws.shape, bool)}
    return Fit(
        Conjugate(),
        "posterior",
        np.zeros((3, 1)),
        {"theta": draws},
        stats,
        origins=origins,
        **fields,
    )


def test_tiers_are_arviz_worst():
    draws = np.random.default_rng(0).normal(size=(4, 200)) + 0.5 * np.arange(4)[:, None]
    found = diagnose(sampled(draws))
    np.testing.assert_allclose(found.tiers[0].rhat, az.rhat(draws), rtol=1e-12)
    np.testing.assert_allclose(
        found.tiers[0].ess_tail, az.ess(draws, method="tail", prob=0.05), rtol=1e-12
    )
    assert found.quantity == "training log probability"
    assert not found.verdict.converged
    assert "(limit 1.05)" in found.verdict.findings[0]
    assert found.verdict.findings[0].startswith("R-hat of ")


def test_a_good_sample_has_converged():
    found = diagnose(sampled(np.random.default_rng(0).normal(size=(4, 500))))
    assert found.verdict.converged
    assert found.verdict.findings[0].startswith("Largest R-hat 1.0")
    slow = np.cumsum(np.random.default_rng(0).normal(size=(2, 500)), 1)
    assert not diagnose(sampled(slow)).verdict.converged
    short = diagnose(sampled(np.random.default_rng(0).normal(size=(2, 3))))
    assert not short.verdict.converged


def test_the_largest_of_many_is_judged_by_its_law():
    """Of 99 slow sequences in two chains some have an R-hat above 1.05 by chance, which is a note;
    the sum is that of a fast one. If one sequence differs between the chains it is a finding."""
    rng = np.random.default_rng(0)
    log_prob = rng.normal(size=(2, 200, 100))
    for t in range(1, 200):
        log_prob[:, t, 1:] = 0.8 * log_prob[:, t - 1, 1:] + 0.6 * log_prob[:, t, 1:]
    log_prob[..., 0] *= 100
    fit, data = sampled(log_prob[..., 0]), np.repeat(DATA, 25, axis=0)
    found = diagnose(fit, data, log_prob=log_prob / 100)
    predictive = found.tiers[1]
    assert predictive.rhat > 1.05
    assert predictive.chance > 0.05
    assert found.verdict.converged
    assert any(note.startswith("The largest R-hat of 101") for note in found.verdict.notes)
    log_prob[1, :, 17] += 5
    found = diagnose(fit, data, log_prob=log_prob / 100)
    assert found.tiers[1].rhat_of == "sequence 17"
    assert not found.verdict.converged
    assert found.verdict.findings[0].startswith("R-hat of sequence 17 (predictive) is")


def test_chains_that_share_a_start_are_nested():
    """Within each start the chains agree, between the two they do not: nested R-hat sees it, and
    one start is labelled."""
    draws = np.random.default_rng(0).normal(size=(4, 300)) + np.array([0, 0, 0.6, 0.6])[:, None]
    nested = diagnose(sampled(draws, origins=(0, 0, 1, 1)))
    ids = np.array([0, 0, 1, 1])
    expected = az.rhat_nested(draws, superchain_ids=ids)
    np.testing.assert_allclose(nested.tiers[0].rhat, max(expected, az.rhat(draws)), rtol=1e-6)
    assert nested.num_starts == 2
    one = diagnose(sampled(draws[:2], origins=(0, 0), start="one mode"))
    assert any("started from one point" in note for note in one.verdict.notes)
    assert not any(
        "started from one point" in note for note in diagnose(sampled(draws)).verdict.notes
    )


def test_what_is_unfinished_or_stuck_is_told():
    draws = np.random.default_rng(0).normal(size=(2, 500))
    assert (
        "Unfinished: 500 of 900 draws a chain."
        in diagnose(sampled(draws, planned=900)).verdict.notes
    )
    frozen = np.concatenate([draws, np.full((1, 500), 0.3)])
    assert diagnose(sampled(frozen)).tiers[0].rhat > 1.05
    apart = np.repeat([[0.0], [1.0]], 50, axis=1)
    assert diagnose(sampled(apart)).tiers[0].rhat == np.inf


def test_a_large_vocabulary_is_judged_by_some_pairs_and_the_verdict_says_so():
    rng = np.random.default_rng(0)
    tokens = rng.integers(1, 41, size=(6, 3)).astype(np.int32)
    for vocab_size, some in ((40, False), (41, True)):
        model = LanguageModel(vocab_size, 3, dim=1)
        draws = {
            name: rng.normal(size=(2, 6, *prior.shape())) for name, prior in model.priors().items()
        }
        found = diagnose(Fit(model, "posterior", tokens % vocab_size, draws, {}))
        note = "interaction of pairs that occur (300), interaction of random pairs (300)"
        assert any(note in one for one in found.verdict.notes) == some


def test_points_and_approximations_are_no_sample(fits):
    for method in ("map", "laplace", "ensemble"):
        fit = dataclasses.replace(fits["posterior"], method=method)
        with pytest.raises(
            InputError, match=f"expected draws of Markov chains, got a fit by {method}"
        ):
            diagnose(fit)
        with pytest.raises(
            InputError, match=f"expected draws of Markov chains, got a fit by {method}"
        ):
            leave_one_out(fit)


@pytest.mark.parametrize("draws", [1, 3])
def test_too_few_draws_are_no_convergence(draws):
    """A single draw varies in nothing, and what does not vary has no R-hat to fail."""
    theta = np.random.default_rng(0).normal(size=(1, draws))
    verdict = diagnose(Fit(Conjugate(), "posterior", DATA, {"theta": theta})).verdict
    assert not verdict.converged
    assert verdict.findings == (f"{draws} draws a chain are too few to judge (at least 4).",)


def test_nothing_is_said_of_raw_weights_that_cannot_be_judged():
    """Of short random walks R-hat is large by chance; so few effective draws judge nothing."""
    walk = np.cumsum(np.random.default_rng(5).normal(size=(2, 16)), 1)
    found = diagnose(sampled(walk))
    assert found.tiers[0].rhat > 1.5
    assert found.tiers[0].ess_bulk < 8
    assert not found.verdict.converged
    assert not any("Raw weights" in note for note in found.verdict.notes)


def test_the_monte_carlo_error_is_the_spread_of_repeated_samples():
    """64 samples of 400 draws with autocorrelation 0.5; their spread is known to 9 %."""
    rng, sums, errors = np.random.default_rng(5), [], []
    for _ in range(64):
        walk = np.zeros((4, 100))
        walk[:, 0] = rng.normal(size=4)
        for t in range(1, 100):
            walk[:, t] = 0.5 * walk[:, t - 1] + np.sqrt(0.75) * rng.normal(size=4)
        log_prob = -3.0 + 0.3 * walk[..., None] * np.array([1.0, -0.5, 2.0])
        found = diagnose(sampled(walk), DATA[:3], log_prob=log_prob)
        errors.append(found.monte_carlo_error)
        sums.append(mixture_log_prob(log_prob).sum())
    assert any("Monte Carlo error" in note for note in found.verdict.notes)
    assert np.std(sums) / np.mean(errors) == pytest.approx(1, abs=0.3)


def test_a_step_across_the_boundary_is_no_divergence():
    fit = sampled(np.random.default_rng(0).normal(size=(4, 200)))
    outside = np.zeros((4, 200), bool)
    outside[1, :7] = True
    found = diagnose(dataclasses.replace(fit, stats={**fit.stats, "outside": outside}))
    assert (found.outside, found.divergences) == (7, 0)
    assert any("7 of 800 trajectories met the boundary" in note for note in found.verdict.notes)
    assert found.verdict.converged
