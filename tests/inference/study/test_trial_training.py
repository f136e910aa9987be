"""A training of the trial: its schedules, its readings, and what is measured of it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from probattn.errors import FitError, InputError
from probattn.inference.fitting.training import initial_parameters
from probattn.inference.study import trial_training
from probattn.inference.study.trial_geometry import WAYS, geometry, support
from probattn.inference.study.trial_measures import (
    calibration_error,
    loss_of,
    losses_under_stress,
    members_of,
    primary,
    rounded,
    stacked,
)
from probattn.inference.study.trial_swag import swag_draws
from probattn.inference.study.trial_training import (
    AVERAGE,
    at_rest,
    barrier_strengths,
    learning_rates,
    minibatches,
    train_trial,
)
from probattn.models import TransformerLM

MODEL = TransformerLM(5, 12, dim=8, layers=1, heads=2)
CYCLE = np.array([[2 + (start + t) % 3 for t in range(12)] for start in range(3)] * 20)
HELD = CYCLE[:30]
OPTIONS = {"num_steps": 100, "learning_rate": 0.02, "batch_size": 16}


@pytest.fixture(scope="module")
def trained():
    return train_trial(MODEL, CYCLE, HELD, seed=3, **OPTIONS)


@pytest.fixture(scope="module")
def members(trained):
    return stacked([trained.stopped])


def test_it_learns_what_can_be_known(trained):
    """After the first symbol of the cycle all others follow: log 3 for twelve tokens."""
    steps, losses = zip(*trained.course, strict=True)
    assert steps == tuple(range(2, 101, 2))
    assert np.log(3) / 12 - 1e-3 < min(losses) < 0.6 < losses[0]
    stopped = float(loss_of(MODEL, stacked([trained.stopped]), HELD))
    np.testing.assert_allclose(stopped, min(losses), rtol=1e-6)
    assert list(trained.snapshots) == [0.0, 0.01, 0.03, 0.1, 0.3, 1.0]
    start = members_of(initial_parameters(MODEL, seeds=(3,)), 0)
    np.testing.assert_array_equal(trained.snapshots[0.0]["query"], start["query"])
    assert len(trained.iterates) == 10  # of the last fifth of 50 looks


def test_a_training_that_ends_early_is_the_beginning_of_the_whole(trained):
    third = train_trial(MODEL, CYCLE, HELD, seed=3, until=34, **OPTIONS)
    assert third.course == trained.course[:17]


def test_a_barriers_weight_rises_from_nothing(trained):
    """A ramp over all steps that stays at 0 in the first is no barrier at all there."""
    model = dataclasses.replace(
        MODEL, barrier_weight=0.2, placement="own", variant="one_sided", barrier_sequences=1
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trial_training, "barrier_strengths", lambda *_: np.zeros(100))
        off = train_trial(model, CYCLE, HELD, seed=3, until=6, **OPTIONS)
    np.testing.assert_allclose(off.course, trained.course[:3], rtol=1e-5)
    on = train_trial(model, CYCLE, HELD, seed=3, until=6, **OPTIONS)
    assert on.course != off.course


def test_schedules():
    rates = learning_rates(0.1, 1000)
    assert rates[0] == pytest.approx(0.001, rel=1e-4)  # of float32
    assert rates[99] == rates.max() == pytest.approx(0.1, rel=1e-4)
    assert rates[-1] == pytest.approx(0.01, rel=1e-4)
    assert rates[549] == pytest.approx(0.1 * (0.1 + 0.9 / 2), rel=1e-3)  # half way of the cosine
    np.testing.assert_allclose(barrier_strengths(8, 0.5, 0.0), [0.25, 0.5, 0.75, 1, 1, 1, 1, 1])
    np.testing.assert_array_equal(barrier_strengths(3, 0.0, 0.0), 1)
    # Half of the data a step: from the second pass on 1 / passes.
    np.testing.assert_allclose(barrier_strengths(6, 0.0, 0.5), [1, 1, 1 / 1.5, 1 / 2, 0.4, 1 / 3])


def test_minibatches_pass_through_all_rows():
    rows = minibatches(10, 4, seed=1)
    passes = np.concatenate([next(rows) for _ in range(5)])
    for one in np.split(passes, 2):
        assert sorted(one) == list(range(10))
    again = minibatches(10, 4, seed=1)
    np.testing.assert_array_equal(next(again), passes[:4])


def test_at_rest_is_half_a_per_cent_in_the_last_fifth():
    assert at_rest([(80, 1.0), (100, 0.996)], 100)
    assert not at_rest([(80, 1.0), (100, 0.994)], 100)
    assert at_rest([(80, 1.0), (90, 0.9), (100, 1.2)], 100)  # rises: it overfits, and rests
    assert not at_rest([(20, 1.0), (34, 1.0)], 100)  # ended early


def test_the_average_is_that_of_the_steps(monkeypatch):
    monkeypatch.setattr(trial_training, "LAST", 1.0)  # so that the iterates are all of the looks
    seen = train_trial(MODEL, CYCLE, HELD, seed=3, **(OPTIONS | {"num_steps": 6}))
    values = np.stack([one["bias"] for one in seen.iterates])  # one look a step
    assert len(values) == 6
    weights = AVERAGE ** np.arange(5, -1, -1) * (1 - AVERAGE)
    expected = (weights[:, None] * values).sum(0) / (1 - AVERAGE**6)
    # 1 - 0.999^6 is 0.006: float32 keeps three digits less of it.
    np.testing.assert_allclose(seen.averaged["bias"], expected, rtol=1e-3)


def test_a_loss_that_is_not_finite_is_said():
    with pytest.raises(FitError, match=r"training: the loss is nan after 2 of 100 steps"):
        train_trial(MODEL, CYCLE, HELD, seed=3, **(OPTIONS | {"learning_rate": np.nan}))


def test_weight_decay_is_of_adamw():
    """At a learning rate that moves nothing else: |p| shrinks by rate * decay in each step."""
    decayed = train_trial(MODEL, CYCLE, HELD, seed=3, until=2, weight_decay=5.0, **OPTIONS)
    plain = train_trial(MODEL, CYCLE, HELD, seed=3, until=2, **OPTIONS)
    start = members_of(initial_parameters(MODEL, seeds=(3,)), 0)
    first, second = learning_rates(0.02, 100)[:2]
    apart = decayed.stopped["embedding"] - plain.stopped["embedding"]
    expected = -5.0 * (first + second) * start["embedding"]
    np.testing.assert_allclose(apart, expected, atol=0.1 * float(abs(expected).max()))


def test_losses_by_slow_twins(members):
    tokens = HELD[:4]
    law = jax.tree.map(lambda x: x[0], members)
    rows = jax.nn.log_softmax(MODEL.logits_at(law, MODEL.path(law, jnp.asarray(tokens))))
    slow = -np.mean(
        [
            [row[t, x] for t, x in enumerate(line)]
            for row, line in zip(np.asarray(rows), tokens, strict=True)
        ]
    )
    np.testing.assert_allclose(loss_of(MODEL, members, tokens), slow, rtol=1e-5)
    u = MODEL.path(law, jnp.asarray(tokens))
    noise = np.random.default_rng(0).standard_normal(u.shape).astype(np.float32)
    for unit in (None, 0.3):
        moved = u + (np.sqrt((u**2).mean()) if unit is None else unit) * noise
        rows = np.asarray(jax.nn.log_softmax(MODEL.logits_at(law, moved)))
        slow = -np.mean(
            [
                [row[t, x] for t, x in enumerate(line)]
                for row, line in zip(rows, tokens, strict=True)
            ]
        )
        found = loss_of(MODEL, members, tokens, noise=noise, unit=unit)
        np.testing.assert_allclose(found, slow, rtol=1e-4)


def test_members_are_averaged_in_probability(trained):
    several = stacked([trained.stopped, trained.snapshots[0.1]])
    tokens = HELD[:4]
    probable = [
        np.asarray(jax.nn.softmax(MODEL.logits_at(one, MODEL.path(one, jnp.asarray(tokens)))))
        for one in (trained.stopped, trained.snapshots[0.1])
    ]
    mean = np.mean(probable, axis=0)
    slow = -np.log(np.take_along_axis(mean, tokens[..., None], -1)).mean()
    np.testing.assert_allclose(loss_of(MODEL, several, tokens), slow, rtol=1e-4)


def test_every_measure_is_there_and_does_harm_where_it_must(members):
    found = losses_under_stress(MODEL, members, HELD, HELD[:, ::-1], seed=0, absolute=0.5)
    assert found["clean"] == primary(MODEL, members, HELD, 0)["clean"]
    assert found["noise 0.4"] == primary(MODEL, members, HELD, 0)["noise"]
    assert found["noise 0.8"] > found["noise 0.1"]
    assert found["attack, 20 steps"] > found["noise 0.1"] > 0
    assert found["attack, 5 steps"] > found["clean"]
    assert found["dropped 0.15"] > found["dropped 0.05"] > found["clean"]
    assert found["other text"] > found["clean"]
    assert abs(found["8 bits"] - found["clean"]) < abs(found["4 bits"] - found["clean"])
    assert {f"typos: {kind}" for kind in ("swap", "drop", "insert", "substitute")} < set(found)
    assert all(np.isfinite(list(found.values())))
    assert 0 <= found["calibration error"] <= 1


def test_rounding_by_hand():
    members = {"a": jnp.asarray([[-1.0, 0.2, 0.5], [0.0, 0.0, 0.0]])}
    # Four bits: seven steps of 1 / 7 on each side.
    expected = [[-1, 1 / 7, 4 / 7], [0, 0, 0]]
    found = np.asarray(rounded(members, 4)["a"])
    assert abs(found[0, 2] - 0.5) <= 1 / 14 + 1e-6
    np.testing.assert_allclose(found[:, :2], np.asarray(expected)[:, :2], atol=1e-6)


def test_a_calibrated_predictor_has_no_calibration_error(members):
    """Of a model without any weights all tokens are equally probable, and one in five is right."""
    nothing = jax.tree.map(jnp.zeros_like, members)
    tokens = np.random.default_rng(0).integers(0, 5, (400, 12))
    assert calibration_error(MODEL, nothing, tokens) < 0.06  # chance: 15 bins of 320 tokens
    sure = nothing | {"bias": nothing["bias"].at[:, 1].set(20.0)}
    assert calibration_error(MODEL, sure, tokens) == pytest.approx(0.8, abs=0.03)


def test_margins_and_support(trained):
    found = geometry(MODEL, trained.stopped, HELD)
    assert found["smallest"] <= found["smallest_median"] <= found["median"]
    added = support(MODEL, trained.stopped, HELD, seed=0)
    assert list(added) == list(WAYS)
    assert max(added.values()) > 0


def test_swag_has_the_moments_of_the_iterates():
    rng = np.random.default_rng(0)
    iterates = [{"a": jnp.asarray(rng.normal(2, 0.5, 3), float)} for _ in range(5)]
    draws = np.asarray(swag_draws(iterates, 20000, jax.random.key(0))["a"])
    several = np.stack([one["a"] for one in iterates])
    np.testing.assert_allclose(draws.mean(0), several.mean(0), atol=0.02)
    whole = np.diag(several.var(0)) / 2 + np.cov(several.T) / 2
    # Relative standard error of a variance of 20,000 draws: 1 %.
    np.testing.assert_allclose(np.cov(draws.T), whole, atol=0.05 * whole.max())
    with pytest.raises(InputError, match="iterates: expected at least two, got 1"):
        swag_draws(iterates[:1], 3, jax.random.key(0))
