"""The residual map, the diagonal blocks of its Jacobian, and their log determinants (theory, section 2)."""

import math

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from probattn.attention import Attention, apply_values, contract, head_means, mean, over_sequences, shrinkage, weights
from probattn.determinant import sign_and_log_det


def residuals(attention: Attention, u: ArrayLike) -> Float[Array, "*batch length dim"]:
    """What attention leaves unexplained of each embedding, `e_t = u_t - mu_t(u_t; u_<t)`.

    Args: attention; u, embeddings of shape (..., length, dim). Raises: InputError on a wrong shape or a NaN.
    Source: theory, section 2.
    """
    return over_sequences(_residuals, attention, u)


def jacobian_blocks(attention: Attention, u: ArrayLike) -> Float[Array, "*batch length dim dim"]:
    """Diagonal blocks `J_t = d e_t / d u_t` of the residual map, in closed form.

        strict     J_t = I - sum_h V_h S_t A
        inclusive  J_t = I - sum_h V_h [S_t A + alpha_tt I + alpha_tt (u_t - ubar_t)(A u_t)^T]

    with `S_t` the covariance of the attended embeddings under the attention weights and, under a contraction, A
    the capped interaction at t.

    Args: attention; u, embeddings of shape (..., length, dim). Raises: InputError on a wrong shape or a NaN.
    Source: theory, section 2.
    """
    return over_sequences(_blocks, attention, u)


def log_det(attention: Attention, u: ArrayLike) -> Float[Array, "*batch length"]:
    """`log |det J_t|` of each position, the change-of-variables term; its sum over positions enters the density.

    It says nothing of the sign of the determinant: `path_log_density` does, and is -inf where it is not positive.
    The relative error of the determinant is of order (machine epsilon) x |J_t|_2 / sigma_min(J_t).

    Args: attention; u, embeddings of shape (..., length, dim). Raises: InputError on a wrong shape or a NaN.
    Source: theory, section 2.
    """
    return over_sequences(_log_det, attention, u)


def log_barrier(attention: Attention, u: ArrayLike) -> Float[Array, "*batch length"]:
    """The barrier `-log |det J_t|` of each position: +inf on the degeneracy boundary `det J_t = 0`.

    Args: attention; u, embeddings of shape (..., length, dim). Raises: InputError on a wrong shape or a NaN.
    Source: theory, sections 2 and 3 (which says what the barrier is not).
    """
    return -log_det(attention, u)


def path_log_density(attention: Attention, u: ArrayLike, scale: ArrayLike = 1.0) -> Float[Array, "*batch length"]:
    """Log density of each embedding given its past, `log N(e_t; 0, scale^2 I) + log det J_t`.

    -inf where `det J_t <= 0`: the density lives on the side of the boundary that holds A = 0 (the local domain).
    A NaN is a numerical failure, never a point outside the domain.

    Args: attention; u, embeddings of shape (..., length, dim); scale, standard deviation sigma of the noise.
    Raises: InputError on a wrong shape or a NaN. Source: theory, sections 2 and 4.
    """
    sign, log_abs_det = over_sequences(_sign_and_log_det, attention, u)
    log_abs_det = jnp.where(sign <= 0, -jnp.inf, log_abs_det)
    standardised = residuals(attention, u) / scale
    log_normaliser = attention.dim * (jnp.log(scale) + 0.5 * math.log(2 * math.pi))
    return -0.5 * (standardised**2).sum(-1) - log_normaliser + log_abs_det


def _residuals(attention: Attention, u: jax.Array) -> jax.Array:
    return u - mean(attention, u)


def _sign_and_log_det(attention: Attention, u: jax.Array) -> tuple[jax.Array, jax.Array]:
    return sign_and_log_det(_blocks(attention, u))


def _log_det(attention: Attention, u: jax.Array) -> jax.Array:
    return _sign_and_log_det(attention, u)[1]


def _blocks(attention: Attention, u: jax.Array) -> jax.Array:
    length = u.shape[0]
    # Under the strict mask positions 1 and 2 have no spread to attend over, and nobody attends to the last one.
    first, last = (min(2, length), length - 1) if attention.mask == "strict" else (0, length)
    identity = jnp.eye(attention.dim, dtype=u.dtype)[..., None]
    alpha = weights(attention, u)[:, first:, :last]
    ubar = head_means(alpha, u[:last])
    centred = u[:last] - ubar[:, :, None]  # [h, t, s, i, b]; centring first keeps far-off clusters exact
    covariance = contract("htsi,htsj->htij", alpha[:, :, :, None] * centred, centred)
    interaction = attention.interaction[..., None]
    slope = contract("htij,hjk->htik", covariance, interaction) * shrinkage(attention, u)[first:, None, None]
    if attention.mask == "inclusive":
        own = jnp.moveaxis(jnp.diagonal(alpha, axis1=1, axis2=2), -1, 1)[:, :, None, None]
        towards = contract("hij,tj->hti", interaction, u)
        slope = slope + own * (identity + (u - ubar)[:, :, :, None] * towards[:, :, None])
    without_spread = jnp.broadcast_to(identity, (first, *identity.shape[:2], u.shape[-1]))
    return jnp.concatenate([without_spread, identity - apply_values(attention, slope)])
