"""Draws from a sequence process, free or restricted to allowed tokens, by a scan over positions."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from probattn.checks import in_default_float


@dataclass(frozen=True)
class CachedStep:
    """A model's logits for one position at a time, from a cache of the positions before.

    Args:
        start: `start(params) -> cache`, any pytree.
        step: `step(params, cache, previous, position) -> (cache, logits)` gives the logits
            (vocab_size,) of the token at `position`, counted from 0. `previous` is the token before
            it, and has no meaning at position 0.
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

    `allowed` defines an event: that each token is among those allowed at its position. A draw takes
    allowed tokens only, in proportion to their probabilities, and its weight is the product over
    the positions of the total probability of the allowed tokens. The mean weight estimates the
    probability of the event, and weighted draws follow the law given it. Without `allowed` every
    weight is one.

    If logits are NaN, or all of them -inf, a draw that has not ended holds -1 from there on and its
    weight is NaN.

    Args:
        process: the sequence process.
        key: random key.
        number: number of draws.
        positions: number of tokens of each draw; None is `length`.
        allowed: which tokens are allowed at each position; None is all.

    Letters in shapes: n draw, v token.
    """
    positions = process.length if positions is None else positions
    step = process.cached_step or _whole_pass(process)
    of_parameters, of_tokens = jax.random.split(key)
    params, axis = process.components(of_parameters, number)
    every = jnp.arange(process.vocab_size)

    def advance(carry: tuple, inputs: tuple) -> tuple[tuple, Array]:
        cache, previous, ended, log_weight = carry
        position, key, allowed_here = inputs
        # logits and rows [n, v]; previous, ended, log_weight and drawn [n]
        cache, logits = jax.vmap(step.step, (axis, 0, 0, None))(params, cache, previous, position)
        logits = in_default_float(logits)
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
    """A step for a model without a cache: a whole pass over the tokens so far at each position."""

    def step(params: Any, tokens: Array, previous: Array, position: Array) -> tuple[Array, Array]:
        # At position 0 there is no token before; the index `length` is out of range and dropped.
        tokens = tokens.at[jnp.where(position == 0, process.length, position - 1)].set(
            previous, mode="drop"
        )
        return tokens, process.next_token_logits(params, tokens)[position]

    return CachedStep(lambda params: jnp.zeros(process.length, int), step)
