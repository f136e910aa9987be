"""Simulation-based calibration: it passes with the log-determinant and fails without."""

import arviz as az
import jax
import matplotlib.pyplot as plt
import numpy as np
import pytest

from benchmarks.calibration import EmissionWithoutLogDet, WithoutLogDet
from probattn import InputError
from probattn.inference import Calibration, plot_ranks, simulation_based_calibration
from probattn.inference.evaluation.simulation_calibration import _ranks
from probattn.models import EmissionModel, LatentAttention

FIELDS = dict(dim=2, length=8, values=False)
QUANTITIES = {
    *(f"interaction[1, {i}, {j}]" for i in (1, 2) for j in (1, 2)),
    "scale",
    "log_likelihood",
    "smallest_margin",
}


# Rounding alone, of another compiler say, makes other draws: a band at the usual 0.95 would then
# fail one time in twenty. The thousand simulations of the slow tests, and of `make calibration`,
# are held to 0.95.
PROBABILITY = 0.999


def calibrate(posterior_model=None, **settings):
    settings = dict(num_simulations=200, num_samples=49, thinning=3, num_warmup=150) | settings
    settings = dict(probability=PROBABILITY) | settings
    return simulation_based_calibration(
        LatentAttention(**FIELDS),
        posterior_model=posterior_model,
        key=jax.random.key(1),
        **settings,
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
    assert {
        "interaction[1, 1, 1]",
        "interaction[1, 2, 2]",
        "log_likelihood",
        "smallest_margin",
    } <= set(outside)
    titles = [ax.get_title(loc="left") for ax in plot_ranks(calibration)]
    assert "log_likelihood: outside" in titles


EMISSION = dict(vocab_size=3, length=4, dim=1)


def calibrate_emission(posterior_model=None, **settings):
    settings = (
        dict(num_simulations=100, num_sequences=8, num_samples=49, thinning=3, num_warmup=150)
        | settings
    )
    settings = dict(probability=PROBABILITY) | settings
    model = EmissionModel(**EMISSION, coordinates=settings.pop("coordinates", "embedding"))
    return simulation_based_calibration(
        model, posterior_model=posterior_model, key=jax.random.key(1), **settings
    )


def test_parameters_and_embeddings_of_an_emission_model_are_calibrated_together():
    calibration = calibrate_emission()
    assert calibration.outside() == []
    assert {
        "interaction[1, 1, 1]",
        "value[1, 3, 2]",
        "emitted",
        "log_det",
        "smallest_margin",
    } <= set(calibration.ranks)
    # The margins of short sequences are 1 under any parameters: such ranks are drawn, and neither
    # all 0 nor all 49.
    assert (
        0
        <= calibration.ranks["smallest_margin"].min()
        < 10
        < 40
        < calibration.ranks["smallest_margin"].max()
    )


def test_an_emission_model_without_the_log_determinant_is_seen():
    outside = calibrate_emission(EmissionWithoutLogDet(**EMISSION)).outside()
    assert {"log_det", "smallest_margin"} <= set(outside)


@pytest.mark.parametrize("coordinates", ["embedding", "noise"])
def test_the_emission_model_is_calibrated_over_a_thousand_simulations(coordinates):
    assert (
        calibrate_emission(
            coordinates=coordinates, num_simulations=1000, probability=0.95
        ).outside()
        == []
    )


def test_bands_hold_uniform_ranks_together_and_see_a_shift():
    rng = np.random.default_rng(0)
    trials, held = 200, 0
    for _ in range(trials):
        ranks = {name: rng.integers(0, 50, 100) for name in "abc"}
        held += not Calibration(ranks, 49, 0.0, 0.9).outside()
    # Bonferroni over three independent quantities: 0.9 or a little more; 4 standard errors of 200
    # trials.
    assert abs(held / trials - 0.9) < 4 * np.sqrt(0.09 / trials)
    shifted = {"a": rng.integers(0, 50, 100), "b": np.minimum(rng.integers(0, 50, 100) + 12, 49)}
    assert Calibration(shifted, 49, 0.0).outside() == ["b"]


def test_a_truth_that_equals_draws_ranks_among_them_at_random():
    draws = np.repeat([[0.0, 1.0, 1.0, 1.0, 2.0]], 4000, axis=0)
    assert set(_ranks(np.full(4000, 1.5), draws)) == {4}
    ranks = _ranks(np.ones(4000), draws)
    counts = np.bincount(ranks, minlength=6)
    assert counts[[0, 5]].tolist() == [0, 0]
    # Each of four ranks with probability 1/4: within 4 standard errors.
    assert abs(counts[1:5] / 4000 - 0.25).max() < 4 * np.sqrt(0.25 * 0.75 / 4000)


@pytest.mark.parametrize("parametrisation", ["full", "factored", "symmetric"])
def test_every_parametrisation_is_calibrated_over_a_thousand_simulations(parametrisation):
    model = LatentAttention(**FIELDS, parametrisation=parametrisation)
    assert (
        simulation_based_calibration(model, key=jax.random.key(5), num_simulations=1000).outside()
        == []
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(num_simulations=9), "num_simulations: expected a whole number of at least 10, got 9"),
        (dict(num_samples=0), "num_samples: expected a whole number of at least 1, got 0"),
        (dict(probability=1.0), r"probability: expected a number inside \(0, 1\), got 1.0"),
    ],
)
def test_bad_input_is_refused(settings, message):
    with pytest.raises(InputError, match=message):
        calibrate(**settings)


def test_arviz_draws_the_ranks():
    ranks = {"one": np.random.default_rng(0).permutation(100), "other": np.zeros(100, int)}
    tree = Calibration(ranks, 99, 0.0).to_datatree()
    found = tree["prior_sbc"]["one"].values[0]
    np.testing.assert_array_equal(np.floor(100 * found), ranks["one"])
    az.plot_ecdf_pit(tree, backend="matplotlib")
    plt.close("all")
