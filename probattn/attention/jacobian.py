"""The residual map, the diagonal blocks of its Jacobian and the density (theory, section 2).

Letters in shapes: b sequence, h head, t position, s attended position, d embedding dimension.
"""

import math

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from probattn.attention.attention import Attention
from probattn.attention.batching import over_sequences
from probattn.attention.determinant import sign_and_log_det
from probattn.attention.domain import centred_working_set, inequality_holds
from probattn.attention.small_blocks import (
    inclusive_derivative,
    reduced_blocks,
    small_blocks_working_set,
)
from probattn.attention.weighted_mean import (
    Attended,
    attend,
    mean,
    mean_of_heads,
    weights_working_set,
)
from probattn.checks import as_scale


def residuals(attention: Attention, u: ArrayLike) -> Float[Array, "*batch length dim"]:
    """Residual of each embedding, the noise that the path implies, `e_t = u_t - mu_t(u_t; u_<t)`.

    Args: attention; u, embeddings of shape (..., length, dim). Raises: InputError on a wrong shape
    or a NaN. Source: theory, section 2.

    Example:

        >>> import jax.numpy as jnp
        >>> from probattn import Attention, residuals
        >>> attention = Attention.from_interaction([[[0.5]]])
        >>> u = jnp.array([[-1.0], [1.0], [0.0]])  # keys at -1 and 1, and a token between them
        >>> print(residuals(attention, u).ravel())
        [-1.  2.  0.]
    """
    return over_sequences(_residuals, attention, u, working_set=weights_working_set)


def jacobian_blocks(attention: Attention, u: ArrayLike) -> Float[Array, "*batch length dim dim"]:
    """Diagonal blocks `J_t = d e_t / d u_t` of the residual map, in closed form.

        strict     J_t = I - sum_h V_h S_t A
        inclusive  J_t = I - sum_h V_h [S_t A + alpha_tt I + alpha_tt (u_t - ubar_t)(A u_t)^T]

    with `S_t` the covariance of the attended embeddings under the attention weights and, under a
    contraction, A the capped interaction at t.

    Args: attention; u, embeddings of shape (..., length, dim). Raises: InputError on a wrong shape
    or a NaN. Source: theory, section 2.

    Example:

        >>> import jax.numpy as jnp
        >>> from probattn import Attention, jacobian_blocks
        >>> attention = Attention.from_interaction([[[0.5]]])
        >>> u = jnp.array([[-1.0], [1.0], [0.0]])  # keys at -1 and 1, and a token between them
        >>> print(jacobian_blocks(attention, u).ravel())
        [1.  1.  0.5]
    """
    return over_sequences(_blocks, attention, u, working_set=centred_working_set)


def log_det(attention: Attention, u: ArrayLike) -> Float[Array, "*batch length"]:
    """`log |det J_t|` of each position; summed, the change-of-variables term of the log density.

    The sign of the determinant is not part of it: `path_log_density` takes it into account and is
    -inf where det J_t is not positive. At an exactly singular block the value is -inf and the
    gradient 0.

    Precision: with l the largest `|W_K (u_s - u_1)| |W_Q u_t| / sqrt(r)` and eps the machine
    epsilon, rounding moves J_t by some `d eps (1 + l) (1 + |I - J_t|)` and its log determinant by
    that over `sigma_min(J_t)`. In float32 (eps 1.2e-7) a margin of 1e-3 thus leaves three to four
    digits; nearer to the boundary use float64.

    Args: attention; u, embeddings of shape (..., length, dim). Raises: InputError on a wrong shape
    or a NaN. Source: theory, section 2.

    Example:

        >>> import jax.numpy as jnp
        >>> from probattn import Attention, log_det
        >>> attention = Attention.from_interaction([[[0.5]]])
        >>> u = jnp.array([[-1.0], [1.0], [0.0]])  # keys at -1 and 1, and a token between them
        >>> print(log_det(attention, u).round(4))
        [ 0.      0.     -0.6931]
    """
    return over_sequences(_log_det, attention, u, working_set=small_blocks_working_set)


def log_barrier(attention: Attention, u: ArrayLike) -> Float[Array, "*batch length"]:
    """The barrier `-log |det J_t|` of each position: +inf on the degeneracy boundary `det J_t = 0`.

    Args: attention; u, embeddings of shape (..., length, dim). Raises: InputError on a wrong shape
    or a NaN. Source: theory, sections 2 and 3 (which says what the barrier is not).

    Example:

        >>> import jax.numpy as jnp
        >>> from probattn import Attention, log_barrier
        >>> u = jnp.array([[-1.0], [1.0], [0.0]])  # keys at -1 and 1, and a token between them
        >>> for a in (0.5, 0.9, 0.99):
        ...     print(round(float(log_barrier(Attention.from_interaction([[[a]]]), u)[2]), 2))
        0.69
        2.3
        4.61
    """
    return -log_det(attention, u)


def path_log_density(
    attention: Attention, u: ArrayLike, scale: ArrayLike = 1.0
) -> Float[Array, "*batch length"]:
    """Log density of each embedding given its past, `log N(e_t; 0, scale^2 I) + log det J_t`.

    -inf outside the local domain: where `det J_t <= 0`, and for an attention declared symmetric
    where `I - S_t^{1/2} A S_t^{1/2}` is not positive definite (among symmetric A the set det > 0
    has several components). A NaN is a numerical failure, never a point outside the domain.

    Args: attention; u, embeddings of shape (..., length, dim); scale, standard deviation sigma > 0
    of the noise, which broadcasts against the leading axes of u. Raises: InputError on a wrong
    shape, a NaN or a scale that is not positive. Source: theory, sections 2 and 4.

    Example:

        >>> import jax.numpy as jnp
        >>> from probattn import Attention, path_log_density
        >>> u = jnp.array([[-1.0], [1.0], [0.0]])  # keys at -1 and 1, and a token between them
        >>> print(path_log_density(Attention.from_interaction([[[0.5]]]), u).round(4))
        [-1.4189 -2.9189 -1.6121]
        >>> # beyond the boundary
        >>> print(path_log_density(Attention.from_interaction([[[1.5]]]), u)[2])
        -inf
    """
    e, log_abs_det, inside = over_sequences(
        density_parts, attention, u, working_set=small_blocks_working_set
    )
    return log_density_of(e, log_abs_det, inside, scale)


def log_density_of(
    e: jax.Array, log_abs_det: jax.Array, inside: jax.Array, scale: ArrayLike
) -> jax.Array:
    """Log density [..., t] of each embedding, from the results of `density_parts`.

    The residuals e are [..., t, d]; log |det J_t| and whether the position is inside the local
    domain are [..., t]. Outside it the result is -inf.
    """
    scale = as_scale(scale, e.shape[:-2])[..., None]
    log_normal = -0.5 * ((e / scale[..., None]) ** 2).sum(-1) - e.shape[-1] * jnp.log(
        math.sqrt(2 * math.pi) * scale
    )
    return jnp.where(inside, log_normal + log_abs_det, -jnp.inf)


def _residuals(attention: Attention, u: jax.Array) -> jax.Array:
    return u - mean(attention, u)


def _log_det(attention: Attention, u: jax.Array) -> jax.Array:
    return density_parts(attention, u)[1]


def density_parts(attention: Attention, u: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Residuals [b, t, d], log |det J_t| [b, t] and whether t is inside the local domain [b, t].

    A position whose block is NaN counts as inside, so that its density is NaN and not -inf.
    """
    return density_parts_of(attention, u, attend(attention, u))[0]


def density_parts_of(
    attention: Attention, u: jax.Array, attended: Attended
) -> tuple[tuple[jax.Array, jax.Array, jax.Array], Attended]:
    """`density_parts` of an `attended` that is there already, and `attended` with another `wbar`.

    That `wbar` is the same up to rounding, a by-product of the blocks (see `reduced_blocks`).
    """
    # Blocks and covariance are of the last positions only: all that can differ from J_t = I.
    blocks, covariance, attended = reduced_blocks(attention, u, attended)
    sign, log_abs_det = sign_and_log_det(blocks)
    inside = ~(sign <= 0)  # not `sign > 0`, which is False for a NaN
    if covariance is not None and attention.contraction is None:
        inside &= inequality_holds(covariance, attention.interaction[0])
    # The positions before them have J_t = I: log |det J_t| = 0, inside the domain.
    first = ((0, 0), (u.shape[1] - sign.shape[1], 0))
    log_abs_det, inside = (
        jnp.pad(log_abs_det, first),
        jnp.pad(inside, first, constant_values=True),
    )
    return (u - mean_of_heads(attention, attended), log_abs_det, inside), attended


def _blocks(attention: Attention, u: jax.Array) -> jax.Array:
    """J_t [b, t, d, d] straight from the formula: the slow twin of `reduced_blocks`.

    The past of each position is centred before its covariance is formed, which takes an array
    [b, h, t, s, d] of memory.
    """
    attended = attend(attention, u)
    centred = attended.w[:, None, None] - attended.wbar[:, :, :, None]  # [b, h, t, s, d]
    covariance = jnp.einsum("bhtsi,bhtsj->bhtij", attended.alpha[..., None] * centred, centred)
    # The derivative of each head's mean before its value: [b, h, t, d, d].
    derivative = (
        covariance @ attention.interaction[:, None] * attended.shrink[:, None, :, None, None]
    )
    if attention.mask == "inclusive":
        derivative = derivative + inclusive_derivative(attention, u, attended)
    identity = jnp.eye(attention.dim, dtype=u.dtype)
    if attention.value is None:
        return identity - derivative.mean(1)
    return identity - jnp.einsum("hij,bhtjk->btik", attention.value, derivative)
