"""lens() over a text: its numbers one by one, windows, choices, bad input."""

import dataclasses

import jax
import numpy as np
import pytest
from references import REFERENCE, expected

from probattn import InputError
from probattn.lens import lens, load_transformer, logits, page_of, streams, support_tokens
from probattn.lens.forward import attention_parts
from probattn.lens.jacobian_blocks import attention_blocks
from probattn.lens.measurement import BLOCKS_AT_ONCE


@pytest.fixture(scope="module")
def model():
    return load_transformer(REFERENCE / "llama")


IDS = expected("llama")[0][:11]


@pytest.mark.parametrize("reading", ["stream", "mixing", "theory"])
def test_margins_are_those_of_the_blocks(model, reading):
    found = lens(model, IDS, reading, directions=True)
    assert found.attrs["reading"] == reading
    path = streams(model, IDS)
    for layer in range(len(model.layers)):
        blocks = attention_blocks(
            model.config, model.layers[layer], path[layer], np.arange(11), reading=reading
        )
        values = np.linalg.svd(np.asarray(blocks, float), compute_uv=False)
        here = found.sel(layer=layer)
        np.testing.assert_allclose(here.sigma_min, values[:, -1], rtol=1e-4)
        np.testing.assert_allclose(here.sigma_max, values[:, 0], rtol=1e-4)
        sign, log_det = np.linalg.slogdet(np.asarray(blocks, float))
        np.testing.assert_array_equal(here.sign, sign)
        np.testing.assert_allclose(here.log_det, log_det, atol=1e-3)
        along = np.einsum("nij,nj->ni", blocks, here.v_min)
        np.testing.assert_allclose(np.linalg.norm(along, axis=-1), here.sigma_min, rtol=0.02)


def test_what_is_known_of_a_token(model):
    found = lens(model, IDS)
    rows = np.asarray(jax.nn.log_softmax(logits(model, IDS)), float)
    np.testing.assert_allclose(found.loss[:-1], -rows[np.arange(10), IDS[1:]], rtol=1e-4)
    assert np.isnan(found.loss[-1])
    np.testing.assert_allclose(found.entropy, -(np.exp(rows) * rows).sum(-1), rtol=1e-4)
    path = streams(model, IDS)
    alpha = attention_parts(model.config, model.layers[1], path[1]).alpha
    here = found.sel(layer=1)
    np.testing.assert_allclose(here["first"], alpha[..., 0], rtol=1e-5)
    np.testing.assert_allclose(here.own, np.diagonal(alpha, axis1=1, axis2=2), rtol=1e-5)
    assert abs(here.attention_entropy[:, 0]).max() == 0
    np.testing.assert_allclose(here.norm, np.linalg.norm(path[1], axis=-1), rtol=1e-5)
    assert found.token_id.values.tolist() == IDS.tolist()


def test_a_long_text_is_cut_into_windows_each_by_itself(model):
    whole = lens(model, IDS, window=4)
    assert whole["window"].values.tolist() == [0] * 4 + [1] * 4 + [2] * 3
    second = lens(model, IDS[4:8])
    for name in ("sigma_min", "log_det", "norm", "entropy", "first"):
        np.testing.assert_allclose(
            whole[name].isel(position=slice(4, 8)), second[name], rtol=1e-4, atol=1e-6
        )
    # The token after a window is known, though it is not in it.
    rows = jax.nn.log_softmax(logits(model, IDS[4:8]))
    np.testing.assert_allclose(whole.loss[7], -rows[3, IDS[8]], rtol=1e-4)
    assert np.isnan(whole.loss).sum() == 1


def test_more_positions_than_are_looked_at_at_once(model):
    ids = np.resize(IDS, BLOCKS_AT_ONCE + 3)
    many, few = lens(model, ids, layers=[1]), lens(model, ids[:5], layers=[1])
    np.testing.assert_allclose(many.sigma_min[:, :5], few.sigma_min, rtol=1e-4)
    assert many.sizes["position"] == BLOCKS_AT_ONCE + 3


def test_chosen_layers_are_those_of_all(model):
    whole, last = lens(model, IDS), lens(model, IDS, layers=[1])
    assert last["layer"].values.tolist() == [1]
    np.testing.assert_array_equal(whole.sigma_min.sel(layer=[1]), last.sigma_min)


def test_weights_that_overflow_give_nan_and_not_a_margin(model):
    layer = model.layers[1]
    huge = dataclasses.replace(layer.query, weight=layer.query.weight * 1e38)
    broken = dataclasses.replace(
        model, layers=(model.layers[0], dataclasses.replace(layer, query=huge))
    )
    found = lens(broken, IDS)
    assert np.isnan(found.sigma_min.sel(layer=1)).any()
    assert not np.isnan(found.sigma_min.sel(layer=0)).any()
    with pytest.raises(InputError, match="overflows"):
        support_tokens(found)


def test_support_tokens_are_the_smallest_margins_of_each_layer(model):
    found = lens(model, IDS)
    for kind in ("sigma_min", "log_det"):
        some = support_tokens(found, 3, kind)
        for layer in (0, 1):
            values = found[kind].sel(layer=layer).values
            assert some.position.sel(layer=layer).values.tolist() == np.argsort(values)[:3].tolist()
            np.testing.assert_array_equal(some.margin.sel(layer=layer), np.sort(values)[:3])
            assert some.token.sel(layer=layer).values.tolist() == [
                found.token.values[one] for one in some.position.sel(layer=layer).values
            ]


def test_it_says_before_it_starts_what_it_takes(model, capsys):
    lens(model, IDS, progress=True)
    first = capsys.readouterr().err.splitlines()[0]
    assert first.startswith("22 blocks of width ")
    assert " s on this machine" in first
    assert " GiB" in first


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        (IDS, {"reading": "strem"}, "reading: expected one of stream"),
        (IDS, {"layers": [2]}, "layers: expected numbers from 0 to 1"),
        (IDS, {"layers": [0, 0]}, "layers: expected numbers from 0 to 1, each once"),
        (IDS, {"layers": []}, "layers: expected numbers"),
        (IDS, {"window": 1}, "window: expected 2 to"),
        ([[1, 2]], {}, "text: expected a str or token ids"),
        ([1.0, 2.0], {}, "text: expected a str or token ids"),
        ([], {}, "text: expected at least one token, got none"),
        ([[1], [2, 3]], {}, "text: expected a str or token ids"),
        ([1, 10**6], {}, "tokens: expected ids from 0 to"),
        ("words", {}, "the model has no tokenizer"),
    ],
)
def test_bad_input_is_one_line(model, text, options, message):
    with pytest.raises(InputError, match=message) as raised:
        lens(model, text, **options)
    assert "\n" not in str(raised.value)


def test_what_is_no_model_or_no_dataset_is_one_line():
    with pytest.raises(InputError, match="model: expected one of `load_transformer`, got str"):
        lens("model.gguf", IDS)
    for function in (support_tokens, page_of):
        with pytest.raises(InputError, match="found: expected a dataset of `lens`, got int"):
            function(3)


@pytest.mark.parametrize(("k", "kind"), [(0, "sigma_min"), (12, "sigma_min"), (3, "margin")])
def test_bad_choices_of_support_tokens(model, k, kind):
    with pytest.raises(InputError, match="expected"):
        support_tokens(lens(model, IDS, layers=[0]), k, kind)
