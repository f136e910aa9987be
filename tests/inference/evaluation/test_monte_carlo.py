"""The error that draws and members put into a score, against the spread of repeated ones."""

import math

import numpy as np
import pytest

from probattn.inference.evaluation.monte_carlo import error_of_draws
from probattn.inference.fitting.fit import mixture_log_prob


def members(rng, number):
    """Log probabilities of ten sequences under members that differ, (1, members, sequences)."""
    return -20 + rng.normal(size=(1, number, 1)) * np.linspace(-0.5, 1.5, 10)


def test_the_error_of_members_is_the_spread_of_repeated_ensembles():
    """200 ensembles of eight: their spread is known to 5 %; the jackknife of a function that bends
    is too large rather than too small."""
    rng, scores, errors = np.random.default_rng(0), [], []
    for _ in range(200):
        log_prob = members(rng, 8)
        scores.append(mixture_log_prob(log_prob).sum())
        errors.append(error_of_draws(log_prob, "ensemble"))
    assert np.sqrt(np.mean(np.square(errors))) / np.std(scores) == pytest.approx(1.1, abs=0.25)


def test_draws_in_chains_are_worth_less_than_independent_ones():
    """An AR(1) series of coefficient 0.9 has a nineteenth of its draws' worth."""
    rng = np.random.default_rng(1)
    walk = np.zeros((4, 500))
    for t in range(1, 500):
        walk[:, t] = 0.9 * walk[:, t - 1] + math.sqrt(1 - 0.81) * rng.normal(size=4)
    log_prob = 0.1 * walk[..., None] * np.ones(3)
    ratio = error_of_draws(log_prob, "posterior") / error_of_draws(log_prob, "laplace")
    assert ratio == pytest.approx(math.sqrt(19), rel=0.3)


def test_one_draw_says_nothing():
    assert math.isnan(error_of_draws(np.zeros((1, 1, 5)), "map"))
    assert math.isnan(error_of_draws(np.zeros((4, 3, 5)), "posterior"))
