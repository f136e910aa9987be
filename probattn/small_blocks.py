"""Blocks with the determinant of J_t that are as small as the attention's rank allows (theory, section 2).

    det(I_d - sum_h V_h S_h A_h) = det(I_{Hr} - [W_Q^g V_h S_h W_K^h^T / sqrt(r)]_{gh})        (determinant lemma)

Either way an entry is a covariance, under the attention weights, of two linear features of the embeddings. So it comes
from one product of the weights with all products of features, `sum_s alpha_ts l_s r_s^T - lbar rbar^T`. Embeddings count
from the first of their sequence: what cancels there is then no larger than what the logits are rounded by already.
"""

import math

import jax
import jax.numpy as jnp

from probattn.attention import Attention
from probattn.mean import shrinkage, weighted_sum


def small_blocks(
    attention: Attention, u: jax.Array, alpha: jax.Array, ubar: jax.Array
) -> tuple[jax.Array, jax.Array | None]:
    """Blocks [b, t, n, n] of the last positions (all that have a spread to attend over), and for a symmetric A their S_t."""
    length = u.shape[1]
    # Under the strict mask positions 1 and 2 have no spread to attend over, and nobody attends to the last one.
    first, last = (min(2, length), length - 1) if attention.mask == "strict" else (0, length)
    origin = u[:, None, :1]
    left, right = _features(attention)
    pairs = [jnp.einsum("hni,bhsi->bhsn", side, (u[:, None, :last] - origin)) for side in (left, right)]
    means = [jnp.einsum("hni,bhti->bhtn", side, ubar[:, :, first:] - origin) for side in (left, right)]
    products = _outer(*pairs)
    seconds = weighted_sum(
        alpha[:, :, first:, :last], products.reshape(*products.shape[:3], products.shape[3] * products.shape[4])
    )
    covariance = seconds.reshape(*seconds.shape[:3], *products.shape[3:]) - _outer(*means)
    shrink = shrinkage(attention, u)[:, None, first:, None, None]
    if attention.symmetric:
        identity = jnp.eye(attention.dim, dtype=u.dtype)
        return identity - (covariance * shrink)[:, 0] @ attention.interaction[0], covariance[:, 0]
    slope = covariance * shrink
    if attention.mask == "inclusive":
        slope = slope + _with_values(attention, slope_of_own(attention, u, alpha, ubar))
    if _by_lemma(attention):
        slope = jnp.moveaxis(slope, 1, 3)  # the heads' columns side by side
        slope = slope.reshape(*slope.shape[:3], slope.shape[3] * slope.shape[4])
    else:
        slope = slope.sum(1)
    return jnp.eye(slope.shape[-1], dtype=u.dtype) - slope, None


def slope_of_own(attention: Attention, u: jax.Array, alpha: jax.Array, ubar: jax.Array) -> jax.Array:
    """What the inclusive mask adds to `S_t A`, before values: `alpha_tt [I + (u_t - ubar_t)(A u_t)^T]`, as [b, h, t, i, k]."""
    own = jnp.diagonal(alpha, axis1=-2, axis2=-1)[..., None, None]
    towards = jnp.einsum("hij,btj->bhti", attention.interaction, u)
    return own * (jnp.eye(attention.dim, dtype=u.dtype) + _outer(u[:, None] - ubar, towards))


def _by_lemma(attention: Attention) -> bool:
    fewer = attention.heads * attention.rank <= attention.dim
    return fewer and attention.mask == "strict" and not attention.symmetric


def _features(attention: Attention) -> tuple[jax.Array, jax.Array]:
    """Matrices [h, n, i] and [h, m, i] of the features whose covariance is wanted, of each head."""
    heads, dim, dtype = attention.heads, attention.dim, attention.query.dtype
    identity = jnp.eye(dim, dtype=dtype)
    if attention.symmetric:
        return identity[None], identity[None]
    value = jnp.broadcast_to(identity / heads, (heads, dim, dim)) if attention.value is None else attention.value
    if not _by_lemma(attention):
        return value, jnp.swapaxes(attention.interaction, -1, -2)
    queries = attention.query.reshape(-1, dim)
    left = jnp.broadcast_to(queries / heads, (heads, *queries.shape)) if attention.value is None else queries @ value
    return left, attention.key / math.sqrt(attention.rank)


def _with_values(attention: Attention, slope: jax.Array) -> jax.Array:
    return slope / attention.heads if attention.value is None else attention.value[:, None] @ slope


def _outer(left: jax.Array, right: jax.Array) -> jax.Array:
    # As an einsum its gradients are matrix products; a broadcast product's would be sums over whole arrays.
    return jnp.einsum("...i,...j->...ij", left, right)
