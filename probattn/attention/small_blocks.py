"""Blocks with the determinant of J_t, as small as the rank allows (theory, section 2).

By the determinant lemma, det(I - XY) = det(I - YX), a block of size H r can stand in for the one of
size d where it is no larger:

    det(I_d - sum_h V_h S_h A_h) = det(I_{Hr} - [W_Q^g V_h S_h W_K^h^T / sqrt(r)]_{gh})

Block (g, h) of the right-hand side pairs the queries of head g with the covariance S_h of head h.
On both sides every entry is a covariance, under the attention weights, of two linear features of
the embeddings: `sum_s alpha_ts left_s right_s^T` minus the product of the features' weighted means.
One product of the weights with the features and with their products thus gives all entries.
Embeddings count from the first of their sequence (`Attended.w`): what cancels in that difference is
then no larger than what is rounded in the logits already.

Letters in shapes: b sequence, h head, t position, s attended position, d embedding dimension, r
rank, H number of heads; n and m number the left and the right features.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from probattn.attention.attention import Attention
from probattn.attention.weighted_mean import Attended, weighted_sum, weights_working_set


def reduced_blocks(
    attention: Attention, u: jax.Array, attended: Attended
) -> tuple[jax.Array, jax.Array | None, Attended]:
    """Blocks [b, t, k, k] whose determinants are those of J_t; k is H r by the lemma, otherwise d.

    Under the strict mask positions 1 and 2, where J_t = I, are left out: blocks start at the third.

    Returns:
        blocks: J_t itself, or its smaller replacement by the lemma.
        covariance: S_t [b, t, d, d] without the cap, if A is declared symmetric; otherwise None.
        attended: as given, but with `wbar` from the sums that are formed here anyway, so that a
            caller who uses it needs no second product with the weights.
    """
    # Position 1 has no past and position 2 one embedding: the covariance of either is 0.
    first = min(2, u.shape[1]) if attention.mask == "strict" else 0
    covariance, wbar = covariances(attention, attended, first)
    per_head = covariance * attended.shrink[:, None, first:, None, None]  # the cap's factor on A
    attended = attended._replace(wbar=wbar)
    if attention.symmetric:
        identity = jnp.eye(attention.dim, dtype=u.dtype)
        return identity - per_head[:, 0] @ attention.interaction[0], covariance[:, 0], attended
    if attention.mask == "inclusive":
        per_head = per_head + _of_values(attention, inclusive_derivative(attention, u, attended))
    return without_derivative(attention, per_head), None, attended


def covariances(
    attention: Attention, attended: Attended, first: int = 0
) -> tuple[jax.Array, jax.Array]:
    """Covariances of the features under each row of weights, and the means of w.

    Args: attended, whose alpha [b, h, t, s] may have other rows t than the sequence; first, the row
        from which covariances are formed.
    Returns: covariances [b, h, t, n, m] of left and right features, and wbar [b, h, t, i].
    """
    left, right = features(attention, attended)  # [b, h, s, n], [b, h, s, m]
    products = _outer(left, right)  # [b, h, s, n, m]
    flat = products.reshape(*products.shape[:3], products.shape[3] * products.shape[4])
    w = jnp.broadcast_to(attended.w[:, None], (*left.shape[:3], attention.dim))  # [b, h, s, d]
    # One product with the weights for all means: [b, h, t, d + n + m + n m].
    sums = weighted_sum(attended.alpha, jnp.concatenate([w, left, right, flat], axis=-1))
    ends = np.cumsum([w.shape[-1], left.shape[-1], right.shape[-1]])
    wbar, left_mean, right_mean, seconds = jnp.split(sums, ends, axis=-1)
    seconds = seconds[:, :, first:]
    seconds = seconds.reshape(*seconds.shape[:3], *products.shape[3:])  # [b, h, t, n, m]
    return seconds - _outer(left_mean[:, :, first:], right_mean[:, :, first:]), wbar


def without_derivative(attention: Attention, per_head: jax.Array) -> jax.Array:
    """`I` minus the derivative, or its smaller replacement, [b, t, k, k], of [b, h, t, n, m]."""
    if by_lemma(attention):
        # The columns of block (g, h) are those of head h: [b, h, t, H r, r] -> [b, t, H r, H r].
        derivative = jnp.moveaxis(per_head, 1, 3)
        derivative = derivative.reshape(
            *derivative.shape[:3], derivative.shape[3] * derivative.shape[4]
        )
    else:
        derivative = per_head.sum(1)  # [b, t, d, d]
    return jnp.eye(derivative.shape[-1], dtype=derivative.dtype) - derivative


def small_blocks_working_set(attention: Attention, length: int) -> int:
    """Array elements that a sequence needs at once: weights, products, blocks and inverses."""
    size = attention.heads * attention.rank if by_lemma(attention) else attention.dim
    return weights_working_set(attention, length) + 8 * length * size**2 * (
        1 if by_lemma(attention) else attention.heads
    )


def inclusive_derivative(attention: Attention, u: jax.Array, attended: Attended) -> jax.Array:
    """What the inclusive mask adds to S_t A in each head, [b, h, t, d, d].

        alpha_tt [I + (u_t - ubar_t)(A u_t)^T]

    There u_t is also among the embeddings that are averaged, so that this derivative is added.
    """
    own = jnp.diagonal(attended.alpha, axis1=-2, axis2=-1)[..., None, None]  # alpha_tt
    towards = jnp.einsum("hij,btj->bhti", attention.interaction, u)  # A u_t
    return own * (
        jnp.eye(attention.dim, dtype=u.dtype) + _outer(attended.w[:, None] - attended.wbar, towards)
    )


def by_lemma(attention: Attention) -> bool:
    """Whether blocks have size H r: where that is no more than d and S_t A is all there is.

    The inclusive mask adds a term that is not of rank r, and a symmetric A needs S_t itself.
    """
    fewer = attention.heads * attention.rank <= attention.dim
    return fewer and attention.mask == "strict" and not attention.symmetric


def features(attention: Attention, attended: Attended) -> tuple[jax.Array, jax.Array]:
    """Left [b, h, s, n] and right features [b, h, s, m], whose covariance makes up the block.

        symmetric A    w_s                    w_s                     n = m = d, covariance S_t
        by the lemma   W_Q^g V_h w_s, all g   W_K^h w_s / sqrt(r)     n = H r, m = r
        otherwise      V_h w_s                A_h^T w_s               n = m = d

    Each row gives the left and the right feature of head h.
    """
    heads, dim, value = attention.heads, attention.dim, attention.value
    batch, positions, _ = attended.w.shape
    w = jnp.broadcast_to(attended.w[:, None], (batch, heads, positions, dim))
    if attention.symmetric:
        return w, w
    if not by_lemma(attention):
        return _of_values(attention, w), jnp.einsum("hjk,bhsj->bhsk", attention.interaction, w)
    # Stack the query rows of all heads g: W_Q^g V_h as [h, H r, d].
    rows = heads * attention.rank
    queries = attention.query.reshape(rows, dim) / (heads if value is None else 1)
    through = jnp.broadcast_to(queries, (heads, rows, dim)) if value is None else queries @ value
    left_of = partial(jnp.einsum, "hni,bhsi->bhsn", through)
    if value is not None or heads > 1:
        return left_of(w), attended.key
    # One head without values: W_Q w_s = W_Q u_s - W_Q u_1, and W_Q u_s is there already.
    return attended.query - left_of(attended.origin[:, None]), attended.key


def _of_values(attention: Attention, x: jax.Array) -> jax.Array:
    """`V_h x` for x [b, h, t, d, ...]; without values V_h = I / H."""
    if attention.value is None:
        return x / attention.heads
    return jnp.einsum("hij,bhtj...->bhti...", attention.value, x)


def _outer(left: jax.Array, right: jax.Array) -> jax.Array:
    # The gradients of an einsum are matrix products; those of a broadcast product would be sums
    # over whole arrays.
    return jnp.einsum("...i,...j->...ij", left, right)
