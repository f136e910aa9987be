"""The residual map, the diagonal blocks of its Jacobian, and their log determinants (theory, section 2)."""

import math

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from probattn.attention import Attention, over_sequences
from probattn.checks import as_scale
from probattn.determinant import sign_and_log_det
from probattn.mean import apply_values, capped, contract, first_mean, head_means, mean, shrinkage, weights


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
    Precision: with l the largest |logit| and eps the machine epsilon, rounding moves J_t by some
    `d eps (1 + l) (1 + |I - J_t|)` and its log determinant by that over `sigma_min(J_t)`. In float32 (eps 1.2e-7) a
    margin of 1e-3 thus leaves three to four digits; nearer to the boundary use float64. At an exactly
    singular block the value is -inf and the gradient 0.

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

    -inf outside the local domain, the side of the boundary that holds A = 0: where `det J_t <= 0`, and for an
    attention declared symmetric where `I - S_t^{1/2} A S_t^{1/2}` is not positive definite (among symmetric A the
    set det > 0 has several components). A NaN is a numerical failure, never a point outside the domain.

    Args: attention; u, embeddings of shape (..., length, dim); scale, standard deviation sigma > 0 of the noise,
        broadcasts against the leading axes of u.
    Raises: InputError on a wrong shape, a NaN or a scale that is not positive. Source: theory, sections 2 and 4.
    """
    e, log_abs_det, inside = over_sequences(_density_parts, attention, u)
    scale = as_scale(scale, e.shape[:-2])[..., None]
    log_normal = -0.5 * ((e / scale[..., None]) ** 2).sum(-1) - attention.dim * jnp.log(math.sqrt(2 * math.pi) * scale)
    return jnp.where(inside, log_normal + log_abs_det, -jnp.inf)


def _residuals(attention: Attention, u: jax.Array) -> jax.Array:
    return u - mean(attention, u)


def _log_det(attention: Attention, u: jax.Array) -> jax.Array:
    return sign_and_log_det(_blocks(attention, u))[1]


def _density_parts(attention: Attention, u: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Residuals, log |det J_t|, and what is not outside the local domain; NaN is not."""
    sign, log_abs_det = sign_and_log_det(_blocks(attention, u))
    outside = sign <= 0
    if attention.symmetric and attention.contraction is None:
        outside |= inequality_slack(attention, jax.lax.stop_gradient(u)) <= 0
    return _residuals(attention, u), log_abs_det, ~outside


def inequality_slack(attention: Attention, u: jax.Array) -> jax.Array:
    """Smallest eigenvalue of `I - S_t^{1/2} A S_t^{1/2}` for a symmetric A with V = I, as [t, b].

    With S = X X^T the eigenvalues of S^{1/2} A S^{1/2} (d of them) and those of X^T A X (one per position) differ
    only in how many are 0, and the latter have a gradient where S is singular.
    """
    length, dim = u.shape[:2]
    alpha = weights(attention, u)
    centred = u - head_means(alpha, u)[:, :, None]  # [h, t, s, i, b]
    root = jnp.sqrt(jnp.where(alpha > 0, alpha, 1)) * (alpha > 0)
    spread = (root[:, :, :, None] * centred)[0]  # X^T as [t, s, i, b]
    towards = contract("ij,tsj->tsi", attention.interaction[0, ..., None], spread)
    inner = contract("tri,tsi->trs", spread, towards) * shrinkage(attention, u)[:, None, None]
    ascending = jnp.linalg.eigvalsh(jnp.moveaxis(inner, -1, 1))  # [t, b, T]
    if length < dim:
        return 1 - jnp.maximum(ascending[..., -1], 0)
    # Unless the largest is positive, none is, and the zeros that only X^T A X has stand above the d of S A.
    rounding = length * jnp.finfo(u.dtype).eps * jnp.abs(ascending).max(-1)
    return 1 - jnp.where(ascending[..., -1] > rounding, ascending[..., -1], ascending[..., dim - 1])


def _blocks(attention: Attention, u: jax.Array) -> jax.Array:
    length = u.shape[0]
    # Under the strict mask positions 1 and 2 have no spread to attend over, and nobody attends to the last one.
    first, last = (min(2, length), length - 1) if attention.mask == "strict" else (0, length)
    identity = jnp.eye(attention.dim, dtype=u.dtype)[..., None]
    alpha = weights(attention, u)[:, first:, :last]
    slope, ubar = _slopes(attention, alpha, u[:last], shrinkage(attention, u)[first:])
    if attention.mask == "inclusive":
        own = jnp.moveaxis(jnp.diagonal(alpha, axis1=1, axis2=2), -1, 1)[:, :, None, None]
        towards = contract("hij,tj->hti", attention.interaction[..., None], u)
        slope = slope + own * (identity + (u - ubar)[:, :, :, None] * towards[:, :, None])
    without_spread = jnp.broadcast_to(identity, (first, *identity.shape[:2], u.shape[-1]))
    return jnp.concatenate([without_spread, identity - apply_values(attention, slope)])


def _slopes(attention: Attention, alpha: jax.Array, u: jax.Array, shrink: jax.Array) -> tuple[jax.Array, jax.Array]:
    """`S_t A` with the capped A as [h, t, i, k, b], and the mean `ubar_t` of the past as [h, t, i, b]."""
    ubar = head_means(alpha, u)
    centred = u - ubar[:, :, None]  # [h, t, s, i, b]; centring first keeps far-off clusters exact
    covariance = contract("htsi,htsj->htij", alpha[:, :, :, None] * centred, centred)
    slope = contract("htij,hjk->htik", covariance, attention.interaction[..., None])
    return slope * shrink[:, None, None], ubar


def conditional_parts(
    attention: Attention, past: jax.Array, squared: jax.Array, position: jax.Array, token: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Residual [i, b] and block [i, j, b] of tokens [i, b] at one position, each after a past [s, i, b] of its own.

    `squared` [b] is the squared diameter of that past; what `past` holds from the position on is not looked at.
    """
    position, shrink = position[None], capped(attention, squared)[None]
    alpha = weights(attention, past, token[None], position, shrink)
    slope, ubar = _slopes(attention, alpha, past, shrink)
    mu = apply_values(attention, ubar) + first_mean(attention, position)
    identity = jnp.eye(attention.dim, dtype=past.dtype)[..., None]
    return token - mu[0], identity - apply_values(attention, slope)[0]
