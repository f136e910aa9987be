"""The forward pass: shapes, causality, windows, and its parts put together by hand."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from references import MODELS, REFERENCE, expected

from probattn import InputError
from probattn.lens import load_transformer, logits, streams
from probattn.lens.forward import attention_output, attention_parts, layer_output


@pytest.mark.parametrize("name", MODELS)
def test_shapes(name):
    model = load_transformer(REFERENCE / name)
    config, tokens = model.config, [3, 1, 4, 1, 5]
    path = streams(model, tokens)
    assert path.shape == (len(model.layers) + 1, 5, config.width)
    assert logits(model, tokens).shape == (5, len(model.embedding))
    parts = attention_parts(config, model.layers[0], path[0])
    assert parts.normalised.shape == (5, config.width)
    assert parts.query.shape == (config.heads, 5, config.head_size)
    assert parts.key.shape == parts.value.shape == (config.key_heads, 5, config.head_size)
    assert parts.alpha.shape == (config.heads, 5, 5)


@pytest.mark.parametrize("name", MODELS)
def test_later_tokens_change_no_earlier_logits(name):
    model = load_transformer(REFERENCE / name)
    tokens, _ = expected(name)
    others = np.concatenate([tokens[:9], (tokens[9:] + 1) % 48])
    one, other = logits(model, tokens), logits(model, others)
    np.testing.assert_array_equal(one[:9], other[:9])
    assert (abs(one[9:] - other[9:]).max(-1) > 1e-2).all()  # and each later one does change


@pytest.mark.parametrize("name", MODELS)
def test_the_derivative_of_a_layer_is_zero_exactly_where_nothing_is_seen(name):
    """Above the diagonal, and before the window."""
    model = load_transformer(REFERENCE / name)
    tokens, _ = expected(name)
    x, window = streams(model, tokens[:9])[-2], model.config.windows[-1]
    jacobian = jax.jacobian(
        lambda x: layer_output(model.config, model.layers[-1], x, window=window)
    )(x)
    lag = np.arange(9)[:, None] - np.arange(9)
    seen = (lag >= 0) & (lag < (window or 9))
    np.testing.assert_array_equal(abs(jacobian).max((1, 3)) > 0, seen)


@pytest.mark.parametrize("name", MODELS)
def test_attention_is_the_sum_of_its_parts_head_by_head(name):
    """Loops over heads and positions against the arrays."""
    model = load_transformer(REFERENCE / name)
    config, layer, window = model.config, model.layers[-1], model.config.windows[-1]
    tokens, _ = expected(name)
    x = streams(model, tokens[:7])[-2]
    parts = attention_parts(config, layer, x, window=window)
    query, key, value = (np.asarray(one) for one in (parts.query, parts.key, parts.value))
    share = config.heads // config.key_heads
    mixed = np.zeros((7, config.heads, config.head_size))
    for h in range(config.heads):
        for t in range(7):
            first = 0 if window is None else max(0, t - window + 1)
            scores = key[h // share, first : t + 1] @ query[h, t] / config.head_size**0.5
            alpha = np.exp(scores - scores.max())
            alpha /= alpha.sum()
            np.testing.assert_allclose(parts.alpha[h, t, first : t + 1], alpha, atol=1e-6)
            mixed[t, h] = alpha @ value[h // share, first : t + 1]
    by_hand = mixed.reshape(7, -1) @ np.asarray(layer.output.weight).T
    if layer.output.bias is not None:
        by_hand = by_hand + np.asarray(layer.output.bias)
    # Sums of a few numbers of size 1, in float32.
    np.testing.assert_allclose(attention_output(config, layer, parts), by_hand, atol=1e-5)


@pytest.mark.parametrize("name", ["gpt_neox", "llama3", "qwen3"])
def test_rotation_depends_on_distance_alone(name):
    """Rows that begin at another position have other queries and the same weights."""
    model = load_transformer(REFERENCE / name)
    x = streams(model, expected(name)[0][:7])[0]
    here, there = (attention_parts(model.config, model.layers[0], x, at) for at in (0, 11))
    assert abs(here.query - there.query).max() > 0.1
    np.testing.assert_allclose(here.alpha, there.alpha, atol=1e-5)


def test_a_softcap_bounds_the_logits():
    model = load_transformer(REFERENCE / "llama")
    capped = dataclasses.replace(model, config=dataclasses.replace(model.config, softcap=2.0))
    plain = logits(model, [3, 1, 4])
    np.testing.assert_allclose(logits(capped, [3, 1, 4]), 2 * np.tanh(plain / 2), atol=1e-6)


def test_a_model_is_a_pytree_that_goes_through_jit_and_vmap():
    model = load_transformer(REFERENCE / "qwen3")
    tokens = jnp.asarray([[3, 1, 4], [1, 5, 9]])
    together = jax.jit(jax.vmap(logits, in_axes=(None, 0)))(model, tokens)
    one_by_one = [logits(model, row) for row in tokens]
    np.testing.assert_allclose(together, jnp.stack(one_by_one), atol=1e-5)
    again = jax.tree.unflatten(jax.tree.structure(model), jax.tree.leaves(model))
    assert jax.tree.structure(again) == jax.tree.structure(model)
    assert hash(model.config) == hash(again.config)


def test_layers_share_one_program():
    from probattn.lens.forward import _jitted_layer

    model = load_transformer(REFERENCE / "llama")
    _jitted_layer.clear_cache()
    streams(model, [3, 1, 4, 1, 5, 9])
    assert _jitted_layer._cache_size() == 1


@pytest.mark.parametrize(
    ("tokens", "says"),
    [
        ([], r"integers of shape \(t,\) with t >= 1, got float64 of shape \(0,\)"),
        ([[1, 2]], r"got int64 of shape \(1, 2\)"),
        ([0.5], "got float64"),
        ([1, 48], "ids from 0 to 47, got 48"),
        ([-1, 2], "ids from 0 to 47, got -1"),
        ([1] * 65, "at most 64, the context of the model, got 65"),
    ],
)
def test_tokens_that_the_model_cannot_have_are_refused(tokens, says):
    with pytest.raises(InputError, match=says) as caught:
        logits(load_transformer(REFERENCE / "gpt2"), tokens)
    assert "\n" not in str(caught.value)
