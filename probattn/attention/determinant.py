"""Sign, log absolute determinant and inverse of many small blocks at once.

At an exactly singular block the log determinant is -inf and its gradient 0 by convention (it has
none): a position that a caller masks out afterwards, or a density that is -inf there, then leaves
no NaN in the gradient of the rest."""

from collections.abc import Iterable
from functools import reduce
from typing import Any

import jax
import jax.numpy as jnp

# Up to this size the blocks are eliminated side by side, one vectorised step for all of them; above
# it the library's batched LU is as fast and compiles at once (`make bench`, log-det).
LARGEST_UNROLLED = 8
# Elimination keeps the order of rows as long as no pivot is smaller than this times what stands
# below it. In float32 the largest error among such blocks, of 200,000 Gaussian ones of size 8, was
# that of pivoting (at 0.1 it was four times that).
LEAST_PIVOT = 0.25


def sign_and_log_det(blocks: jax.Array) -> tuple[jax.Array, jax.Array]:
    """`sign(det)` and `log |det|` of blocks (..., i, j), each of shape (...); 0 and -inf where a
    block is singular."""
    *batch, dim, _ = blocks.shape
    if dim > LARGEST_UNROLLED:
        return _by_library(blocks)
    sign, log_det, _ = _side_by_side(jnp.moveaxis(blocks.reshape(-1, dim, dim), 0, -1))
    return sign.reshape(batch), log_det.reshape(batch)


@jax.custom_jvp
def _side_by_side(blocks: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Sign, log absolute determinant and inverse of blocks [i, j, n]; of a singular one the inverse
    is taken to be 0."""
    return _all_at_once(blocks)


@_side_by_side.defjvp
@jax.default_matmul_precision("highest")
def _side_by_side_jvp(primals, tangents):
    """`d log |det J| = tr(J^-1 dJ)`, `d J^-1 = -J^-1 dJ J^-1`: what elimination yields anyway, to
    any order."""
    (blocks,), (change,) = primals, tangents
    sign, log_det, inverse = _side_by_side(blocks)
    slope = (jnp.swapaxes(inverse, 0, 1) * change).sum((0, 1))
    of_inverse = -jnp.einsum("ijn,jkn,kln->iln", inverse, change, inverse)
    return (sign, log_det, inverse), (jnp.zeros_like(sign), slope, of_inverse)


@jax.custom_jvp
def _by_library(blocks: jax.Array) -> tuple[jax.Array, jax.Array]:
    sign, log_det = jnp.linalg.slogdet(blocks)
    return sign, log_det


@_by_library.defjvp
@jax.default_matmul_precision("highest")
def _by_library_jvp(primals, tangents):
    (blocks,), (change,) = primals, tangents
    sign, log_det = _by_library(blocks)
    regular = (sign != 0)[..., None, None]
    invertible = jnp.where(regular, blocks, jnp.eye(blocks.shape[-1], dtype=blocks.dtype))
    slope = jnp.trace(
        jnp.linalg.solve(invertible, jnp.where(regular, change, 0)), axis1=-2, axis2=-1
    )
    return (sign, log_det), (jnp.zeros_like(sign), slope)


@jax.custom_batching.custom_vmap
def _all_at_once(blocks: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """By elimination in the order given, which is the faster, and with pivoting where any of the
    blocks needs it."""
    *found, stable = _in_given_order(blocks)
    return jax.lax.cond(stable, lambda _: tuple(found), _with_pivoting, blocks)


@_all_at_once.def_vmap
def _over_batch(size: int, in_batched: list[bool], blocks: jax.Array) -> tuple[Any, Any]:
    """A batch stands beside the blocks; a choice between two ways for each of its members would be
    both ways for all."""
    batch, *shape, number = blocks.shape
    found = _all_at_once(jnp.moveaxis(blocks, 0, -2).reshape(*shape, batch * number))
    apart = [jnp.moveaxis(part.reshape(*part.shape[:-1], batch, number), -2, 0) for part in found]
    return tuple(apart), (True, True, True)


def _in_given_order(matrix: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """The same of blocks [i, j, n], by Gauss-Jordan elimination in place without exchanges, and
    whether it is stable.

    That is: no pivot is much smaller than what stands below it, so that multipliers, and with them
    rounding, stay bounded."""
    dim = len(matrix)
    rows, barrier = jnp.arange(dim)[:, None], jax.lax.optimization_barrier
    pivots: list[jax.Array] = []
    stable = jnp.ones((), bool)
    for k in range(dim):
        pivot = matrix[k, k]
        below = reduce(
            jnp.maximum,
            (jnp.abs(matrix[j, k]) for j in range(k + 1, dim)),
            jnp.zeros((), pivot.dtype),
        )
        stable &= (jnp.abs(pivot) >= LEAST_PIVOT * below) & (pivot != 0)
        row = jnp.where(rows == k, 1, matrix[k]) / pivot
        cleared = jnp.where(rows == k, 0, matrix) - matrix[:, k][:, None] * row
        matrix, pivot, stable = barrier(
            (jnp.where((rows == k)[:, None], row, cleared), pivot, stable)
        )
        pivots.append(pivot)
    sign = reduce(jnp.multiply, map(jnp.sign, pivots))
    log_det = reduce(jnp.add, (jnp.log(jnp.abs(pivot)) for pivot in pivots))
    return sign, log_det, matrix, stable.all()


def _with_pivoting(matrix: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The same of blocks [i, j, n], by Gauss-Jordan elimination in place, with partial pivoting.

    Rows stay where they are: `pivots[k]` is the row [n] that column k was eliminated with. The
    barriers keep the compiler from computing a step again inside each of the steps after it, and
    make each of them three loops over the blocks."""
    dim, _, number = matrix.shape
    rows, barrier = jnp.arange(dim)[:, None], jax.lax.optimization_barrier
    pivots: list[jax.Array] = []
    reciprocals: list[jax.Array] = []
    for k in range(dim):
        used = [
            reduce(jnp.logical_or, (p == j for p in pivots), jnp.zeros((), bool))
            for j in range(dim)
        ]
        size = [jnp.where(used[j], -1, jnp.abs(matrix[j, k])) for j in range(dim)]
        largest = reduce(jnp.maximum, size)
        pivots.append(
            barrier(_select((s == largest for s in size), range(dim), jnp.full(number, dim)))
        )
        row = _select((pivots[k] == j for j in range(dim)), matrix, matrix[0])
        pivot = jnp.where(pivots[k] < dim, row[k], jnp.nan)  # no entry is the largest: some are NaN
        row = barrier(jnp.where(rows == k, 1, row) / pivot)
        reciprocals.append(row[k])
        cleared = jnp.where(rows == k, 0, matrix) - matrix[:, k][:, None] * row
        matrix = barrier(jnp.where((rows == pivots[k])[:, None], row, cleared))
    # Row k of the inverse stands at pivots[k], and its column pivots[k] at k.
    ordered = barrier(
        jnp.stack([_select((p == j for j in range(dim)), matrix, matrix[0]) for p in pivots])
    )
    inverse = _select(
        ((rows[None] == p) for p in pivots), (ordered[:, k][:, None] for k in range(dim)), ordered
    )
    singular = reduce(jnp.logical_or, map(jnp.isinf, reciprocals))
    overtaken = [
        jnp.where(pivots[m] > pivots[k], -1, 1) for k in range(dim) for m in range(k)
    ]  # whether rows changed order
    sign = reduce(jnp.multiply, overtaken, reduce(jnp.multiply, map(jnp.sign, reciprocals)))
    log_det = -reduce(jnp.add, (jnp.log(jnp.abs(r)) for r in reciprocals))
    # A singular block must not pull on its other pivots either.
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
    """The value of the first condition that holds."""
    return reduce(
        lambda found, pair: jnp.where(pair[0], pair[1], found),
        reversed([*zip(conditions, values, strict=True)]),
        otherwise,
    )
