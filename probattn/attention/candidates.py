"""Log density and block of every candidate for the next embedding of a path (theory, section 2).

A law of tokens that contains the density of its path needs this density, at each position, for
each token that might come next. The candidates share the past to which they attend; each has a
query, hence weights, a mean and a block J of its own.

Letters in shapes: n prefix, b sequence, t position, s attended position, v candidate, h head, d
embedding dimension, k size of a block.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from probattn.attention.attention import Attention
from probattn.attention.determinant import sign_and_log_det
from probattn.attention.jacobian import log_density_of
from probattn.attention.mean_at_position import conditional_parts
from probattn.attention.small_blocks import covariances, without_derivative
from probattn.attention.weighted_mean import Attended, capped, projected, squared_diameter
from probattn.checks import in_default_float


def candidate_log_density(
    attention: Attention, past: Any, there: Any, candidates: Any, scale: float = 1.0
) -> Float[Array, "n v"]:
    """Log density of each candidate at the position that follows a prefix; -inf outside the domain.

        log N(c - mu(c); 0, sigma^2 I) + log det J(c),   mu and J given the prefix

    Args:
        attention: one map with the strict mask, without value maps or a position bias, not
            symmetric.
        past: embeddings of each prefix [n, s, d], filled up with any finite numbers.
        there: which of them belong to the prefix [n, s]; in each row the first is one of them.
        candidates: embeddings [n, v, d].
        scale: standard deviation sigma of the path's noise.

    Source: theory, sections 2 and 7.
    """
    attention, past, candidates = in_default_float((attention, past, candidates))
    with jax.default_matmul_precision("highest"):
        origin, w, own_query, key = projected(attention, past)  # [n, 1, d], [n, s, d], [n, h, s, r]
        query = jnp.einsum("hri,nvi->nhvr", attention.query, candidates)
        shrink = _shrink(attention, w, there)  # [n]
        logits = jnp.einsum("nhvr,nhsr->nhvs", query, key) * shrink[:, None, None, None]
        logits = jnp.where(there[:, None, None], logits, jnp.finfo(logits.dtype).min)
        alpha = jax.nn.softmax(logits)  # [n, h, v, s]
        none = jnp.zeros(())  # not looked at
        attended = Attended(origin, w, own_query, key, shrink[:, None], alpha, none, none)
        covariance, wbar = covariances(attention, attended)
        blocks = without_derivative(attention, covariance * shrink[:, None, None, None, None])
        sign, log_det = sign_and_log_det(blocks)  # [n, v]
        e = candidates - wbar.mean(1) - origin
        return log_density_of(e, log_det, ~(sign <= 0), scale)


def candidate_blocks(
    attention: Attention, u: Any, candidates: Any
) -> Float[Array, "b following v d d"]:
    """Block J of each candidate at each position but the first, given the path before it.

    Args:
        attention: one map with the strict mask.
        u: paths [b, t, d]; the embedding at a position has no part in what is found there.
        candidates: embeddings for the second position, the third, and so on, [t - 1, v, d].

    Source: theory, sections 2 and 7.
    """
    attention, u, candidates = in_default_float((attention, u, candidates))
    (number, length, dim), v = u.shape, candidates.shape[1]
    squared = squared_diameter(u)  # [b, t]
    # The last axis is that of pairs of a sequence and a candidate, as in `conditional_parts`.
    past = jnp.repeat(jnp.moveaxis(u, 0, -1), v, axis=-1)  # [t, d, b v]

    def at(one: tuple[jax.Array, jax.Array]) -> jax.Array:
        position, here = one
        token = jnp.tile(here.T, number)  # [d, b v]
        block = conditional_parts(
            attention, past, jnp.repeat(squared[:, position], v), position, token
        )[1]
        return jnp.moveaxis(block, -1, 0).reshape(number, v, dim, dim)

    return jnp.moveaxis(jax.lax.map(at, (jnp.arange(1, length), candidates)), 0, 1)


def _shrink(attention: Attention, w: jax.Array, there: jax.Array) -> jax.Array:
    """The cap's factor after each prefix [n], of w [n, s, d] at the positions that belong to it."""
    if attention.contraction is None:
        return jnp.ones(len(w), w.dtype)
    apart = ((w[:, :, None] - w[:, None]) ** 2).sum(-1)  # [n, s, s]
    return capped(attention, jnp.where(there[:, :, None] & there[:, None], apart, 0).max((1, 2)))
