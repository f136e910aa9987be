"""GGUF files against the safetensors of the same model, exact and quantised."""

import gguf
import numpy as np
import pytest
from gguf_files import write_gguf
from references import REFERENCE, expected, pair

from probattn import InputError
from probattn.lens import load_transformer, logits
from probattn.lens.transformer import FrequencyDivisors

SAME = ["llama", "llama_biased", "qwen2", "qwen3"]


@pytest.mark.parametrize("name", SAME)
def test_a_file_in_float32_is_its_safetensors_twin(name, tmp_path):
    """Biases, norms of heads, tied and separate readouts, and pairs side by side for llama."""
    model = load_transformer(write_gguf(tmp_path / "model.gguf", name))
    tokens, theirs = expected(name)
    np.testing.assert_allclose(logits(model, tokens), theirs, rtol=0, atol=1e-4)
    twin = load_transformer(REFERENCE / name)
    for ours, other in zip(model.layers, twin.layers, strict=True):
        np.testing.assert_array_equal(ours.query.weight, other.query.weight)
        np.testing.assert_array_equal(ours.key.weight, other.key.weight)


@pytest.mark.parametrize("name", ["llama", "qwen2"])
def test_a_quantised_file_is_near_its_safetensors_twin(name, tmp_path):
    """A block of Q8_0 keeps its 32 entries to 1/254 of the largest: two digits of each weight."""
    model = load_transformer(write_gguf(tmp_path / "model.gguf", name, kind="Q8_0"))
    twin = load_transformer(REFERENCE / name)
    for ours, other in zip(model.layers, twin.layers, strict=True):
        for part in ("query", "key", "value", "output", "up", "gate", "down"):
            one, exact = (np.asarray(getattr(layer, part).weight) for layer in (ours, other))
            blocks = abs(exact).reshape(-1, 32).max(1).repeat(32).reshape(exact.shape)
            # Half a step of the block, whose size is rounded to float16, of 11 bits.
            assert (abs(one - exact) <= blocks / 127 * (0.5 + 127 * 2**-11)).all()
            assert (one != exact).any()
    tokens, theirs = expected(name)
    difference = abs(np.asarray(logits(model, tokens)) - theirs).max()
    assert (
        1e-4 < difference < 0.5
    )  # logits are of size 4; a wrong layout gives differences as large


def test_the_divisors_of_llama_3_are_its_scaling(tmp_path):
    """The converter writes f / f_scaled, with f_scaled from the formula of Llama 3."""
    fields, _ = pair("llama3")
    rope, size = fields["rope_parameters"], fields["head_dim"]
    divisors = []
    for k in range(size // 2):
        wavelength = 2 * np.pi * rope["rope_theta"] ** (2 * k / size)
        turns = rope["original_max_position_embeddings"] / wavelength
        low, high, factor = rope["low_freq_factor"], rope["high_freq_factor"], rope["factor"]
        smooth = (turns - low) / (high - low)
        mixed = 1 / ((1 - smooth) / factor + smooth)
        divisors.append(1 if turns > high else factor if turns < low else mixed)
    assert len({round(one, 6) for one in divisors}) > 3  # all three cases are there
    path = write_gguf(
        tmp_path / "model.gguf",
        "llama3",
        tensors={"rope_freqs.weight": np.asarray(divisors, np.float32)},
    )
    model = load_transformer(path)
    assert isinstance(model.config.rotary_scaling, FrequencyDivisors)
    tokens, theirs = expected("llama3")
    np.testing.assert_allclose(logits(model, tokens), theirs, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"arch": "gemma"}, "general.architecture: expected one of llama, qwen2, qwen3, got 'gem"),
        ({"llama.expert_count": 8}, "llama.expert_count: expected none, got 8"),
        ({"llama.attention.sliding_window": 5}, "attention.sliding_window: expected none, got 5"),
        ({"llama.rope.scaling.type": "yarn"}, "rope_type: expected default or llama3, .* 'yarn'"),
        ({"llama.rope.dimension_count": 4}, "rope.dimension_count: expected 8, .*, got 4"),
        ({"llama.attention.head_count_kv": [2, 2]}, r"num_key_value_heads: expected a whole"),
        ({"without": ["llama.block_count"]}, "expected a field llama.block_count, found none"),
        ({"without": ["blk.1.ffn_up.weight"]}, "a tensor blk.1.ffn_up.weight, found none"),
        (
            {"without": ["token_embd.weight"]},
            "expected a field vocab_size|token_embd.weight, found",
        ),
        (
            {"tensors": {"blk.0.attn_k.weight": np.ones((8, 32), np.float32)}},
            r"tensor blk.0.attn_k.weight: expected shape \(16, 32\), got \(8, 32\)",
        ),
        (
            {"tensors": {"output_norm.weight": np.full(32, np.nan, np.float32)}},
            "tensor output_norm.weight: expected finite numbers",
        ),
        (
            {"tensors": {"blk.0.ffn_gate_inp.weight": np.ones((2, 32), np.float32)}},
            "tensors that this family does not have: blk.0.ffn_gate_inp.weight",
        ),
        ({"llama.vocab_size": 50}, r"tensor token_embd.weight: expected shape \(50, 32\)"),
    ],
)
def test_a_file_that_is_no_model_of_ours_is_refused(change, says, tmp_path):
    path = write_gguf(tmp_path / "model.gguf", "llama", **change)
    with pytest.raises(InputError, match=says) as caught:
        load_transformer(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kept", [4, 10, 40, 400, 4000, 0.5, 0.99])
def test_a_file_that_is_cut_off_is_refused(kept, tmp_path):
    path = write_gguf(tmp_path / "model.gguf", "llama")
    content = path.read_bytes()
    path.write_bytes(content[: kept if isinstance(kept, int) else int(kept * len(content))])
    with pytest.raises(InputError, match="cannot be read as GGUF and may be cut off") as caught:
        load_transformer(path)
    assert "\n" not in str(caught.value)


def test_types_that_the_library_cannot_read_are_refused(tmp_path, monkeypatch):
    def refuse(*_):
        raise NotImplementedError("no such type")

    path = write_gguf(tmp_path / "model.gguf", "llama")
    monkeypatch.setattr(gguf, "dequantize", refuse)
    with pytest.raises(InputError, match=r"token_embd.weight: cannot be read: no such type"):
        load_transformer(path)
