"""What is no model, or no model that is known: one line that says which file or tensor, and why."""

import json
import sys

import numpy as np
import pytest
from gguf_files import write_gguf
from references import REFERENCE, pair

from probattn import InputError
from probattn.lens import encode, load_transformer


@pytest.fixture
def folder(tmp_path):
    """A copy of the model qwen3."""
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((REFERENCE / "qwen3" / name).read_bytes())
    return tmp_path


def refused(source, says, **options):
    with pytest.raises(InputError, match=says) as caught:
        load_transformer(source, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("family", ["mixtral", "gemma2", "phi3", "opt", "bert", "qwen3_moe", 3])
def test_other_families_are_named_with_those_that_are_known(family):
    fields, arrays = pair("llama")
    known = "gpt2, gpt_neox, llama, mistral, qwen2, qwen3"
    refused(
        (fields | {"model_type": family}, arrays),
        f"config: model_type: expected a known one, {known}, got {family!r}",
    )


REQUIRED_FIELDS = {
    "gpt2": ["n_embd", "n_head", "n_layer", "n_positions", "vocab_size", "layer_norm_epsilon"],
    "gpt_neox": ["hidden_size", "intermediate_size", "layer_norm_eps", "max_position_embeddings"],
    "llama": ["model_type", "hidden_size", "num_hidden_layers", "rms_norm_eps", "vocab_size"],
    "llama3": ["max_position_embeddings", "intermediate_size", "num_attention_heads"],
}


@pytest.mark.parametrize("name", REQUIRED_FIELDS)
def test_missing_fields_are_named(name):
    fields, arrays = pair(name)
    for field in REQUIRED_FIELDS[name]:
        left = {key: value for key, value in fields.items() if key != field}
        refused((left, arrays), f"config: expected a field {field}, found none")


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        ("gpt2", {"n_head": 3}, "n_embd: expected a multiple of n_head, 3, got 16"),
        ("gpt2", {"n_head": "4"}, "config: n_head: expected a whole number of at least 1, got '4'"),
        ("gpt2", {"layer_norm_epsilon": "x"}, "layer_norm_epsilon: expected a number, got 'x'"),
        ("gpt2", {"layer_norm_epsilon": -1.0}, "expected a finite number > 0, got -1.0"),
        ("gpt2", {"activation_function": "relu"}, "activation_function: expected one of gelu, .*"),
        ("gpt2", {"scale_attn_weights": False}, "scale_attn_weights: expected true"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "idx: expected false.*, got True"),
        ("gpt2", {"tie_word_embeddings": "no"}, "tie_word_embeddings: expected true or false"),
        ("gpt_neox", {"num_attention_heads": 5}, "hidden_size: expected a multiple of .*, 5"),
        (
            "gpt_neox",
            {"rope_parameters": {"partial_rotary_factor": 0.4}},
            "rotary_pct: expected a share of the 8 components of a head, an even number, got 0.4",
        ),
        (
            "llama",
            {"num_hidden_layers": 2**31 - 1},
            "expected at most 10000 layers, got 2147483647",
        ),
        ("llama", {"num_key_value_heads": 3}, "multiple of num_key_value_heads, 3, got 4"),
        ("llama", {"rope_parameters": [1]}, "rope_parameters: expected an object with fields"),
        ("llama", {"rope_parameters": {"rope_type": "yarn"}}, "rope_type: expected .*, got 'yarn'"),
        (
            "llama",
            {"rope_parameters": None, "rope_scaling": {"type": "linear", "factor": 2.0}},
            "config: rope_scaling: rope_type: expected default or llama3, .*, got 'linear'",
        ),
        ("llama", {"partial_rotary_factor": 0.5, "rope_parameters": None}, "expected 1, the one"),
        ("llama3", {"rope_parameters": {"rope_type": "llama3"}}, "expected a field factor, found"),
        ("qwen2_windowed", {"layer_types": ["full_attention"]}, "layer_types: expected 2 words"),
        ("llama", {"quantization_config": {"bits": 4}}, "expected a model that is not quantised"),
    ],
)
def test_fields_that_do_not_fit_are_refused(name, change, says):
    fields, arrays = pair(name)
    refused((fields | change, arrays), says)


@pytest.mark.parametrize("name", ["gpt2", "gpt_neox", "llama", "qwen2", "qwen3"])
def test_each_missing_tensor_is_named(name):
    fields, arrays = pair(name)
    for key in arrays:
        left = {other: array for other, array in arrays.items() if other != key}
        refused((fields, left), f"^arrays: expected a tensor {key}, found none$")


@pytest.mark.parametrize("name", ["gpt2", "gpt_neox", "llama_biased", "qwen3"])
def test_each_tensor_of_another_shape_or_not_finite_is_named(name):
    fields, arrays = pair(name)
    for key, array in arrays.items():
        wider = np.zeros((*array.shape[:-1], array.shape[-1] + 1), np.float32)
        shapes = rf"tensor {key}: expected shape \({array.shape[0]},.*\), got \({wider.shape[0]},"
        refused((fields, arrays | {key: wider}), shapes)
        bad = array.copy()
        bad.flat[-1] = np.inf if array.ndim == 1 else np.nan
        refused((fields, arrays | {key: bad}), f"tensor {key}: expected finite numbers, got NaN")


def test_tensors_that_are_no_floats_or_that_nothing_uses_are_refused():
    fields, arrays = pair("llama")
    packed = arrays["lm_head.weight"].astype(np.int8)
    says = "tensor lm_head.weight: expected floats of 16, 32 or 64 bits, got int8; for a quantised"
    refused((fields, arrays | {"lm_head.weight": packed}), says)
    refused(
        (fields, arrays | {"model.layers.0.self_attn.q_proj.bias": np.ones(32)}),
        "^arrays: tensors that this family does not have: model.layers.0.self_attn.q_proj.bias$",
    )
    refused(
        (fields, arrays | {f"adapter.{n}": np.ones(1) for n in range(5)}),
        "adapter.0, adapter.1, adapter.2 and 2 more$",
    )
    big = arrays["lm_head.weight"].astype(np.float64) * 1e300
    refused((fields, arrays | {"lm_head.weight": big}), "lm_head.weight: expected finite numbers")


def test_a_vocabulary_that_does_not_fit_is_refused():
    fields, arrays = pair("gpt2")
    says = r"tensor transformer.wte.weight: expected shape \(50257, 16\), got \(48, 16\)"
    refused((fields | {"vocab_size": 50257}, arrays), says)


@pytest.mark.parametrize("kept", [0, 4, 8, 100, 3000, 0.5, 0.999])
def test_a_safetensors_file_that_is_cut_off_is_refused(folder, kept):
    path = folder / "model.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[: kept if isinstance(kept, int) else int(kept * len(content))])
    refused(folder, "model.safetensors: cannot be read as safetensors; get it again")


@pytest.mark.parametrize("text", ["", "{", "no", "\ufeff\udcff", "[" * 100_000])
def test_a_config_that_is_no_json_is_refused(folder, text):
    (folder / "config.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    refused(folder, "config.json: expected JSON, got: ")
    (folder / "config.json").write_text("[1]")
    refused(folder, "config.json: expected a JSON object, got list")


def test_folders_and_files_that_are_no_models_are_refused(folder, tmp_path):
    refused(tmp_path / "none", "none: expected a folder or a .gguf file, found nothing")
    refused(folder / "model.safetensors", "got another kind of file; give its folder")
    (tmp_path / "empty.gguf").write_bytes(b"")
    refused(tmp_path / "empty.gguf", "expected a folder or a GGUF file, got another kind of file$")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "empty: expected config.json in it, found none$")
    write_gguf(tmp_path / "empty" / "model.gguf", "llama")
    refused(tmp_path / "empty", "found none; give the file model.gguf in it")
    for source in (3, None, (1, 2), ({}, {}, {})):
        refused(source, "source: expected a ")


def test_pickled_weights_are_refused_and_not_loaded(folder):
    (folder / "model.safetensors").unlink()
    refused(folder, r"expected \*.safetensors in it, found none")
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    refused(folder, "found only pickled weights, which can run code .*; convert them to safeten")


def test_an_index_names_files_of_its_folder(folder, tmp_path):
    index = folder / "model.safetensors.index.json"
    for content, says in (
        ({}, "expected a weight_map of names to files, found none"),
        ({"weight_map": {"a": 3}}, "expected a weight_map of names to files, found none"),
        ({"weight_map": {"a": "gone.safetensors"}}, "gone.safetensors: cannot be read as safe"),
        ({"weight_map": {"a": "/etc/gone.safetensors"}}, f"{folder}/gone.safetensors: cannot"),
    ):
        index.write_text(json.dumps(content))
        refused(folder, says)


@pytest.mark.parametrize("package", ["safetensors", "gguf"])
def test_a_missing_package_says_how_to_install_it(folder, tmp_path, monkeypatch, package):
    path = write_gguf(tmp_path / "model.gguf", "llama")
    monkeypatch.setitem(sys.modules, package, None)
    says = rf'expected the package {package}, which is not installed: pip install "probattn\[lens\]'
    refused(path if package == "gguf" else folder, says)


def test_without_the_package_of_tokenizers_weights_load_and_text_does_not(folder, monkeypatch):
    (folder / "tokenizer.json").write_text("{}")
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    model = load_transformer(folder)
    with pytest.raises(InputError, match=r'pip install "probattn\[lens\]"; give token ids in its'):
        encode(model, "text")
    refused(folder, "expected the package tokenizers", tokenizer=folder)
