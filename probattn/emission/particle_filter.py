"""A particle filter for the tokens of one sequence, emitted by embeddings (theory, section 9).

A particle is a whole path u_1 ... u_t, since attention looks at all of it.

Letters in shapes: n particle, s and t position, i component of an embedding, v token. Particles are
the last axis, as in `mean_at_position`. In `Filtered`, T, d, V and n are the numbers of positions,
dimensions, tokens and particles.
"""

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from probattn.attention.attention import Attention
from probattn.checks import in_default_float
from probattn.emission.proposal import Proposed, from_prior, guided
from probattn.sequence.tokens import counted

# Paths are resampled where the effective sample size is below this share of the particles.
RESAMPLE_BELOW = 0.5


class Emission(NamedTuple):
    """Parameters of the law of embeddings and of the tokens that they emit.

        u ~ AttentionProcess(attention, scale),   x_t ~ softmax(readout u_t + bias)

    Axes in front of the shapes below, and of the arrays of the attention, are a batch, for instance
    of posterior draws.

    Args:
        attention: the map, with the strict mask.
        scale: standard deviation of the noise, a number.
        readout: O, shape (V, d).
        bias: b, shape (V,).
    """

    attention: Attention
    scale: Any
    readout: Any
    bias: Any

    def log_prob(self, u: Array) -> Array:
        """`log p(x | u)` of every token x at embeddings u [i, ...], as [v, ...]."""
        readout, bias, u = (jnp.asarray(x, float) for x in (self.readout, self.bias, u))
        logits = jnp.tensordot(readout, u, 1) + bias.reshape(-1, *[1] * (u.ndim - 1))
        return jax.nn.log_softmax(logits, axis=0)


class Filtered(NamedTuple):
    """Results of the filter for one sequence; leading axes are a batch of sequences.

    Args:
        log_prob: log probability of the sequence in nats; its exponential is an unbiased estimate
            of the probability.
        standard_error: standard error of log_prob, which is the relative one of the probability.
        log_increments: `log p(x_t | x_<t)` at each position (T,); 0 after the end.
        effective_sample_size: effective number of particles at each position (T,), under their
            weights given the token there; NaN after the end.
        smoothed_sample_size: effective number of different embeddings at each position (T,) among
            the final paths, under their weights; NaN after the end.
        filtered: mean and standard deviation of each embedding given the tokens up to its own
            (2, T, d); NaN after the end.
        paths: final paths (n, T, d); 0 after the end.
        weights: weights of the paths (n,) given all tokens; they sum to one.
        next_token: `p(x_t | x_<t)` of every token and their standard errors (2, T, V), or None
            without `predict`.
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
        """Mean and standard deviation of each embedding given all tokens, each (..., T, d).

        Both are NaN after the end.
        """
        mean = jnp.einsum("...n,...ntd->...td", self.weights, self.paths)
        squares = jnp.einsum(
            "...n,...ntd->...td", self.weights, (self.paths - mean[..., None, :, :]) ** 2
        )
        known = ~jnp.isnan(self.effective_sample_size)[..., None]
        return jnp.where(known, mean, jnp.nan), jnp.where(known, jnp.sqrt(squares), jnp.nan)


class _Particles(NamedTuple):
    """The particles before some position: n weighted paths. The last axis of each field is n.

    Args:
        u: embeddings [s, i, n]; only the positions so far are filled.
        squared_diameter: squared diameter of each path [n], which the contraction cap needs.
        log_weight: log weights [n], normalised.
        born: for each path and position [s, n], the number of the particle that drew its embedding
            there. Paths that share it share the embedding and all before.
        resampled: how often the paths were drawn anew [n], the same for all.
    """

    u: Array
    squared_diameter: Array
    log_weight: Array
    born: Array
    resampled: Array


@partial(jax.jit, static_argnames=("num_particles", "bootstrap", "predict"))
def run_filter(
    emission: Emission,
    tokens: Array,
    key: Array,
    num_particles: int,
    bootstrap: bool = False,
    predict: bool = False,
) -> Filtered:
    """Filter one sequence of tokens [t].

    Args:
        emission: one set of parameters, without leading axes; the attention has the cap.
        tokens: ids [t].
        key: random key.
        num_particles: number of particles.
        bootstrap: propose embeddings from the prior, ignoring the token, and not by `guided`.
        predict: also give the next-token rows.
    """
    emission = in_default_float(emission)
    length, dim, n = len(tokens), emission.attention.dim, num_particles
    dtype = emission.readout.dtype
    propose = from_prior if bootstrap else guided

    def step(particles: _Particles, inputs: tuple) -> tuple[_Particles, tuple]:
        position, token, counts, key = inputs
        for_choice, for_proposal, for_prediction = jax.random.split(key, 3)
        particles = _resample(particles, for_choice)
        rows = None
        if predict:  # move each particle on by the prior, and average what it predicts
            ahead = from_prior(emission, particles, position, token, for_prediction).u
            rows = _weighted_rows(particles, jnp.exp(emission.log_prob(ahead)), position)
        proposed: Proposed = propose(emission, particles, position, token, for_proposal)
        log_weight = particles.log_weight + proposed.log_weight
        increment = jax.nn.logsumexp(log_weight)  # log of the weighted mean: log p(x_t | x_<t)
        squared = ((particles.u - proposed.u) ** 2).sum(1)  # to each earlier embedding, [s, n]
        farthest = jnp.where(jnp.arange(length)[:, None] < position, squared, 0).max(0)  # [n]
        moved = _Particles(
            particles.u.at[position].set(proposed.u),
            jnp.maximum(particles.squared_diameter, farthest),
            log_weight - increment,
            particles.born.at[position].set(jnp.arange(n)),
            particles.resampled,
        )
        weight = jnp.exp(moved.log_weight)
        mean = proposed.u @ weight  # [i]
        spread = jnp.sqrt(((proposed.u - mean[:, None]) ** 2) @ weight)
        moments = jnp.where(counts, jnp.stack([mean, spread]), jnp.nan)  # [2, i]
        # After the end the particles stay as they are.
        kept = jax.tree.map(lambda new, old: jnp.where(counts, new, old), moved, particles)
        return kept, (jnp.where(counts, increment, 0), 1 / (weight**2).sum(), moments, rows)

    start = _Particles(
        jnp.zeros((length, dim, n), dtype),
        jnp.zeros(n, dtype),
        jnp.full(n, -math.log(n), dtype),
        jnp.broadcast_to(jnp.arange(n), (length, n)),
        jnp.zeros(n, int),
    )
    is_counted = counted(tokens)
    inputs = (jnp.arange(length), tokens, is_counted, jax.random.split(key, length))
    final, (increments, sizes, moments, rows) = jax.lax.scan(step, start, inputs)
    weight = jnp.exp(final.log_weight)
    squares = jax.vmap(partial(_squared_masses, weight))(final.born)  # [s]
    return Filtered(
        increments.sum(),
        jnp.sqrt(_relative_variance(squares[0], (weight**2).sum(), final.resampled[0], n)),
        increments,
        jnp.where(is_counted, sizes, jnp.nan),
        jnp.where(is_counted, 1 / squares, jnp.nan),
        jnp.moveaxis(moments, 1, 0),
        jnp.moveaxis(final.u, -1, 0),
        weight,
        None if rows is None else jnp.moveaxis(rows, 1, 0),
    )


def _resample(particles: _Particles, key: Array) -> _Particles:
    """Paths drawn in proportion to their weights if the effective sample size is low.

    Otherwise the particles as they are.
    """
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
        particles.resampled + anew,
    )


def _relative_variance(families: Array, paths: Array, resampled: Array, n: int) -> Array:
    """Estimate of the relative variance of a filter's probability, from one run.

        1 - (n / (n - 1))^(k + 1) (1 - sum W^2)

    after k resamplings, with W the weights of families: paths that go back to the same first draw
    are not independent, and count as one term. It may come out too small, or negative; it is no
    smaller than that of the final weights alone, which is the same without the history.

    Args: families and paths, the sums of the squared weights of either.
    Source: Lee and Whiteley, Biometrika 105 (2018); theory, section 9.
    """
    power = n / max(n - 1, 1)
    whole = 1 - power ** (resampled + 1.0) * (1 - families)
    return jnp.maximum(whole, jnp.maximum(1 - power * (1 - paths), 0))


def _squared_masses(weight: Array, family: Array) -> Array:
    """Sum over families of (total weight of the family)^2; `family` [n] numbers each path's."""
    return (jax.ops.segment_sum(weight, family, num_segments=len(weight)) ** 2).sum()


def _weighted_rows(particles: _Particles, rows: Array, position: Array) -> Array:
    """Weighted mean over particles of rows [v, n], and its standard error, as [2, v].

    Particles that go back to the same first draw form one family, one term of the variance.
    """
    weight = jnp.exp(particles.log_weight)
    mean = rows @ weight
    # At the first position no embedding was drawn before: each particle is a family of its own.
    family = jnp.where(position == 0, jnp.arange(len(weight)), particles.born[0])
    # The deviations from the mean, added up in each family: [v, family].
    terms = jax.vmap(lambda row: jax.ops.segment_sum(row, family, num_segments=len(weight)))(
        weight * (rows - mean[:, None])
    )
    return jnp.stack([mean, jnp.sqrt((terms**2).sum(-1))])
