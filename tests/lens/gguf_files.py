"""GGUF files of the tiny models, as llama.cpp's converter lays them out."""

import gguf
import numpy as np
from references import pair

NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def gguf_name(name):
    stem, end = name.removeprefix("model.layers."), name.rpartition(".")[2]
    if stem == name:
        return f"{NAMES[name.removesuffix('.' + end)]}.{end}"
    number, _, part = stem.partition(".")
    return f"blk.{number}.{NAMES[part.removesuffix('.' + end)]}.{end}"


def side_by_side(rows, heads):
    """Rows of rotated pairs from half a head apart to side by side, one head and pair at a time."""
    size = len(rows) // heads
    order = [
        h * size + k + half
        for h in range(heads)
        for k in range(size // 2)
        for half in (0, size // 2)
    ]
    return rows[order]


def write_gguf(path, name, kind="F32", arch=None, without=(), tensors=None, **fields):
    """The model `name` as a GGUF file; matrices of type `kind`.

    `without` names metadata and tensors to leave out; `fields` are metadata to add, and `tensors`
    are added or take the place of others."""
    config, arrays = pair(name)
    arch = arch or config["model_type"]
    heads, keys = config["num_attention_heads"], config["num_key_value_heads"]
    writer = gguf.GGUFWriter(path, arch)
    metadata = {
        f"{arch}.block_count": config["num_hidden_layers"],
        f"{arch}.context_length": config["max_position_embeddings"],
        f"{arch}.embedding_length": config["hidden_size"],
        f"{arch}.feed_forward_length": config["intermediate_size"],
        f"{arch}.attention.head_count": heads,
        f"{arch}.attention.head_count_kv": keys,
        f"{arch}.attention.layer_norm_rms_epsilon": float(config["rms_norm_eps"]),
        f"{arch}.rope.freq_base": float(config["rope_parameters"]["rope_theta"]),
        f"{arch}.vocab_size": config["vocab_size"],
    }
    if config.get("head_dim"):
        metadata[f"{arch}.attention.key_length"] = config["head_dim"]
    for key, value in (metadata | fields).items():
        if key in without:
            continue
        if isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        elif isinstance(value, float):
            writer.add_float32(key, value)
        elif isinstance(value, str):
            writer.add_string(key, value)
        else:
            writer.add_array(key, value)
    found = {}
    for key, array in arrays.items():
        if arch == "llama" and (".q_proj." in key or ".k_proj." in key):
            array = side_by_side(array, heads if ".q_proj." in key else keys)
        found[gguf_name(key)] = array
    for key, array in (found | (tensors or {})).items():
        if key in without:
            continue
        array = np.ascontiguousarray(array)
        if kind == "F32" or array.ndim == 1:
            writer.add_tensor(key, array)
        else:
            quantised = getattr(gguf.GGMLQuantizationType, kind)
            writer.add_tensor(key, gguf.quantize(array, quantised), raw_dtype=quantised)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
