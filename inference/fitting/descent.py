"""Descent that stays in the domain: steps of an optimiser under SVI, side by side from several
starts."""

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

CHUNK = 50  # steps between two looks from the host
HALVINGS = 30  # a step shorter than 2^-30 of its length is no step
# times that a chunk of minibatch steps may leave the domain of the whole data and be taken back, in
# a row
RETURNS = 8
PLATEAU = 0.05  # nats within which four chunks agree when descent has come to rest
AT_REST = 4


class Descent(NamedTuple):
    """Where descent ended, for each start: SVI states, losses (starts, steps) and at the end,
    whether it is at rest, NaNs."""

    states: SVIState
    losses: np.ndarray
    at_end: np.ndarray
    at_rest: np.ndarray
    nans: np.ndarray


class _Chunk(NamedTuple):
    states: SVIState
    losses: Array  # (starts, CHUNK), of which as many are filled as there were steps
    outside: Array  # (starts,): whether a step led out of the domain, or to a NaN, and was halved
    nans: Array  # (starts,): how many led to a NaN
    blocked: Array  # (starts,): whether the boundary left nothing of any step
    at_end: Array  # (starts,): the loss where it ends, on all data


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
    """Descend until at rest, or for `num_steps`.

    Each start has a rate, by which it shortens the optimiser's steps. With all data in each step it
    is halved whenever a chunk of steps gains less than twice its standard error; at rest is where
    four chunks agree within 0.05 nats. With minibatches it falls along a cosine, and at rest is
    where the last chunks differ by less than their noise.

    Args:
        svi: its `static_kwargs` may ask for minibatches.
        states: with the starts as a leading axis.
        take: the data of the next chunk of steps.
        whole: `state, data -> the loss on all data`; None if each step sees all data anyway.
        explain: what is wrong at a state outside the domain, as words.
        bar: told of each chunk.
        sharding: of all between two chunks, whole on each of several devices; None is one device.

    Raises: FitError where every step leads out of the domain.
    """
    num_starts = len(jax.tree.leaves(states)[0])
    rates, at_rest = np.ones(num_starts), np.zeros(num_starts, bool)
    history: list[np.ndarray] = []
    nans = np.zeros(num_starts, int)
    run = _program(svi, whole, sharding)
    shrunk, returns, done = 1.0, 0, 0
    while done < num_steps and not at_rest.all():
        number = min(CHUNK, num_steps - done)
        if whole is not None:
            rates = np.full(num_starts, shrunk * 0.5 * (1 + np.cos(np.pi * done / num_steps)))
        data = take()
        chunk = run(states, jnp.asarray(np.where(at_rest, 0, rates), float), data, number)
        at_end = np.asarray(chunk.at_end, float)
        if whole is not None and not np.isfinite(at_end).all():
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
            beyond = svi.update(_of_start(states, stuck.argmax()), data)[0]
            raise FitError(
                f"MAP: at step {done} every step leads out of the domain, however short: "
                f"{explain(beyond)}; start elsewhere "
                "(another key), or use the contraction cap, which has no boundary (contraction=0.9)"
            )
        history.append(np.asarray(chunk.losses, float)[:, :number])
        nans += np.asarray(chunk.nans)
        if whole is None and number == CHUNK:
            rates = np.where(_drowns(history), rates / 2, rates)
            at_rest |= _agree(history) & ~np.asarray(chunk.outside)
        bar.update(done, f"loss {history[-1].mean(1).min():.6g}")
    if whole is not None:
        at_rest = _drowns(history)
    return Descent(states, np.concatenate(history, axis=1), at_end, at_rest, nans)


def _of_start(states: SVIState, start: Any) -> SVIState:
    return jax.tree.map(lambda leaf: leaf[int(start)], states)


def _drowns(history: list[np.ndarray]) -> np.ndarray:
    """Whether the last chunk gained less than twice the standard error of the difference of
    means."""
    if len(history) < 2:
        return np.zeros(len(history[0]), bool)
    before, after = history[-2:]
    error = np.hypot(before.std(1), after.std(1)) / np.sqrt(CHUNK)
    return before.mean(1) - after.mean(1) < 2 * error


def _agree(history: list[np.ndarray]) -> np.ndarray:
    """Whether the last chunks agree, to the plateau or to a few units in the last place."""
    if len(history) <= AT_REST:
        return np.zeros(len(history[0]), bool)
    means = np.stack([losses.mean(1) for losses in history[-AT_REST - 1 :]])
    rounding = 4 * float(jnp.finfo(float).eps) * abs(means[-1])
    return np.maximum(np.ptp(means, axis=0), history[-1].std(1)) < np.maximum(PLATEAU, rounding)


class _Place(NamedTuple):
    """Where a descent stands: what it tries, and the last point that is known to be inside, with
    its loss."""

    state: SVIState
    safe: Any
    loss: Array


class _Tally(NamedTuple):
    """What a chunk counts: losses (CHUNK,), whether a step was halved, how many met a NaN, halvings
    after the last step."""

    losses: Array
    outside: Array
    nans: Array
    halvings: Array


@lru_cache(maxsize=32)
def _program(svi: SVI, whole: Any, sharding: NamedSharding | None) -> Callable:
    """A chunk of a descent, compiled once for all descents with the same `svi` and shapes."""
    return jax.jit(partial(_run, svi, whole), out_shardings=sharding)


def _run(svi: SVI, whole: Any, states: SVIState, rates: Array, data: Any, number: Array) -> _Chunk:
    """`number` steps from each state, at most CHUNK, and back towards the last safe point if they
    end outside."""

    def one(state: SVIState, rate: Array) -> _Chunk:
        def goes_on(carry: tuple[Array, _Place, _Tally, Array]) -> Array:
            index, _, tally, inside = carry
            return (index < number) | (~inside & (tally.halvings <= HALVINGS))

        # The point that the last step leads to is looked at in one pass more, in which nothing
        # moves but a halving: the same pass, so that the gradient, most of what is compiled, stands
        # in the program once.
        def step(carry: tuple[Array, _Place, _Tally, Array]) -> tuple[Array, _Place, _Tally, Array]:
            index, place, tally, _ = carry
            moving = index < number
            moved, inside, is_nan = _step(svi, rate, data, place, moving)
            losses = tally.losses.at[index].set(moved.loss, mode="drop")
            counted = moving & ~inside
            tally = _Tally(
                losses,
                tally.outside | counted,
                tally.nans + (moving & is_nan),
                tally.halvings + ~moving,
            )
            return index + 1, moved, tally, ~moving & inside

        losses = jnp.full(CHUNK, jnp.nan)
        tally = _Tally(losses, jnp.zeros((), bool), jnp.zeros((), int), jnp.zeros((), int))
        begun = _Place(state, _params(state), jnp.full((), jnp.nan))
        _, place, tally, _ = jax.lax.while_loop(
            goes_on, step, (jnp.zeros((), int), begun, tally, jnp.zeros((), bool))
        )
        # Where every halving is outside, the last safe point; its loss is then the last that was
        # finite.
        last = place.state._replace(optim_state=_with_params(place.state.optim_state, place.safe))
        same = jax.tree.map(lambda old, new: (old == new).all(), begun.safe, place.safe)
        blocked = tally.outside & jnp.stack(jax.tree.leaves(same)).all()
        at_end = place.loss if whole is None else whole(last, data)
        return _Chunk(last, tally.losses, tally.outside, tally.nans, blocked, at_end)

    return jax.vmap(one)(states, rates)


def _step(
    svi: SVI, rate: Array, data: Any, place: _Place, moving: Array
) -> tuple[_Place, Array, Array]:
    """One step, shortened by the rate; where the last one led out of the domain, half of that one
    instead.

    Past the boundary the density rises again (theory, section 3), so that nothing is learnt from
    where it is 0. Second, whether the point it starts from is inside, third, whether the loss there
    is no number. If it is not `moving`, a point inside stays as it is, and with it the optimiser.
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


def _params(state: SVIState) -> Any:
    return state.optim_state[1][0]


def _with_params(optimiser: Any, params: Any) -> Any:
    count, (_, moments) = optimiser
    return count, (params, moments)
