"""Marginal and conditional laws of a sequence process at some positions (theory, section 8)."""

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from probattn.checks import as_integer, as_key
from probattn.errors import InputError
from probattn.sequence.enumeration import fold_sequences
from probattn.sequence.estimate import Estimate, choose_exact, exact_estimate, frequencies
from probattn.sequence.sampling import draw


def marginal(
    process: Any,
    positions: Any,
    *,
    method: str = "auto",
    num_samples: int = 10_000,
    key: Array | None = None,
) -> Estimate:
    """Joint law of the tokens at some positions, `P(x_s = a_s for s in S)`.

    Args:
        positions: distinct, counted from 0, in the order of the result's axes.
        method: "exact" sums over all vocab_size^(last position) prefixes; "monte_carlo" counts
            draws; "auto" sums unless there are too many. The `method` of the result says which was
            used.
        num_samples, key: number of draws and random key of Monte Carlo; key None is
            `jax.random.key(0)`.

    Returns: an Estimate of shape (vocab_size, ..., vocab_size), with one axis for each position.
    Raises: InputError on positions out of range or repeated, and on a sum or table that is too
    large. Source: theory, section 8.
    """
    return _law(process, positions, {}, "marginal", method, num_samples, key)


def conditional(
    process: Any,
    positions: Any,
    given: Mapping[int, int],
    *,
    method: str = "auto",
    num_samples: int = 10_000,
    key: Array | None = None,
) -> Estimate:
    """Joint law of the tokens at some positions given those at others, earlier or later.

    An exact sum runs over the free positions only. By Monte Carlo, draws take the given tokens at
    their positions and are weighted by the probability that these had; the effective sample size
    says how many unweighted draws they are worth.

    Args: as for `marginal`; given, a mapping from position to token.
    Returns: an Estimate as `marginal` does.
    Raises: InputError as `marginal`, on a position both asked for and given, and on given tokens
    that together have probability 0. Source: theory, section 8.
    """
    given = {_position(process, "given", place): token for place, token in dict(given).items()}
    for token in given.values():
        if as_integer("given", token, 0) >= process.vocab_size:
            raise InputError(f"given: expected tokens 0 to {process.vocab_size - 1}, got {token}")
    return _law(process, positions, given, "conditional", method, num_samples, key)


def _law(
    process: Any,
    positions: Any,
    given: dict[int, int],
    what: str,
    method: str,
    num_samples: int,
    key: Array | None,
) -> Estimate:
    """The law for `marginal` and `conditional`; `what` is the one of them to name in messages."""
    positions = tuple(
        _position(process, "positions", place) for place in np.ravel(np.asarray(positions)).tolist()
    )
    if not positions or len(set(positions)) < len(positions):
        raise InputError(f"positions: expected at least one, each once, got {list(positions)}")
    if set(positions) & set(given):
        raise InputError(
            "positions: expected none of those given, got "
            f"{sorted(set(positions) & set(given))} in both"
        )
    vocab_size, last = process.vocab_size, max(*positions, *given, 0)
    cells = vocab_size ** len(positions)
    before = [place for place in range(last) if place not in given]
    every = np.arange(vocab_size)
    alphabets = [np.array([given[place]]) if place in given else every for place in range(last + 1)]
    if choose_exact(process, method, vocab_size ** len(before), what, cells):
        table = _exact(process, positions, alphabets)
        law = exact_estimate(table, vocab_size ** len(before))
        total = table.sum()  # the probability of the given tokens
    else:
        allowed = None
        if given:
            free = np.ones((last + 1, vocab_size), bool)
            for place, token in given.items():
                free[place] = every == token
            allowed = jnp.asarray(free)
        number = as_integer("num_samples", num_samples, 2)
        tokens, log_weight = draw(
            process, jax.random.key(0) if key is None else as_key(key), number, last + 1, allowed
        )
        law = frequencies(_cell(tokens, positions, vocab_size), cells, log_weight)
        total = jnp.exp(log_weight.max())  # 0 if no draw could take the given tokens
    if given and not isinstance(total, jax.core.Tracer) and total == 0:
        raise InputError(
            f"given: expected tokens that can occur together, got {given}, which have probability 0"
        )
    value = law.value / total if given and law.exact else law.value
    shape = (vocab_size,) * len(positions)
    return Estimate(
        value.reshape(shape),
        law.standard_error.reshape(shape),
        law.method,
        law.effective_sample_size,
    )


def _position(process: Any, name: str, place: Any) -> int:
    """`place` as an int. Raises: InputError that names the argument, unless it is a position."""
    if (
        isinstance(place, bool)
        or not isinstance(place, (int, np.integer))
        or not 0 <= place < process.length
    ):
        raise InputError(f"{name}: expected positions 0 to {process.length - 1}, got {place!r}")
    return int(place)


def _cell(tokens: Array, positions: tuple[int, ...], vocab_size: int) -> Array:
    """Index of each sequence of tokens in a flat table over the tokens at these positions.

    A position beyond the tokens counts as token 0. Tokens (..., n) give indices (...).
    """
    cell = jnp.zeros(tokens.shape[:-1], int)
    for place in positions:
        cell = vocab_size * cell + (tokens[..., place] if place < tokens.shape[-1] else 0)
    return cell


@partial(jax.jit, static_argnums=1)
def _exact(process: Any, positions: tuple[int, ...], alphabets: list[Array]) -> Array:
    """Flat table of the tokens' joint probability at `positions`, (vocab_size^len(positions),).

    It is summed over the sequences with x_t in `alphabets[t]` for each t: the tokens prescribed at
    other positions are part of the event. The last token is not enumerated, since the row after its
    prefix has the probabilities of all its values.
    """
    *before, ends = alphabets
    last, vocab_size = len(before), process.vocab_size
    # `_cell` counts the last token as 0; each step of it moves the index by `stride`.
    stride = vocab_size ** (len(positions) - 1 - positions.index(last)) if last in positions else 0

    def fold(table: Array, tokens: Array, log_prefix: Array, rows: Array) -> Array:
        probability = jnp.exp(log_prefix[:, -1:] + rows[:, -1, ends])  # [chunk, len(ends)]
        return table.at[_cell(tokens, positions, vocab_size)[:, None] + stride * ends].add(
            probability
        )

    return fold_sequences(
        process, before, fold, jnp.zeros(math.prod([vocab_size] * len(positions)), float)
    )
