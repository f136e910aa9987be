"""Descent that stays in the domain: SVI steps, halved where they would cross the boundary.

`descend` is the loop on the host: it runs compiled chunks of steps, adapts the lengths of steps
between them and decides when to stop. `_run` is one chunk and `_step` one step of it.
"""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jaxtyping import Array
from numpyro.infer import SVI
from numpyro.infer.svi import SVIState

from probattn.errors import FitError
from probattn.inference.devices.progress import Progress

CHUNK_STEPS = 50  # steps in one call of the compiled program
HALVINGS = 30  # of a chunk's last step; 2^-30 of its length counts as no step
RETURNS = 8  # chunks of minibatch steps in a row that may leave the domain and be discarded
PLATEAU = 0.05  # nats: losses that differ by less than this no longer fall
AT_REST = 4  # chunks for which the loss must not fall before descent is at rest


class Descent(NamedTuple):
    """Where a descent ended, with the starts as the leading axis of everything."""

    states: SVIState
    losses: np.ndarray  # (starts, steps): the loss before each step, in nats
    at_end: np.ndarray  # (starts,): the loss at the end, on the whole data, in nats
    at_rest: np.ndarray  # (starts,): whether the loss had stopped falling
    nans: np.ndarray  # (starts,): how many steps led to a NaN


class _Chunk(NamedTuple):
    """What one chunk of steps returns, with the starts as the leading axis of everything."""

    states: SVIState
    losses: Array  # (starts, CHUNK_STEPS): in the first `number` columns the loss before each step
    outside: (
        Array  # (starts,): whether a step but the last led outside, or to a NaN, and was halved
    )
    nans: Array  # (starts,): how many steps led to a NaN
    blocked: Array  # (starts,): whether such a step was halved and the start has not moved at all
    at_end: Array  # (starts,): the loss where the chunk ends, on the whole data


def descend(
    svi: SVI,
    states: SVIState,
    take: Callable[[], Any],
    num_steps: int,
    whole: Any,
    explain: Any,
    bar: Progress,
    sharding: NamedSharding | None = None,
) -> Descent:
    """Minimise the loss from several starts until all are at rest, or for `num_steps`.

    Each start has a rate between 0 and 1, the fraction of an optimiser's step that it takes.

    With the whole data in each step, the rate is halved after each chunk whose mean loss fell by
    less than twice the standard error of that fall. A start is at rest, and stays where it is from
    then on, when the mean losses of its last five chunks agree within 0.05 nats, or to their
    rounding, and no step was halved in the last of them.

    With minibatches, the rate falls from 1 to 0 along a cosine over `num_steps`. If any start ends
    a chunk outside the domain of the whole data, the chunk is discarded for all starts and run
    again; those steps and all later ones are a quarter as long. A start is at rest if its loss fell
    by less than its noise from the last but one to the last 50 steps.

    Args:
        svi: its `static_kwargs` may hold a `batch_size`.
        states: SVI states with the starts as the leading axis.
        take: returns the data for the next chunk.
        num_steps: the most steps to take.
        whole: `state, data -> loss on the whole data`; None if each step sees the whole data.
        explain: `state -> text`, why a state is outside the domain, for error messages.
        bar: the progress bar to update after each chunk.
        sharding: of what a chunk returns, replicated on all devices; None on one device.

    Raises:
        FitError: every step leads out of the domain, or minibatch steps keep leaving it.
    """
    num_starts = len(jax.tree.leaves(states)[0])
    rates, at_rest = np.ones(num_starts), np.zeros(num_starts, bool)
    history: list[np.ndarray] = []
    nans = np.zeros(num_starts, int)
    run = _program(svi, whole, sharding)
    shrunk, returns, done = 1.0, 0, 0
    while done < num_steps and not at_rest.all():
        number = min(CHUNK_STEPS, num_steps - done)
        if whole is not None:
            rates = np.full(num_starts, shrunk * 0.5 * (1 + np.cos(np.pi * done / num_steps)))
        data = take()
        chunk = run(states, jnp.asarray(np.where(at_rest, 0, rates), float), data, number)
        at_end = np.asarray(chunk.at_end, float)
        if whole is not None and not np.isfinite(at_end).all():
            # A minibatch does not see the boundary of other sequences: `states` stay as they were.
            returns, shrunk = returns + 1, shrunk / 4
            if returns > RETURNS:
                worst = _of_start(chunk.states, np.isfinite(at_end).argmin())
                raise FitError(
                    f"MAP: minibatch steps keep leaving the domain: {explain(worst)}; use a "
                    "larger batch_size"
                )
            continue
        returns, states, done = 0, chunk.states, done + number
        stuck = np.asarray(chunk.blocked) & ~at_rest
        if stuck.any():
            # A full step of a start that has not moved: the point that `explain` describes.
            beyond = svi.update(_of_start(states, stuck.argmax()), data)[0]
            raise FitError(
                f"MAP: at step {done} every step leads out of the domain, however short: "
                f"{explain(beyond)}; start elsewhere "
                "(another key), or use the contraction cap, which has no boundary (contraction=0.9)"
            )
        history.append(np.asarray(chunk.losses, float)[:, :number])
        nans += np.asarray(chunk.nans)
        if whole is None and number == CHUNK_STEPS:
            rates = np.where(_gain_is_noise(history), rates / 2, rates)
            at_rest |= _agree(history) & ~np.asarray(chunk.outside)
        bar.update(done, f"loss {history[-1].mean(1).min():.6g}")
    if whole is not None:
        at_rest = _gain_is_noise(history)
    return Descent(states, np.concatenate(history, axis=1), at_end, at_rest, nans)


def _of_start(states: SVIState, start: Any) -> SVIState:
    """The state of one start, without the leading axis."""
    return jax.tree.map(lambda leaf: leaf[int(start)], states)


def _gain_is_noise(history: list[np.ndarray]) -> np.ndarray:
    """Whether the loss fell by less than twice the standard error of that fall, over two chunks.

    `history` holds the losses (starts, steps) of each chunk. The last steps, as many as two chunks
    have, are compared in halves: a last chunk may be shorter, and of one step has no spread. Steps
    that gain no more than this are too long: they jump about the minimum.
    """
    if len(history) < 2:
        return np.zeros(len(history[0]), bool)
    losses = np.concatenate(history[-3:], axis=1)[:, -2 * CHUNK_STEPS :]
    before, after = np.array_split(losses, 2, axis=1)
    error = np.hypot(*(half.std(1) / np.sqrt(half.shape[1]) for half in (before, after)))
    return before.mean(1) - after.mean(1) < 2 * error


def _agree(history: list[np.ndarray]) -> np.ndarray:
    """Whether the mean losses of the last five chunks agree to PLATEAU or to rounding.

    The standard deviation within the last chunk must be as small, since the means of a loss that
    jumps about can agree by chance. `history` is as in `_gain_is_noise`.
    """
    if len(history) <= AT_REST:
        return np.zeros(len(history[0]), bool)
    means = np.stack([losses.mean(1) for losses in history[-AT_REST - 1 :]])  # (chunks, starts)
    rounding = 4 * float(jnp.finfo(jnp.result_type(float)).eps) * abs(means[-1])
    return np.maximum(np.ptp(means, axis=0), history[-1].std(1)) < np.maximum(PLATEAU, rounding)


class _Place(NamedTuple):
    """Where the descent from one start stands."""

    state: SVIState  # its parameters are the point to evaluate next, inside the domain or not
    safe: Any  # parameters of the last point that was evaluated and found inside
    loss: Array  # the loss at `safe`


class _Tally(NamedTuple):
    """What the descent from one start records during a chunk."""

    losses: Array  # (CHUNK_STEPS,): the loss of the last safe point at each step
    outside: Array  # whether a step but the last led outside, or to a NaN, and was halved
    nans: Array  # how many steps met a NaN
    halvings: Array  # passes after the last step: one to evaluate it, the others to halve it


@lru_cache(maxsize=32)
def _program(svi: SVI, whole: Any, sharding: NamedSharding | None) -> Callable:
    """`_run`, compiled once for all descents with the same `svi`, `whole` and shapes."""
    return jax.jit(partial(_run, svi, whole), out_shardings=sharding)


def _run(svi: SVI, whole: Any, states: SVIState, rates: Array, data: Any, number: Array) -> _Chunk:
    """Take `number` steps, at most CHUNK_STEPS, from each of several states; end in the domain.

    Each pass of the loop evaluates the loss at the current point and then moves (`_step`). So the
    point that the last step leads to needs one more pass to be evaluated, and more to be halved
    back towards the last safe point if it is outside. These passes do not move a point that is
    inside. They share the loop with the steps so that the gradient, which is most of what there is
    to compile, is in the program once.

    Args:
        states: with the starts as the leading axis.
        rates: (starts,), the fraction of an optimiser's step that each start takes.
        data: the same for all starts.
        number: a traced integer, so that a shorter last chunk is the same program.
    """

    def one(state: SVIState, rate: Array) -> _Chunk:
        def unfinished(carry: tuple[Array, _Place, _Tally, Array]) -> Array:
            index, _, tally, inside = carry
            return (index < number) | (~inside & (tally.halvings <= HALVINGS))

        def step(carry: tuple[Array, _Place, _Tally, Array]) -> tuple[Array, _Place, _Tally, Array]:
            index, place, tally, _ = carry
            moving = index < number
            moved, inside, is_nan = _step(svi, rate, data, place, moving)
            # Passes after the last step may exceed CHUNK_STEPS; their losses are dropped.
            losses = tally.losses.at[index].set(moved.loss, mode="drop")
            counted = moving & ~inside
            tally = _Tally(
                losses,
                tally.outside | counted,
                tally.nans + (moving & is_nan),
                tally.halvings + ~moving,
            )
            # What ends the loop is a point inside that no step follows.
            return index + 1, moved, tally, ~moving & inside

        losses = jnp.full(CHUNK_STEPS, jnp.nan)
        tally = _Tally(losses, jnp.zeros((), bool), jnp.zeros((), int), jnp.zeros((), int))
        begun = _Place(state, _params(state), jnp.full((), jnp.nan))
        _, place, tally, _ = jax.lax.while_loop(
            unfinished, step, (jnp.zeros((), int), begun, tally, jnp.zeros((), bool))
        )
        # The chunk ends at the last safe point, also if every halving was outside; `place.loss` is
        # the loss there.
        last = place.state._replace(optim_state=_with_params(place.state.optim_state, place.safe))
        same = jax.tree.map(lambda old, new: (old == new).all(), begun.safe, place.safe)
        blocked = tally.outside & jnp.stack(jax.tree.leaves(same)).all()
        at_end = place.loss if whole is None else whole(last, data)
        return _Chunk(last, tally.losses, tally.outside, tally.nans, blocked, at_end)

    return jax.vmap(one)(states, rates)


def _step(
    svi: SVI, rate: Array, data: Any, place: _Place, moving: Array
) -> tuple[_Place, Array, Array]:
    """Evaluate the current point, then step on if it is inside the domain, or halve the last step.

    A point is inside if its loss is finite. From there the point moves by `rate` times the step of
    the optimiser; if not `moving`, the point and the optimiser stay as they are. From a point
    outside, the point moves halfway back to the last safe point, and the optimiser learns nothing:
    beyond the boundary the barrier falls again (theory, section 3), which would reward crossing it.

    Returns: the new place, whether the evaluated point is inside, and whether its loss is NaN.
    """
    proposed, loss = svi.update(place.state, data)
    inside = jnp.isfinite(loss)
    params, target = _params(place.state), _params(proposed)
    onward = jax.tree.map(lambda old, new: old + rate * (new - old), params, target)
    halfway = jax.tree.map(lambda safe, tried: safe + (tried - safe) / 2, place.safe, params)

    def choose(condition: Array, one: Any, other: Any) -> Any:
        return jax.tree.map(lambda left, right: jnp.where(condition, left, right), one, other)

    optimiser = choose(inside & moving, proposed.optim_state, place.state.optim_state)
    following = choose(inside, choose(moving, onward, params), halfway)
    key = jnp.where(moving, proposed.rng_key, place.state.rng_key)
    state = proposed._replace(optim_state=_with_params(optimiser, following), rng_key=key)
    safe, kept = choose(inside, params, place.safe), jnp.where(inside, loss, place.loss)
    return _Place(state, safe, kept), inside, jnp.isnan(loss)


# NumPyro keeps an optax optimiser as (number of steps, (parameters, state of the optimiser)).
def _params(state: SVIState) -> Any:
    return state.optim_state[1][0]


def _with_params(optimiser: Any, params: Any) -> Any:
    count, (_, moments) = optimiser
    return count, (params, moments)
