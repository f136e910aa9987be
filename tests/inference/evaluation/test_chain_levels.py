"""Chains at different levels of the density are told, those of one posterior are not."""

import jax
import numpy as np
import pytest
from known import Conjugate

from probattn.inference import Fit, diagnose
from probattn.inference.evaluation.chain_levels import ADVICE, levels_apart

# Log densities of draws in 450 coordinates: minus half a chi-square, spread sqrt(450 / 2) = 15.
DRAWS = -np.random.default_rng(0).chisquare(450, (4, 500)) / 2


def test_chains_of_one_posterior_are_not_apart():
    assert levels_apart(DRAWS) == ""
    assert levels_apart(np.zeros((4, 5))) == ""


def test_a_chain_at_a_lower_level_is_told():
    lower = DRAWS - np.array([200.0, 0, 0, 0])[:, None]
    found = levels_apart(lower)
    gap = lower.mean(1).max() - lower.mean(1)[0]
    assert f"lie {gap:.0f}, " in found
    assert "within a chain they spread by 1" in found


def test_a_density_that_is_not_finite_is_not_judged():
    assert levels_apart(np.where(np.arange(500) == 3, np.nan, DRAWS)) == ""


@pytest.mark.parametrize("apart", [True, False])
def test_the_verdict_says_what_to_do(apart):
    """Chains apart in a parameter; in their density, too, or not."""
    data = np.zeros((4, 1))
    theta = np.random.default_rng(1).normal(np.arange(4)[:, None], 0.1, (4, 500))
    energy = -DRAWS + (200.0 * apart * np.arange(4))[:, None]
    fit = Fit(Conjugate(), "posterior", data, {"theta": theta}, {"potential_energy": energy})
    verdict = diagnose(fit, jax.numpy.asarray(data)).verdict
    assert not verdict.converged
    assert (ADVICE in verdict.advice) == apart
    assert ("near different modes" in str(verdict)) == apart
