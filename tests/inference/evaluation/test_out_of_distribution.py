"""Detection: areas and their errors against brute force and repetition."""

import numpy as np
import pytest
from predictors import TRUTH, fit_of, sequences, sharpened
from scipy.stats import norm

from probattn import InputError
from probattn.inference import detection, plot_detection, predict, reversed_order, shuffled
from probattn.inference.evaluation.measured import Measured
from probattn.inference.evaluation.out_of_distribution import (
    CURVE,
    Detection,
    _area,
    area_error,
)


def test_area_is_the_share_of_pairs_in_order():
    rng = np.random.default_rng(0)
    ours, theirs = rng.integers(0, 6, 40), rng.integers(2, 8, 30)  # with ties
    found, _ = _area(ours, theirs)
    pairs = (theirs[:, None] > ours) + 0.5 * (theirs[:, None] == ours)
    np.testing.assert_allclose(found.value, pairs.mean())


def test_area_and_error_of_two_normals():
    """P(N(1, 1) > N(0, 1)) = Phi(1 / sqrt 2); the error against the spread over repetitions."""
    rng = np.random.default_rng(0)
    found = [_area(rng.normal(0, 1, 80), rng.normal(1, 1, 60))[0] for _ in range(1000)]
    values, errors = np.array([[one.value, one.error] for one in found]).T
    np.testing.assert_allclose(
        values.mean(), norm.cdf(1 / np.sqrt(2)), atol=4 * values.std() / np.sqrt(1000)
    )
    np.testing.assert_allclose(
        errors.mean(), values.std(), rtol=0.1
    )  # 1,000 repetitions know it to 2.2 %


@pytest.mark.parametrize(("number", "error"), [(6, 0.0958), (1000, 0.0005)])
def test_an_area_without_a_pair_out_of_order_has_an_error(number, error):
    """The limit solves Newcombe's equation for an area of 1, whose left side is (1 - a)^2."""
    ours, theirs = np.arange(number), number + np.arange(number)
    found, _ = _area(ours, theirs)
    limit, others = 1 - found.error, number - 1
    spread = 1 + others * (1 - limit) / (2 - limit) + others * limit / (1 + limit)
    np.testing.assert_allclose(found.error**2, limit * (1 - limit) * spread / number**2, rtol=1e-6)
    np.testing.assert_allclose(found.error, error, atol=1e-4)
    assert _area(theirs, ours)[0].value == 0
    np.testing.assert_allclose(_area(theirs, ours)[0].error, found.error, rtol=1e-9)


def test_errors_do_not_fall_as_pairs_come_out_of_order():
    ours = np.arange(6.0)
    errors = [_area(ours, 5.5 - late + np.arange(6))[0].error for late in range(3)]
    assert errors == sorted(errors)
    assert errors[0] > 0.05


def test_a_difference_of_areas_at_the_edge_has_an_error():
    ours = theirs = np.ones(6)
    area = Measured(1.0, area_error(ours, theirs))
    one = Detection("map", "x", "surprise", area, ours, ours, theirs)
    assert one.minus(one).error > 0.05


def test_paired_difference_of_a_score_and_itself_is_nothing():
    tokens = sequences(200)
    fit, other = fit_of([TRUTH]), fit_of([sharpened(TRUTH, 0.5)])
    changed = shuffled(tokens)
    one, two = (
        detection(predict(f, tokens[:100]), predict(f, changed[100:]), elsewhere="shuffled")
        for f in (fit, other)
    )
    same = one[1].minus(one[1])
    assert (same.value, same.error) == (0, 0)
    paired = one[1].minus(two[1])
    assert paired.error < np.hypot(
        one[1].area.error, two[1].area.error
    )  # they see the same sequences
    np.testing.assert_allclose(paired.value, one[1].area.value - two[1].area.value)


def test_surprise_finds_what_the_truth_would_not_write():
    # b after a is what the truth likes best; backwards it is a after b.
    tokens = sequences(2000)
    found = detection(
        predict(fit_of([TRUTH]), tokens[:1000]),
        predict(fit_of([TRUTH]), np.array(sequences(1000, seed=9, table=np.full((4, 4), 0.25)))),
        elsewhere="uniform",
    )
    assert [one.score for one in found] == [
        "data uncertainty",
        "surprise",
    ]  # one draw has no mutual information
    area = {one.score: one.area for one in found}
    assert area["surprise"].value > 0.6
    assert area["surprise"].error < 0.02


def test_mutual_information_finds_what_the_draws_know_nothing_of():
    # All draws agree on a and b, and none on what follows c.
    rng = np.random.default_rng(0)
    tables = np.repeat(np.full((1, 4, 4), 0.25), 20, axis=0)
    tables[:, :3] = [[0.02, 0.48, 0.48, 0.02], [0.3, 0.3, 0.38, 0.02], [0.3, 0.38, 0.3, 0.02]]
    tables[:, 3] = rng.dirichlet(np.full(4, 0.3), 20)
    known, strange = np.array([[1, 2, 1, 0]] * 20), np.array([[3, 3, 2, 0]] * 20)
    fit = fit_of(tables, length=4)
    found = detection(predict(fit, known), predict(fit, strange), elsewhere="strange")
    assert found[0].method == "ensemble"
    assert found[0].score == "mutual information"
    assert found[0].area.value == 1


def test_predictions_of_two_methods_are_refused():
    one, several = (
        predict(fit_of(tables), sequences(10)) for tables in ([TRUTH], [TRUTH, sharpened(TRUTH, 2)])
    )
    with pytest.raises(InputError, match="of the same fit, got map and ensemble"):
        detection(one, several, elsewhere="shuffled")


def test_shuffled_and_reversed_keep_symbols_and_ends():
    tokens = sequences(100)
    for changed in (shuffled(tokens), reversed_order(tokens)):
        np.testing.assert_array_equal(np.sort(changed, 1), np.sort(tokens, 1))
        np.testing.assert_array_equal(changed == 0, tokens == 0)
    np.testing.assert_array_equal(reversed_order(reversed_order(tokens)), tokens)
    assert reversed_order(np.array([[1, 2, 3, 0, 0]])).tolist() == [[3, 2, 1, 0, 0]]
    assert (shuffled(tokens) != tokens).any()
    np.testing.assert_array_equal(shuffled(tokens), shuffled(tokens))


def test_the_panel_shows_curves_and_areas():
    tokens = sequences(400)
    fits = {"truth": fit_of([TRUTH]), "draws": fit_of([TRUTH, sharpened(TRUTH, 2)])}
    ax = plot_detection(fits, tokens)
    curves = [line for line in ax.lines if not line.get_label().startswith("_")]
    assert [line.get_label().rsplit(":", 1)[0] for line in curves] == [
        "truth, data uncertainty",
        "truth, surprise",
        "draws, mutual information",
        "draws, data uncertainty",
        "draws, surprise",
    ]
    for line in curves:
        np.testing.assert_array_equal(line.get_xdata(), CURVE)
        hits = line.get_ydata()
        assert (np.diff(hits) >= 0).all()
        assert hits[-1] == 1
        # The area under the drawn curve is the area that is named, but for the steps of the curve.
        assert np.trapezoid(hits, CURVE) == pytest.approx(
            float(line.get_label().rsplit(":", 1)[1]), abs=0.03
        )
    assert ax.get_title(loc="left") == "the others are shuffled"
