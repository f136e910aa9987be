"""Leave-one-out against known answers: all terms of a sequence are left out with it."""

from dataclasses import dataclass

import numpy as np
import numpyro.distributions as dist
from known import Conjugate

from probattn.inference import Fit, leave_one_out
from probattn.inference.evaluation.cross_validation import _verdict


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
