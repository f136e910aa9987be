"""The local domain of symmetric interactions: linear matrix inequalities (theory, sections 3 and
4)."""

import jax
import jax.numpy as jnp

from probattn.attention.attention import Attention
from probattn.attention.weighted_mean import attend


def inequality_holds(covariance: jax.Array, interaction: jax.Array) -> jax.Array:
    """Whether `I - S^{1/2} A S^{1/2}` is positive definite, of S (..., i, j) and one symmetric A;
    shape (...).

    With a factor `S = L L^T` that is so if and only if `I - L^T A L` is, whose pivots are then all
    positive. Blocks stand side by side as in `determinant`. A NaN is no answer: True.
    """
    dim = covariance.shape[-1]
    stopped = jax.lax.stop_gradient((covariance.reshape(-1, dim, dim), interaction))
    root = _semidefinite_root(jnp.moveaxis(stopped[0], 0, -1))  # [i, k, n]
    towards = jnp.einsum("ij,jkn->ikn", stopped[1], root)
    inner = (root[:, :, None] * towards[:, None]).sum(0)
    return ~(_smallest_pivot(jnp.eye(dim, dtype=root.dtype)[..., None] - inner) <= 0).reshape(
        covariance.shape[:-2]
    )


def _semidefinite_root(matrix: jax.Array) -> jax.Array:
    """Cholesky factor of positive semidefinite blocks [i, j, n]; a pivot that is rounding of 0
    leaves a column of zeros."""
    dim = matrix.shape[0]
    rounding = 8 * dim * jnp.finfo(matrix.dtype).eps * jnp.diagonal(matrix).max(-1)

    def column(k: jax.Array, carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        left, root = carry
        pivot = left[k, k]
        found = jnp.where(
            pivot > rounding, left[:, k] / jnp.sqrt(jnp.where(pivot > rounding, pivot, 1)), 0
        )
        return left - found[:, None] * found[None], root.at[:, k].set(found)

    return jax.lax.fori_loop(0, dim, column, (matrix, jnp.zeros_like(matrix)))[1]


def _smallest_pivot(matrix: jax.Array) -> jax.Array:
    """Of elimination without exchanges, of symmetric blocks [i, j, n]; all pivots are positive
    where a block is definite."""

    def eliminate(k: jax.Array, carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        left, smallest = carry
        pivot = left[k, k]
        column = jnp.where(jnp.arange(len(left))[:, None] > k, left[:, k], 0)
        left = left - column[:, None] * (column / jnp.where(pivot == 0, 1, pivot))[None]
        return left, jnp.minimum(smallest, pivot)

    smallest = jnp.full(matrix.shape[-1], jnp.inf, matrix.dtype)
    return jax.lax.fori_loop(0, len(matrix), eliminate, (matrix, smallest))[1]


def of_centred(attention: Attention, length: int) -> int:
    """Working set of one sequence where every past is centred by itself."""
    return 4 * attention.heads * length**2 * attention.dim


def inequality_slack(attention: Attention, u: jax.Array) -> jax.Array:
    """Smallest eigenvalue of `I - S_t^{1/2} A S_t^{1/2}` for a symmetric A with V = I, as [b, t].

    With S = X X^T the eigenvalues of S^{1/2} A S^{1/2} (d of them) and those of X^T A X (one per
    position) differ only in how many are 0, and the latter have a gradient where S is singular.
    """
    length, dim = u.shape[1:]
    attended = attend(attention, u)
    alpha = attended.alpha[:, 0]
    centred = attended.w[:, None] - attended.wbar[:, 0, :, None]  # [b, t, s, i]
    root = jnp.sqrt(jnp.where(alpha > 0, alpha, 1)) * (alpha > 0)
    spread = root[..., None] * centred  # X^T
    inner = jnp.einsum(
        "btri,ij,btsj->btrs", spread, attention.interaction[0], spread, optimize=True
    )
    ascending = jnp.linalg.eigvalsh(inner * attended.shrink[..., None, None])
    if length < dim:
        return 1 - jnp.maximum(ascending[..., -1], 0)
    # Unless the largest is positive, none is, and the zeros that only X^T A X has stand above the d
    # of S A.
    rounding = length * jnp.finfo(u.dtype).eps * jnp.abs(ascending).max(-1)
    return 1 - jnp.where(ascending[..., -1] > rounding, ascending[..., -1], ascending[..., dim - 1])
