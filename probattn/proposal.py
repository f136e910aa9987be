"""Where the particle filter draws the next embedding from: the prior, or one that looks at the token."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.linalg import cho_solve, solve_triangular
from jax.scipy.special import gammaln
from jaxtyping import Array

from probattn.determinant import sign_and_log_det
from probattn.jacobian import conditional_parts
from probattn.transform import Equation, newton

STEPS = 2  # of Gauss and Newton, towards the mode of the embedding given its past and its token
FREEDOM = 20  # degrees of freedom of the proposal: tails heavier than any target's, a body close to normal


class Proposed(NamedTuple):
    """Embeddings [i, n] and `log [p(u_t | u_<t) p(x_t | u_t) / q(u_t)]` of each, [n]."""

    u: Array
    log_weight: Array


def from_prior(emission: Any, particles: Any, position: Array, token: Array, key: Array) -> Proposed:
    """Draws of the process itself, by solving `u = mu_t(u) + e`; they weigh what they give the token."""
    dim, n = particles.u.shape[1:]
    noise = emission.scale * jax.random.normal(key, (dim, n), particles.u.dtype)

    def solve(past: Array, noise: Array) -> Array:
        return newton(Equation.at(emission.attention, past, position, noise), noise)

    u = jax.vmap(solve, (-1, -1), -1)(particles.u, noise)
    return Proposed(u, emission.log_prob(u)[token])


def guided(emission: Any, particles: Any, position: Array, token: Array, key: Array) -> Proposed:
    """Draws of a Student t around the mode of `N(e_t; 0, sigma^2 I) p(x_t | u_t)`, for each past its own.

        precision   J_t^T J_t / sigma^2  +  sum_v p_v (O_v - sum p O)(O_v - sum p O)^T

    Nothing is solved for: the weight holds the density of the embedding itself, Jacobian included.
    """
    dim, n = particles.u.shape[1:]
    precision_of_noise = 1 / emission.scale**2
    outer = (emission.readout[:, :, None] * emission.readout[:, None]).reshape(-1, dim * dim)

    def parts(u: Array) -> tuple[Array, Array]:
        return conditional_parts(emission.attention, particles.u, particles.squared_diameter, position, u)

    def towards_the_mode(u: Array) -> tuple[Array, Array]:
        e, block = parts(u)
        p = jnp.exp(emission.log_prob(u))
        mean = emission.readout.T @ p
        slope = emission.readout[token][:, None] - mean - precision_of_noise * (block * e[:, None]).sum(0)
        curvature = (outer.T @ p).reshape(dim, dim, n) - mean[:, None] * mean
        precision = curvature + precision_of_noise * (block[:, :, None] * block[:, None]).sum(0)
        root = jnp.linalg.cholesky(jnp.moveaxis(precision, -1, 0))
        return u + cho_solve((root, True), slope.T[..., None])[..., 0].T, root

    mode = -parts(jnp.zeros((dim, n), particles.u.dtype))[0]
    for _ in range(STEPS):
        mode, root = towards_the_mode(mode)
    for_normal, for_gamma = jax.random.split(key)
    normal = jax.random.normal(for_normal, (n, dim), particles.u.dtype)
    shrink = jnp.sqrt(jax.random.gamma(for_gamma, FREEDOM / 2, (n,), particles.u.dtype) * 2 / FREEDOM)
    standard = normal / shrink[:, None]
    u = mode + solve_triangular(root, standard[..., None], trans=1, lower=True)[..., 0].T
    log_proposal = (
        gammaln((FREEDOM + dim) / 2) - gammaln(FREEDOM / 2) - dim / 2 * math.log(FREEDOM * math.pi)
        + jnp.log(jnp.diagonal(root, axis1=-2, axis2=-1)).sum(-1)
        - (FREEDOM + dim) / 2 * jnp.log1p((standard**2).sum(-1) / FREEDOM)
    )  # fmt: skip
    e, block = parts(u)
    log_normal = -0.5 * precision_of_noise * (e**2).sum(0) - dim * jnp.log(math.sqrt(2 * math.pi) * emission.scale)
    log_det = sign_and_log_det(block[None])[1][0]
    return Proposed(u, log_normal + log_det + emission.log_prob(u)[token] - log_proposal)
