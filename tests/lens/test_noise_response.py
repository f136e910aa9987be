"""What noise does to next-token laws: second order against finite noise and by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from references import MODELS, REFERENCE, expected

from probattn import InputError
from probattn.lens import fragility, lens, load_transformer, streams
from probattn.lens.forward import layer_output, logits_after

KEY = jax.random.key(0)


def loaded(name, length=8):
    return load_transformer(REFERENCE / name), expected(name)[0][:length]


@pytest.mark.parametrize("name", MODELS)
def test_the_second_order_is_the_limit_of_finite_noise(name):
    """Noise of 0.02: what is left is of the order of its square, times what curvature these random
    layers have; divergences of 1e-4 keep two digits of float32."""
    model, ids = loaded(name)
    chosen = {"key": KEY, "positions": [1, 5], "draws": 6}
    limit = fragility(model, ids, **chosen).kl
    finite = fragility(model, ids, **chosen, size=0.02).kl
    scale = np.abs(limit).max()
    np.testing.assert_allclose(finite, limit, rtol=0.1, atol=0.02 * scale)


def test_it_is_the_half_variance_of_the_change_of_logits():
    model, ids = loaded("llama")
    found = fragility(model, ids, key=KEY, layers=[0], positions=[3], draws=2)
    directions = lens(model, ids, layers=[0], directions=True)
    path = streams(model, ids)

    def logits_of(x):
        for layer, window in zip(model.layers, model.config.windows, strict=True):
            x = layer_output(model.config, layer, x, window=window)
        return logits_after(model, x)

    p = jax.nn.softmax(logits_of(path[0]))
    for name in ("v_min", "v_max"):
        v = jnp.asarray(directions[name].values[0, 3]) * jnp.linalg.norm(path[0][3])
        dx = jnp.zeros_like(path[0]).at[3].set(v)
        dz = jax.jvp(logits_of, (path[0],), (dx,))[1]
        half = 0.5 * ((p * dz**2).sum(-1) - (p * dz).sum(-1) ** 2)
        kl = found.kl.sel(layer=0, position=3, direction=name)
        np.testing.assert_allclose(kl.sel(reach="own"), half[3], rtol=1e-3)
        np.testing.assert_allclose(kl.sel(reach="later"), half[4:].sum(), rtol=1e-3)
        assert float(abs(dz[:3]).max()) == 0


def test_random_directions_are_averaged_with_their_error():
    model, ids = loaded("gpt2")
    few, many = (
        fragility(model, ids, key=jax.random.key(seed), layers=[1], positions=[2], draws=draws)
        for seed, draws in ((1, 16), (2, 64))
    )
    apart = (few.kl - many.kl).sel(direction="random")
    error = np.sqrt(few.spread**2 + many.spread**2)
    assert (abs(apart) < 4.5 * error).all()  # Student's t of 15 and more degrees, two at 1e-3
    assert (few.spread > 0).any()


def test_the_last_position_has_nothing_later():
    model, ids = loaded("gpt2")
    found = fragility(model, ids, key=KEY, layers=[0], positions=[7])
    assert float(abs(found.kl.sel(reach="later")).max()) == 0
    assert float(found.kl.sel(reach="own").min()) > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"positions": [8]}, "positions: expected 0 to 7"),
        ({"positions": []}, "positions: expected integers"),
        ({"draws": 1}, "draws: expected a whole number of at least 2"),
        ({"size": 0.0}, "size: expected a positive number"),
        ({"layers": [9]}, "layers: expected"),
        ({"key": 0}, "key: expected a random key"),
    ],
)
def test_bad_input_is_one_line(options, message):
    model, ids = loaded("gpt2")
    with pytest.raises(InputError, match=message):
        fragility(model, ids, **({"key": KEY} | options))
