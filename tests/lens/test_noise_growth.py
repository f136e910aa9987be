"""Growth of a disturbance against a Jacobian, and continuations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from references import REFERENCE, expected

from probattn import Attention, AttentionTransform, InputError, stability_margin
from probattn.lens import continued, growth, load_transformer, logits, streams
from probattn.lens.forward import layer_output

KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def model():
    return load_transformer(REFERENCE / "qwen3")


IDS = expected("qwen3")[0][:7]


def test_sizes_are_those_of_the_jacobian(model):
    found = growth(model, IDS, key=KEY, position=2, draws=5)
    path = streams(model, IDS)
    unit = jax.random.normal(KEY, (5, model.config.width))
    unit = unit / jnp.linalg.norm(unit, axis=-1, keepdims=True)
    x = path[0]
    product = jnp.eye(model.config.width)[None] * jnp.zeros((7, 1, 1)).at[2].set(1)  # (t, i, j)
    for depth in range(len(model.layers) + 1):
        dx = jnp.einsum("tij,mj->mti", product, unit) * jnp.linalg.norm(path[0][2])
        wanted = jnp.sqrt((dx**2).sum(-1).mean(0)) / jnp.linalg.norm(path[depth], axis=-1)
        np.testing.assert_allclose(found["size"].sel(depth=depth), wanted, rtol=1e-3, atol=1e-6)
        if depth == len(model.layers):
            break
        layer, window = model.layers[depth], model.config.windows[depth]
        jacobian = jax.jacobian(
            lambda x, layer=layer, window=window: layer_output(
                model.config, layer, x, window=window
            )
        )(x)
        product = jnp.einsum("tisk,skj->tij", jacobian, product)
        x = layer_output(model.config, layer, x, window=window)
    assert found["size"].sel(depth=0).values[2] == pytest.approx(1)
    assert (found["size"].sel(position=slice(0, 1)) == 0).all()
    totals = (found["size"] * np.linalg.norm(path, axis=-1)) ** 2
    rates = 0.5 * np.diff(np.log(totals.sum("position")))
    np.testing.assert_allclose(found.rate, rates, rtol=1e-3, atol=1e-4)
    assert (found.kl[:2] == 0).all()


def test_the_most_probable_continuation_is_made_token_by_token(model):
    whole = continued(model, IDS, 4)
    assert whole[:7].tolist() == IDS.tolist()
    for end in range(7, 11):
        assert whole[end] == int(logits(model, whole[:end])[-1].argmax())


def test_drawn_continuations_follow_the_law(model):
    """The first token of 400 draws, by the largest deviation of a share: 5 standard errors."""
    p = np.asarray(jax.nn.softmax(logits(model, IDS)[-1] / 0.5))
    drawn = [
        continued(model, IDS, 1, key=key, temperature=0.5)[-1] for key in jax.random.split(KEY, 400)
    ]
    share = np.bincount(drawn, minlength=len(p)) / 400
    assert (abs(share - p) < 5 * np.sqrt(p * (1 - p) / 400) + 1 / 400).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda model: growth(model, IDS, key=KEY, position=7), "position: expected 0 to 6"),
        (
            lambda model: growth(Attention.from_interaction([[[1.0]]]), IDS, key=KEY),
            r"text: expected embeddings \(t, 1\) of an Attention",
        ),
        (lambda model: growth(model, IDS, key=KEY, draws=0), "draws: expected a whole number"),
        (lambda model: continued(model, IDS, 0), "number: expected a whole number"),
        (lambda model: continued(model, IDS, 1, temperature=0.5), "key: expected a random key"),
        (lambda model: continued(model, IDS, 1000), "number: expected at most"),
        (lambda model: continued(model, IDS, 1, key=KEY, temperature=0.0), "temperature: expected"),
    ],
)
def test_bad_input_is_one_line(model, call, message):
    with pytest.raises(InputError, match=message):
        call(model)


def test_of_an_attention_it_is_the_exact_process():
    """Against finite differences of the solved process, and the margin at the token itself."""
    attention = Attention.from_interaction([[[0.9, 0.3], [-0.2, 0.5]]], contraction=0.8)
    transform = AttentionTransform(attention)
    noise = jax.random.normal(jax.random.key(4), (6, 2))
    u = transform(noise)
    found = growth(attention, u, key=KEY, position=2, draws=4)
    unit = jax.random.normal(KEY, (4, 2))
    unit = unit / jnp.linalg.norm(unit, axis=-1, keepdims=True)
    step = float(jnp.finfo(u.dtype).eps) ** (1 / 3)  # errors of rounding and of curvature meet
    dx = jnp.stack(
        [
            (
                transform(noise.at[2].add(step * one * jnp.linalg.norm(u[2])))
                - transform(noise.at[2].add(-step * one * jnp.linalg.norm(u[2])))
            )
            / (2 * step)
            for one in unit
        ]
    )
    wanted = jnp.sqrt((dx**2).sum(-1).mean(0)) / jnp.linalg.norm(u, axis=-1)
    np.testing.assert_allclose(found["size"].sel(depth=1), wanted, rtol=20 * step, atol=20 * step)
    np.testing.assert_allclose(
        found["size"].sel(depth=0), [0, 0, 1, 0, 0, 0], atol=float(jnp.finfo(u.dtype).eps) * 4
    )
    assert found.rate.shape == (1,)


def test_a_small_margin_amplifies_what_growth_finds():
    """In dim 1 the size at the token itself is one over its margin."""
    attention = Attention.from_interaction([[[0.9]]])
    u = jnp.array([[-1.0], [1.0], [0.1]])
    margin = stability_margin(attention, u)[2]
    found = growth(attention, u, key=KEY, position=2, draws=1)
    assert float(found["size"].sel(depth=1, position=2)) == pytest.approx(
        1 / float(margin), rel=1e-5
    )
    assert float(margin) < 0.2
