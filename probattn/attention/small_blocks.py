"""Blocks with the determinant of J_t that are as small as the attention's rank allows (theory,
section 2).

    det(I_d - sum_h V_h S_h A_h) = det(I_{Hr} - [W_Q^g V_h S_h W_K^h^T / sqrt(r)]_{gh})

Either way an entry is a covariance, under the attention weights, of two linear features of the
embeddings. So it comes from one product of the weights with all products of features, `sum_s
alpha_ts l_s r_s^T - lbar rbar^T`. Embeddings count
from the first of their sequence: what cancels there is then no larger than what the logits are
rounded by already."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from probattn.attention.attention import Attention
from probattn.attention.weighted_mean import Attended, of_weights, weighted_sum


def reduced_blocks(
    attention: Attention, u: jax.Array, attended: Attended
) -> tuple[jax.Array, jax.Array | None, Attended]:
    """Blocks [b, t, n, n] of the last positions (all that have a spread to attend over), and for a
    symmetric A their S_t.

    Third, what attention makes of the sequences with its `wbar` taken from the sums that are formed
    here anyway."""
    # Under the strict mask positions 1 and 2 have no spread to attend over.
    first = min(2, u.shape[1]) if attention.mask == "strict" else 0
    left, right = _features(attention, attended)
    products = _outer(left, right)
    flat = products.reshape(*products.shape[:3], products.shape[3] * products.shape[4])
    w = jnp.broadcast_to(attended.w[:, None], attended.wbar.shape)
    sums = weighted_sum(attended.alpha, jnp.concatenate([w, left, right, flat], axis=-1))
    ends = np.cumsum([w.shape[-1], left.shape[-1], right.shape[-1]])
    wbar, left_mean, right_mean, seconds = jnp.split(sums, ends, axis=-1)
    seconds = seconds[:, :, first:]
    seconds = seconds.reshape(*seconds.shape[:3], *products.shape[3:])
    covariance = seconds - _outer(left_mean[:, :, first:], right_mean[:, :, first:])
    slope = covariance * attended.shrink[:, None, first:, None, None]
    attended = attended._replace(wbar=wbar)
    if attention.symmetric:
        identity = jnp.eye(attention.dim, dtype=u.dtype)
        return identity - slope[:, 0] @ attention.interaction[0], covariance[:, 0], attended
    if attention.mask == "inclusive":
        slope = slope + _of_values(attention, slope_of_own(attention, u, attended))
    if _by_lemma(attention):
        slope = jnp.moveaxis(slope, 1, 3)  # the heads' columns side by side
        slope = slope.reshape(*slope.shape[:3], slope.shape[3] * slope.shape[4])
    else:
        slope = slope.sum(1)
    return jnp.eye(slope.shape[-1], dtype=u.dtype) - slope, None, attended


def of_small_blocks(attention: Attention, length: int) -> int:
    """Working set of one sequence: the weights, and products of features, blocks and inverses at
    each position."""
    size = attention.heads * attention.rank if _by_lemma(attention) else attention.dim
    return of_weights(attention, length) + 8 * length * size**2 * (
        1 if _by_lemma(attention) else attention.heads
    )


def slope_of_own(attention: Attention, u: jax.Array, attended: Attended) -> jax.Array:
    """What the inclusive mask adds to `S_t A`, before values: `alpha_tt [I + (u_t - ubar_t)(A
    u_t)^T]`, as [b, h, t, i, k]."""
    own = jnp.diagonal(attended.alpha, axis1=-2, axis2=-1)[..., None, None]
    towards = jnp.einsum("hij,btj->bhti", attention.interaction, u)
    return own * (
        jnp.eye(attention.dim, dtype=u.dtype) + _outer(attended.w[:, None] - attended.wbar, towards)
    )


def _by_lemma(attention: Attention) -> bool:
    fewer = attention.heads * attention.rank <= attention.dim
    return fewer and attention.mask == "strict" and not attention.symmetric


def _features(attention: Attention, attended: Attended) -> tuple[jax.Array, jax.Array]:
    """Features l_s and r_s whose covariance is wanted, [b, h, s, n] each."""
    heads, dim, value = attention.heads, attention.dim, attention.value
    w = jnp.broadcast_to(attended.w[:, None], attended.wbar.shape)
    if attention.symmetric:
        return w, w
    if not _by_lemma(attention):
        return _of_values(attention, w), jnp.einsum("hjk,bhsj->bhsk", attention.interaction, w)
    rows = heads * attention.rank  # those of all heads stand in the columns of each
    queries = attention.query.reshape(rows, dim) / (heads if value is None else 1)
    through = jnp.broadcast_to(queries, (heads, rows, dim)) if value is None else queries @ value
    left_of = partial(jnp.einsum, "hni,bhsi->bhsn", through)
    if value is not None or heads > 1:
        return left_of(w), attended.key
    # The same, from the queries that are there already.
    return attended.query - left_of(attended.origin[:, None]), attended.key


def _of_values(attention: Attention, slope: jax.Array) -> jax.Array:
    """`V_h` times [b, h, t, i, ...]."""
    if attention.value is None:
        return slope / attention.heads
    return jnp.einsum("hij,bhtj...->bhti...", attention.value, slope)


def _outer(left: jax.Array, right: jax.Array) -> jax.Array:
    # As an einsum its gradients are matrix products; a broadcast product's would be sums over whole
    # arrays.
    return jnp.einsum("...i,...j->...ij", left, right)
