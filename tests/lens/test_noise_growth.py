"""Growth of a disturbance against a Jacobian, and continuations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from references import REFERENCE, expected

from probattn import InputError
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
        (lambda model: growth(model, IDS, key=KEY, draws=0), "draws: expected 1 to"),
        (lambda model: continued(model, IDS, 0), "number: expected 1 or more"),
        (lambda model: continued(model, IDS, 1, temperature=0.5), "key: expected a random key"),
        (lambda model: continued(model, IDS, 1000), "number: expected at most"),
        (lambda model: continued(model, IDS, 1, key=KEY, temperature=0.0), "temperature: expected"),
    ],
)
def test_bad_input_is_one_line(model, call, message):
    with pytest.raises(InputError, match=message):
        call(model)
