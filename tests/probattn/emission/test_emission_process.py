"""Tokens emitted by latent embeddings: the particle filter against quadrature, and the process it
makes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from emission_cases import LENGTH, VOCAB, by_quadrature, emission, every_sequence, process

from probattn import Attention, Emission, EmissionProcess, InputError, ProcessMixture

TOKENS = every_sequence()
ROWS = 14 * len(TOKENS)
# Each number of particles, sequences or tokens is a program of some seconds to compile, so tests
# share them: this many particles for all sequences at once, where accuracy is wanted.
MANY = 4000


@pytest.fixture(scope="module")
def exact():
    return by_quadrature(emission(), TOKENS)


@pytest.fixture(scope="module")
def filtered():
    return process(MANY).filter(TOKENS)


def mixture_of(*emissions):
    return ProcessMixture(
        process(MANY), jax.tree.map(lambda *leaves: jnp.stack(leaves), *emissions)
    )


def test_the_quadrature_has_converged(exact):
    """The finer grid's error is below the two grids' difference, a tenth of the filters' standard
    errors."""
    coarse, _ = by_quadrature(emission(), TOKENS, nodes=32)
    np.testing.assert_allclose(coarse, exact[0], rtol=3e-3)
    assert abs(exact[0].sum() - 1) < 1e-5


@pytest.mark.parametrize("bootstrap", [False, True])
def test_log_prob_is_that_of_quadrature_within_its_standard_error(exact, filtered, bootstrap):
    filtered = process(MANY).filter(TOKENS, bootstrap=True) if bootstrap else filtered
    error = np.asarray(filtered.standard_error)
    assert (error < 0.05).all()
    # 15 sequences: all within 4 standard errors but for one run in a thousand.
    assert (np.abs(np.exp(filtered.log_prob - np.log(exact[0])) - 1) < 4 * error).all()
    np.testing.assert_allclose(filtered.log_increments.sum(-1), filtered.log_prob, rtol=1e-5)


def test_it_is_unbiased_and_its_standard_error_is_right_over_200_seeds(exact):
    row = [2, 1, 2]
    place = int(np.flatnonzero((row == TOKENS).all(1))[0])
    number, seeds = 20, 200
    filtered = process(number).filter(
        np.array([row] * seeds)
    )  # each sequence has random numbers of its own
    ratio = np.exp(np.asarray(filtered.log_prob, float)) / exact[0][place]
    spread = ratio.std(ddof=1)
    assert abs(ratio.mean() - 1) < 4 * spread / np.sqrt(seeds)
    # Reported and actual error agree; the actual one is known to 1 / sqrt(2 seeds), and its tails
    # are heavier.
    reported = np.sqrt((np.asarray(filtered.standard_error) ** 2).mean())
    assert abs(reported / spread - 1) < 0.25


def test_its_standard_error_counts_the_resamplings():
    """Weighed by the square of the estimate, its square is unbiased for the variance of the
    estimate. 3,000 filters know either side to some 3 %; without the powers it is 11 % above."""
    of_three = emission()
    bias = np.zeros((of_three.attention.heads, 12), np.float32)
    of_twelve = of_three._replace(
        attention=dataclasses.replace(of_three.attention, position_bias=bias)
    )
    law = EmissionProcess(of_twelve, length=12, num_particles=50, key=jax.random.key(1))
    row = np.random.default_rng(1).integers(1, 3, 12)
    filtered = law.filter(np.tile(row, (3000, 1)), bootstrap=True)
    relative = np.exp(np.asarray(filtered.log_prob, float) - np.max(filtered.log_prob))
    relative /= relative.mean()
    reported = np.sqrt((relative**2 * np.asarray(filtered.standard_error, float) ** 2).mean())
    assert abs(reported / relative.std(ddof=1) - 1) < 0.06


def relative_variance(filtered):
    probability = np.exp(np.asarray(filtered.log_prob, float) - np.max(filtered.log_prob))
    return probability.var(ddof=1) / probability.mean() ** 2


def test_guided_particles_are_worth_many_of_the_prior():
    """Strong readouts over twelve tokens, as fits to words have them; 400 filters know a variance
    to a tenth or so."""
    strong = emission(dim=3, seed=1, length=5, vocab_size=12)
    strong = strong._replace(readout=2 * strong.readout)
    one = EmissionProcess(strong, length=5, num_particles=100)
    tokens = np.array([[3, 7, 5, 2, 9]] * 400)
    guided, bootstrap = (
        relative_variance(one.filter(tokens, bootstrap=way)) for way in (False, True)
    )
    assert bootstrap > 10 * guided


def test_the_prior_among_the_guided_particles_bounds_their_weights():
    """Two strong heads: the mean jumps between keys, and a Student t alone misses where the density
    is."""
    one = EmissionProcess(emission(dim=3, seed=1, heads=2), length=LENGTH, num_particles=200)
    filtered = one.filter(np.array([[1, 2, 1]] * ROWS))
    reported = np.sqrt((np.asarray(filtered.standard_error) ** 2).mean())
    assert np.sqrt(relative_variance(filtered)) < 1.3 * reported


def test_probabilities_of_all_sequences_add_up_to_one(filtered):
    """Of each sequence 4000 particles at once, or fourteen times 200: programs that other tests
    here have too."""
    times = ROWS // len(TOKENS)
    several = process(200, dim=3, heads=2).filter(np.tile(TOKENS, (times, 1)))
    for of_all, number in ((filtered, 1), (several, times)):
        probability = np.exp(np.asarray(of_all.log_prob, float)) / number
        error = np.sqrt(((probability * np.asarray(of_all.standard_error)) ** 2).sum())
        assert error < 0.02
        assert abs(probability.sum() - 1) < 4 * error


def test_smoothed_embeddings_are_those_of_quadrature(exact, filtered):
    ended = (TOKENS == 0).cumsum(1) - (TOKENS == 0)  # 0 up to and including the end
    mean, spread = filtered.smoothed()
    assert (np.isnan(mean[..., 0]) == (ended > 0)).all()
    error = spread[..., 0] / np.sqrt(filtered.smoothed_sample_size)
    inside = np.abs(mean[..., 0] - exact[1]) < 4.5 * error
    assert inside[ended == 0].all()
    # At the last position that counts, filtered and smoothed are the same.
    last = (ended == 0).sum(1) - 1
    rows = np.arange(len(TOKENS))
    np.testing.assert_allclose(filtered.filtered[rows, 0, last], mean[rows, last], rtol=1e-4)
    np.testing.assert_allclose(filtered.filtered[rows, 1, last], spread[rows, last], rtol=1e-3)


def test_what_follows_the_end_does_not_count():
    one, tokens = process(MANY), TOKENS.copy()
    tokens[:2] = [[1, 0, 0], [1, 0, 2]]
    scored, filtered = one.log_prob([[1, 0], [0, 2]]), one.filter(tokens)
    # A sequence has the same random numbers in both.
    np.testing.assert_allclose(filtered.log_prob[0], scored[0], rtol=1e-5)
    assert scored[1] == filtered.log_prob[1] == -np.inf
    assert np.isnan(filtered.effective_sample_size[0, 2])
    assert filtered.log_increments[0, 2] == 0
    assert (filtered.paths[0, :, 2] == 0).all()


def test_the_next_token_law(exact):
    tokens = [[2, 1, 0], [0, 0, 0]]
    one = process(MANY)
    estimate = one.next_token(tokens)
    (rows, ended), error = np.asarray(estimate.value), np.asarray(estimate.standard_error)[0]
    np.testing.assert_allclose(rows.sum(-1), 1, rtol=1e-5)
    by_prefix = lambda *prefix: exact[0][(TOKENS[:, : len(prefix)] == prefix).all(1)].sum()  # noqa: E731
    for t, prefix in enumerate(([], [2], [2, 1])):
        for v in range(VOCAB):
            expected = by_prefix(*prefix, v) / by_prefix(*prefix)
            assert abs(rows[t, v] - expected) < 4 * error[t, v]
    assert (error < 0.05).all()
    # What `next_token_log_probs` compiles as a whole; here by the program that is there already.
    np.testing.assert_allclose(np.exp(one.conditionals(jnp.asarray(tokens)))[0], rows, rtol=1e-4)
    traced = jax.eval_shape(one.next_token_log_probs, jnp.asarray(tokens))
    assert traced.shape == (2, LENGTH, VOCAB)
    np.testing.assert_array_equal(ended[1:], [[1, 0, 0], [1, 0, 0]])


def test_draws_and_the_laws_that_rest_on_them(exact):
    one, number = process(100), 20_000
    tokens = np.asarray(one.sample(jax.random.key(3), (number,)))
    counts = np.array([(tokens == row).all(1).sum() for row in TOKENS])
    assert counts.sum() == number
    assert (np.abs(counts / number - exact[0]) < 4.5 * np.sqrt(exact[0] / number)).all()
    survival = one.survival(LENGTH)
    expected = exact[0][(TOKENS != 0).all(1)].sum()
    assert abs(survival.value - expected) < 4 * survival.standard_error
    infilled = one.conditional([1], {0: 2, 2: 1})
    joint = np.array([exact[0][(np.array([2, v, 1]) == TOKENS).all(1)].sum() for v in range(VOCAB)])
    assert (np.abs(infilled.value - joint / joint.sum()) < 4.5 * infilled.standard_error)[1:].all()
    assert not one.tightness().tight
    with pytest.raises(InputError, match='survival: expected method="monte_carlo"'):
        one.survival(2, method="exact")


def test_a_mixture_of_emission_processes(exact):
    others = [emission(seed=seed) for seed in (1, 2, 3)]
    mixture = mixture_of(emission(), *others)
    expected = np.mean([exact[0], *(by_quadrature(other, TOKENS)[0] for other in others)], axis=0)
    np.testing.assert_allclose(np.exp(mixture.log_prob(TOKENS)), expected, rtol=0.1)
    tokens = np.asarray(mixture.sample(jax.random.key(1), (20_000,)))
    counts = np.array([(tokens == row).all(1).mean() for row in TOKENS])
    assert (np.abs(counts - expected) < 4.5 * np.sqrt(expected / 20_000)).all()
    with pytest.raises(InputError, match="monte_carlo"):
        mixture.set_law(method="exact")


def test_draws_of_a_mixture_have_random_numbers_of_their_own():
    """Four equal draws halve the error; with random numbers in common they would leave it as it
    is."""
    one, mixture = process(MANY), mixture_of(*[emission()] * 4)
    rows = np.array([[2, 1, 2]] * len(TOKENS))  # each with random numbers of its own
    alone, together = [], []
    for key in jax.random.split(
        jax.random.key(0), 3
    ):  # 45 sequences each: a deviation is known to a tenth
        one.key = mixture.template.key = key
        alone.append(one.filter(rows).log_prob)
        together.append(mixture.log_prob(rows))
    assert np.std(together) < 0.7 * np.std(alone)
    assert (together[0] != alone[0]).all()


def test_it_works_under_jit_and_vmap_in_both_precisions():
    parts = emission()

    @jax.jit
    @jax.vmap
    def score(readout):
        changed = parts._replace(readout=readout)
        return EmissionProcess(changed, length=LENGTH, num_particles=MANY).filter(TOKENS).log_prob

    several = score(jnp.stack([parts.readout, 2 * parts.readout, jnp.nan * parts.readout]))
    assert several.shape == (3, len(TOKENS))
    assert several.dtype == jnp.result_type(float)
    np.testing.assert_allclose(several[0], process(MANY).filter(TOKENS).log_prob, rtol=1e-3)
    assert jnp.isfinite(several[1]).all()
    assert jnp.isnan(several[2]).all()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda e: (e._replace(attention=Attention(e.attention.query, e.attention.key)), {}),
            "expected a contraction cap",
        ),
        (
            lambda e: (e._replace(readout=jnp.ones((3, 2))), {}),
            r"expected shapes \(vocab_size >= 2, 1\)",
        ),
        (lambda e: (e._replace(bias=jnp.ones(4)), {}), r"got \(3, 1\) and \(4,\)"),
        (lambda e: (e._replace(scale=jnp.asarray(-1.0)), {}), "scale: expected positive numbers"),
        (
            lambda e: (e, {"num_particles": 1}),
            "num_particles: expected a whole number of at least 2, got 1",
        ),
        (lambda e: (e, {"length": 0}), "length: expected a whole number of at least 1, got 0"),
        (lambda e: (e, {"length": 4}), "needs a position bias"),
        (lambda e: (Emission(None, *e[1:]), {}), "expected one Attention"),
    ],
)
def test_bad_input_is_refused(build, message):
    changed, settings = build(emission())
    with pytest.raises(InputError, match=message):
        EmissionProcess(changed, **({"length": LENGTH} | settings))


@pytest.mark.parametrize("tokens", [[0, 1, 2, 1], [3, 0, 0], [-1, 0, 0], [0.5, 0.0, 0.0]])
def test_bad_tokens_are_refused(tokens):
    with pytest.raises(InputError, match="tokens: expected"):
        process(10).filter(tokens)
