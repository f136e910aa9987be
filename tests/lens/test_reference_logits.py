"""Logits of each family against those of transformers, from files, from memory and live."""

import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location

import jax
import ml_dtypes
import numpy as np
import pytest
from references import MODELS, REFERENCE, expected, pair
from safetensors.numpy import save_file

from probattn.lens import load_transformer, logits

# Logits are of size 3 to 5. Rounding in another order makes differences of 1e-6 to 5e-6, some tens
# of machine epsilons (1.2e-7) of them after two layers; a wrong formula changes the first digit.
TOLERANCE = 1e-4


@pytest.mark.parametrize("name", MODELS)
def test_logits_are_those_of_transformers(name):
    tokens, theirs = expected(name)
    model = load_transformer(REFERENCE / name)
    np.testing.assert_allclose(logits(model, tokens), theirs, rtol=0, atol=TOLERANCE)
    assert {leaf.dtype for leaf in jax.tree.leaves(model)} == {np.dtype("float32")}


def test_every_family_has_a_reference():
    from probattn.lens.families import FAMILIES

    assert {pair(name)[0]["model_type"] for name in MODELS} == set(FAMILIES)


@pytest.mark.parametrize("name", MODELS)
def test_names_may_lack_their_prefix_and_buffers_are_left_out(name):
    fields, arrays = pair(name)
    bare = {
        key.removeprefix("transformer.").removeprefix("gpt_neox.").removeprefix("model."): value
        for key, value in arrays.items()
    }
    bare |= {"h.0.attn.bias": np.ones((1, 1, 4, 4), bool), "layers.0.rotary_emb.inv_freq": 0}
    tokens, theirs = expected(name)
    found = logits(load_transformer((fields, bare)), tokens)
    np.testing.assert_allclose(found, theirs, rtol=0, atol=TOLERANCE)


OLDER = {
    "gpt_neox": {"rotary_pct": 0.25, "rotary_emb_base": 100.0, "rope_scaling": None},
    "llama3": {
        "rope_theta": 500.0,
        "rope_scaling": {
            "type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32,
        },
    },
}


@pytest.mark.parametrize("name", OLDER)
def test_older_configurations_have_the_rotation_in_fields_of_their_own(name):
    fields, arrays = pair(name)
    fields = {key: value for key, value in fields.items() if key != "rope_parameters"}
    tokens, theirs = expected(name)
    found = logits(load_transformer((fields | OLDER[name], arrays)), tokens)
    np.testing.assert_allclose(found, theirs, rtol=0, atol=TOLERANCE)


def test_older_configurations_have_windows_without_kinds_of_layers():
    fields, arrays = pair("qwen2_windowed")
    del fields["layer_types"]
    assert load_transformer((fields, arrays)).config.windows == (None, 5)
    fields["use_sliding_window"] = False
    assert load_transformer((fields, arrays)).config.windows == (None, None)


def test_a_tied_readout_is_the_embedding_also_where_the_file_has_one():
    fields, arrays = pair("llama_biased")
    assert "lm_head.weight" not in arrays
    arrays["lm_head.weight"] = np.zeros_like(arrays["model.embed_tokens.weight"])
    model = load_transformer((fields, arrays))
    assert model.readout is model.embedding


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_other_floats_become_float32(dtype, tmp_path):
    fields, arrays = pair("llama")
    arrays = {name: array.astype(dtype) for name, array in arrays.items()}
    (tmp_path / "config.json").write_text((REFERENCE / "llama" / "config.json").read_text())
    save_file(arrays, tmp_path / "model.safetensors")
    tokens, _ = expected("llama")
    widened = {name: array.astype(np.float32) for name, array in arrays.items()}
    from_file, from_memory, exact = (
        logits(load_transformer(one), tokens)
        for one in (tmp_path, (fields, arrays), (fields, widened))
    )
    np.testing.assert_array_equal(from_file, exact)
    np.testing.assert_array_equal(from_memory, exact)


def test_a_folder_may_be_in_shards(tmp_path):
    import json

    fields, arrays = pair("gpt2")
    names = sorted(arrays)
    files = {"one.safetensors": names[::2], "two.safetensors": names[1::2]}
    for file, part in files.items():
        save_file({name: arrays[name] for name in part}, tmp_path / file)
    (tmp_path / "config.json").write_text(json.dumps(fields))
    tokens, theirs = expected("gpt2")
    for index in (None, {name: file for file, part in files.items() for name in part}):
        if index is not None:
            text = json.dumps({"metadata": {}, "weight_map": index})
            (tmp_path / "model.safetensors.index.json").write_text(text)
        found = logits(load_transformer(tmp_path), tokens)
        np.testing.assert_allclose(found, theirs, rtol=0, atol=TOLERANCE)


def test_the_readout_of_gpt_neox_has_another_name_in_memory():
    fields, arrays = pair("gpt_neox")
    arrays["lm_head.weight"] = arrays.pop("embed_out.weight")
    tokens, theirs = expected("gpt_neox")
    found = logits(load_transformer((fields, arrays)), tokens)
    np.testing.assert_allclose(found, theirs, rtol=0, atol=TOLERANCE)


def test_tensors_are_copied():
    fields, arrays = pair("qwen3")
    model = load_transformer((fields, arrays))
    before = np.asarray(model.embedding).copy()
    for array in arrays.values():
        array[...] = 0
    np.testing.assert_array_equal(model.embedding, before)
    assert all(np.asarray(leaf).any() for leaf in jax.tree.leaves(model))


class Tensor:
    """What a tensor of torch offers, without torch: numpy sees it only once it is detached."""

    def __init__(self, array, steps=()):
        self.array, self.steps = array, steps

    def detach(self):
        return Tensor(self.array, (*self.steps, "detach"))

    def cpu(self):
        return Tensor(self.array, (*self.steps, "cpu"))

    def is_floating_point(self):
        return self.array.dtype.kind == "f"

    def float(self):
        return Tensor(self.array.astype(np.float32), (*self.steps, "float"))

    def __array__(self, dtype=None, copy=None):
        assert self.steps == ("detach", "cpu", "float")
        return self.array


def test_tensors_in_memory_need_no_torch():
    fields, arrays = pair("gpt_neox")
    tokens, theirs = expected("gpt_neox")
    model = load_transformer((fields, {name: Tensor(one) for name, one in arrays.items()}))
    np.testing.assert_allclose(logits(model, tokens), theirs, rtol=0, atol=TOLERANCE)


def test_loading_does_not_import_what_it_does_not_need():
    code = (
        "import sys, numpy as np; sys.path.insert(0, 'tests/lens'); from references import pair;"
        "from probattn.lens import load_transformer, logits;"
        "logits(load_transformer(pair('gpt2')), [1, 2]);"
        "print({'torch', 'transformers', 'tokenizers', 'gguf', 'numpyro'} & set(sys.modules))"
    )
    root = REFERENCE.parent.parent.parent
    command = [sys.executable, "-c", code]
    ran = subprocess.run(command, capture_output=True, text=True, check=True, cwd=root)
    assert ran.stdout == "set()\n"


def test_new_random_models_agree_live():
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers")
    spec = spec_from_file_location("make_reference", REFERENCE / "make_reference.py")
    made = module_from_spec(spec)
    spec.loader.exec_module(made)
    for number, (name, configuration) in enumerate(made.configurations().items()):
        theirs = made.random_model(configuration, 100 + number)
        tokens, scores = made.tokens_and_logits(theirs, 100 + number)
        ours = load_transformer((theirs.config.to_dict(), theirs.state_dict()))
        np.testing.assert_allclose(
            logits(ours, tokens.numpy()), scores.numpy(), rtol=0, atol=TOLERANCE, err_msg=name
        )
        half = theirs.to(torch.bfloat16)  # numpy has no such type
        ours = load_transformer((half.config.to_dict(), half.state_dict()))
        assert {leaf.dtype for leaf in jax.tree.leaves(ours)} == {np.dtype("float32")}
