"""Exact sums over all token sequences of a process, by enumeration."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

CHUNK_LOGITS = 2**22  # logits held at once: 32 MiB in float64


def fold_sequences(process: Any, alphabets: Sequence[Array], fold: Callable, start: Any) -> Any:
    """Fold over all sequences whose t-th token is in the array `alphabets[t]`, chunk by chunk.

    With n alphabets a sequence has n tokens and n + 1 prefixes, the empty one included.
    `fold(carry, tokens, log_prefix, rows)` returns the next carry, which is `start` at first:

        tokens        (chunk, n)
        log_prefix    (chunk, n + 1), the log probability of each prefix; 0 for the empty one
        rows          (chunk, n + 1, vocab), log probabilities of the token after each prefix

    In the last chunk, entries beyond the last sequence have log_prefix -inf.
    """
    sizes = [len(alphabet) for alphabet in alphabets]
    total, n = math.prod(sizes), len(alphabets)
    chunk = min(total, max(1, CHUNK_LOGITS // (process.length * process.vocab_size)))

    def step(carry: Any, first: Array) -> tuple[Any, None]:
        index = first + jnp.arange(chunk)
        tokens = _sequences_at(jnp.minimum(index, total - 1), alphabets)
        rows = process.conditionals(jnp.pad(tokens, ((0, 0), (0, process.length - n))))[:, : n + 1]
        # [chunk, n], log p(x_t | x_<t) of the tokens themselves
        chosen = jnp.take_along_axis(rows[:, :n], tokens[..., None], axis=-1)[..., 0]
        # [chunk, n + 1]
        log_prefix = jnp.pad(jnp.cumsum(chosen, axis=-1), ((0, 0), (1, 0)))
        log_prefix = jnp.where((index < total)[:, None], log_prefix, -jnp.inf)
        return fold(carry, tokens, log_prefix, rows), None

    return jax.lax.scan(step, start, jnp.arange(0, total, chunk))[0]


def _sequences_at(index: Array, alphabets: Sequence[Array]) -> Int[Array, "chunk n"]:
    """The sequences with these numbers, counted so that the last token changes fastest."""
    if not alphabets:
        return jnp.zeros((len(index), 0), int)
    digits = jnp.unravel_index(index, tuple(map(len, alphabets)))
    return jnp.stack([a[digit] for a, digit in zip(alphabets, digits, strict=True)], axis=-1)
