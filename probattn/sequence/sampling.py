"""Draws from a sequence process: one scan over the positions, free or guided past what is
forbidden."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


@dataclass(frozen=True)
class CachedStep:
    """A model's logits one position at a time, from what it kept of the positions before.

    Args:
        start: `start(params) -> cache`, any pytree.
        step: `step(params, cache, previous, position) -> (cache, logits)`: the logits, shape
            (vocab_size,), of the token at `position` (from 0) when `previous` is the token before
            it; at position 0 `previous` means nothing.
    """

    start: Callable
    step: Callable


@partial(jax.jit, static_argnames=("number", "positions"))
def draw(
    process: Any,
    key: Array,
    number: int,
    positions: int | None = None,
    allowed: Bool[Array, "positions vocab"] | None = None,
) -> tuple[Int[Array, "number positions"], Float[Array, " number"]]:
    """Draws of the first `positions` tokens and their log importance weights.

    Where only some tokens are allowed, a draw takes one of these in proportion to its probability,
    and its weight is
    the product of the probability that all of them had together: the mean weight estimates the
    probability of the event, and weighted draws follow the law given it. Free draws have weight
    one.

    Where logits are not numbers, a draw holds -1 from there on and its weight is NaN.
    """
    positions = process.length if positions is None else positions
    step = process.cached_step or _whole_pass(process)
    of_parameters, of_tokens = jax.random.split(key)
    params, axis = process.components(of_parameters, number)
    every = jnp.arange(process.vocab_size)

    def advance(carry: tuple, inputs: tuple) -> tuple[tuple, Array]:
        cache, previous, ended, log_weight = carry
        position, key, allowed_here = inputs
        cache, logits = jax.vmap(step.step, (axis, 0, 0, None))(params, cache, previous, position)
        failed = jnp.isnan(logits).any(-1) | jnp.isneginf(logits).all(-1) | (previous < 0)
        rows = jax.nn.log_softmax(logits)
        if process.end_token is not None:
            rows = jnp.where(
                ended[:, None], jnp.where(every == process.end_token, 0, -jnp.inf), rows
            )
        if allowed_here is not None:
            rows = jnp.where(allowed_here, rows, -jnp.inf)
            log_weight = log_weight + jax.nn.logsumexp(rows, axis=-1)
        drawn = jnp.where(failed & ~ended, -1, jax.random.categorical(key, rows))
        log_weight = jnp.where(drawn < 0, jnp.nan, log_weight)
        return (cache, drawn, ended | (drawn == process.end_token), log_weight), drawn

    cache = jax.vmap(step.start, (axis,), axis_size=number)(params)
    start = jnp.zeros(number, int)
    ended, log_weight = jnp.zeros(number, bool), jnp.zeros(number, float)
    inputs: Any = (jnp.arange(positions), jax.random.split(of_tokens, positions), allowed)
    final, tokens = jax.lax.scan(advance, (cache, start, ended, log_weight), inputs)
    return tokens.T, final[-1]


def _whole_pass(process: Any) -> CachedStep:
    """The step of a model that keeps nothing: all tokens so far go through it again at each
    position."""

    def step(params: Any, tokens: Array, previous: Array, position: Array) -> tuple[Array, Array]:
        # At position 0 there is no token before: index `length` is dropped.
        tokens = tokens.at[jnp.where(position == 0, process.length, position - 1)].set(
            previous, mode="drop"
        )
        return tokens, process.next_token_logits(params, tokens)[position]

    return CachedStep(lambda params: jnp.zeros(process.length, int), step)
