"""Attention weights and the mean of each embedding given its past, of whole sequences (theory,
sections 1 and 4).

Inside, arrays carry the batch of sequences as their first axis, `u[b, t, i]`, and sums are einsums.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from probattn.attention.attention import Attention
from probattn.attention.batching import over_sequences


def attention_mean(attention: Attention, u: ArrayLike) -> Float[Array, "*batch length dim"]:
    """Mean of each embedding given its past, `mu_t = sum_h V_h sum_s alpha^h_ts u_s`.

    Args: attention; u, embeddings of shape (..., length, dim). Raises: InputError on a wrong shape
    or a NaN. Source: theory, section 1.

    Example:

        >>> import jax.numpy as jnp
        >>> from probattn import Attention, attention_mean
        >>> attention = Attention.from_interaction([[[0.5]]])
        >>> u = jnp.array([[-1.0], [1.0], [0.0]])  # keys at -1 and 1, and a token between them
        >>> print(attention_mean(attention, u).ravel())
        [ 0. -1.  0.]
    """
    return over_sequences(mean, attention, u, working_set=of_weights)


def of_weights(attention: Attention, length: int) -> int:
    """Working set of one sequence: weights, logits and their gradients."""
    return 4 * attention.heads * length**2


class Attended(NamedTuple):
    """What attention makes of sequences u[b, t, i].

    Embeddings count from the first of their sequence, `w_t = u_t - u_1`: the weights are blind to a
    shift of all keys and covariances to any, and without it long embeddings that lie close would
    round away.

    Args:
        origin: the first embedding of each sequence [b, 1, i].
        w: embeddings counted from it [b, t, i].
        query, key: `W_Q u_t` and `W_K w_s / sqrt(r)` [b, h, t, r].
        shrink: what the contraction cap multiplies A by [b, t].
        alpha: weights [b, h, t, s]; a row without a past is zero.
        log_total: `log sum_s exp l_ts`, what the weights are normalised by [b, h, t].
        wbar: weighted mean of the past `sum_s alpha_ts w_s` in each head [b, h, t, i].
    """

    origin: jax.Array
    w: jax.Array
    query: jax.Array
    key: jax.Array
    shrink: jax.Array
    alpha: jax.Array
    log_total: jax.Array
    wbar: jax.Array


def attend(attention: Attention, u: jax.Array) -> Attended:
    """Weights and means of the past at every position."""
    # No result depends on what embeddings count from, so that a derivative in it would be 0.
    origin = jax.lax.stop_gradient(u[:, :1])
    w = u - origin
    query = jnp.einsum("hri,bti->bhtr", attention.query, u)
    key = jnp.einsum("hri,bsi->bhsr", attention.key, w) / math.sqrt(attention.rank)
    shrink = shrinkage(attention, u)
    alpha, log_total = _weights(attention, query, key, shrink)
    return Attended(
        origin, w, query, key, shrink, alpha, log_total, weighted_sum(alpha, w[:, None])
    )


def mean(attention: Attention, u: jax.Array) -> jax.Array:
    """`mu_t` as [b, t, i]."""
    return mean_of_heads(attention, attend(attention, u))


def mean_of_heads(attention: Attention, attended: Attended) -> jax.Array:
    """`mu_t` as [b, t, i], from the weighted means of the past in each head."""
    ubar = head_means(attention, attended)
    mu = (
        ubar.mean(1)
        if attention.value is None
        else jnp.einsum("hij,bhtj->bti", attention.value, ubar)
    )
    if attention.origin is None or attention.mask != "strict":
        return mu
    return mu.at[:, 0].set(attention.origin)  # the first position has no past


def head_means(attention: Attention, attended: Attended) -> jax.Array:
    """Weighted mean of the past in each head, `ubar_t = sum_s alpha_ts u_s`, as [b, h, t, i]; 0
    where there is no past."""
    has_past = jnp.arange(attended.alpha.shape[2])[:, None] >= (
        1 if attention.mask == "strict" else 0
    )
    return attended.wbar + has_past * attended.origin[:, None]


@jax.custom_jvp
def weighted_sum(alpha: jax.Array, x: jax.Array) -> jax.Array:
    """`sum_s alpha_ts x_s` as [b, h, t, i], of alpha [b, h, t, s] and x [b, h, s, i] (h may be 1
    there)."""
    return jnp.einsum(
        "bhts,bhsi->bhti", alpha, jnp.broadcast_to(x, (*alpha.shape[:2], *x.shape[2:]))
    )


@weighted_sum.defjvp
@jax.default_matmul_precision("highest")  # rules are traced by themselves
def _weighted_sum_jvp(primals, tangents):
    # Written with the transpose of alpha laid out in memory: the gradient in x is then a product of
    # rows by columns, for which compilers have their fast path.
    (alpha, x), (alpha_change, x_change) = primals, tangents
    transposed = jax.lax.optimization_barrier(jnp.swapaxes(alpha, -1, -2))
    x_change = jnp.broadcast_to(x_change, (*alpha.shape[:2], *x.shape[2:]))
    return weighted_sum(alpha, x), weighted_sum(alpha_change, x) + jnp.einsum(
        "bhst,bhsi->bhti", transposed, x_change
    )


def _weights(
    attention: Attention, query: jax.Array, key: jax.Array, shrink: jax.Array
) -> tuple[jax.Array, jax.Array]:
    length = query.shape[2]
    logits = jnp.einsum("bhtr,bhsr->bhts", query, key) * shrink[:, None, :, None]
    lag = jnp.arange(length)[:, None] - jnp.arange(length)
    if attention.position_bias is not None:
        logits = logits + attention.position_bias[:, jnp.maximum(lag, 0)]
    allowed = lag > 0 if attention.mask == "strict" else lag >= 0
    # The empty past is a case of its own: no weight anywhere, and value and gradient finite.
    logits = jnp.where(allowed, logits, jnp.finfo(logits.dtype).min)
    return jnp.where(allowed, jax.nn.softmax(logits), 0), jax.nn.logsumexp(logits, axis=-1)


def squared_diameter(u: jax.Array) -> jax.Array:
    """`D_t^2`, the squared diameter of the strict past of each position, as [b, t]; 0 for the first
    two."""
    shifted = (
        u - u[:, :1]
    )  # the first token is in every past, so that what cancels below is no longer than D_t
    squares = (shifted**2).sum(-1)
    squared = (
        squares[:, :, None] + squares[:, None] - 2 * jnp.einsum("bti,bsi->bts", shifted, shifted)
    )
    earlier = jnp.tri(u.shape[1], k=-1, dtype=bool)
    farthest = jnp.where(earlier, squared, 0).max(2)
    return jnp.concatenate(
        [jnp.zeros_like(farthest[:, :1]), jax.lax.cummax(farthest, axis=1)[:, :-1]], axis=1
    )


def shrinkage(attention: Attention, u: jax.Array) -> jax.Array:
    """What the contraction cap multiplies A by at each position, `1 / (1 + g D_t^2 / (4 kappa))`,
    as [b, t]."""
    if attention.contraction is None:
        return jnp.ones((1, u.shape[1]), u.dtype)
    return capped(attention, squared_diameter(u))


def capped(attention: Attention, squared: jax.Array) -> jax.Array:
    """The same where the squared diameter of the past is known; it has its shape."""
    if attention.contraction is None:
        return jnp.ones_like(squared)
    interaction = frobenius_norm(attention.interaction)
    value = (
        math.sqrt(attention.dim) / attention.heads
        if attention.value is None
        else frobenius_norm(attention.value)
    )
    return 1 / (1 + (value * interaction).sum() * squared / (4 * attention.contraction))


def frobenius_norm(matrices: jax.Array) -> jax.Array:
    """Frobenius norm of each matrix, with gradient 0 (not NaN) at the zero matrix."""
    squares = (matrices**2).sum(axis=(-2, -1))
    return jnp.where(squares > 0, jnp.sqrt(jnp.where(squares > 0, squares, 1)), 0)
