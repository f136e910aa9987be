"""Calibration of predictors that are known to be calibrated, or not."""

import dataclasses

import numpy as np
import pytest
from predictors import TRUTH, fit_of, sequences, sharpened

from probattn import InputError
from probattn.inference import plot_calibration, predict, reliability
from probattn.inference.evaluation.measured import Measured, ratio
from probattn.inference.evaluation.token_calibration import _edges

SHARP = sharpened(TRUTH, 3)
TIMES = 60


def expected_overconfidence(table, tokens, counted):
    """Mean of confidence minus the true probability of the token that it is of."""
    before = np.concatenate([np.zeros_like(tokens[:, :1]), tokens[:, :-1]], axis=1)[counted]
    likeliest = table.argmax(1)
    return (table.max(1) - TRUTH[np.arange(4), likeliest])[before].mean()


def test_a_calibrated_predictor_is_called_so():
    """The limit is one that a calibrated predictor keeps with probability 0.95."""
    kept = [
        one.calibration_error <= one.calibrated_limit
        for one in (
            reliability(predict(fit_of([TRUTH]), sequences(300, seed=seed)))
            for seed in range(TIMES)
        )
    ]
    assert sum(kept) >= 51  # of 60; fewer with probability 0.2 % at 0.95


def test_an_overconfident_predictor_is_called_so_and_by_how_much():
    tokens = sequences(2000)
    prediction = predict(fit_of([SHARP]), tokens)
    found = reliability(prediction)
    expected = expected_overconfidence(SHARP, tokens, prediction.counted)
    assert expected > 0.1
    assert abs(found.overconfidence.value - expected) < 4 * found.overconfidence.error
    # Every bin is overconfident, so that the calibration error is the same number.
    assert abs(found.calibration_error - expected) < 4 * found.overconfidence.error
    assert found.calibration_error > 5 * found.calibrated_limit
    assert found.verdict().startswith("overconfident by 0.")
    assert (found.accuracy < found.low).sum() >= len(found.low) - 1
    blunt = reliability(predict(fit_of([sharpened(TRUTH, 0.3)]), tokens))
    assert blunt.verdict().startswith("underconfident by 0.")


def test_proper_scores_by_hand():
    tokens = np.array([[1, 2, 0], [0, 0, 0]])
    found = reliability(predict(fit_of([TRUTH], length=3), tokens))
    came = [TRUTH[0, 1], TRUTH[1, 2], TRUTH[2, 0], TRUTH[0, 0]]
    np.testing.assert_allclose(found.log_score.value, -np.log(came).mean(), rtol=1e-5)
    rows = np.array([TRUTH[0], TRUTH[1], TRUTH[2], TRUTH[0]])
    brier = (rows**2).sum(1) - 2 * np.array(came) + 1
    np.testing.assert_allclose(found.brier.value, brier.mean(), rtol=1e-5)
    # Likeliest are a (0.5, came), b (0.6, came), the end (0.35, came), and a again (0.5, the end
    # came).
    np.testing.assert_allclose(
        found.overconfidence.value, (0.5 + 0.6 + 0.35 + 0.5 - 3) / 4, rtol=1e-5
    )
    assert len(found.confidence) == 1  # too few tokens for more bins
    np.testing.assert_allclose(found.calibration_error, abs(0.4875 - 0.75), rtol=1e-5)


def test_no_bin_is_left_with_a_few_tokens(fits, corpus):
    found = reliability(predict(fits["map"], corpus.heldout))
    assert found.share.min() >= 0.5 / len(found.share) - 1e-9
    rare = np.sort(np.concatenate([[0.1, 0.2], np.full(500, 0.5), np.linspace(0.6, 0.9, 498)]))
    edges = _edges(rare, 15)
    counts = np.diff(np.concatenate([[0], np.searchsorted(rare, edges), [len(rare)]]))
    assert counts.min() >= 1000 / 30


def test_bins_share_the_tokens_and_none_is_empty():
    found = reliability(predict(fit_of([TRUTH]), sequences(500)))
    assert 1 < len(found.share) <= 4  # the truth gives four different confidences only
    np.testing.assert_allclose(found.share.sum(), 1)
    assert (found.share > 0).all()


def test_the_panel_shows_the_numbers():
    tokens = sequences(300)
    fits = {"truth": fit_of([TRUTH]), "sharp": fit_of([SHARP])}
    found = {name: reliability(predict(fit, tokens)) for name, fit in fits.items()}
    assert {one.method for one in found.values()} == {"map"}
    ax = plot_calibration(fits, tokens)
    lines = {line.get_label().split(",")[0]: line for line in ax.lines}
    for name, one in found.items():
        np.testing.assert_allclose(lines[name].get_xdata(), one.confidence)
        np.testing.assert_allclose(lines[name].get_ydata(), one.accuracy)
        assert lines[name].get_label() == f"{name}, ECE {one.calibration_error:.3f}"
    np.testing.assert_array_equal(*lines["calibrated"].get_data())
    assert (
        len({line.get_color() for line in ax.lines}) == 3
    )  # two fits by one method are told apart
    assert "confidence" in ax.get_xlabel()
    assert plot_calibration(found, ax=ax) is ax


def test_too_few_sequences_are_refused():
    with pytest.raises(InputError, match="at least two sequences, got 1"):
        reliability(predict(fit_of([TRUTH]), sequences(1)))


def test_noise_is_what_lies_within_two_errors():
    assert not Measured(0.19, 0.1).sure
    assert Measured(-0.21, 0.1).sure
    assert not Measured(float("nan"), 0.1).sure
    assert (
        str(Measured(-0.12345, 0.004)) == "-0.1234 ± 0.0040"
        or str(Measured(-0.12345, 0.004)) == "-0.1235 ± 0.0040"
    )


def test_standard_error_matches_the_spread_over_repetitions():
    rng = np.random.default_rng(0)
    repeated = []
    for _ in range(2000):
        counts = rng.integers(1, 9, 100)
        log_prob = -2.0 * counts + rng.normal(0, 1, 100) * np.sqrt(counts)
        repeated.append(dataclasses.astuple(ratio(log_prob, counts)))
    ratios, errors = np.array(repeated).T
    np.testing.assert_allclose(ratios.mean(), -2, atol=4 * ratios.std() / np.sqrt(2000))
    np.testing.assert_allclose(
        errors.mean(), ratios.std(), rtol=0.1
    )  # 2,000 repetitions know it to 1.6 %
