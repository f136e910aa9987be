"""Sign and log absolute determinant of many small blocks at once.

At an exactly singular block the value is -inf and the gradient 0 by convention (it has none): a position that a
caller masks out afterwards, or a density that is -inf there, then leaves no NaN in the gradient of the rest.
"""

import jax
import jax.numpy as jnp

# Up to this size the blocks are eliminated side by side, one vectorised step for all of them; above it the
# library's batched LU is faster, since the unrolled elimination grows as the cube of the size.
LARGEST_UNROLLED = 8


def sign_and_log_det(blocks: jax.Array) -> tuple[jax.Array, jax.Array]:
    """`sign(det)` and `log |det|` of blocks [t, i, j, b], each as [t, b]; 0 and -inf where a block is singular."""
    dim = blocks.shape[1]
    if dim > LARGEST_UNROLLED:
        return _by_library(jnp.moveaxis(blocks, (1, 2), (-2, -1)))
    rows = [blocks[:, i] for i in range(dim)]
    sign, log_det = jnp.ones_like(rows[0][:, 0]), jnp.zeros_like(rows[0][:, 0])
    for k in range(dim):
        for i in range(k + 1, dim):  # partial pivoting: the largest entry of column k comes to the top
            swap = jnp.abs(rows[i][:, k]) > jnp.abs(rows[k][:, k])
            upper, lower = rows[k], rows[i]
            rows[k] = jnp.where(swap[:, None], lower, upper)
            rows[i] = jnp.where(swap[:, None], upper, lower)
            sign = jnp.where(swap, -sign, sign)
        pivot = rows[k][:, k]
        singular = pivot == 0  # a largest entry of 0 leaves nothing to eliminate
        divisor = jnp.where(singular, 1, pivot)
        sign = sign * jnp.sign(pivot)
        log_det = log_det + jnp.where(singular, -jnp.inf, jnp.log(jnp.abs(divisor)))
        for i in range(k + 1, dim):
            rows[i] = rows[i] - (rows[i][:, k] / divisor)[:, None] * rows[k]
    # A singular block must not pull on its other pivots either.
    return sign, jnp.where(sign == 0, -jnp.inf, log_det)


@jax.custom_jvp
def _by_library(blocks: jax.Array) -> tuple[jax.Array, jax.Array]:
    sign, log_det = jnp.linalg.slogdet(blocks)
    return sign, log_det


@_by_library.defjvp
def _by_library_jvp(primals, tangents):
    (blocks,), (change,) = primals, tangents
    sign, log_det = _by_library(blocks)
    regular = (sign != 0)[..., None, None]
    invertible = jnp.where(regular, blocks, jnp.eye(blocks.shape[-1], dtype=blocks.dtype))
    slope = jnp.trace(jnp.linalg.solve(invertible, jnp.where(regular, change, 0)), axis1=-2, axis2=-1)
    return (sign, log_det), (jnp.zeros_like(sign), slope)
