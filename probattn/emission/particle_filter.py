"""Tokens emitted by latent embeddings, one sequence at a time: a particle filter (theory, section
9).

A particle is a whole path u_1 ... u_t, since attention looks at all of it. Particles are the last
axis, as in `mean_at_position`."""

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from probattn.attention.attention import Attention
from probattn.emission.proposal import Proposed, from_prior, guided
from probattn.sequence.tokens import counted

RESAMPLE_BELOW = (
    0.5  # of the particles: where the effective sample size falls under it, paths are drawn anew
)


class Emission(NamedTuple):
    """What emits tokens: `u ~ AttentionProcess(attention, scale)`, `x_t ~ softmax(readout u_t +
    bias)`.

    Leading axes of the arrays (attention's too) are a batch, of posterior draws say.
    """

    attention: Attention
    scale: Any
    readout: Any
    bias: Any

    def log_prob(self, u: Array) -> Array:
        """`log p(x | u)` of every token at embeddings [i, ...], as [v, ...]."""
        logits = jnp.tensordot(self.readout, u, 1) + self.bias.reshape(-1, *[1] * (u.ndim - 1))
        return jax.nn.log_softmax(logits, axis=0)


class Filtered(NamedTuple):
    """What the filter knows of one sequence; T positions, d dimensions, n particles, V tokens.

    Args:
        log_prob: of the sequence, in nats; its exponential is an unbiased estimate of the
            probability.
        standard_error: of log_prob, also the relative one of the probability.
        log_increments: `log p(x_t | x_<t)` of each position (T,); 0 after the end.
        effective_sample_size: at each position (T,), of the weighted particles once they have seen
            the token.
        smoothed_sample_size: how many distinct particles of each position (T,) the final paths
            still hold, weighted.
        filtered: embeddings given the tokens up to their own, mean and standard deviation (2, T,
            d); NaN after the end.
        paths: final paths (n, T, d), zero after the end.
        weights: of the paths (n,), given all tokens; they sum to one.
        next_token: rows `p(x_t | x_<t)` and their standard errors (2, T, V), if asked for.
    """

    log_prob: Any
    standard_error: Any
    log_increments: Any
    effective_sample_size: Any
    smoothed_sample_size: Any
    filtered: Any
    paths: Any
    weights: Any
    next_token: Any

    def smoothed(self) -> tuple[Array, Array]:
        """Embeddings given all tokens: mean and standard deviation, each (..., T, d); NaN after the
        end."""
        mean = jnp.einsum("...n,...ntd->...td", self.weights, self.paths)
        squares = jnp.einsum(
            "...n,...ntd->...td", self.weights, (self.paths - mean[..., None, :, :]) ** 2
        )
        known = ~jnp.isnan(self.effective_sample_size)[..., None]
        return jnp.where(known, mean, jnp.nan), jnp.where(known, jnp.sqrt(squares), jnp.nan)


class _Particles(NamedTuple):
    u: Array  # [s, i, n]
    squared_diameter: Array  # [n], of what u holds
    log_weight: Array  # [n], normalised
    born: Array  # [s, n], which of the n draws at position s a path went through


@partial(jax.jit, static_argnames=("num_particles", "bootstrap", "predict"))
def run_filter(
    emission: Emission,
    tokens: Array,
    key: Array,
    num_particles: int,
    bootstrap: bool = False,
    predict: bool = False,
) -> Filtered:
    """Filter one sequence of tokens [t]; `bootstrap` proposes from the prior and does not look at
    the token."""
    length, dim, n = len(tokens), emission.attention.dim, num_particles
    dtype = jnp.result_type(emission.readout, float)
    propose = from_prior if bootstrap else guided

    def step(particles: _Particles, inputs: tuple) -> tuple[_Particles, tuple]:
        position, token, goes_on, key = inputs
        for_choice, for_proposal, for_prediction = jax.random.split(key, 3)
        particles = _resample(particles, for_choice)
        rows = None
        if predict:
            ahead = from_prior(emission, particles, position, token, for_prediction).u
            rows = _weighted_rows(particles, jnp.exp(emission.log_prob(ahead)), position)
        proposed: Proposed = propose(emission, particles, position, token, for_proposal)
        log_weight = particles.log_weight + proposed.log_weight
        increment = jax.nn.logsumexp(log_weight)
        squared = ((particles.u - proposed.u) ** 2).sum(1)
        farthest = jnp.where(jnp.arange(length)[:, None] < position, squared, 0).max(0)
        moved = _Particles(
            particles.u.at[position].set(proposed.u),
            jnp.maximum(particles.squared_diameter, farthest),
            log_weight - increment,
            particles.born.at[position].set(jnp.arange(n)),
        )
        weight = jnp.exp(moved.log_weight)
        mean = proposed.u @ weight
        spread = jnp.sqrt(((proposed.u - mean[:, None]) ** 2) @ weight)
        moments = jnp.where(goes_on, jnp.stack([mean, spread]), jnp.nan)
        kept = jax.tree.map(lambda new, old: jnp.where(goes_on, new, old), moved, particles)
        return kept, (jnp.where(goes_on, increment, 0), 1 / (weight**2).sum(), moments, rows)

    start = _Particles(
        jnp.zeros((length, dim, n), dtype),
        jnp.zeros(n, dtype),
        jnp.full(n, -math.log(n), dtype),
        jnp.broadcast_to(jnp.arange(n), (length, n)),
    )
    is_counted = counted(tokens)
    inputs = (jnp.arange(length), tokens, is_counted, jax.random.split(key, length))
    final, (increments, sizes, moments, rows) = jax.lax.scan(step, start, inputs)
    weight = jnp.exp(final.log_weight)
    squares = jax.vmap(partial(_squared_masses, weight))(final.born)
    return Filtered(
        increments.sum(),
        # Paths that go back to one first draw are no independent ones: each such family is one
        # term.
        jnp.sqrt(jnp.maximum(squares[0] - 1 / n, 0) * (n / max(n - 1, 1))),
        increments,
        jnp.where(is_counted, sizes, jnp.nan),
        jnp.where(is_counted, 1 / squares, jnp.nan),
        jnp.moveaxis(moments, 1, 0),
        jnp.moveaxis(final.u, -1, 0),
        weight,
        None if rows is None else jnp.moveaxis(rows, 1, 0),
    )


def _resample(particles: _Particles, key: Array) -> _Particles:
    """Paths drawn in proportion to their weights, where too few of these count."""
    weight = jnp.exp(particles.log_weight)
    n = len(weight)
    chosen = jax.random.choice(key, n, (n,), p=weight)
    chosen = jnp.where(1 / (weight**2).sum() < RESAMPLE_BELOW * n, chosen, jnp.arange(n))
    anew = 1 / (weight**2).sum() < RESAMPLE_BELOW * n
    return _Particles(
        particles.u[..., chosen],
        particles.squared_diameter[chosen],
        jnp.where(anew, -math.log(n), particles.log_weight),
        particles.born[:, chosen],
    )


def _squared_masses(weight: Array, family: Array) -> Array:
    """Sum over families of the squared weight of each."""
    return (jax.ops.segment_sum(weight, family, num_segments=len(weight)) ** 2).sum()


def _weighted_rows(particles: _Particles, rows: Array, position: Array) -> Array:
    """Mean of rows [v, n] under the weights and its standard error, as [2, v]."""
    weight = jnp.exp(particles.log_weight)
    mean = rows @ weight
    # At the first position nothing was drawn before: each particle is a family of its own.
    family = jnp.where(position == 0, jnp.arange(len(weight)), particles.born[0])
    terms = jax.vmap(lambda row: jax.ops.segment_sum(row, family, num_segments=len(weight)))(
        weight * (rows - mean[:, None])
    )
    return jnp.stack([mean, jnp.sqrt((terms**2).sum(-1))])
