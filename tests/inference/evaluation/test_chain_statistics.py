"""R-hat and effective sample sizes of many quantities together are ArviZ's of each one."""

import numpy as np
import pytest
from arviz_stats.base import array_stats

from probattn.inference.evaluation import chain_statistics
from probattn.inference.evaluation.chain_statistics import mixing

AXES = dict(chain_axis=0, draw_axis=1)


def quantities(chains, draws):
    """Independent, slow, alternating, tied, heavy-tailed, infinite, stuck and constant ones."""
    rng = np.random.default_rng(draws)
    noise = rng.normal(size=(9, chains, draws))
    slow, alternating = noise[:2].copy()
    for t in range(1, draws):
        slow[:, t] += 0.9 * slow[:, t - 1]
        alternating[:, t] -= 0.8 * alternating[:, t - 1]
    stuck = np.broadcast_to(np.arange(chains)[:, None], (chains, draws))
    infinite = np.where(noise[2] < -0.8, -np.inf, noise[2])
    missing = np.where(np.arange(draws) == 2, np.nan, noise[3])
    kinds = [slow, alternating, np.round(noise[4]), 1 / noise[5], np.cumsum(noise[6], 1)]
    return np.stack([*kinds, noise[7], stuck, infinite, missing, np.ones((chains, draws))])


@pytest.mark.filterwarnings("ignore:invalid value", "ignore:divide by zero")
@pytest.mark.parametrize("draws", [4, 5, 6, 7, 50, 101])
@pytest.mark.parametrize("chains", [1, 2, 4])
def test_they_are_those_of_one_after_the_other(chains, draws, monkeypatch):
    monkeypatch.setattr(chain_statistics, "AT_ONCE", 4)
    values = quantities(chains, draws)
    groups = np.array([0, 0, 1, 1]) if chains == 4 else None
    statistics, each = mixing(values, groups), np.moveaxis(values, 0, -1)
    found = [getattr(statistics, name) for name in ("rhat", "bulk", "tail", "nested")]
    expected = [
        array_stats.rhat(each, **AXES),
        array_stats.ess(each, method="bulk", **AXES),
        array_stats.ess(each, method="tail", prob=0.05, **AXES),
    ]
    if groups is not None:
        expected.append(array_stats.rhat_nested(each, groups, **AXES))
    for one, other in zip(found, expected, strict=False):
        np.testing.assert_allclose(one, other, rtol=1e-10)  # rounding of Fourier transforms
