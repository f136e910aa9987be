"""Exact sums over all paths of a sequence process."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

CHUNK_LOGITS = 2**22  # logits held at a time, which bounds memory: 32 MiB in float64


def fold_paths(process: Any, alphabets: Sequence[Array], fold: Callable, start: Any) -> Any:
    """Carry `fold` over all paths that take their t-th token from the array `alphabets[t]`, chunk
    by chunk.

    `fold(carry, tokens, log_prefix, rows)` sees tokens (chunk, n) for n alphabets, and for each of
    the n + 1 prefixes `log_prefix` (chunk, n + 1), its log probability (the empty one's is 0), and
    `rows` (chunk, n + 1, vocab), the law of the token after it. Paths that only fill the last chunk
    have log probability -inf throughout."""
    sizes = [len(alphabet) for alphabet in alphabets]
    total, n = math.prod(sizes), len(alphabets)
    chunk = min(total, max(1, CHUNK_LOGITS // (process.length * process.vocab_size)))

    def step(carry: Any, first: Array) -> tuple[Any, None]:
        index = first + jnp.arange(chunk)
        tokens = _path(jnp.minimum(index, total - 1), alphabets)
        rows = process.conditionals(jnp.pad(tokens, ((0, 0), (0, process.length - n))))[:, : n + 1]
        chosen = jnp.take_along_axis(rows[:, :n], tokens[..., None], axis=-1)[..., 0]
        log_prefix = jnp.pad(jnp.cumsum(chosen, axis=-1), ((0, 0), (1, 0)))
        log_prefix = jnp.where((index < total)[:, None], log_prefix, -jnp.inf)
        return fold(carry, tokens, log_prefix, rows), None

    return jax.lax.scan(step, start, jnp.arange(0, total, chunk))[0]


def _path(index: Array, alphabets: Sequence[Array]) -> Int[Array, "chunk n"]:
    """Paths by number, the last position counting fastest."""
    if not alphabets:
        return jnp.zeros((len(index), 0), int)
    digits = jnp.unravel_index(index, tuple(map(len, alphabets)))
    return jnp.stack([a[digit] for a, digit in zip(alphabets, digits, strict=True)], axis=-1)
