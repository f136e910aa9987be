"""The stages of warmup, and what each hands on to the next."""

import jax.numpy as jnp
import numpy as np
import pytest

from probattn.inference.fitting.chain_program import Chain
from probattn.inference.fitting.metric import Block, to_z
from probattn.inference.fitting.transitions import Point
from probattn.inference.fitting.warmup import LEAST, settle_iteration, stage_ends, tune

BLOCKS = (Block(((0, 2),), 2), Block(((4, 1),), 1))
METRIC = [np.array([[2.0, 1.0], [0.0, 0.5]]), np.array([[3.0]])]
COUNTED = np.array([10, 30, 20])


def chains(rng, counted=COUNTED):
    """Three chains at the end of a stage, with sums over the iterations counted."""
    factors = rng.normal(size=(3, 2, 2)), rng.normal(size=(3, 1, 1))
    moments = tuple(
        factor @ np.swapaxes(factor, 1, 2) * counted[:, None, None] for factor in factors
    )
    logs = np.log([0.1, 0.2, 0.4])
    averaging = (rng.normal(size=3), logs, rng.normal(size=3), np.full(3, 9), rng.normal(size=3))
    point = Point(rng.normal(size=(3, 5)), rng.normal(size=3), rng.normal(size=(3, 5)))
    return Chain(
        point,
        key=jnp.zeros((3, 2), jnp.uint32),
        step_size=jnp.ones(3),
        longest=jnp.ones(3),
        averaging=averaging,
        done=jnp.full(3, 40),
        moments=moments,
        turns=counted * np.array([4, 5, 6]),
        counted=counted,
    )


def test_stages_are_shares_of_warmup():
    assert stage_ends(300) == (33, 100, 229, 300)
    assert stage_ends(LEAST - 1) == (LEAST - 1,)
    for number in range(LEAST, 1000):
        ends = stage_ends(number)
        assert len(ends) == 4
        assert 0 < ends[0] < ends[1] < ends[2] < ends[3] == number


def test_each_stage_settles_before_it_counts():
    ends = stage_ends(300)
    settle = [settle_iteration(done, ends) for done in range(302)]
    # two fifths of 33, 67, 129 and 71 iterations do not count
    assert settle == [14] * 33 + [27] * 67 + [52] * 129 + [29] * 71 + [0, 0]
    assert [settle_iteration(done, (5,)) for done in range(7)] == [3] * 5 + [0, 0]
    assert settle_iteration(0, (1,)) == 1


@pytest.mark.parametrize("is_last", [True, False])
def test_step_sizes_and_lengths_are_pooled(is_last):
    state = chains(np.random.default_rng(0))
    tuned, _ = tune(BLOCKS, METRIC, state, is_last)
    assert tuned.longest == pytest.approx((10 * 4 + 30 * 5 + 20 * 6) / 60)
    # the geometric mean; where the metric changes, in units of the mean scale of w
    precisions = [*np.diagonal(state.moments[0].sum(0)), state.moments[1].sum()]
    scale = 1 if is_last else np.sqrt(np.mean(precisions) / 60)
    assert tuned.step_size == pytest.approx(0.2 * scale, rel=1e-6)


def test_chains_stay_where_they_are_when_the_metric_changes():
    state = chains(np.random.default_rng(1))
    tuned, w = tune(BLOCKS, METRIC, state, is_last=False)
    assert [root.shape for root in tuned.metric] == [(2, 2), (1, 1)]
    assert np.abs(w - state.point.w).max() > 0.1
    for before, after in zip(state.point.w, w, strict=True):
        z = np.asarray(to_z(BLOCKS, METRIC, before))
        # Rounding, magnified by the condition of the metrics.
        np.testing.assert_allclose(to_z(BLOCKS, tuned.metric, after), z, rtol=0, atol=1e-4)


def test_the_metric_is_that_of_all_chains():
    """Weighted by what each has counted; up to the shrinkage of correlations."""
    many = COUNTED * 10_000_000
    state = chains(np.random.default_rng(2), many)
    tuned, _ = tune(BLOCKS, METRIC, state, is_last=False)
    for root, before, total in zip(tuned.metric, METRIC, state.moments, strict=True):
        moment = sum(total) / sum(many)
        expected = before @ np.linalg.inv(moment) @ before.T
        np.testing.assert_allclose(root @ root.T, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("is_last", "counted"), [(True, COUNTED), (False, np.zeros(3, int))])
def test_the_last_stage_keeps_the_metric_and_so_does_one_that_counted_nothing(is_last, counted):
    state = chains(np.random.default_rng(3), counted)
    tuned, w = tune(BLOCKS, METRIC, state, is_last)
    for root, before in zip(tuned.metric, METRIC, strict=True):
        np.testing.assert_array_equal(root, before)
    np.testing.assert_array_equal(w, state.point.w)
    assert tuned.step_size == pytest.approx(0.2)
