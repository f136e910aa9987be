"""Attention weights and means at all positions of whole sequences (theory, sections 1 and 4).

Letters in shapes: b sequence, h head, t position, s attended position, r rank, i and j components
of an embedding. Private functions and those for other modules take embeddings u[b, t, i].
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
    return over_sequences(mean, attention, u, working_set=weights_working_set)


def weights_working_set(attention: Attention, length: int) -> int:
    """Numbers that one sequence needs at once: weights, logits and their gradients."""
    return 4 * attention.heads * length**2


class Attended(NamedTuple):
    """Weights, means and their ingredients for sequences u[b, t, i]; the result of `attend`.

    Embeddings count from the first of their sequence, `w_t = u_t - u_1`. This changes neither the
    weights, since shifting all keys adds the same to all logits of a row, nor covariances. Without
    it, differences between long embeddings that lie close together would be lost to rounding.

    Args:
        origin: the first embedding of each sequence [b, 1, i].
        w: embeddings counted from it [b, t, i].
        query, key: `W_Q u_t` and `W_K w_s / sqrt(r)`, each [b, h, t, r].
        shrink: factor of the contraction cap on A [b, t]; ones [1, t] without a cap.
        alpha: weights [b, h, t, s]; all 0 in a row t without a past.
        log_total: logarithm of the weights' normaliser, `log sum_s exp l_ts` [b, h, t].
        wbar: weighted mean of the past in each head, `sum_s alpha_ts w_s` [b, h, t, i].
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
    """Weights and weighted means of the past at every position of u[b, t, i]."""
    origin, w, query, key = projected(attention, u)
    shrink = shrinkage(attention, u)
    alpha, log_total = _weights(attention, query, key, shrink)
    return Attended(
        origin, w, query, key, shrink, alpha, log_total, weighted_sum(alpha, w[:, None])
    )


def projected(attention: Attention, u: jax.Array) -> tuple[jax.Array, ...]:
    """Origin, w, query and key of u[b, t, i], as in `Attended`."""
    # No result depends on the embedding that is subtracted: its gradient is 0 and need not be
    # computed.
    origin = jax.lax.stop_gradient(u[:, :1])
    w = u - origin
    query = jnp.einsum("hri,bti->bhtr", attention.query, u)
    key = jnp.einsum("hri,bsi->bhsr", attention.key, w) / math.sqrt(attention.rank)
    return origin, w, query, key


def mean(attention: Attention, u: jax.Array) -> jax.Array:
    """`mu_t` of u[b, t, i], as [b, t, i]."""
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
    """Weighted mean of the past in each head, `ubar_t = sum_s alpha_ts u_s`, as [b, h, t, i].

    It is 0 where there is no past.
    """
    has_past = jnp.arange(attended.alpha.shape[2])[:, None] >= (
        1 if attention.mask == "strict" else 0
    )
    return attended.wbar + has_past * attended.origin[:, None]


@jax.custom_jvp
def weighted_sum(alpha: jax.Array, x: jax.Array) -> jax.Array:
    """`sum_s alpha_ts x_s` as [b, h, t, i], for alpha [b, h, t, s] and x [b, h or 1, s, i]."""
    return jnp.einsum(
        "bhts,bhsi->bhti", alpha, jnp.broadcast_to(x, (*alpha.shape[:2], *x.shape[2:]))
    )


@weighted_sum.defjvp
@jax.default_matmul_precision("highest")  # a rule may be traced outside its caller's setting
def _weighted_sum_jvp(primals, tangents):
    # The rule is that of a product. By hand, to lay the transpose of alpha out in memory: the
    # gradient in x is then a product of rows by columns, for which compilers have a fast path.
    (alpha, x), (alpha_tangent, x_tangent) = primals, tangents
    transposed = jax.lax.optimization_barrier(jnp.swapaxes(alpha, -1, -2))  # [b, h, s, t]
    x_tangent = jnp.broadcast_to(x_tangent, (*alpha.shape[:2], *x.shape[2:]))
    return weighted_sum(alpha, x), weighted_sum(alpha_tangent, x) + jnp.einsum(
        "bhst,bhsi->bhti", transposed, x_tangent
    )


def _weights(
    attention: Attention, query: jax.Array, key: jax.Array, shrink: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Weights [b, h, t, s] and the logarithms of their normalisers [b, h, t].

    Query and key are [b, h, t, r], the cap's factor `shrink` is [b, t].
    """
    length = query.shape[2]
    logits = jnp.einsum("bhtr,bhsr->bhts", query, key) * shrink[:, None, :, None]
    lag = jnp.arange(length)[:, None] - jnp.arange(length)
    if attention.position_bias is not None:
        logits = logits + attention.position_bias[:, jnp.maximum(lag, 0)]
    allowed = lag > 0 if attention.mask == "strict" else lag >= 0
    # A row with an empty past gets weight 0 everywhere. The lowest finite number instead of -inf
    # keeps its softmax, and so its gradient, free of NaN.
    logits = jnp.where(allowed, logits, jnp.finfo(logits.dtype).min)
    return jnp.where(allowed, jax.nn.softmax(logits), 0), jax.nn.logsumexp(logits, axis=-1)


def squared_diameter(u: jax.Array) -> jax.Array:
    """Squared diameter `D_t^2` of the strict past of each position of u[b, t, i], as [b, t].

    It is 0 at the first two positions.
    """
    # The first embedding is in every past but the empty one, so the vectors whose squares cancel
    # below are no longer than D_t.
    shifted = u - u[:, :1]
    squares = (shifted**2).sum(-1)
    squared = (  # squared distances between t and s, [b, t, s]
        squares[:, :, None] + squares[:, None] - 2 * jnp.einsum("bti,bsi->bts", shifted, shifted)
    )
    earlier = jnp.tri(u.shape[1], k=-1, dtype=bool)
    farthest = jnp.where(earlier, squared, 0).max(2)  # from t to any earlier position, [b, t]
    # The past of t ends at t - 1: take the maximum up to there.
    return jnp.concatenate(
        [jnp.zeros_like(farthest[:, :1]), jax.lax.cummax(farthest, axis=1)[:, :-1]], axis=1
    )


def shrinkage(attention: Attention, u: jax.Array) -> jax.Array:
    """Factor of the contraction cap on A, `1 / (1 + g D_t^2 / (4 kappa))`, at each position of u.

    Shape [b, t], for u[b, t, i]; without a cap ones of shape [1, t].
    """
    if attention.contraction is None:
        return jnp.ones((1, u.shape[1]), u.dtype)
    return capped(attention, squared_diameter(u))


def capped(attention: Attention, squared: jax.Array) -> jax.Array:
    """Factor of the contraction cap on A for given squared diameters of the past, in their shape.

    See `Attention` for g, which is `(value * interaction).sum()` here.
    """
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
