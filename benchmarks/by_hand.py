"""What one would write instead of using probattn: the formulas of theory, sections 1, 2 and 7, with
JAX's own tools."""

import math

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jaxtyping import Array


def attention_mean(query: Array, key: Array, u: Array) -> Array:
    """Strict causal attention of one head over sequences (b, t, d), value map the identity."""
    length = u.shape[1]
    logits = jnp.einsum(
        "bsi,ij,btj->bts", u, key.T @ query / math.sqrt(len(query)), u, optimize=True
    )
    earlier = jnp.tri(length, k=-1, dtype=bool)
    return (jax.nn.softmax(jnp.where(earlier, logits, -1e30)) * earlier) @ u


def log_density(query: Array, key: Array, u: Array) -> Array:
    """Log density of each position (b, t) at scale 1: the Jacobian blocks by `jacfwd`, their
    determinants by `slogdet`."""
    length, dim = u.shape[1:]

    def residual(past: Array, position: Array, token: Array) -> Array:
        logits = past @ (key.T @ (query @ token)) / math.sqrt(len(query))
        earlier = jnp.arange(length) < position
        return token - (jax.nn.softmax(jnp.where(earlier, logits, -1e30)) * earlier) @ past

    def of_sequence(past: Array) -> Array:
        positions = jnp.arange(length)
        e = jax.vmap(residual, (None, 0, 0))(past, positions, past)
        blocks = jax.vmap(jax.jacfwd(residual, 2), (None, 0, 0))(past, positions, past)
        sign, log_det = jnp.linalg.slogdet(blocks)
        log_normal = -0.5 * (e**2).sum(-1) - dim / 2 * math.log(2 * math.pi)
        return log_normal + jnp.where(sign > 0, log_det, -jnp.inf)

    return jax.vmap(of_sequence)(u)


def language_model(tokens: Array, vocab_size: int, dim: int, barrier_weight: float = 0.05) -> None:
    """The one-layer, one-head LanguageModel as a plain NumPyro model, with the same priors."""
    length = tokens.shape[1]

    def normal(name: str, scale: float, *shape: int) -> Array:
        return numpyro.sample(name, dist.Normal(0, scale).expand(shape).to_event(len(shape)))

    embedding, position = (
        normal("embedding", 1.0, vocab_size, dim),
        normal("position", 0.5, length, dim),
    )
    query, key = (normal(name, dim**-0.25, 1, dim, dim)[0] for name in ("query", "key"))
    value = normal("value", dim**-0.5, 1, dim, dim)[0]
    readout, bias = (
        normal("readout", 2 * dim**-0.5, vocab_size, dim),
        normal("bias", 1.0, vocab_size),
    )
    before = jnp.concatenate([jnp.zeros_like(tokens[:, :1]), tokens[:, :-1]], axis=1)
    counts = jnp.concatenate(
        [jnp.ones_like(tokens[:, :1]), (tokens[:, :-1] != 0).cumprod(1)], axis=1
    )
    u = embedding[before] + position
    logits = jnp.einsum("bsi,ij,btj->bts", u, key.T @ query / math.sqrt(dim), u, optimize=True)
    alpha = jax.nn.softmax(jnp.where(jnp.tri(length, dtype=bool), logits, -1e30))
    hidden = u + alpha @ u @ value.T
    rows = jax.nn.log_softmax(hidden @ readout.T + bias)
    chosen = jnp.take_along_axis(rows, tokens[..., None], axis=-1)[..., 0]
    numpyro.factor("tokens", (counts * chosen).sum())
    if barrier_weight:
        density = log_density(query, key, u)
        numpyro.factor("path", barrier_weight * jnp.where(counts == 1, density, 0).sum())
