"""Laws of a sequence process at any finite set of positions, alone or given tokens at others
(theory, section 8)."""

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from probattn.checks import whole_number
from probattn.errors import InputError
from probattn.sequence.enumeration import fold_paths
from probattn.sequence.estimate import Estimate, choose_exact, exactly, frequencies
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
        method: "exact" sums over the V^(last position) prefixes; "monte_carlo" counts draws; "auto"
            is the first where there are not too many. The result's `method` says which it was.
        num_samples, key: of Monte Carlo; key None is `jax.random.key(0)`.

    Returns: an Estimate of shape (vocab_size, ..., vocab_size), an axis a position.
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
    """Joint law of the tokens at some positions given those at others, earlier or later (infilling,
    looking back).

    By Monte Carlo, draws take the given tokens at their positions and are weighted by how probable
    these were; the effective sample size says how many draws the weighted ones are worth.

    Args: as for `marginal`; given, token by position. An exact sum runs over the free positions
        only.
    Raises: InputError as `marginal`, on a position both asked for and given, and on given tokens of
    probability 0."""
    given = {_position(process, "given", place): token for place, token in dict(given).items()}
    for token in given.values():
        if whole_number("given", token, 0) >= process.vocab_size:
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
        law = exactly(table, vocab_size ** len(before))
        total = table.sum()
    else:
        allowed = None
        if given:
            free = np.ones((last + 1, vocab_size), bool)
            for place, token in given.items():
                free[place] = every == token
            allowed = jnp.asarray(free)
        number = whole_number("num_samples", num_samples, 2)
        tokens, log_weight = draw(
            process, jax.random.key(0) if key is None else key, number, last + 1, allowed
        )
        law = frequencies(_cell(tokens, positions, vocab_size), cells, log_weight)
        total = jnp.exp(log_weight.max())
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
    if (
        isinstance(place, bool)
        or not isinstance(place, (int, np.integer))
        or not 0 <= place < process.length
    ):
        raise InputError(f"{name}: expected positions 0 to {process.length - 1}, got {place!r}")
    return int(place)


def _cell(tokens: Array, positions: tuple[int, ...], vocab_size: int) -> Array:
    """Where in a flat table the tokens at these positions fall; positions beyond the tokens count
    as token 0."""
    cell = jnp.zeros(tokens.shape[:-1], int)
    for place in positions:
        cell = vocab_size * cell + (tokens[..., place] if place < tokens.shape[-1] else 0)
    return cell


@partial(jax.jit, static_argnums=1)
def _exact(process: Any, positions: tuple[int, ...], alphabets: list[Array]) -> Array:
    """Flat table of the joint probability of the positions and of the tokens that the alphabets
    prescribe."""
    *before, ends = alphabets
    last, vocab_size = len(before), process.vocab_size
    stride = vocab_size ** (len(positions) - 1 - positions.index(last)) if last in positions else 0

    def fold(table: Array, tokens: Array, log_prefix: Array, rows: Array) -> Array:
        probability = jnp.exp(log_prefix[:, -1:] + rows[:, -1, ends])
        return table.at[_cell(tokens, positions, vocab_size)[:, None] + stride * ends].add(
            probability
        )

    return fold_paths(
        process, before, fold, jnp.zeros(math.prod([vocab_size] * len(positions)), float)
    )
