"""Sign and log absolute determinant of many small blocks at once."""

import jax
import jax.numpy as jnp

# Up to this size the blocks are eliminated side by side, one vectorised step for all of them; above it the
# library's batched LU is faster, since the unrolled elimination grows as the cube of the size.
LARGEST_UNROLLED = 8


def sign_and_log_det(blocks: jax.Array) -> tuple[jax.Array, jax.Array]:
    """`sign(det)` and `log |det|` of blocks [t, i, j, b], each as [t, b]; 0 and -inf where a block is singular."""
    dim = blocks.shape[1]
    if dim > LARGEST_UNROLLED:
        return jnp.linalg.slogdet(jnp.moveaxis(blocks, (1, 2), (-2, -1)))
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
        sign, log_det = sign * jnp.sign(pivot), log_det + jnp.log(jnp.abs(pivot))
        divisor = jnp.where(pivot == 0, 1, pivot)  # a largest entry of 0 leaves nothing to eliminate
        for i in range(k + 1, dim):
            rows[i] = rows[i] - (rows[i][:, k] / divisor)[:, None] * rows[k]
    return sign, log_det
