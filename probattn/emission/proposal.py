"""Proposals of the particle filter: where it draws the next embedding u_t from (theory, section 9).

`from_prior` draws from the process itself and ignores the token. `guided` draws from a mixture that
takes the token into account, which gives weights of smaller variance. Both take

    emission    the model, `particle_filter.Emission`, with one attention map under the cap
    particles   the paths so far, `particle_filter._Particles`
    position    t, index of the embedding to draw
    token       x_t, id of the token at that position
    key         random key

and return one embedding per particle with its log weight.

Letters in shapes: n particle, s position in the past, i, j and k components of an embedding, v
token, m sample point. dim is the number of components, O the readout (v, i). Gaussians in u are
given by a precision P [i, j] and a shift h [i]:
`exp(h^T u - u^T P u / 2)` up to a constant, with mean `P^-1 h`. In this form a product of two has
the sum of their precisions and the sum of their shifts.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.linalg import cho_solve, solve_triangular
from jaxtyping import Array

from probattn.attention.determinant import sign_and_log_det
from probattn.attention.mean_at_position import conditional_parts
from probattn.attention.transform import Equation, newton

# Share of the guided particles that is drawn from the prior. It bounds the weights: none exceeds
# about 1 / PRIOR_SHARE = 5 times `p(x_t | u_t)`.
PRIOR_SHARE = 0.2
# Iterations that fit the Gaussian factor for a token. Each goes half of the way, since a full step
# overshoots where the token is improbable.
STEPS = 6
# The sum of this many unit exponentials is half a chi-square variable with FREEDOM degrees of
# freedom, which a Student t needs.
EXPONENTIALS = 5
# Degrees of freedom of the Student t, whose tails are heavier than those of its target density.
FREEDOM = 2 * EXPONENTIALS


class Proposed(NamedTuple):
    """Proposed embeddings and their log weights.

    Args:
        u: one embedding per particle, [i, n].
        log_weight: `log [p(u_t | u_<t) p(x_t | u_t) / q(u_t)]` for each, [n], with q the density it
            was drawn from.
    """

    u: Array
    log_weight: Array


def from_prior(
    emission: Any, particles: Any, position: Array, token: Array, key: Array
) -> Proposed:
    """Draws of u_t from the process given each particle's past: the roots of `u = mu_t(u) + e`.

    Here q is `p(u_t | u_<t)`, so the weight is the probability of the token, `p(x_t | u_t)`.
    """
    dim, n = particles.u.shape[1:]  # of [s, i, n]
    noise = emission.scale * jax.random.normal(key, (dim, n), particles.u.dtype)  # [i, n]

    def solve(past: Array, noise: Array) -> Array:  # [s, i], [i] -> [i]
        return newton(Equation.at(emission.attention, past, position, noise), noise)

    u = jax.vmap(solve, (-1, -1), -1)(particles.u, noise)  # [i, n]
    return Proposed(u, emission.log_prob(u)[token])


def guided(emission: Any, particles: Any, position: Array, token: Array, key: Array) -> Proposed:
    """Draws of u_t from a mixture of the prior and a Student t that takes the token into account.

    The ideal proposal is `p(u_t | u_<t) p(x_t | u_t)`, normalised. The Student t approximates it by
    way of two Gaussians in u_t:

        prior     N(e_t(u); 0, sigma^2 I), of each particle, with the residual linearised at u = 0:
                  e_t(u) = e_t(0) + J_t(0) u
        factor    exp(h^T u - u^T L u / 2), fitted to `p(x_t | u)` by `_token_factor`, once for all
                  particles

    Their product is a Gaussian for each particle. The Student t has its mean as mode and the
    inverse of its precision as scale matrix, but heavier tails.

    These approximations do not bias the filter. The weight divides the exact density of u_t,
    Jacobian included, by the exact density of the mixture, so a poor approximation only makes the
    weights vary more. The prior in the mixture limits that (PRIOR_SHARE). A fixed number of
    particles draws from the prior; which ones is random, so that each particle by itself is a draw
    from the mixture.
    """
    dim, n = particles.u.shape[1:]  # of [s, i, n]
    dtype = particles.u.dtype

    def parts(u: Array) -> tuple[Array, Array]:
        # Residual [i, n] and block J_t [i, j, n] at u[i, n].
        return conditional_parts(
            emission.attention, particles.u, particles.squared_diameter, position, u
        )

    # Each particle's linearised prior: precision J^T J / sigma^2 and shift -J^T e / sigma^2.
    e, block = parts(jnp.zeros((dim, n), dtype))
    precision = (block[:, :, None] * block[:, None]).sum(0) / emission.scale**2  # [i, j, n]
    shift = -(block * e[:, None]).sum(0) / emission.scale**2  # [i, n]
    # One factor for all particles, fitted at the weighted average of their precisions and shifts.
    weight = jnp.exp(particles.log_weight)  # [n]
    factor_precision, factor_shift = _token_factor(
        emission, token, precision @ weight, shift @ weight
    )
    # Prior times factor, from here on with particles first: the Cholesky factor C of the precision,
    # C C^T = P + L, and the mean.
    root = jnp.linalg.cholesky(jnp.moveaxis(precision, -1, 0) + factor_precision)  # [n, i, j]
    mean = cho_solve((root, True), (shift.T + factor_shift)[..., None])[..., 0]  # [n, i]

    # Student t: a standard normal over the root of chi-square / FREEDOM, then z -> mean + C^-T z.
    for_normal, for_stretch, for_choice, for_prior = jax.random.split(key, 4)
    stretch = jax.random.exponential(for_stretch, (EXPONENTIALS, n), dtype).mean(0)  # [n]
    standard = jax.random.normal(for_normal, (n, dim), dtype) / jnp.sqrt(stretch)[:, None]
    u = (mean + solve_triangular(root, standard[..., None], trans=1, lower=True)[..., 0]).T
    # Particles chosen at random take a draw from the prior instead. (Leaves have n as last axis.)
    chosen = jax.random.choice(for_choice, n, (max(1, round(PRIOR_SHARE * n)),), replace=False)
    subset = jax.tree.map(lambda leaf: leaf[..., chosen], particles)
    u = u.at[:, chosen].set(from_prior(emission, subset, position, token, for_prior).u)  # [i, n]

    # Log densities [n] of all draws under the Student t, the prior and their mixture.
    standard = jnp.einsum("nji,nj->ni", root, u.T - mean)  # C^T (u - mean)
    log_student = (
        math.lgamma((FREEDOM + dim) / 2)
        - math.lgamma(FREEDOM / 2)
        - dim / 2 * math.log(FREEDOM * math.pi)
        + jnp.log(jnp.diagonal(root, axis1=-2, axis2=-1)).sum(-1)
        - (FREEDOM + dim) / 2 * jnp.log1p((standard**2).sum(-1) / FREEDOM)
    )
    e, block = parts(u)  # at the draws, without linearisation
    log_normal = -0.5 * ((e / emission.scale) ** 2).sum(0) - dim * jnp.log(
        math.sqrt(2 * math.pi) * emission.scale
    )
    log_prior = log_normal + sign_and_log_det(jnp.moveaxis(block, -1, 0))[1]
    share = len(chosen) / n
    log_proposal = jnp.logaddexp(math.log(share) + log_prior, math.log1p(-share) + log_student)
    return Proposed(u, log_prior + emission.log_prob(u)[token] - log_proposal)


def _token_factor(
    emission: Any, token: Array, precision: Array, shift: Array
) -> tuple[Array, Array]:
    """Precision L [i, j] and shift h [i] of the Gaussian factor that stands for `p(token | u)`.

    `precision` P [i, j] and `shift` [i] are those of a Gaussian prior of u. The factor is such that
    prior times factor is, up to a constant, the Gaussian q that minimises KL(q | prior times
    `p(token | u)`). At that q, with p the probabilities of all tokens at u and O their readouts,

        0 = E_q[d/du (log prior + log p(token | u))] = E_q[O_token - E_p O] + shift - P mean
        precision of q = P + E_q[Cov_p(O)],    so L = E_q[Cov_p(O)]

    The iteration below solves these two equations for the mean and the precision of q, starting
    from the prior. Since they are averages over q, the fit takes account of where `p(token | u)`
    falls off steeply within the spread of q; Laplace's approximation would see only its derivatives
    at one point.
    """
    readout, dim = emission.readout, len(shift)
    outer = (readout[:, :, None] * readout[:, None]).reshape(-1, dim * dim)  # O O^T, [v, i j]
    # Sample points +-sqrt(dim) on each axis [i, m]: their averages are the expectations under a
    # standard Gaussian, exactly so for polynomials of degree up to 3.
    points = math.sqrt(dim) * jnp.concatenate(
        [jnp.eye(dim), -jnp.eye(dim)], axis=1, dtype=shift.dtype
    )

    def step(_, current: tuple[Array, Array]) -> tuple[Array, Array]:
        mean, q_precision = current  # of q: mean [i] and precision [i, j]
        root = jnp.linalg.cholesky(q_precision)
        around = solve_triangular(root, points, trans=1, lower=True)  # points of q - mean, [i, m]
        p = jnp.exp(emission.log_prob(mean[:, None] + around))  # [v, m]
        expected = readout.T @ p  # E_p O at each point, [i, m]
        # E_q[Cov_p(O)], as E_q E_p[O O^T] - E_q[(E_p O)(E_p O)^T] over the 2 dim points: [i, j].
        curvature = (outer.T @ p.mean(1)).reshape(dim, dim) - expected @ expected.T / (2 * dim)
        gradient = readout[token] - expected.mean(1) + shift - precision @ mean  # [i]
        # Half a step towards P + L, then half a Newton step of the mean.
        q_precision = (q_precision + precision + curvature) / 2
        return mean + jnp.linalg.solve(q_precision, gradient) / 2, q_precision

    mean, q_precision = jax.lax.fori_loop(
        0, STEPS, step, (jnp.linalg.solve(precision, shift), precision)
    )
    # Take the prior out of q: what is left is the factor.
    return q_precision - precision, q_precision @ mean - shift
