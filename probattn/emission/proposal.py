"""Where the particle filter draws the next embedding from: the prior, or one that looks at the
token."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.linalg import cho_solve, solve_triangular
from jaxtyping import Array

from probattn.attention.determinant import sign_and_log_det
from probattn.attention.mean_at_position import conditional_parts
from probattn.attention.transform import Equation, newton

# of the guided particles are drawn from the prior: no weight then exceeds five times its likelihood
PRIOR_SHARE = 0.2
# of fitting a factor to a token, each half of a full one, which would overshoot where a token
# surprises
STEPS = 6
EXPONENTIALS = 5  # a sum of so many has the chi-square law of twice as many degrees of freedom
FREEDOM = 2 * EXPONENTIALS  # of the proposal: tails heavier than any target's


class Proposed(NamedTuple):
    """Embeddings [i, n] and `log [p(u_t | u_<t) p(x_t | u_t) / q(u_t)]` of each, [n]."""

    u: Array
    log_weight: Array


def from_prior(
    emission: Any, particles: Any, position: Array, token: Array, key: Array
) -> Proposed:
    """Draws of the process itself, by solving `u = mu_t(u) + e`; they weigh what they give the
    token."""
    dim, n = particles.u.shape[1:]
    noise = emission.scale * jax.random.normal(key, (dim, n), particles.u.dtype)

    def solve(past: Array, noise: Array) -> Array:
        return newton(Equation.at(emission.attention, past, position, noise), noise)

    u = jax.vmap(solve, (-1, -1), -1)(particles.u, noise)
    return Proposed(u, emission.log_prob(u)[token])


def guided(emission: Any, particles: Any, position: Array, token: Array, key: Array) -> Proposed:
    """Draws of a mixture of the prior and of a Student t around the particle's own prior times a
    factor for the token.

        prior     N(e_t; 0, sigma^2 I) |det J_t|;   for the Student t linearised at 0,
                  e_t(u) = e_t(0) + J_t(0) u
        factor    exp(h^T u - u^T L u / 2),   fitted to p(x_t | u), the same for all particles

    The weight holds the exact density of the mixture, Jacobian included: what the Student t leaves
    out costs variance, not truth, and the prior bounds what it costs. Which particles draw from the
    prior is itself random, their number is not."""
    dim, n = particles.u.shape[1:]
    dtype = particles.u.dtype

    def parts(u: Array) -> tuple[Array, Array]:
        return conditional_parts(
            emission.attention, particles.u, particles.squared_diameter, position, u
        )

    e, block = parts(jnp.zeros((dim, n), dtype))
    precision = (block[:, :, None] * block[:, None]).sum(0) / emission.scale**2
    shift = -(block * e[:, None]).sum(0) / emission.scale**2
    weight = jnp.exp(particles.log_weight)
    of_token = _token_factor(emission, token, precision @ weight, shift @ weight)
    root = jnp.linalg.cholesky(jnp.moveaxis(precision, -1, 0) + of_token[0])
    mean = cho_solve((root, True), (shift.T + of_token[1])[..., None])[..., 0]

    for_normal, for_stretch, for_choice, for_prior = jax.random.split(key, 4)
    stretch = jax.random.exponential(for_stretch, (EXPONENTIALS, n), dtype).mean(0)
    standard = jax.random.normal(for_normal, (n, dim), dtype) / jnp.sqrt(stretch)[:, None]
    u = (mean + solve_triangular(root, standard[..., None], trans=1, lower=True)[..., 0]).T
    chosen = jax.random.choice(for_choice, n, (max(1, round(PRIOR_SHARE * n)),), replace=False)
    those = jax.tree.map(lambda leaf: leaf[..., chosen], particles)
    u = u.at[:, chosen].set(from_prior(emission, those, position, token, for_prior).u)

    standard = jnp.einsum("nji,nj->ni", root, u.T - mean)
    log_student = (
        math.lgamma((FREEDOM + dim) / 2)
        - math.lgamma(FREEDOM / 2)
        - dim / 2 * math.log(FREEDOM * math.pi)
        + jnp.log(jnp.diagonal(root, axis1=-2, axis2=-1)).sum(-1)
        - (FREEDOM + dim) / 2 * jnp.log1p((standard**2).sum(-1) / FREEDOM)
    )
    e, block = parts(u)
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
    """Precision L [i, j] and shift h [i] of the Gaussian factor for a token, fitted at a Gaussian
    prior with these.

    The Gaussian q that is nearest to prior times likelihood (in KL(q | .)) has, in expectation over
    itself, gradient 0
    and the precision of that product: L = E_q[Cov_p(O)], with p the tokens' probabilities and O
    their readouts. A likelihood that cuts off like a wall is described so; a Laplace approximation
    sees its slope at one point."""
    readout, dim = emission.readout, len(shift)
    outer = (readout[:, :, None] * readout[:, None]).reshape(-1, dim * dim)
    # Two points on each axis: expectations under a Gaussian, exact up to third powers.
    points = math.sqrt(dim) * jnp.concatenate(
        [jnp.eye(dim), -jnp.eye(dim)], axis=1, dtype=shift.dtype
    )

    def step(_, current: tuple[Array, Array]) -> tuple[Array, Array]:
        mean, whole = current
        around = solve_triangular(jnp.linalg.cholesky(whole), points, trans=1, lower=True)
        p = jnp.exp(emission.log_prob(mean[:, None] + around))
        expected = readout.T @ p
        curvature = (outer.T @ p.mean(1)).reshape(dim, dim) - expected @ expected.T / (2 * dim)
        slope = readout[token] - expected.mean(1) + shift - precision @ mean
        whole = (whole + precision + curvature) / 2
        return mean + jnp.linalg.solve(whole, slope) / 2, whole

    mean, whole = jax.lax.fori_loop(0, STEPS, step, (jnp.linalg.solve(precision, shift), precision))
    return whole - precision, whole @ mean - shift
