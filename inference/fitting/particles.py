"""Log probabilities of sequences whose latent embeddings a particle filter integrates out."""

import math
import warnings
from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array

from probattn.checks import as_integer, as_key
from probattn.errors import InputError
from probattn.inference.contract import NumPyroModel, ParticleModel, require
from probattn.sequence.tokens import check_tokens

# An effective sample size below this share of the particles is too small to be trusted.
LEAST_SHARE = 0.05


class ParticleLogProb(NamedTuple):
    """Estimates of `log p(x | parameters)`, in nats.

    In the shapes, *draws are the leading axes of the parameters, *sequences those of the tokens.

    Args:
        log_prob: (*draws, *sequences); its exponential is unbiased.
        standard_error: of `log_prob`, (*draws, *sequences). A log probability is on average too low
            by about half the square of its standard error.
        effective_sample_size: at each position, (*draws, *sequences, length); NaN after the end.
    """

    log_prob: Any
    standard_error: Any
    effective_sample_size: Any


def particle_log_prob(
    model: NumPyroModel,
    params: Mapping[str, ArrayLike],
    tokens: Any,
    *,
    num_particles: int,
    key: Array,
) -> ParticleLogProb:
    """Estimate `log p(x | parameters)` of sequences under a model with latent embeddings.

    The estimate is that of the model's particle filter. Every sequence and every draw of the
    parameters has random numbers of its own. Works under jit; outside jit, it warns if the
    effective sample size falls below 5 % of the particles at some position.

    Args:
        model: a `ParticleModel`, such as EmissionModel.
        params: parameters by name; axes in front of a parameter's own shape are draws.
        tokens: (..., length), padded with the end token.
        num_particles: at least 2.
        key: JAX random key.

    Raises: InputError for tokens that the model refuses, fewer than 2 particles, missing
        parameters, or parameters with different leading axes.

    Source: theory, section 9."""
    number, key = as_integer("num_particles", num_particles, 2), as_key(key)
    model = require("particle_log_prob", model, ParticleModel)
    tokens = check_tokens(tokens, model.vocab_size, model.length)
    priors = model.priors()
    if missing := set(priors) - set(params):
        raise InputError(
            f"params: expected {', '.join(priors)}, got none for {', '.join(sorted(missing))}"
        )
    arrays = {name: jnp.asarray(params[name]) for name in priors}
    batches = {
        value.shape[: value.ndim - len(priors[name].event_shape)] for name, value in arrays.items()
    }
    if len(batches) != 1:
        raise InputError(
            f"params: expected the same leading axes in every parameter, got {sorted(batches)}"
        )
    shape = (*batches.pop(), *tokens.shape[:-1])  # (*draws, *sequences)
    draws = math.prod(shape[: len(shape) - tokens.ndim + 1])  # number of all draws
    flat = {name: value.reshape(draws, *priors[name].event_shape) for name, value in arrays.items()}
    found = _over_draws(
        model, number, flat, tokens.reshape(-1, model.length), jax.random.split(key, draws)
    )
    # The leaves have the axes [draws, sequences], and the effective sample size also [length].
    found = ParticleLogProb(*(leaf.reshape(*shape, *leaf.shape[2:]) for leaf in found))
    if not isinstance(found.log_prob, jax.core.Tracer):
        _warn_of_few(np.asarray(found.effective_sample_size), number)
    return found


@partial(jax.jit, static_argnums=(0, 1))
def _over_draws(
    model: ParticleModel, number: int, params: dict, tokens: Array, keys: Array
) -> tuple[Array, Array, Array]:
    def one(inputs: tuple[dict, Array]) -> tuple[Array, Array, Array]:
        params, key = inputs
        filtered = model.process(params, num_particles=number, key=key).filter(tokens)
        return filtered.log_prob, filtered.standard_error, filtered.effective_sample_size

    return jax.lax.map(one, (params, keys))


def _warn_of_few(sizes: np.ndarray, number: int) -> None:
    by_position = np.where(np.isnan(sizes), np.inf, sizes).reshape(-1, sizes.shape[-1])
    low = by_position < LEAST_SHARE * number
    if low.any():
        worst = int(by_position.min(0).argmin())
        warnings.warn(
            f"particle filter: an effective sample size of {by_position.min():.1f} of {number} "
            f"particles at position {worst} (counted from 0), below {LEAST_SHARE:.0%}; it is below "
            f"that in {low.any(1).mean():.1%} of the sequences and draws. "
            "Raise `num_particles`",
            stacklevel=3,
        )
