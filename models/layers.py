"""The forward pass of a pre-norm transformer, with the attention of each layer (theory, section 2).

Letters in shapes: h head, t and s position, r component of a head, i component of an embedding,
j hidden unit, v token.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from probattn import Attention
from probattn.checks import in_default_float

SMALL = 1e-6  # beside a mean square, so that a stream of zeros has a norm

# For each layer its attention, the input of that (..., t, i) and the root mean square (..., t, 1)
# by which the stream was divided to make the input.
type Layers = list[tuple[Attention, Array, Array]]


def _normalised(x: Array) -> Array:
    """`x` divided by its root mean square over the last axis."""
    return x * jax.lax.rsqrt((x**2).mean(-1, keepdims=True) + SMALL)


def _scores(model: Any, q: Array, k: Array) -> Array:
    """Scores [..., h, t, s] of queries and keys [..., h, t, r]: bilinear, cosines, or capped."""
    if model.qk_norm is not None:
        # Queries and keys of length sqrt(r): their products over r are cosines.
        q, k = model.qk_norm * _normalised(q), _normalised(k) / math.sqrt(model.rank)
    scores = jnp.einsum("...htr,...hsr->...hts", q, k) / math.sqrt(model.rank)
    return scores if model.softcap is None else model.softcap * jnp.tanh(scores / model.softcap)


def _spectrally_bounded(matrices: Array, most: float | None) -> Array:
    """Matrices [h, r, i], each scaled down so that its largest singular value is at most `most`."""
    if most is None:
        return matrices
    return matrices / jnp.maximum(
        1, jnp.linalg.norm(matrices, 2, axis=(-2, -1), keepdims=True) / most
    )


def forward(
    model: Any, params: dict[str, Any], u: Array, key: Array | None = None
) -> tuple[Array, Layers]:
    """Logits from the embedding path, and what its attention is in each layer.

    Args:
        model: a TransformerLM.
        params: one value of each parameter, with the shapes of `TransformerLM.priors`.
        u: embedding path (..., t, i).
        key: random key of the dropout; None is no dropout.

    Returns: logits (..., t, v); for each layer its attention, with the scores before qk_norm and
        softcap, the input of that (..., t, i), and the root mean square of the stream (..., t, 1).
    """
    params, u = in_default_float((params, u))
    # One for u, two for each layer.
    keys = iter([] if key is None else jax.random.split(key, 2 * model.layers + 1))
    causal = jnp.tri(u.shape[-2], dtype=bool)

    def drop(x: Array) -> Array:
        if key is None or not model.dropout:
            return x
        return jnp.where(
            jax.random.bernoulli(next(keys), 1 - model.dropout, x.shape), x / (1 - model.dropout), 0
        )

    hidden, layers = drop(u), []
    for layer in range(model.layers):
        query, keys_of, value, output = (
            params[name][layer] for name in ("query", "key", "value", "output")
        )
        query, keys_of = (
            _spectrally_bounded(query, model.spectral),
            _spectrally_bounded(keys_of, model.spectral),
        )
        scale = jnp.sqrt((hidden**2).mean(-1, keepdims=True) + SMALL)
        x = _normalised(hidden)
        # each [..., h, t, r]
        q, k, v = (jnp.einsum("hri,...ti->...htr", matrix, x) for matrix in (query, keys_of, value))
        scores = _scores(model, q, k)  # [..., h, t, s]
        alpha = jax.nn.softmax(jnp.where(causal, scores, jnp.finfo(scores.dtype).min))
        mixed = jnp.einsum("...hts,...hsr->...htr", alpha, v)
        hidden = hidden + drop(jnp.einsum("hir,...htr->...ti", output, mixed))
        # output @ value, [h, i, i], is the value map of each head.
        layers.append((Attention(query, keys_of, output @ value, mask="inclusive"), x, scale))
        # [..., t, j]
        inner = jax.nn.gelu(jnp.einsum("ji,...ti->...tj", params["up"][layer], _normalised(hidden)))
        hidden = hidden + drop(jnp.einsum("ij,...tj->...ti", params["down"][layer], inner))
    return jnp.einsum("vi,...ti->...tv", params["readout"], _normalised(hidden)) + params[
        "bias"
    ], layers
