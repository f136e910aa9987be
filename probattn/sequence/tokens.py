"""Token sequences: integer arrays padded with the end token."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from probattn.errors import InputError

END = 0  # id of the end token


def as_tokens(tokens: Any, vocab_size: int) -> jax.Array:
    """`tokens` as an array of ids with at least one axis.

    Raises: InputError on rows of different lengths, no tokens, a type other than integer, or an id
    outside 0 ... vocab_size - 1 (unless traced).
    """
    if not isinstance(tokens, jax.Array):
        try:
            tokens = np.asarray(tokens)
        except ValueError as error:
            raise InputError(
                "tokens: expected a rectangular array, got rows of different lengths"
            ) from error
        if tokens.dtype == object:
            raise InputError("tokens: expected an array of integers, got Python objects")
    if tokens.ndim < 1:
        raise InputError(f"tokens: expected shape (..., length), got {tokens.shape}")
    if 0 in tokens.shape:
        raise InputError(f"tokens: expected at least one sequence, got shape {tokens.shape}")
    if not jnp.issubdtype(tokens.dtype, jnp.integer):
        raise InputError(f"tokens: expected integers, got dtype {tokens.dtype}")
    if not isinstance(tokens, jax.core.Tracer):
        values = np.asarray(tokens)
        if values.min() < 0 or values.max() >= vocab_size:
            wrong = values[(values < 0) | (values >= vocab_size)].flat[0]
            raise InputError(f"tokens: expected ids 0 to {vocab_size - 1}, got {wrong}")
    return jnp.asarray(tokens)


def check_tokens(tokens: Any, vocab_size: int, length: int, rank: int | None = None) -> jax.Array:
    """`tokens` as an array of ids of shape (..., length), padded with the end token.

    Raises: InputError on a wrong number of axes (`rank`), length or type, an id outside 0 ...
    vocab_size - 1, or a symbol after the end. Ids of traced tokens are not checked.
    """
    shape = np.shape(tokens) if hasattr(tokens, "shape") else None
    if rank is not None and shape is not None and len(shape) != rank:
        raise InputError(f"tokens: expected shape (num_sequences, {length}), got {shape}")
    tokens = as_tokens(tokens, vocab_size)
    if tokens.shape[-1] != length:
        raise InputError(
            f"tokens: expected sequences padded with the end token {END} to length {length}, "
            f"got length {tokens.shape[-1]}; pad or cut them, or build the model with "
            f"length={tokens.shape[-1]}"
        )
    if not isinstance(tokens, jax.core.Tracer):
        values = np.asarray(tokens)
        if ((values[..., :-1] == END) & (values[..., 1:] != END)).any():
            raise InputError(
                f"tokens: after the end token {END} only {END} may follow, got another symbol there"
            )
    return tokens


def previous_tokens(tokens: ArrayLike) -> jax.Array:
    """The token before each position, x_{t-1}, with the end token as the start x_0; same shape."""
    tokens = jnp.asarray(tokens)
    return jnp.concatenate([jnp.full_like(tokens[..., :1], END), tokens[..., :-1]], axis=-1)


def counted(tokens: ArrayLike, end_token: int | None = END) -> jax.Array:
    """Which positions count: all up to and including the first end token; same shape, boolean."""
    tokens = jnp.asarray(tokens)
    open_before = jnp.cumprod(
        tokens[..., :-1] != (-1 if end_token is None else end_token), axis=-1
    ).astype(bool)
    return jnp.concatenate([jnp.ones_like(tokens[..., :1], dtype=bool), open_before], axis=-1)
