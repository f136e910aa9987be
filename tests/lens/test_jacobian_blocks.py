"""Blocks of attention against automatic differentiation, and what they do not depend on."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from references import MODELS, REFERENCE, expected

from probattn.lens import load_transformer, streams
from probattn.lens.forward import (
    attention_input,
    attention_output,
    attention_parts,
    encoded,
    keys,
    layer_output,
    queries,
)
from probattn.lens.jacobian_blocks import READINGS, attention_blocks
from probattn.lens.transformer import Norm

LENGTH = 9


def last_layer(name):
    model = load_transformer(REFERENCE / name)
    tokens, _ = expected(name)
    return model.config, model.layers[-1], streams(model, tokens[:LENGTH])[-2]


def diagonal(function, x):
    jacobian = jax.jacobian(function)(x)  # (t, i, s, j)
    return jnp.stack([jacobian[t, :, t] for t in range(len(x))])


def close(found, wanted):
    """Rounding: sums of some hundred products of numbers of this size in float32."""
    np.testing.assert_allclose(found, wanted, rtol=0, atol=2e-5 * float(abs(wanted).max()))


@pytest.mark.parametrize("name", MODELS)
def test_the_stream_is_the_derivative_of_the_block_that_the_network_has(name):
    config, layer, x = last_layer(name)
    window = config.windows[-1]

    def block(x):
        if config.parallel:
            return layer_output(config, layer, x, window=window)
        parts = attention_parts(config, layer, x, window=window)
        return x + attention_output(config, layer, parts)

    found = attention_blocks(config, layer, x, jnp.arange(LENGTH), window=window)
    close(found, diagonal(block, x))


@pytest.mark.parametrize("name", MODELS)
def test_the_theory_is_the_derivative_by_what_attention_reads(name):
    config, layer, x = last_layer(name)
    window = config.windows[-1]
    # Behind the norm: a layer whose norm is replaced by the identity on what it gave.
    u = attention_input(config, layer, x)

    def residual(u):
        parts = of_normalised(config, layer, u, window)
        return u - attention_output(config, layer, parts)

    found = attention_blocks(config, layer, x, jnp.arange(LENGTH), window=window, reading="theory")
    close(found, diagonal(residual, u))


def of_normalised(config, layer, u, window):
    """`attention_parts` of what the norm gave."""
    parts = attention_parts(config, layer, u, window=window)  # for its shapes
    at = jnp.arange(len(u))
    query = encoded(config, layer.query_norm, queries(config, layer, u), at)
    key = encoded(config, layer.key_norm, keys(config, layer, u), at)
    value = u @ layer.value.weight.T + (0 if layer.value.bias is None else layer.value.bias)
    value = value.reshape(len(u), config.key_heads, -1).swapaxes(0, 1)
    group = config.heads // config.key_heads
    scores = jnp.einsum("htr,hsr->hts", query, jnp.repeat(key, group, 0))
    lag = at[:, None] - at
    seen = (lag >= 0) & (lag < (window or len(u)))
    alpha = jax.nn.softmax(jnp.where(seen, scores / config.head_size**0.5, -jnp.inf))
    return dataclasses.replace(parts, query=query, key=key, value=value, alpha=alpha)


@pytest.mark.parametrize("name", MODELS)
def test_the_mixing_is_the_derivative_of_what_a_position_differs_from_its_past(name):
    config, layer, x = last_layer(name)
    window, u = config.windows[-1], attention_input(config, layer, x)

    def residual(here, t):
        """u_t minus the heads' mean of the strict past, in loops."""
        means = jnp.zeros(config.width)
        own = queries(config, layer, here[None])
        query = encoded(config, layer.query_norm, own, jnp.array([t]))[:, 0]
        key = encoded(config, layer.key_norm, keys(config, layer, u), jnp.arange(LENGTH))
        first = 0 if window is None else max(0, t - window + 1)
        for head in range(config.heads):
            of_head = key[head // (config.heads // config.key_heads), first:t]
            alpha = jax.nn.softmax(of_head @ query[head] / config.head_size**0.5)
            means += alpha @ u[first:t] / config.heads
        return here - means

    found = attention_blocks(config, layer, x, jnp.arange(LENGTH), window=window, reading="mixing")
    np.testing.assert_array_equal(found[0], np.eye(config.width))  # no past
    for t in range(1, LENGTH):
        close(found[t], jax.jacobian(lambda here, t=t: residual(here, t))(u[t]))


@pytest.mark.parametrize("reading", READINGS)
def test_which_readings_depend_on_how_the_weights_are_written(reading):
    """The gain of the norm moves into the maps behind it: the layer is the same function."""
    config, layer, x = last_layer("llama")
    gain = layer.attention_norm.gain

    def scaled(linear):
        return dataclasses.replace(linear, weight=linear.weight * gain)

    moved = dataclasses.replace(
        layer,
        attention_norm=Norm(jnp.ones_like(gain)),
        query=scaled(layer.query),
        key=scaled(layer.key),
        value=scaled(layer.value),
    )
    close(layer_output(config, moved, x), layer_output(config, layer, x))
    at = jnp.arange(LENGTH)
    one, other = (attention_blocks(config, of, x, at, reading=reading) for of in (layer, moved))
    log_dets = [jnp.linalg.slogdet(blocks)[1] for blocks in (one, other)]
    if reading == "theory":
        assert float(abs(log_dets[0] - log_dets[1]).max()) > 0.1
        return
    np.testing.assert_allclose(*log_dets, atol=1e-4)
    if reading == "stream":
        close(one, other)


def test_some_positions_are_those_of_all():
    config, layer, x = last_layer("qwen3")
    whole = attention_blocks(config, layer, x, jnp.arange(LENGTH))
    some = attention_blocks(config, layer, x, jnp.array([7, 2, 2]))
    close(some, whole[jnp.array([7, 2, 2])])
