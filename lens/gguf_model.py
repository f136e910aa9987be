"""A GGUF file, read as if it were a folder of config.json and safetensors."""

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from probattn.errors import InputError
from probattn.lens.gguf_tokenizer import tokenization_of_metadata
from probattn.lens.optional import package
from probattn.lens.transformer import Tokenization

ARCHITECTURES = ("llama", "qwen2", "qwen3")
# Fields of config.json, each by what follows the architecture in GGUF's name of it.
FIELDS = {
    "hidden_size": "embedding_length",
    "num_hidden_layers": "block_count",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "head_dim": "attention.key_length",
    "intermediate_size": "feed_forward_length",
    "max_position_embeddings": "context_length",
    "rms_norm_eps": "attention.layer_norm_rms_epsilon",
    "rope_theta": "rope.freq_base",
    "vocab_size": "vocab_size",
}
MAY_BE_ABSENT = ("num_key_value_heads", "head_dim", "rope_theta", "vocab_size")
# Names of tensors, without the number of the layer and without .weight or .bias.
TENSORS = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
SPELLED = {theirs: ours for ours, theirs in TENSORS.items()}
ROWS_TOGETHER = 64
ROTATION_DIVISORS = "rope_freqs.weight"  # of Llama 3's scaling


class GgufModel(Mapping[str, np.ndarray]):
    """The tensors of a GGUF file by the names of safetensors files; `fields` is its config.json.

    A tensor is dequantised when it is asked for.

    Raises: InputError for a file that is damaged, and a model of another architecture.
    """

    def __init__(self, path: Path):
        self.path, self.gguf = path, package("gguf")
        try:
            self.reader = self.gguf.GGUFReader(path)
        # What the library does when it reads past the end, or what is no GGUF.
        except (ValueError, IndexError, KeyError, TypeError, OverflowError, OSError) as error:
            raise InputError(
                f"{path}: cannot be read as GGUF and may be cut off; get it again: "
                f"{' '.join(str(error).split())}"
            ) from error
        self.architecture = self.value("general.architecture")
        if self.architecture not in ARCHITECTURES:
            raise InputError(
                f"{path}: general.architecture: expected one of {', '.join(ARCHITECTURES)}, got "
                f"{self.architecture!r}"
            )
        self.tensors = {_in_safetensors(one.name): one for one in self.reader.tensors}
        self.fields = self._fields()

    def value(self, name: str, required: bool = True) -> Any:
        """A field of the metadata. Raises: InputError if it is required and missing."""
        field = self.reader.get_field(name)
        if field is None and required:
            raise InputError(f"{self.path}: expected a field {name}, found none")
        return None if field is None else field.contents()

    def _fields(self) -> dict[str, Any]:
        """The fields that config.json would have."""
        of = self.architecture
        fields = {
            ours: self.value(f"{of}.{theirs}", ours not in MAY_BE_ABSENT)
            for ours, theirs in FIELDS.items()
        }
        for name in ("expert_count", "attention.sliding_window"):
            if found := self.value(f"{of}.{name}", required=False):
                raise InputError(f"{self.path}: {of}.{name}: expected none, got {found!r}")
        width, heads = fields["hidden_size"], fields["num_attention_heads"]
        if fields["head_dim"] is None and isinstance(width, int) and isinstance(heads, int):
            fields["head_dim"] = width // max(heads, 1)
        if fields["vocab_size"] is None and "model.embed_tokens.weight" in self:
            fields["vocab_size"] = int(self.tensors["model.embed_tokens.weight"].shape[-1])
        rotated = self.value(f"{of}.rope.dimension_count", required=False) or fields["head_dim"]
        if rotated != fields["head_dim"]:
            raise InputError(
                f"{self.path}: {of}.rope.dimension_count: expected {fields['head_dim']}, the size "
                f"of a head, got {rotated!r}"
            )
        return fields | {
            "model_type": of,
            "attention_bias": "model.layers.0.self_attn.q_proj.bias" in self,
            "mlp_bias": "model.layers.0.mlp.up_proj.bias" in self,
            "tie_word_embeddings": "lm_head.weight" not in self,
            "rope_scaling": self._scaling(),
        }

    def _scaling(self) -> dict[str, Any]:
        if ROTATION_DIVISORS in self:
            return {"rope_type": "divisors", "divisors": self[ROTATION_DIVISORS].tolist()}
        kind = self.value(f"{self.architecture}.rope.scaling.type", required=False)
        return {"rope_type": "default" if kind in (None, "none") else kind}

    def tokenization(self) -> Tokenization:
        """The tokenizer of the file, or why it cannot be built."""
        return tokenization_of_metadata(self.path, self.value)

    def spelled(self, name: str) -> str:
        """The name of a tensor in the file."""
        found = self.tensors.get(name)
        return _in_gguf(name) if found is None else found.name

    def __contains__(self, name: object) -> bool:
        return name in self.tensors  # a Mapping's own would dequantise it

    def __getitem__(self, name: str) -> np.ndarray:
        tensor = self.tensors[name]
        # The library goes by 16 rows, which is slow where they are short: some are put together.
        rows = math.gcd(len(tensor.data), ROWS_TOGETHER)
        data = tensor.data.reshape(len(tensor.data) // rows, -1)
        try:
            array = self.gguf.dequantize(data, tensor.tensor_type)
            array = array.reshape(tensor.shape[::-1].tolist())
        except (NotImplementedError, ValueError) as error:
            raise InputError(
                f"{self.path}: tensor {tensor.name}: cannot be read: {error}"
            ) from error
        kind = re.search(r"self_attn\.([qk])_proj", name)
        if self.architecture != "llama" or kind is None:
            return array
        heads = self.fields["num_attention_heads"]
        if kind[1] == "k":
            heads = self.fields["num_key_value_heads"] or heads
        return _halves(array, heads)

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)


def _halves(array: np.ndarray, heads: int) -> np.ndarray:
    """Rows of queries or keys with the two of each rotated pair half a head apart.

    For the architecture llama a GGUF file has the two side by side.
    """
    if not isinstance(heads, int) or heads < 1 or len(array) % (2 * heads):
        return array  # refused for its shape, or for the number of heads
    pairs = array.reshape(heads, -1, 2, *array.shape[1:])  # (h, r / 2, 2, i)
    return pairs.swapaxes(1, 2).reshape(array.shape)


def _in_safetensors(name: str) -> str:
    """The name that safetensors files give a tensor of a GGUF file; its own if there is none."""
    return _translated(name, "blk.", "model.layers.", SPELLED)


def _in_gguf(name: str) -> str:
    """The other way round."""
    return _translated(name, "model.layers.", "blk.", TENSORS)


def _translated(name: str, layer: str, other_layer: str, parts: Mapping[str, str]) -> str:
    """A tensor's name in the other spelling; its own if the part is unknown."""
    stem, _, end = name.rpartition(".")
    number = re.match(rf"{re.escape(layer)}(\d+)\.", stem)
    part = parts.get(stem if number is None else stem.removeprefix(number[0]))
    if part is None:
        return name
    return f"{part}.{end}" if number is None else f"{other_layer}{number[1]}.{part}.{end}"
