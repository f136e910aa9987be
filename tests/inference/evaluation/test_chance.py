"""The law of the largest R-hat of many quantities under convergence: known answers."""

import numpy as np
import pytest
from scipy.special import fdtrc

from probattn.inference.evaluation.chain_statistics import _chance, mixing

REPEATS, QUANTITIES = 20, 1000


def autoregressive(rng, rho, chains, draws, quantities=QUANTITIES):
    """Stationary AR(1) series of variance 1, (quantities, chains, draws)."""
    series = np.empty((quantities, chains, draws))
    series[..., 0] = rng.normal(size=(quantities, chains))
    for t in range(1, draws):
        noise = rng.normal(size=(quantities, chains)) * np.sqrt(1 - rho**2)
        series[..., t] = rho * series[..., t - 1] + noise
    return series


@pytest.mark.parametrize(("rho", "chains", "draws"), [(0.0, 2, 155), (0.5, 2, 155), (0.8, 4, 150)])
def test_converged_series_pass(rho, chains, draws):
    """Had each a chance of 0.05 to fail, more than 4 of 20 would with probability 0.003."""
    rng, failed, largest = np.random.default_rng(0), 0, []
    for _ in range(REPEATS):
        found = mixing(autoregressive(rng, rho, chains, draws))
        failed += QUANTITIES * found.chance.min() < 0.05
        largest.append(found.rhat.max())
    print(f"rho {rho}: {failed} of {REPEATS} failed, largest R-hat {max(largest):.3f}")
    assert failed <= 4
    if rho == 0.5:  # a limit of 1.05 for each would fail them all
        assert min(largest) > 1.05


@pytest.mark.parametrize("rho", [0.0, 0.5])
def test_shifted_chains_fail(rho):
    """One of 1,000 quantities differs between two chains by three of its standard deviations."""
    rng = np.random.default_rng(1)
    for _ in range(5):
        series = autoregressive(rng, rho, 2, 155)
        series[17, 1] += 3
        found = mixing(series)
        assert QUANTITIES * found.chance.min() < 0.05
        assert found.chance.argmin() == 17


def test_the_chance_of_one_quantity_is_uniform():
    """Kolmogorov's distance of 1,000 chances from uniform; 0.05 has probability 0.013."""
    found = mixing(autoregressive(np.random.default_rng(2), 0.5, 4, 1000))
    # Twice the smaller of two nearly independent p-values: P(chance <= c) = 1 - (1 - c / 2)^2.
    chance = np.sort(1 - (1 - np.minimum(found.chance, 1) / 2) ** 2)
    below = chance < 0.7  # chances are cut at 1
    expected = np.arange(1, QUANTITIES + 1) / QUANTITIES
    assert abs(chance - expected)[below].max() < 0.05


@pytest.mark.parametrize(("rho", "chains"), [(0.0, 2), (0.7, 3)])
def test_the_chance_follows_the_formula(rho, chains):
    """A twin with loops: the variance of the means of the 2 c halves of c chains, over that of a
    mean of autocorrelated draws, against an F law with 2 c - 1 degrees of freedom."""
    draws = 40  # of a half
    for series in autoregressive(np.random.default_rng(3), rho, chains, 2 * draws, 5):
        halves = np.array([*series[:, :draws], *series[:, draws:]])
        covariance = np.zeros(2 * draws)
        for chain in series - series.mean(1, keepdims=True):
            for lag in range(2 * draws):
                covariance[lag] += (chain[: 2 * draws - lag] * chain[lag:]).sum()
        correlation = covariance / covariance[0]
        tau, pairs, least = -1.0, 0, np.inf
        while (pair := correlation[2 * pairs] + correlation[2 * pairs + 1]) > 0:
            least = min(least, pair)
            tau += 2 * least
            pairs += 1
        within = np.mean([half.var(ddof=1) for half in halves])
        ratio = np.var([half.mean() for half in halves], ddof=1) / (within * tau / draws)
        expected = fdtrc(2 * chains - 1, 2 * chains * draws / (4 * pairs + 1), ratio)
        np.testing.assert_allclose(_chance(halves[None]), [expected], rtol=1e-9)
