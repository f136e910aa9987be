"""Sign, log absolute determinant and inverse of many small blocks at once.

At an exactly singular block the log determinant is -inf and its gradient 0 by convention (it has none): a position that
a caller masks out afterwards, or a density that is -inf there, then leaves no NaN in the gradient of the rest.
"""

from functools import reduce

import jax
import jax.numpy as jnp

# Up to this size the blocks are eliminated side by side, one vectorised step for all of them; above it the library's
# batched LU is as fast and compiles at once (`make bench`, log-det).
LARGEST_UNROLLED = 12


def sign_and_log_det(blocks: jax.Array) -> tuple[jax.Array, jax.Array]:
    """`sign(det)` and `log |det|` of blocks (..., i, j), each of shape (...); 0 and -inf where a block is singular."""
    *batch, dim, _ = blocks.shape
    sign, log_det, _ = _decompose(jnp.moveaxis(blocks.reshape(-1, dim, dim), 0, -1))
    return sign.reshape(batch), log_det.reshape(batch)


@jax.custom_jvp
def _decompose(blocks: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Sign, log absolute determinant and inverse of blocks [i, j, n]; of a singular one the inverse is taken to be 0."""
    dim = blocks.shape[0]
    if dim <= LARGEST_UNROLLED:
        return _eliminate(blocks)
    blocks = jnp.moveaxis(blocks, -1, 0)
    sign, log_det = jnp.linalg.slogdet(blocks)
    regular = (sign != 0)[:, None, None]
    inverse = jnp.linalg.inv(jnp.where(regular, blocks, jnp.eye(dim, dtype=blocks.dtype)))
    return sign, log_det, jnp.moveaxis(jnp.where(regular, inverse, 0), 0, -1)


@_decompose.defjvp
@jax.default_matmul_precision("highest")
def _decompose_jvp(primals, tangents):
    """`d log |det J| = tr(J^-1 dJ)`, `d J^-1 = -J^-1 dJ J^-1`: what elimination yields anyway, to any order."""
    (blocks,), (change,) = primals, tangents
    sign, log_det, inverse = _decompose(blocks)
    slope = (jnp.swapaxes(inverse, 0, 1) * change).sum((0, 1))
    of_inverse = -jnp.einsum("ijn,jkn,kln->iln", inverse, change, inverse)
    return (sign, log_det, inverse), (jnp.zeros_like(sign), slope, of_inverse)


def _eliminate(matrix: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The same of blocks [i, j, n], by Gauss-Jordan elimination in place, with partial pivoting.

    Rows stay where they are: `pivots[k]` is the row [n] that column k was eliminated with. The barriers keep the compiler
    from computing a step again inside each of the steps after it.
    """
    dim, _, number = matrix.shape
    rows, barrier = jnp.arange(dim)[:, None], jax.lax.optimization_barrier
    used = jnp.zeros((dim, number), bool)
    sign, log_det = jnp.ones(number, matrix.dtype), jnp.zeros(number, matrix.dtype)
    pivots: list[jax.Array] = []
    for k in range(dim):
        size = jnp.where(used, -1, jnp.abs(matrix[:, k]))
        largest = reduce(jnp.maximum, size)
        first = reduce(
            lambda found, j: jnp.where(size[j] == largest, j, found), reversed(range(dim)), jnp.full(number, dim)
        )
        first = barrier(first)
        row = reduce(lambda found, j: jnp.where(first == j, matrix[j], found), range(1, dim), matrix[0])
        pivot = jnp.where(largest > 0, row[k], largest)  # 0 in a singular block, and a NaN stays one
        overtaken = (used & (rows > first)).sum(0)  # the parity of the order in which rows are used
        sign = sign * jnp.sign(pivot) * (1 - 2 * (overtaken % 2))
        log_det = log_det + jnp.log(jnp.abs(pivot))
        row = barrier((row / jnp.where(pivot == 0, 1, pivot)).at[k].set(1 / jnp.where(pivot == 0, 1, pivot)))
        hot = rows == first
        cleared = matrix.at[:, k].set(0) - matrix[:, k][:, None] * row
        matrix, used, sign, log_det = barrier((jnp.where(hot[:, None], row, cleared), used | hot, sign, log_det))
        pivots.append(first)
    # Row k of the inverse stands at pivots[k], and its column pivots[k] at k.
    ordered = jnp.stack(
        [reduce(lambda a, j: jnp.where(p == j, matrix[j], a), range(1, dim), matrix[0]) for p in pivots]
    )
    ordered, columns, inverse = barrier(ordered), rows[None], jnp.zeros_like(matrix)
    for k, first in enumerate(pivots):
        inverse = jnp.where(columns == first, ordered[:, k][:, None], inverse)
    singular = sign == 0  # such a block must not pull on its other pivots either
    return barrier((sign, jnp.where(singular, -jnp.inf, log_det), jnp.where(singular, 0, inverse)))
