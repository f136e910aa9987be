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

from probattn.checks import as_integer, as_key
from probattn.errors import InputError
from probattn.sequence.enumeration import fold_sequences
from probattn.sequence.estimate import Estimate, choose_exact, exact_estimate, frequencies
from probattn.sequence.random_set import as_subset
from probattn.sequence.sampling import draw
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
    cells = 2**process.vocab_size
    sequences = _number(process)
    choose_exact(process, method, sequences, "set_law_by", cells * (process.length + 1))
    sets = Partial(_is_set, jnp.arange(cells))
    return _over_time(process, sets, "set_law_by", method, num_samples, key)


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
    missed = Partial(_misses, _indicator(process, subset))
    return _time(process, missed, "hitting_time", method, num_samples, key)


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
    lacking = Partial(_lacks, _indicator(process, subset))
    return _time(process, lacking, "coverage_time", method, num_samples, key)


# Functions of S_n, as indicators (..., vocab) without the end token: (..., features) each. With
# their arrays they are `Partial`s, so that programs are compiled once for each of them.
def _same(visited: Array) -> Array:
    return visited


def _has_size(sizes: Array, visited: Array) -> Array:
    return visited.sum(-1, keepdims=True) == sizes


def _is_set(indices: Array, visited: Array) -> Array:
    return (
        jnp.where(visited, 2 ** jnp.arange(visited.shape[-1]), 0).sum(-1, keepdims=True) == indices
    )


def _misses(inside: Array, visited: Array) -> Array:
    return ~(visited & inside).any(-1, keepdims=True)


def _lacks(inside: Array, visited: Array) -> Array:
    return ~(visited | ~inside).all(-1, keepdims=True)


def _indicator(process: Any, subset: Any) -> Array:
    found = as_subset(process, subset)
    if not found:
        raise InputError("subset: expected at least one token, got none")
    return jnp.asarray(np.isin(np.arange(process.vocab_size), found))


def _time(
    process: Any, later: Callable, what: str, method: str, num_samples: Any, key: Array | None
) -> Estimate:
    """Law of a time from `later`, whether it is after n, as a function of S_n.

    Of draws the time itself is counted, so that its standard errors are those of frequencies."""
    sequences = _number(process)
    if choose_exact(process, method, sequences, what):
        after = _exact(process, later)[:, 0]  # P(T > n), [length + 1]
        return exact_estimate(jnp.append(after[:-1] - after[1:], after[-1]), sequences)
    visited, log_weight = _visited(process, num_samples, key)
    steps = later(visited)[..., 0].sum(-1) - 1  # n with T = n + 1; `length` where T is later
    return frequencies(steps, process.length + 1, log_weight)


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
    found = frequencies(cell, flat.shape[1], log_weight)
    return Estimate(
        found.value.reshape(holds.shape[1:]),
        found.standard_error.reshape(holds.shape[1:]),
        found.method,
        found.effective_sample_size,
    )


def _number(process: Any) -> int:
    """Sequences of `length` symbols, over whose prefixes the exact sums run."""
    return len(symbols(process)) ** process.length


def _visited(process: Any, num_samples: Any, key: Array | None) -> tuple[Array, Array]:
    """S_n of draws as indicators [draws, length + 1, vocab], without the end; log weights."""
    key = jax.random.key(0) if key is None else as_key(key)
    tokens, log_weight = draw(process, key, as_integer("num_samples", num_samples, 2))
    return _sets(process, tokens), log_weight


def _sets(process: Any, tokens: Array) -> Array:
    """S_n after each prefix of tokens [k, n], as indicators [k, n + 1, vocab]."""
    seen = jax.nn.one_hot(tokens, process.vocab_size, dtype=bool)
    if process.end_token is not None:
        seen &= jnp.arange(process.vocab_size) != process.end_token
    return jnp.pad(jnp.cumsum(seen, axis=1) > 0, ((0, 0), (1, 0), (0, 0)))


@jax.jit
def _exact(process: Any, feature: Callable) -> Array:
    """`P(f(S_n))`, [length + 1, features]: of those that have not ended, and of those that have.

    All sequences of `length` symbols are enumerated. A prefix of k tokens is shared by
    symbols^(length - k) of them, by which its probability is divided.
    """
    alphabet, length = jnp.asarray(symbols(process)), process.length
    sharing = float(len(symbols(process))) ** np.arange(length, -1, -1)

    def fold(total: Array, tokens: Array, log_prefix: Array, rows: Array) -> Array:
        holds = feature(_sets(process, tokens))  # [chunk, length + 1, features]
        alive = jnp.exp(log_prefix) / sharing
        total = total + (alive[..., None] * holds).sum(0)
        if process.end_token is None:
            return total
        # By step n a sequence has ended after a prefix of fewer than n symbols, whose set it keeps.
        ending = alive[:, :-1] * jnp.exp(rows[:, :, process.end_token])
        keeps = jnp.cumsum((ending[..., None] * holds[:, :-1]).sum(0), axis=0)
        return total + jnp.pad(keeps, ((1, 0), (0, 0)))

    shape = jax.eval_shape(feature, jnp.zeros((1, length + 1, process.vocab_size), bool)).shape
    return fold_sequences(process, [alphabet] * length, fold, jnp.zeros(shape[1:]))
