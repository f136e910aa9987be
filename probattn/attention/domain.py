"""Linear matrix inequalities, which bound the local domain of symmetric A (theory, 3 and 4).

Letters in shapes: b sequence, h head, t position, s and r attended positions, i, j, k and l
components of an embedding, n block.
"""

import jax
import jax.numpy as jnp

from probattn.attention.attention import Attention
from probattn.attention.weighted_mean import attend


def inequality_holds(covariance: jax.Array, interaction: jax.Array) -> jax.Array:
    """Whether `I - S^{1/2} A S^{1/2}` is positive definite, for each S.

    S is (..., i, j), the symmetric A (i, j), the result (...). With a factor `S = L L^T` the
    inequality holds if and only if `I - L^T A L` is positive definite, that is, if its pivots are
    all positive. As in `determinant`, the last axis numbers the blocks. A NaN counts as inside, so
    that the density there is NaN and not -inf.
    """
    dim = covariance.shape[-1]
    # A truth value has no gradient: keep derivatives out of the loops below.
    stopped = jax.lax.stop_gradient((covariance.reshape(-1, dim, dim), interaction))
    root = _semidefinite_root(jnp.moveaxis(stopped[0], 0, -1))  # L, [i, k, n]
    towards = jnp.einsum("ij,jkn->ikn", stopped[1], root)  # A L
    inner = (root[:, :, None] * towards[:, None]).sum(0)  # L^T A L, [k, l, n]
    return ~(_smallest_pivot(jnp.eye(dim, dtype=root.dtype)[..., None] - inner) <= 0).reshape(
        covariance.shape[:-2]
    )


def _semidefinite_root(matrix: jax.Array) -> jax.Array:
    """Cholesky factor [i, k, n] of positive semidefinite blocks [i, j, n].

    A pivot that is 0 up to rounding gives a column of zeros.
    """
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
    """Smallest pivot [n] of symmetric blocks [i, j, n] in elimination without row exchanges.

    A block is positive definite if and only if all its pivots are positive.
    """

    def eliminate(k: jax.Array, carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        left, smallest = carry
        pivot = left[k, k]
        column = jnp.where(jnp.arange(len(left))[:, None] > k, left[:, k], 0)
        left = left - column[:, None] * (column / jnp.where(pivot == 0, 1, pivot))[None]
        return left, jnp.minimum(smallest, pivot)

    smallest = jnp.full(matrix.shape[-1], jnp.inf, matrix.dtype)
    return jax.lax.fori_loop(0, len(matrix), eliminate, (matrix, smallest))[1]


def centred_working_set(attention: Attention, length: int) -> int:
    """Numbers that one sequence needs at once where each past is centred: some [h, t, s, i]."""
    return 4 * attention.heads * length**2 * attention.dim


def inequality_slack(attention: Attention, u: jax.Array) -> jax.Array:
    """Smallest eigenvalue of `I - S_t^{1/2} A S_t^{1/2}` for symmetric A and V = I, as [b, t].

    With S = X X^T, the d eigenvalues of S^{1/2} A S^{1/2} and those of X^T A X, one per position,
    are the same but for the number of zeros. The latter have a gradient where S is singular.
    """
    length, dim = u.shape[1:]
    attended = attend(attention, u)
    alpha = attended.alpha[:, 0]  # [b, t, s]
    centred = attended.w[:, None] - attended.wbar[:, 0, :, None]  # [b, t, s, i]
    # The square root of the weights, with gradient 0 (not NaN) where a weight is 0.
    root = jnp.sqrt(jnp.where(alpha > 0, alpha, 1)) * (alpha > 0)
    spread = root[..., None] * centred  # X^T, [b, t, s, i]
    inner = jnp.einsum(  # X^T A X, [b, t, r, s]
        "btri,ij,btsj->btrs", spread, attention.interaction[0], spread, optimize=True
    )
    ascending = jnp.linalg.eigvalsh(inner * attended.shrink[..., None, None])  # [b, t, s]
    # With fewer positions than dimensions, S^{1/2} A S^{1/2} has eigenvalues 0 besides these.
    if length < dim:
        return 1 - jnp.maximum(ascending[..., -1], 0)
    # Otherwise X^T A X has `length - dim` more zeros than S^{1/2} A S^{1/2}. If its largest
    # eigenvalue is positive, both share it. If none is positive, these zeros come last in ascending
    # order, and the largest eigenvalue of S^{1/2} A S^{1/2} is at index dim - 1.
    rounding = length * jnp.finfo(u.dtype).eps * jnp.abs(ascending).max(-1)
    return 1 - jnp.where(ascending[..., -1] > rounding, ascending[..., -1], ascending[..., dim - 1])
