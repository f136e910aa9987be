"""The random set of tokens that a sequence visits before it ends (theory, section 8).

All laws here are restricted to sequences that end within `length`: their total is
1 - survival(length). The rest is the probability of sequences that have not ended by then, whose
set is not known.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool

from probattn.checks import as_integer, as_key
from probattn.errors import InputError
from probattn.sequence.enumeration import fold_sequences
from probattn.sequence.estimate import (
    Estimate,
    choose_exact,
    exact_estimate,
    frequencies,
    mean_weight,
)
from probattn.sequence.sampling import draw
from probattn.sequence.termination import symbols

Subset = tuple[int, ...]


def containment(
    process: Any,
    subset: Any,
    *,
    method: str = "auto",
    num_samples: int = 10_000,
    key: Array | None = None,
) -> Estimate:
    """Containment functional `C(K) = P(it ends, and all tokens before the end lie in K)`.

    Each step is restricted to K and the end token, without renormalising. By Monte Carlo, the
    weight of a draw is the product of the probabilities of the allowed tokens at each step, so that
    small probabilities are estimated well too.

    Args: subset, K, distinct tokens without the end token; the others as for `marginal`.
    Raises: InputError on tokens out of range or repeated, the end token in K, or a process without
    an end token. Source: theory, section 8.
    """
    subset = _subset(process, subset)
    # The empty set allows the empty sequence only.
    positions = process.length if subset else 1
    sequences = len(subset) ** (positions - 1)
    if choose_exact(process, method, sequences, "containment"):
        return exact_estimate(
            _exact_containment(process, np.asarray(subset, int), positions), sequences
        )
    allowed = np.zeros((positions, process.vocab_size), bool)
    allowed[:, process.end_token] = True
    allowed[:-1, list(subset)] = True  # and at the last position only the end
    return mean_weight(drawn(process, num_samples, key, jnp.asarray(allowed), positions)[1])


def capacity(
    process: Any,
    subset: Any,
    *,
    method: str = "auto",
    num_samples: int = 10_000,
    key: Array | None = None,
) -> Estimate:
    """`T(K) = P(it ends, and some token before the end lies in K) = C(all) - C(complement of K)`.

    Args, raises, source: as for `containment`.
    """
    subset = _subset(process, subset)
    sequences = len(symbols(process)) ** (process.length - 1)
    if choose_exact(process, method, sequences, "capacity"):
        return exact_estimate(
            _exact_capacity(process, np.isin(np.arange(process.vocab_size), subset)), sequences
        )
    tokens, log_weight = drawn(process, num_samples, key)
    visited = visited_tokens(process, tokens)
    hit = visited[:, list(subset)].any(-1) & visited[:, process.end_token]
    found = frequencies(jnp.where(hit, 0, -1), 1, log_weight)
    return Estimate(
        found.value[0], found.standard_error[0], found.method, found.effective_sample_size
    )


def set_law(
    process: Any, *, method: str = "auto", num_samples: int = 10_000, key: Array | None = None
) -> Estimate:
    """`P(it ends, and has visited exactly K)` for every set K of tokens, shape (2^vocab_size,).

    The index of K is the sum of 2^token over its tokens; a set with the end token has probability
    zero. The law is the Moebius inverse of the containment functional,
    `sum_{L in K} (-1)^|K - L| C(L)`. Here it is summed over sequences instead, so that no terms
    cancel and no entry is negative.

    Args: as for `marginal`. Raises: InputError on a vocabulary with too many subsets, or without an
    end token. Source: theory, section 8.
    """
    _subset(process, ())
    sequences = len(symbols(process)) ** (process.length - 1)
    if choose_exact(process, method, sequences, "set_law", 2**process.vocab_size):
        return exact_estimate(_exact_set_law(process), sequences)
    tokens, log_weight = drawn(process, num_samples, key)
    visited = visited_tokens(process, tokens)
    ended = visited[:, process.end_token]
    index = set_index(process, visited)
    return frequencies(jnp.where(ended, index, -1), 2**process.vocab_size, log_weight)


def inclusion_probabilities(
    process: Any, *, method: str = "auto", num_samples: int = 10_000, key: Array | None = None
) -> Estimate:
    """`P(it ends, and has visited v)` for each token v, shape (vocab_size,).

    The entry of the end token, which is in no set, is 0.

    Args: as for `marginal`. Raises: InputError on a process without an end token. Source: theory,
    section 8.
    """
    _subset(process, ())
    sequences = len(symbols(process)) ** (process.length - 1)
    if choose_exact(process, method, sequences, "inclusion_probabilities"):
        return exact_estimate(_exact_inclusion(process), sequences)
    tokens, log_weight = drawn(process, num_samples, key)
    visited = visited_tokens(process, tokens)
    every = jnp.arange(process.vocab_size)
    inside = visited & visited[:, [process.end_token]] & (every != process.end_token)
    return frequencies(jnp.where(inside, every, -1), process.vocab_size, log_weight)


def sample_set(
    process: Any, key: Array, sample_shape: tuple[int, ...] = ()
) -> Bool[Array, "*shape vocab"]:
    """Draws of the random set, as indicators of shape `sample_shape + (vocab_size,)`.

    The entry of the end token says whether the sequence ended within `length`; if it did not, the
    set holds the tokens visited so far. Raises: InputError on a process without an end token.
    """
    _subset(process, ())
    return visited_tokens(process, process.sample(key, sample_shape))


def visited_tokens(process: Any, tokens: Array) -> Array:
    """Indicators (..., vocab) of the tokens in sequences (..., positions), with the end token."""
    shape = (*tokens.shape[:-1], process.vocab_size)
    row = jnp.indices(tokens.shape, sparse=True)[:-1]
    return jnp.zeros(shape, bool).at[(*row, tokens)].set(True)


def _subset(process: Any, subset: Any) -> Subset:
    """`as_subset` of a process with an end.

    Raises: InputError on a process without an end token, or a subset as in `containment`.
    """
    if process.end_token is None:
        raise InputError(
            "end_token: expected one, got None; the set of tokens before the end needs an end"
        )
    return as_subset(process, subset)


def as_subset(process: Any, subset: Any) -> Subset:
    """`subset` as sorted tokens.

    Raises: InputError on tokens out of range or repeated, or the end token."""
    try:
        tokens = list(subset)
    except TypeError as error:
        raise InputError(f"subset: expected tokens, got {subset!r}") from error
    for token in tokens:
        if (
            isinstance(token, bool)
            or not isinstance(token, (int, np.integer))
            or not 0 <= token < process.vocab_size
        ):
            raise InputError(
                f"subset: expected tokens 0 to {process.vocab_size - 1}, got {token!r}"
            )
    if process.end_token in tokens:
        raise InputError(
            "subset: expected tokens that come before the end, got the end token "
            f"{process.end_token}"
        )
    if len(set(tokens)) < len(tokens):
        raise InputError(f"subset: expected each token once, got {tokens}")
    return tuple(sorted(int(token) for token in tokens))


def drawn(process: Any, num_samples: Any, key: Array | None, *guide: Any) -> tuple[Array, Array]:
    """Draws and their log weights; `guide` is `allowed` and `positions` of `draw`, or nothing."""
    key = jax.random.key(0) if key is None else as_key(key)
    allowed, positions = guide or (None, None)
    return draw(process, key, as_integer("num_samples", num_samples, 2), positions, allowed)


def set_index(process: Any, visited: Array) -> Array:
    """Sum of 2^token over the visited tokens except the end token: (..., vocab) -> (...)."""
    every = jnp.arange(process.vocab_size)
    return jnp.where(visited & (every != process.end_token), 2**every, 0).sum(-1)


def _fold_endings(
    process: Any, alphabet: Array, positions: int, add: Callable, start: Array
) -> Array:
    """Fold `add` over all sequences of the alphabet's tokens that end within `positions`.

    All sequences of n = positions - 1 tokens are enumerated. Each has n + 1 prefixes, after any of
    which the sequence may end. `add(total, ending, visited)` returns the next total; `ending`
    (chunk, n + 1) is the probability of each prefix followed by the end, divided by the number of
    enumerated sequences that share the prefix, and `visited` (chunk, n + 1, vocab) indicates the
    tokens of the prefix.
    """
    # [n + 1]; a prefix of k tokens is shared by len(alphabet)^(n - k) sequences.
    sharing = float(len(alphabet)) ** np.arange(positions - 1, -1, -1)

    def fold(total: Array, tokens: Array, log_prefix: Array, rows: Array) -> Array:
        ending = jnp.exp(log_prefix + rows[..., process.end_token]) / sharing
        # [chunk, n, vocab], for prefixes of 1 ... n tokens; padding adds the empty prefix.
        visited = jnp.cumsum(jax.nn.one_hot(tokens, process.vocab_size, dtype=int), axis=1) > 0
        return add(total, ending, jnp.pad(visited, ((0, 0), (1, 0), (0, 0))))

    return fold_sequences(process, [alphabet] * (positions - 1), fold, start)


@partial(jax.jit, static_argnums=2)
def _exact_containment(process: Any, subset: Array, positions: int) -> Array:
    return _fold_endings(
        process, subset, positions, lambda total, ending, _: total + ending.sum(), jnp.zeros(())
    )


@jax.jit
def _exact_capacity(process: Any, inside: Array) -> Array:
    def add(total: Array, ending: Array, visited: Array) -> Array:
        return total + jnp.where((visited & inside).any(-1), ending, 0).sum()

    return _fold_endings(process, jnp.asarray(symbols(process)), process.length, add, jnp.zeros(()))


@jax.jit
def _exact_set_law(process: Any) -> Array:
    def add(law: Array, ending: Array, visited: Array) -> Array:
        return law.at[set_index(process, visited)].add(ending)

    return _fold_endings(
        process,
        jnp.asarray(symbols(process)),
        process.length,
        add,
        jnp.zeros(2**process.vocab_size),
    )


@jax.jit
def _exact_inclusion(process: Any) -> Array:
    def add(total: Array, ending: Array, visited: Array) -> Array:
        return total + jnp.where(visited, ending[..., None], 0).sum((0, 1))

    return _fold_endings(
        process, jnp.asarray(symbols(process)), process.length, add, jnp.zeros(process.vocab_size)
    )
