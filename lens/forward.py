"""The forward pass of a pretrained transformer, with the attention of each layer.

Letters in shapes: h head, g key head, n head of those that share a key head, t and s position, r
component of a head, i component of the stream, j hidden unit, v token.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import register_dataclass
from jaxtyping import Array, Float

from probattn.errors import InputError
from probattn.lens.transformer import Configuration, Layer, Linear, Norm, Transformer

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": partial(jax.nn.gelu, approximate=False),
    "gelu_tanh": partial(jax.nn.gelu, approximate=True),
    "silu": jax.nn.silu,
}


@partial(
    register_dataclass,
    data_fields=["normalised", "query", "key", "value", "alpha"],
    meta_fields=[],
)
@dataclass(frozen=True, eq=False)
class AttentionParts:
    """What the attention of a layer computes with, each as it enters the dot product or the sum."""

    normalised: Any  # (t, i): the stream after the norm of the attention
    query: Any  # (h, t, r): after bias, norm and rotation
    key: Any  # (g, t, r): after bias, norm and rotation
    value: Any  # (g, t, r)
    alpha: Any  # (h, t, s): weights of the positions s <= t, which sum to one


@jax.default_matmul_precision("highest")
def attention_parts(
    config: Configuration,
    layer: Layer,
    x: Float[Array, "t i"],
    first_position: Any = 0,
    window: int | None = None,
) -> AttentionParts:
    """The parts of the attention of one layer.

        alpha^h_ts = softmax over s <= t of  k^g_s . q^h_t / sqrt(r),    g the key head of h

    Args:
        config, layer: of a Transformer.
        x: the stream that enters the layer.
        first_position: position of the first row of x.
        window: the most positions that one sees, itself included; None is all.
    """
    length = len(x)
    positions = first_position + jnp.arange(length)
    normalised = attention_input(config, layer, x)  # (t, i)
    query = encoded(config, layer.query_norm, queries(config, layer, normalised), positions)
    key = encoded(config, layer.key_norm, keys(config, layer, normalised), positions)
    value = _heads(_linear(layer.value, normalised), config.key_heads)  # (g, t, r)
    scores = jnp.einsum("gntr,gsr->gnts", _grouped(config, query), key) / math.sqrt(
        config.head_size
    )
    lag = jnp.arange(length)[:, None] - jnp.arange(length)  # (t, s)
    seen = lag >= 0 if window is None else (lag >= 0) & (lag < window)
    alpha = jax.nn.softmax(jnp.where(seen, scores, -jnp.inf))  # (g, n, t, s)
    return AttentionParts(
        normalised, query, key, value, alpha.reshape(config.heads, length, length)
    )


def attention_input(config: Configuration, layer: Layer, x: Array) -> Float[Array, "*t i"]:
    """The normalised stream that the attention of a layer reads."""
    return _norm(config, layer.attention_norm, x)


def queries(config: Configuration, layer: Layer, normalised: Array) -> Float[Array, "h t r"]:
    """Queries before their norm and rotation."""
    return _heads(_linear(layer.query, normalised), config.heads)


def keys(config: Configuration, layer: Layer, normalised: Array) -> Float[Array, "g t r"]:
    """Keys before their norm and rotation."""
    return _heads(_linear(layer.key, normalised), config.key_heads)


def encoded(
    config: Configuration, norm: Norm | None, x: Array, positions: Array
) -> Float[Array, "h t r"]:
    """Queries or keys (h, t, r) as they enter the dot product: normalised and rotated."""
    return _rotated(config, x if norm is None else _norm(config, norm, x), positions)


@jax.default_matmul_precision("highest")
def attention_output(
    config: Configuration, layer: Layer, parts: AttentionParts
) -> Float[Array, "t i"]:
    """What the attention of a layer adds to the stream.

    It is output (sum_s alpha^h_ts v^g_s)_h + bias, of the sums of all heads one after the other.
    """
    mixed = jnp.einsum("gnts,gsr->tgnr", _grouped(config, parts.alpha), parts.value)
    return _linear(layer.output, mixed.reshape(len(mixed), -1))  # (t, h r) to (t, i)


@jax.default_matmul_precision("highest")
def layer_output(
    config: Configuration,
    layer: Layer,
    x: Float[Array, "t i"],
    first_position: Any = 0,
    window: int | None = None,
) -> Float[Array, "t i"]:
    """The stream after one layer, from the stream before it. Arguments: see `attention_parts`."""
    attended = attention_output(
        config, layer, attention_parts(config, layer, x, first_position, window)
    )
    if config.parallel:
        return x + attended + mlp_output(config, layer, x)
    x = x + attended
    return x + mlp_output(config, layer, x)


# One program for all layers of one window: that of a whole model takes long to compile.
_jitted_layer = jax.jit(layer_output, static_argnames=("config", "window"))


def streams(model: Transformer, tokens: Any) -> Float[Array, "depths t i"]:
    """The stream that enters each layer, and the one after the last, before the final norm.

    Args: model; tokens, ids of one sequence, (t,).

    Returns: one more than there are layers.

    Raises: InputError for ids that are no vector of integers, that the vocabulary does not have, or
        that are more than the context.
    """
    tokens = _checked(model, tokens)
    x = model.embedding[tokens]  # (t, i)
    if model.position is not None:
        x = x + model.position[: len(tokens)]
    found = [x]
    for layer, window in zip(model.layers, model.config.windows, strict=True):
        found.append(_jitted_layer(model.config, layer, found[-1], window=window))
    return jnp.stack(found)


def logits(model: Transformer, tokens: Any) -> Float[Array, "t v"]:
    """Logits of the next token after each token. Arguments and errors: see `streams`."""
    return logits_after(model, streams(model, tokens)[-1])


def logits_after(model: Transformer, x: Float[Array, "t i"]) -> Float[Array, "t v"]:
    """Logits of the next token from the stream after the last layer."""
    return _readout(model.config, model.final_norm, model.readout, x)


@partial(jax.jit, static_argnames="config")
@jax.default_matmul_precision("highest")
def _readout(config: Configuration, norm: Norm, readout: Any, x: Array) -> Array:
    scores = _norm(config, norm, x) @ readout.T  # (t, v)
    return scores if config.softcap is None else config.softcap * jnp.tanh(scores / config.softcap)


def _linear(linear: Linear, x: Array) -> Array:
    product = x @ linear.weight.T
    return product if linear.bias is None else product + linear.bias


def _norm(config: Configuration, norm: Norm, x: Array) -> Array:
    if config.norm == "layer":
        x = x - x.mean(-1, keepdims=True)
    normalised = x * jax.lax.rsqrt((x**2).mean(-1, keepdims=True) + config.epsilon) * norm.gain
    return normalised if norm.bias is None else normalised + norm.bias


def mlp_output(config: Configuration, layer: Layer, x: Array) -> Array:
    """What the MLP of a layer adds: D act(U n(x)), or with a gate D (act(G n(x)) * U n(x))."""
    normalised = _norm(config, layer.mlp_norm, x)
    activation = ACTIVATIONS[config.activation]
    up = _linear(layer.up, normalised)  # (t, j)
    if layer.gate is None:
        return _linear(layer.down, activation(up))
    return _linear(layer.down, activation(_linear(layer.gate, normalised)) * up)


def _heads(x: Array, heads: int) -> Array:
    """(t, h r) as (h, t, r)."""
    return x.reshape(len(x), heads, -1).swapaxes(0, 1)


def _grouped(config: Configuration, x: Array) -> Array:
    """(h, ...) as (g, n, ...): head h reads the key head h // n."""
    return x.reshape(config.key_heads, -1, *x.shape[1:])


def _rotated(config: Configuration, x: Array, positions: Array) -> Array:
    """Queries or keys (h, t, r), rotated by their positions (t,).

    Components k and k + rotary / 2 turn by position times frequency k; components from `rotary` on
    stay.
    """
    if not config.rotary:
        return x
    half = config.rotary // 2
    frequencies = [config.rotary_base ** (-k / half) for k in range(half)]
    if config.rotary_scaling is not None:
        frequencies = config.rotary_scaling.scaled(frequencies)
    angle = positions.astype(x.dtype)[:, None] * jnp.asarray(frequencies, x.dtype)  # (t, half)
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    one, other, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    return jnp.concatenate([one * cos - other * sin, other * cos + one * sin, rest], axis=-1)


def _checked(model: Transformer, tokens: Any) -> Array:
    """The ids as an array; those of a traced array are not known and not checked."""
    ids = tokens if isinstance(tokens, jax.Array) else np.asarray(tokens)
    if ids.ndim != 1 or not len(ids) or not jnp.issubdtype(ids.dtype, jnp.integer):
        raise InputError(
            "tokens: expected ids of one sequence, integers of shape (t,) with t >= 1, got "
            f"{ids.dtype} of shape {ids.shape}"
        )
    if len(ids) > model.config.context:
        raise InputError(
            f"tokens: expected at most {model.config.context}, the context of the model, got "
            f"{len(ids)}; leave some out"
        )
    if not isinstance(ids, jax.core.Tracer):
        low, high, vocab = int(ids.min()), int(ids.max()), len(model.embedding)
        if low < 0 or high >= vocab:
            raise InputError(
                f"tokens: expected ids from 0 to {vocab - 1}, got {low if low < 0 else high}"
            )
    return jnp.asarray(ids)
