"""The random set as a process: S_n, the tokens visited by step n, for every n (theory, section 8).

S_n holds the symbols among the first n tokens; a sequence that has ended keeps its set. Every law
here is the mean of some function f of S_n at n = 0 ... length, by one sum over all sequences or by
draws. The times follow from it: a set K is hit after n if S_n and K are disjoint, and covered by n
if S_n contains it.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array

from probattn.errors import InputError
from probattn.sequence.enumeration import fold_sequences
from probattn.sequence.estimate import Estimate, choose_exact, exact_estimate, frequencies
from probattn.sequence.random_set import as_subset, drawn, set_index
from probattn.sequence.termination import symbols


def visited_by(
    process: Any, *, method: str = "auto", num_samples: int = 10_000, key: Array | None = None
) -> Estimate:
    """`P(v in S_n)` for every step n from 0 and every token v, shape (length + 1, vocab_size).

    The entries of the end token, which is in no set, are 0.

    Args: as for `marginal`. Source: theory, section 8.
    """
    return _over_time(process, Partial(_same), "visited_by", method, num_samples, key)


def set_size_law(
    process: Any, *, method: str = "auto", num_samples: int = 10_000, key: Array | None = None
) -> Estimate:
    """`P(|S_n| = k)` for every step n from 0 and size k, shape (length + 1, symbols + 1).

    Args: as for `marginal`. Source: theory, section 8.
    """
    sizes = Partial(_has_size, jnp.arange(len(symbols(process)) + 1))
    return _over_time(process, sizes, "set_size_law", method, num_samples, key)


def set_law_by(
    process: Any, *, method: str = "auto", num_samples: int = 10_000, key: Array | None = None
) -> Estimate:
    """`P(S_n = K)` for every step n from 0 and every set K, shape (length + 1, 2^vocab_size).

    The index of K is the sum of 2^token over its tokens, as in `set_law`, which is the law at the
    end of those sequences that end.

    Args: as for `marginal`. Raises: InputError on a vocabulary with too many subsets. Source:
    theory, section 8.
    """
    cells, steps = 2**process.vocab_size, process.length + 1
    sequences = _number(process)
    if choose_exact(process, method, sequences, "set_law_by", cells * steps):
        return exact_estimate(_exact_set_law(process), sequences)
    visited, log_weight = _visited(process, num_samples, key)
    cell = jnp.arange(steps) * cells + set_index(process, visited)  # [draws, steps]
    return _as_table(frequencies(cell, steps * cells, log_weight), (steps, cells))


def hitting_time(
    process: Any,
    subset: Any,
    *,
    method: str = "auto",
    num_samples: int = 10_000,
    key: Array | None = None,
) -> Estimate:
    """Law of the first step at which a token of K occurs, shape (length + 1,).

    Entry n - 1 is `P(T_K = n)` for n = 1 ... length, and the last one is the probability that none
    occurs within `length`.

    Args: subset, K, distinct tokens without the end token; the others as for `marginal`.
    Raises: InputError on tokens as in `containment`, or none. Source: theory, section 8.
    """
    return _time(process, subset, _misses, jnp.min, "hitting_time", method, num_samples, key)


def coverage_time(
    process: Any,
    subset: Any,
    *,
    method: str = "auto",
    num_samples: int = 10_000,
    key: Array | None = None,
) -> Estimate:
    """Law of the first step by which all tokens of K have occurred, shape (length + 1,).

    Entry n - 1 is the probability that this is step n, for n = 1 ... length, and the last one that
    they have not all occurred within `length`.

    Args, raises, source: as for `hitting_time`.
    """
    return _time(process, subset, _lacks, jnp.max, "coverage_time", method, num_samples, key)


# Functions of S_n, as indicators (..., vocab) without the end token: (..., features) each. With
# their arrays they are `Partial`s, so that programs are compiled once for each of them.
def _same(visited: Array) -> Array:
    return visited


def _has_size(sizes: Array, visited: Array) -> Array:
    return visited.sum(-1, keepdims=True) == sizes


def _misses(inside: Array, visited: Array) -> Array:
    return ~(visited & inside).any(-1, keepdims=True)


def _lacks(inside: Array, visited: Array) -> Array:
    return ~(visited | ~inside).all(-1, keepdims=True)


def _time(
    process: Any,
    subset: Any,
    later: Callable,
    of_tokens: Callable,
    what: str,
    method: str,
    num_samples: Any,
    key: Array | None,
) -> Estimate:
    """Law of a time of a set, as `hitting_time`.

    Args: later, of the set's indicator and S_n, whether the time is after n; of_tokens, the time
    from the first steps of the set's tokens, along an axis."""
    found = as_subset(process, subset)
    if not found:
        raise InputError("subset: expected at least one token, got none")
    inside = jnp.asarray(np.isin(np.arange(process.vocab_size), found))
    sequences = _number(process)
    if choose_exact(process, method, sequences, what):
        return exact_estimate(_exact_time(process, Partial(later, inside)), sequences)
    steps, log_weight = _first_seen(process, found, num_samples, key)
    return frequencies(of_tokens(steps, axis=1) - 1, process.length + 1, log_weight)


def _first_seen(
    process: Any, subset: tuple[int, ...], num_samples: Any, key: Array | None
) -> tuple[Array, Array]:
    """The step from 1 at which each token of K occurs first in draws, [draws, K]; log weights.

    `length + 1` where it does not."""
    tokens, log_weight = drawn(process, num_samples, key)
    # A token of K is no end, so that one that occurs does so before the end.
    occurs = tokens[:, :, None] == jnp.asarray(subset)  # [draws, steps, K]
    steps = jnp.where(occurs.any(1), occurs.argmax(1) + 1, process.length + 1)
    return steps, log_weight


def _over_time(
    process: Any, feature: Callable, what: str, method: str, num_samples: Any, key: Array | None
) -> Estimate:
    """`P(f(S_n))` of boolean features f (..., features), for every n, (length + 1, features)."""
    sequences = _number(process)
    if choose_exact(process, method, sequences, what):
        return exact_estimate(_exact(process, feature), sequences)
    visited, log_weight = _visited(process, num_samples, key)
    holds = feature(visited)  # [draws, length + 1, features]
    flat = holds.reshape(len(holds), -1)
    cell = jnp.where(flat, jnp.arange(flat.shape[1]), -1)
    return _as_table(frequencies(cell, flat.shape[1], log_weight), holds.shape[1:])


def _as_table(found: Estimate, shape: tuple[int, ...]) -> Estimate:
    """An estimate of cells that are numbered, as a table."""
    value, error = found.value.reshape(shape), found.standard_error.reshape(shape)
    return Estimate(value, error, found.method, found.effective_sample_size)


def _number(process: Any) -> int:
    """Sequences of `length` symbols, over whose prefixes the exact sums run."""
    return len(symbols(process)) ** process.length


def _visited(process: Any, num_samples: Any, key: Array | None) -> tuple[Array, Array]:
    """S_n of draws as indicators [draws, length + 1, vocab], without the end; log weights."""
    tokens, log_weight = drawn(process, num_samples, key)
    return _sets(process, tokens), log_weight


def _sets(process: Any, tokens: Array) -> Array:
    """S_n after each prefix of tokens [k, n], as indicators [k, n + 1, vocab]."""
    seen = jax.nn.one_hot(tokens, process.vocab_size, dtype=bool)
    if process.end_token is not None:
        seen &= jnp.arange(process.vocab_size) != process.end_token
    return jnp.pad(jnp.cumsum(seen, axis=1) > 0, ((0, 0), (1, 0), (0, 0)))


@jax.jit
def _exact(process: Any, feature: Callable) -> Array:
    """`P(f(S_n))`, [length + 1, features]: of those that have not ended, and of those that have."""

    def add(total: Array, alive: Array, ending: Array, visited: Array) -> Array:
        holds = feature(visited)  # [chunk, length + 1, features]
        keeps = jnp.cumsum((ending[..., None] * holds[:, :-1]).sum(0), axis=0)
        return total + (alive[..., None] * holds).sum(0) + jnp.pad(keeps, ((1, 0), (0, 0)))

    features = jax.eval_shape(feature, jnp.zeros((1, 1, process.vocab_size), bool)).shape[-1]
    return _fold(process, add, jnp.zeros((process.length + 1, features)))


@jax.jit
def _exact_time(process: Any, later: Callable) -> Array:
    """The law of a time, [length + 1], of which `later` says whether it is after n, given S_n.

    Probabilities of its steps are summed themselves: differences of tails would cancel."""

    def add(total: Array, alive: Array, ending: Array, visited: Array) -> Array:
        after = later(visited)[..., 0]  # [chunk, length + 1]
        at_step = (alive[:, 1:] * (after[:, :-1] & ~after[:, 1:])).sum(0)
        never = (alive[:, -1] * after[:, -1]).sum() + (ending * after[:, :-1]).sum()
        return total + jnp.append(at_step, never)

    return _fold(process, add, jnp.zeros(process.length + 1))


@jax.jit
def _exact_set_law(process: Any) -> Array:
    """`P(S_n = K)` by index of K, [length + 1, 2^vocab]."""
    steps = jnp.arange(process.length + 1)

    def add(total: Any, alive: Array, ending: Array, visited: Array) -> Any:
        alive_at, ended_after = total
        index = set_index(process, visited)  # [chunk, length + 1]
        return (
            alive_at.at[steps, index].add(alive),
            ended_after.at[steps[:-1], index[:, :-1]].add(ending),
        )

    nothing = jnp.zeros((process.length + 1, 2**process.vocab_size))
    alive_at, ended_after = _fold(process, add, (nothing, nothing))
    # By step n a sequence has ended after a prefix of fewer than n symbols, whose set it keeps.
    return alive_at + jnp.pad(jnp.cumsum(ended_after, axis=0)[:-1], ((1, 0), (0, 0)))


def _fold(process: Any, add: Callable, start: Any) -> Any:
    """Fold over all sequences of `length` symbols.

    `add(total, alive, ending, visited)` returns the next total. A prefix of k tokens is shared by
    symbols^(length - k) sequences, by which its probability is divided:

        alive    (chunk, length + 1), the probability of each prefix
        ending   (chunk, length), that of each prefix followed by the end
        visited  (chunk, length + 1, vocab), S_n after each prefix
    """
    alphabet, length = jnp.asarray(symbols(process)), process.length
    sharing = float(len(symbols(process))) ** np.arange(length, -1, -1)

    def fold(total: Any, tokens: Array, log_prefix: Array, rows: Array) -> Any:
        alive = jnp.exp(log_prefix) / sharing
        end = 0.0 if process.end_token is None else jnp.exp(rows[:, :, process.end_token])
        return add(total, alive, alive[:, :-1] * end, _sets(process, tokens))

    return fold_sequences(process, [alphabet] * length, fold, start)
