"""Run a function over many sequences: leading axes, batches of maps, pieces to fit into memory."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from probattn.attention.attention import ARRAY_FIELDS, Attention
from probattn.checks import as_float_array, in_default_float
from probattn.errors import InputError

LARGEST_WORKING_SET = 2**26  # numbers held at once; 256 MB in float32


def over_sequences(
    function: Callable,
    attention: Attention,
    u: Any,
    name: str = "embeddings",
    working_set: Callable | None = None,
) -> Any:
    """Compile and call `function(attention, u[b, t, i]) -> [b, ...]` on u of any leading axes.

    A batch of maps broadcasts against the leading axes of u; results have the broadcast shape.

    Args:
        function: takes one map and a batch of sequences u[b, t, i] to arrays [b, ...].
        attention: one map or a batch of maps.
        u: embeddings of shape (..., length, dim).
        name: what error messages call u.
        working_set: `working_set(attention, length)` is how many numbers one sequence needs at
            once. If all need more than LARGEST_WORKING_SET together, they run in pieces, and
            gradients recompute each piece. None keeps them in one piece.

    Raises:
        InputError: u is no array of that shape, holds a NaN or an infinity, is longer than the
            position bias, or its leading axes do not broadcast against those of the maps.
    """
    u = as_float_array(name, u)
    if u.ndim < 2 or u.shape[-1] != attention.dim or u.shape[-2] == 0:
        raise InputError(
            f"{name}: expected shape (..., length >= 1, dim {attention.dim}), got {u.shape}"
        )
    bias = attention.position_bias
    if bias is not None and bias.shape[-1] < u.shape[-2]:
        raise InputError(
            f"{name}: length {u.shape[-2]} needs a position bias of as many lags, got "
            f"{bias.shape[-1]}"
        )
    try:
        np.broadcast_shapes(attention.batch_shape, u.shape[:-2])
    except ValueError as error:
        raise InputError(
            f"{name}: expected leading axes that broadcast against the attention's batch "
            f"{attention.batch_shape}, got shape {u.shape}"
        ) from error
    # By default GPUs round the factors of matrix products to 10 bits, and log determinants would
    # lose as much.
    with jax.default_matmul_precision("highest"):
        return _over_sequences(function, working_set, in_default_float(attention), u)


@partial(jax.jit, static_argnums=(0, 1))
def _over_sequences(
    function: Callable, working_set: Callable | None, attention: Attention, u: jax.Array
) -> Any:
    """`over_sequences` after its checks."""
    maps = attention.batch_shape
    shape = np.broadcast_shapes(maps, u.shape[:-2])
    length, dim = u.shape[-2:]
    if not maps:
        sequences, run = u.reshape(-1, length, dim), partial(function, attention)
    else:
        # Each row of `sequences` [b, maps, t, i] holds one sequence for every map.
        over = shape[len(shape) - len(maps) :]
        flat = jax.tree.map(
            lambda leaf: leaf.reshape(-1, *leaf.shape[len(over) :]), broadcast_maps(attention, over)
        )
        sequences = jnp.broadcast_to(u, (*shape, length, dim)).reshape(
            -1, math.prod(over), length, dim
        )
        run = partial(jax.vmap(function, (0, 1), 1), flat)
    numbers = (
        0
        if working_set is None
        else working_set(attention, length) * math.prod(sequences.shape[1:-2])
    )
    results = in_pieces(run, sequences, max(1, LARGEST_WORKING_SET // max(1, numbers)))
    return jax.tree.map(
        lambda result: result.reshape(*shape, *result.shape[1 + bool(maps) :]), results
    )


def in_pieces(run: Callable, sequences: jax.Array, most: int) -> Any:
    """`run(sequences)`, in pieces of at most `most` sequences one after the other.

    For gradients only the arguments and results of a piece are kept; the rest is recomputed.
    """
    number = len(sequences)
    if number <= most:
        return run(sequences)
    pieces = -(-number // most)
    each = -(-number // pieces)
    # Piece k takes sequences k, k + pieces, ...: where sequences are sharded over devices, this
    # strided split leaves each device's shard where it is. The last sequence fills up the pieces.
    padded = jnp.concatenate(
        [
            sequences,
            jnp.broadcast_to(sequences[-1:], (pieces * each - number, *sequences.shape[1:])),
        ]
    )
    results = jax.lax.map(
        jax.checkpoint(run), jnp.swapaxes(padded.reshape(each, pieces, *sequences.shape[1:]), 0, 1)
    )
    return jax.tree.map(
        lambda part: jnp.swapaxes(part, 0, 1).reshape(-1, *part.shape[2:])[:number], results
    )


def map_in_batches(function: Callable, rows: Any, batch_size: int) -> Any:
    """`function` of each row, vectorised over `batch_size` rows, one batch after the other.

    `rows` is a pytree of arrays whose first axis is mapped. The last batch is filled up with other
    rows, so that one compiled program serves all batches.
    """
    number = len(jax.tree.leaves(rows)[0])
    size = max(1, min(batch_size, number))
    missing = -number % size
    filled = jax.tree.map(
        lambda leaf: jnp.concatenate([leaf, leaf[:missing]]) if missing else leaf, rows
    )
    return jax.tree.map(lambda leaf: leaf[:number], jax.lax.map(function, filled, batch_size=size))


def broadcast_maps(attention: Attention, shape: tuple[int, ...]) -> Attention:
    """The attention with all its arrays broadcast to a batch of maps of shape `shape`."""

    def broadcast(name: str, axes: int) -> Any:
        array = getattr(attention, name)
        return (
            None
            if array is None
            else jnp.broadcast_to(array, (*shape, *array.shape[array.ndim - axes :]))
        )

    arrays = [broadcast(name, axes) for name, axes in ARRAY_FIELDS.items()]
    return jax.tree.unflatten(
        jax.tree.structure(attention), [array for array in arrays if array is not None]
    )
