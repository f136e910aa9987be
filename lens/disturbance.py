"""How a small disturbance of the stream travels through the layers and along the text.

Letters in shapes: l layer, t position, m disturbance, i component of the stream, v token.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from probattn.lens.forward import layer_output, logits_after
from probattn.lens.transformer import Configuration, Layer, Transformer


def through_layer(
    model: Transformer, layer: int, x: Float[Array, "t i"], dx: Float[Array, "m t i"]
) -> Float[Array, "m t i"]:
    """First-order disturbances dx of the stream x that enters a layer, as they leave it."""
    config = model.config
    return _through(config, model.layers[layer], x, dx, window=config.windows[layer])


@partial(jax.jit, static_argnames=("config", "window"))
def _through(config: Configuration, layer: Layer, x: Any, dx: Any, window: int | None) -> Any:
    _, tangent = jax.linearize(lambda x: layer_output(config, layer, x, window=window), x)
    return jax.vmap(tangent)(dx)


def random_directions(key: Array, shape: tuple[int, ...]) -> Float[Array, "..."]:
    """Unit vectors along the last axis, uniform on the sphere."""
    vectors = jax.random.normal(key, shape)
    return vectors / jnp.linalg.norm(vectors, axis=-1, keepdims=True)


@jax.jit
def half_variance(
    model: Transformer, x: Float[Array, "t i"], dx: Float[Array, "m t i"]
) -> Float[Array, "m t"]:
    """Kullback-Leibler divergence of each next-token law from itself disturbed, to second order.

        KL(p || p + dp) = Var_p(dz) / 2 + ...,  dz the first-order change of the logits

    Args: x, the stream after the last layer; dx, its disturbances. Unit: nats.
    """
    z, tangent = jax.linearize(lambda x: logits_after(model, x), x)
    p = jax.nn.softmax(z)  # (t, v)

    def of_one(dx: Array) -> Array:  # one by one, since logits are long
        dz = tangent(dx)
        return 0.5 * (p * (dz - (p * dz).sum(-1, keepdims=True)) ** 2).sum(-1)

    return jax.lax.map(of_one, dx)


def divergence(
    model: Transformer, x: Float[Array, "t i"], changed: Float[Array, "m t i"]
) -> Float[Array, "m t"]:
    """Kullback-Leibler divergence of next-token laws after x from those after changed streams."""
    log_p = jax.nn.log_softmax(logits_after(model, x))

    def of_one(changed: Array) -> Array:
        log_q = jax.nn.log_softmax(logits_after(model, changed))
        return (jnp.exp(log_p) * (log_p - log_q)).sum(-1)

    return jax.lax.map(of_one, changed)


@partial(jax.jit, static_argnames=("config", "window"))
def layer_of_many(
    config: Configuration,
    layer: Layer,
    x: Float[Array, "m t i"],
    window: int | None = None,
) -> Float[Array, "m t i"]:
    """Many streams after one layer."""
    return jax.vmap(lambda x: layer_output(config, layer, x, window=window))(x)
