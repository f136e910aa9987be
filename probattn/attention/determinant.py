"""Sign and log absolute determinant of many small blocks at once, with their derivatives.

Small blocks are eliminated here, with pivoting where any of them needs it; large blocks go to the
library's LU. The elimination is unrolled over the columns of a block and carries the blocks as its
last axis, [i, j, n] for row, column and block, so that each step is one vectorised operation on all
n blocks, and calls no library that devices cannot share. It also yields the inverses, which the
derivatives need.

At an exactly singular block log |det| is -inf, and its gradient, which does not exist, is set to 0.
A position that a caller masks out afterwards, or a density that is -inf there, then leaves no NaN
in the gradients of the other positions.
"""

from collections.abc import Iterable
from functools import reduce
from typing import Any

import jax
import jax.numpy as jnp

# Largest block size for which elimination is unrolled; above it the library's batched LU is as fast
# and compiles quickly (`make bench`, log-det).
LARGEST_UNROLLED = 8
# Elimination does without row exchanges where each |pivot| is at least this times the largest entry
# below it. Of 200,000 Gaussian blocks of size 8 in float32, those that pass had the same largest
# error as with pivoting (at 0.1 it was four times that).
LEAST_PIVOT = 0.25


def sign_and_log_det(blocks: jax.Array) -> tuple[jax.Array, jax.Array]:
    """`sign(det)` and `log |det|` of blocks (..., i, j), each of shape (...).

    A singular block has sign 0 and log |det| -inf, with gradient 0.
    """
    *batch, dim, _ = blocks.shape
    if dim > LARGEST_UNROLLED:
        return _by_library(blocks)
    blocks_last = jnp.moveaxis(blocks.reshape(-1, dim, dim), 0, -1)  # [i, j, n]
    sign, log_det, _ = _by_elimination(blocks_last)  # [n], [n], [i, j, n]
    return sign.reshape(batch), log_det.reshape(batch)


@jax.custom_jvp
def _by_elimination(blocks: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Sign, log |det| and inverse of blocks [i, j, n] by elimination, with derivatives by hand.

    The inverse of a singular block is set to 0, so that its derivatives are 0 too.
    """
    return _eliminate(blocks)


@_by_elimination.defjvp
@jax.default_matmul_precision("highest")  # a rule may be traced outside its caller's setting
def _by_elimination_jvp(primals, tangents):
    """`d log |det J| = tr(J^-1 dJ)` and `d J^-1 = -J^-1 dJ J^-1`, without another factorisation.

    The rule takes the inverse from `_by_elimination` itself, so it can be differentiated again, to
    any order.
    """
    (blocks,), (tangent,) = primals, tangents  # [i, j, n] each
    sign, log_det, inverse = _by_elimination(blocks)
    log_det_tangent = (jnp.swapaxes(inverse, 0, 1) * tangent).sum((0, 1))  # the trace, [n]
    inverse_tangent = -jnp.einsum("ijn,jkn,kln->iln", inverse, tangent, inverse)
    return (sign, log_det, inverse), (jnp.zeros_like(sign), log_det_tangent, inverse_tangent)


@jax.custom_jvp
def _by_library(blocks: jax.Array) -> tuple[jax.Array, jax.Array]:
    """`sign_and_log_det` by the library's LU; derivatives are 0 at singular blocks."""
    sign, log_det = jnp.linalg.slogdet(blocks)
    return sign, log_det


@_by_library.defjvp
@jax.default_matmul_precision("highest")  # a rule may be traced outside its caller's setting
def _by_library_jvp(primals, tangents):
    """`d log |det J| = tr(J^-1 dJ)`; 0 at a singular block, where I and 0 stand in for J and dJ."""
    (blocks,), (tangent,) = primals, tangents
    sign, log_det = _by_library(blocks)
    regular = (sign != 0)[..., None, None]
    invertible = jnp.where(regular, blocks, jnp.eye(blocks.shape[-1], dtype=blocks.dtype))
    log_det_tangent = jnp.trace(
        jnp.linalg.solve(invertible, jnp.where(regular, tangent, 0)), axis1=-2, axis2=-1
    )
    return (sign, log_det), (jnp.zeros_like(sign), log_det_tangent)


@jax.custom_batching.custom_vmap
def _eliminate(blocks: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Sign, log |det| and inverse of blocks [i, j, n], without the derivative rule.

    Elimination in the given order of rows is faster. If it is unstable for any block, all blocks
    are eliminated again, with pivoting.
    """
    *found, stable = _without_pivoting(blocks)
    return jax.lax.cond(stable, lambda _: tuple(found), _with_pivoting, blocks)


@_eliminate.def_vmap
def _eliminate_vmap(size: int, in_batched: list[bool], blocks: jax.Array) -> tuple[Any, Any]:
    """The vmap rule of `_eliminate`: merge the mapped axis into the block axis.

    Without this rule vmap would turn the `cond` into a select, which runs both branches.
    """
    batch, *shape, number = blocks.shape  # [batch, i, j, n]
    merged = jnp.moveaxis(blocks, 0, -2).reshape(*shape, batch * number)  # [i, j, batch * n]
    split = [
        jnp.moveaxis(part.reshape(*part.shape[:-1], batch, number), -2, 0)  # [batch, ..., n]
        for part in _eliminate(merged)
    ]
    return tuple(split), (True, True, True)


def _without_pivoting(matrix: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Sign, log |det| and inverse of blocks [i, j, n], and whether they can be relied on.

    Gauss-Jordan elimination without row exchanges, in place: the inverse replaces the matrix, one
    column a step. The last result is one truth value for all blocks: whether every pivot is large
    enough against the entries below it (LEAST_PIVOT) that the multipliers, and with them rounding
    errors, stay bounded.
    """
    dim = len(matrix)
    # `indices == k` selects column k as it is, and row k with one more axis.
    indices, barrier = jnp.arange(dim)[:, None], jax.lax.optimization_barrier
    pivots: list[jax.Array] = []
    stable = jnp.ones((), bool)
    for k in range(dim):
        pivot = matrix[k, k]  # [n]
        below = reduce(  # largest entry below the pivot, [n]
            jnp.maximum,
            (jnp.abs(matrix[j, k]) for j in range(k + 1, dim)),
            jnp.zeros((), pivot.dtype),
        )
        stable &= (jnp.abs(pivot) >= LEAST_PIVOT * below) & (pivot != 0)
        row = jnp.where(indices == k, 1, matrix[k]) / pivot  # [j, n]
        cleared = jnp.where(indices == k, 0, matrix) - matrix[:, k][:, None] * row  # [i, j, n]
        # Without the barrier the compiler computes this step again inside each later one.
        matrix, pivot, stable = barrier(
            (jnp.where((indices == k)[:, None], row, cleared), pivot, stable)
        )
        pivots.append(pivot)
    sign = reduce(jnp.multiply, map(jnp.sign, pivots))
    log_det = reduce(jnp.add, (jnp.log(jnp.abs(pivot)) for pivot in pivots))
    return sign, log_det, matrix, stable.all()


def _with_pivoting(matrix: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Sign, log |det| and inverse of blocks [i, j, n], with partial pivoting.

    Gauss-Jordan elimination in place, as in `_without_pivoting`. No row is moved, since each block
    would move another one: `pivot_rows[k]` [n] is the row of each block that holds the pivot of
    column k, and rows and columns of the inverse are put in order at the end. The barriers divide
    each step into three loops over the blocks; without them the compiler computes a step again
    inside each later one.
    """
    dim, _, number = matrix.shape
    rows, barrier = jnp.arange(dim)[:, None], jax.lax.optimization_barrier
    pivot_rows: list[jax.Array] = []
    reciprocals: list[jax.Array] = []  # 1 / pivot of each column, [n]
    for k in range(dim):
        used = [  # whether row j holds an earlier pivot, [n]
            reduce(jnp.logical_or, (p == j for p in pivot_rows), jnp.zeros((), bool))
            for j in range(dim)
        ]
        size = [jnp.where(used[j], -1, jnp.abs(matrix[j, k])) for j in range(dim)]
        largest = reduce(jnp.maximum, size)
        # The first row whose entry is the largest; `dim`, which is no row, where an entry is NaN:
        # the maximum is NaN then, and equals no entry.
        pivot_rows.append(
            barrier(_select((s == largest for s in size), range(dim), jnp.full(number, dim)))
        )
        row = _select((pivot_rows[k] == j for j in range(dim)), matrix, matrix[0])  # [j, n]
        pivot = jnp.where(pivot_rows[k] < dim, row[k], jnp.nan)
        row = barrier(jnp.where(rows == k, 1, row) / pivot)
        reciprocals.append(row[k])
        cleared = jnp.where(rows == k, 0, matrix) - matrix[:, k][:, None] * row  # [i, j, n]
        matrix = barrier(jnp.where((rows == pivot_rows[k])[:, None], row, cleared))
    # Now matrix[pivot_rows[k], m] = inverse[k, pivot_rows[m]]: order first the rows, then the
    # columns.
    ordered = barrier(
        jnp.stack([_select((p == j for j in range(dim)), matrix, matrix[0]) for p in pivot_rows])
    )
    inverse = _select(
        ((rows[None] == p) for p in pivot_rows),
        (ordered[:, k][:, None] for k in range(dim)),
        ordered,
    )
    singular = reduce(jnp.logical_or, map(jnp.isinf, reciprocals))  # a pivot was 0
    # The sign of the permutation: -1 for each pair of pivot rows that are not in ascending order.
    inversions = [
        jnp.where(pivot_rows[m] > pivot_rows[k], -1, 1) for k in range(dim) for m in range(k)
    ]
    sign = reduce(jnp.multiply, inversions, reduce(jnp.multiply, map(jnp.sign, reciprocals)))
    log_det = -reduce(jnp.add, (jnp.log(jnp.abs(r)) for r in reciprocals))
    # An inverse of 0 makes the derivative rule give a singular block the gradient 0.
    return barrier(
        (
            jnp.where(singular, 0, sign),
            jnp.where(singular, -jnp.inf, log_det),
            jnp.where(singular, 0, inverse),
        )
    )


def _select(
    conditions: Iterable[jax.Array], values: Iterable[Any], otherwise: jax.Array
) -> jax.Array:
    """Entry by entry, the value whose condition is the first to hold, or `otherwise` if none."""
    return reduce(
        lambda found, pair: jnp.where(pair[0], pair[1], found),
        reversed([*zip(conditions, values, strict=True)]),
        otherwise,
    )
