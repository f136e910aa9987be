"""Simulation-based calibration: it passes with the log-determinant and fails without."""

import jax
import numpy as np
import pytest

from benchmarks.calibration import WithoutLogDet
from probattn import InputError
from probattn.inference import Calibration, plot_calibration, simulation_based_calibration
from probattn.models import LatentAttention

FIELDS = dict(dim=2, length=8, values=False)
QUANTITIES = {
    *(f"interaction[1, {i}, {j}]" for i in (1, 2) for j in (1, 2)),
    "scale",
    "log_likelihood",
    "smallest_margin",
}


def calibrate(posterior_model=None, **settings):
    # In the float64 pass half as many: the program is the same, only slower.
    num_simulations = 100 if jax.config.jax_enable_x64 else 200
    settings = dict(num_simulations=num_simulations, num_draws=49, thinning=3, num_warmup=150) | settings
    return simulation_based_calibration(
        LatentAttention(**FIELDS), posterior_model=posterior_model, key=jax.random.key(1), **settings
    )


def test_the_posterior_is_calibrated():
    calibration = calibrate()
    assert set(calibration.ranks) == QUANTITIES
    assert calibration.outside() == []
    assert calibration.diverging < 0.01
    for ranks in calibration.ranks.values():
        assert 0 <= ranks.min() < 10
        assert 40 <= ranks.max() <= 49


def test_leaving_the_log_determinant_out_is_seen():
    calibration = calibrate(WithoutLogDet(**FIELDS))
    outside = calibration.outside()
    assert {"interaction[1, 1, 1]", "interaction[1, 2, 2]", "log_likelihood", "smallest_margin"} <= set(outside)
    titles = [ax.get_title(loc="left") for ax in plot_calibration(calibration).axes]
    assert "log_likelihood: outside" in titles


def test_bands_hold_uniform_ranks_together_and_see_a_shift():
    rng = np.random.default_rng(0)
    trials, held = 200, 0
    for _ in range(trials):
        ranks = {name: rng.integers(0, 50, 100) for name in "abc"}
        held += not Calibration(ranks, 49, 0.0, 0.9).outside()
    # Bonferroni over three independent quantities: 0.9 or a little more; 4 standard errors of 200 trials.
    assert abs(held / trials - 0.9) < 4 * np.sqrt(0.09 / trials)
    shifted = {"a": rng.integers(0, 50, 100), "b": np.minimum(rng.integers(0, 50, 100) + 12, 49)}
    assert Calibration(shifted, 49, 0.0).outside() == ["b"]


@pytest.mark.slow
@pytest.mark.parametrize("parametrisation", ["full", "factored", "symmetric"])
def test_every_parametrisation_is_calibrated_over_a_thousand_simulations(parametrisation):
    model = LatentAttention(**FIELDS, parametrisation=parametrisation)
    assert simulation_based_calibration(model, key=jax.random.key(5), num_simulations=1000).outside() == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(num_simulations=9), "num_simulations: expected a whole number of at least 10, got 9"),
        (dict(num_draws=0), "num_draws: expected a whole number of at least 1, got 0"),
        (dict(probability=1.0), r"probability: expected a number inside \(0, 1\), got 1.0"),
    ],
)
def test_bad_input_is_refused(settings, message):
    with pytest.raises(InputError, match=message):
        calibrate(**settings)
