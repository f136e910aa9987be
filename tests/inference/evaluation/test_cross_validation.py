"""Leave-one-out against known answers: all terms of a sequence are left out with it."""

from dataclasses import dataclass

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from known import Conjugate
from numpyro.infer.util import log_density
from scipy.special import logsumexp

from probattn import InputError
from probattn.inference import Fit, leave_one_out, sample_posterior
from probattn.inference.evaluation.cross_validation import _verdict
from probattn.inference.evaluation.left_out_posteriors import left_out_mixture


def test_leaving_one_out_is_that_of_the_conjugate_posterior():
    """With y ~ N(theta, 1) and theta ~ N(0, 2), y_i given the others is normal with known mean and
    variance."""
    data = np.random.default_rng(1).normal(1, 1, (20, 1))
    precision = 1 / 4 + 20
    theta = np.random.default_rng(0).normal(data.sum() / precision, precision**-0.5, (4, 1000))
    found = leave_one_out(Fit(Conjugate(), "posterior", data, {"theta": theta}))
    others = 1 / 4 + 19
    mean, variance = (data.sum() - data[:, 0]) / others, 1 + 1 / others
    expected = -0.5 * (np.log(2 * np.pi * variance) + (data[:, 0] - mean) ** 2 / variance)
    np.testing.assert_allclose(found.per_sequence, expected, atol=0.02)
    np.testing.assert_allclose(found.log_prob, expected.sum(), atol=0.1)
    assert found.verdict.converged
    assert found.khat.shape == (20,)


def test_a_sequence_too_far_from_the_others_is_told():
    data = np.append(np.random.default_rng(1).normal(0, 0.1, 4), 12.0)[:, None]
    theta = np.random.default_rng(0).normal(data.sum() / 5.25, 5.25**-0.5, (4, 200))
    verdict = leave_one_out(Fit(Conjugate(), "posterior", data, {"theta": theta})).verdict
    assert not verdict.converged
    assert "1 of 5 sequences have k-hat above" in str(verdict)


@dataclass(frozen=True)
class Factored(Conjugate):
    """The same with a factor exp(-weight (theta - y_i)^2 / 2) of each row: again conjugate."""

    weight: float = 0.5
    has_factor = True

    def log_factors(self, params, tokens):
        return -self.weight * (params["theta"] - tokens[..., 0]) ** 2 / 2


def test_a_sequence_takes_its_factors_along():
    """theta given n rows has precision 1 / 4 + (1 + weight) n; y_i given the others is normal."""
    data = np.random.default_rng(1).normal(1, 1, (8, 1))
    each = 1 + Factored().weight
    precision = 1 / 4 + 8 * each
    mean = each * data.sum() / precision
    theta = np.random.default_rng(0).normal(mean, precision**-0.5, (4, 5000))
    found = leave_one_out(Fit(Factored(), "posterior", data, {"theta": theta}))
    others = 1 / 4 + 7 * each
    mean, variance = each * (data.sum() - data[:, 0]) / others, 1 + 1 / others
    expected = dist.Normal(mean, variance**0.5).log_prob(data[:, 0])
    # 20,000 draws: a Monte Carlo error of some 0.003 a row, where a factor that stays moves the
    # sum by a quarter of a nat.
    np.testing.assert_allclose(found.per_sequence, expected, atol=0.02)
    kept = leave_one_out(Fit(Conjugate(), "posterior", data, {"theta": theta}))
    assert abs(kept.log_prob - expected.sum()) > 0.1


def test_draws_that_are_worth_less_have_a_longer_tail():
    """Each draw kept twice is worth as much as once, and the estimate is the same."""
    data = np.random.default_rng(1).normal(1, 1, (6, 1))
    theta = np.random.default_rng(0).normal(1, 0.4, (2, 500))
    once, twice = (
        leave_one_out(Fit(Conjugate(), "posterior", data, {"theta": draws}))
        for draws in (theta, np.repeat(theta, 2, axis=1))
    )
    np.testing.assert_allclose(once.per_sequence, twice.per_sequence, atol=0.02)


def test_a_k_hat_that_is_no_number_is_not_good():
    verdict = _verdict(np.array([0.1, np.nan, 0.2]), 100, False)
    assert not verdict.converged
    assert "1 of 3 sequences have k-hat above 0.50 (largest 0.20)" in str(verdict)


SURPRISING = np.append(np.random.default_rng(1).normal(0, 0.1, 7), 6.0)[:, None]


@dataclass(frozen=True)
class WithFactor(Factored):
    """The same, whose joint density holds the factor, so that a sampler sees it."""

    def __call__(self, tokens, batch_size=None):
        theta = numpyro.sample("theta", dist.Normal(0, 2))
        with numpyro.plate("rows", len(tokens)):
            numpyro.sample("y", dist.Normal(theta, 1), obs=tokens[:, 0])
            numpyro.factor("path", self.log_factors({"theta": theta}, tokens))


@pytest.mark.parametrize("model", [Conjugate(), WithFactor()])
def test_a_second_posterior_leaves_out_what_weights_cannot(model):
    """Where one row is 6 standard deviations off, against the exact answer.

    Chains are independent: the tolerance is five standard errors by their spread."""
    each = 1 + getattr(model, "weight", 0)
    precision = 1 / 4 + 8 * each
    mean, sd = each * SURPRISING.sum() / precision, precision**-0.5
    theta = np.random.default_rng(0).normal(mean, sd, (4, 500))
    fit = Fit(model, "posterior", SURPRISING, {"theta": theta})
    settings = dict(num_warmup=200, num_samples=1000, start="random", progress=False)
    found = leave_one_out(fit, key=jax.random.key(0), **settings)
    others = precision - each
    left = each * (SURPRISING.sum() - SURPRISING[:, 0]) / others
    expected = dist.Normal(left, (1 + 1 / others) ** 0.5).log_prob(SURPRISING[:, 0])
    assert found.resampled[-1]
    assert "left out by a second posterior, which has converged" in str(found.verdict)
    assert found.verdict.converged
    weights_alone = leave_one_out(fit)
    assert not weights_alone.verdict.converged
    assert not weights_alone.resampled.any()
    by_chain = []
    chosen = np.where(found.resampled, 0.0, -np.inf)  # one row, whose weight decides nothing
    second = sample_posterior(
        left_out_mixture(model, chosen), SURPRISING, key=jax.random.key(0), **settings
    )
    for one in second.draws["theta"]:
        log_prob = dist.Normal(one[:, None], 1).log_prob(SURPRISING[:, 0])
        terms = log_prob
        if each > 1:
            terms = terms + model.log_factors({"theta": one[:, None]}, SURPRISING[None])
        weight = -terms[:, -1] - logsumexp(chosen - terms, axis=1)
        by_chain.append(logsumexp(weight + log_prob[:, -1]) - logsumexp(weight))
    error = np.std(by_chain, ddof=1) / 2
    assert abs(found.per_sequence[-1] - expected[-1]) < 5 * error


def test_components_of_the_mixture_have_even_masses():
    """Two rows on opposite sides, of which one surprises far more.

    By weights of 1 the mixture is hardly ever without the other. By p(x_i | x_-i) it is half of the
    time without each; integrals by a fine grid. The model has the density of the formula."""
    data = np.array([[-4.0], [0.0], [0.0], [0.0], [8.0]])
    theta = np.linspace(-6, 8, 20001)
    log_prob = dist.Normal(theta[:, None], 1).log_prob(data[:, 0])
    joint = np.asarray(dist.Normal(0, 2).log_prob(theta) + log_prob.sum(-1))
    chosen = np.array([0.0, -np.inf, -np.inf, -np.inf, 0.0])
    without = joint[:, None] - np.asarray(log_prob)  # the joint without each row
    exact = logsumexp(joint) - logsumexp(without, axis=0)  # log p(x_i | x_-i)
    for log_weights, share in ((chosen + exact, 0.5), (chosen, None)):
        model = left_out_mixture(Conjugate(), log_weights)
        of_component = log_weights[[0, 4]] + logsumexp(without[:, [0, 4]], axis=0)
        mass = np.exp(of_component - logsumexp(of_component))
        if share is not None:
            np.testing.assert_allclose(mass, share, atol=1e-5)
        else:
            assert mass.min() < 0.01
        got = [
            log_density(model, (data,), {}, {"theta": at})[0] for at in (theta[5000], theta[9000])
        ]
        whole = logsumexp(log_weights[[0, 4]] + without[:, [0, 4]], axis=1)
        np.testing.assert_allclose(np.diff(got)[0], whole[9000] - whole[5000], rtol=1e-4)


def test_settings_of_a_second_posterior_need_a_key():
    fit = Fit(Conjugate(), "posterior", SURPRISING, {"theta": np.zeros((4, 50))})
    with pytest.raises(InputError, match="expected a key together with num_samples"):
        leave_one_out(fit, num_samples=10)
