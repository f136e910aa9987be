"""GPT-NeoX and Pythia: rotation of a part of each head, and MLPs beside the attention."""

from typing import Any

import numpy as np

from probattn.lens.rotation import rotation_of
from probattn.lens.settings import Settings
from probattn.lens.transformer import Configuration, Layer, Linear
from probattn.lens.weights import Weights


def gpt_neox_configuration(settings: Settings) -> Configuration:
    """The configuration from the fields of config.json."""
    width, heads = settings.width_and_heads("hidden_size", "num_attention_heads")
    rotation: Any = rotation_of(settings, width // heads, "rotary_emb_base", "rotary_pct", 0.25)
    return Configuration(
        family="gpt_neox",
        width=width,
        heads=heads,
        key_heads=heads,
        head_size=width // heads,
        context=settings.integer("max_position_embeddings"),
        windows=(None,) * settings.layers("num_hidden_layers"),
        norm="layer",
        epsilon=settings.number("layer_norm_eps"),
        activation=settings.activation("hidden_act", "gelu"),
        parallel=settings.flag("use_parallel_residual", True),
        **rotation,
    )


def gpt_neox_layer(
    config: Configuration, settings: Settings, weights: Weights, number: int
) -> Layer:
    """Layer `number`, counted from 0."""
    width, name = config.width, f"layers.{number}"
    hidden, bias = settings.integer("intermediate_size"), settings.flag("attention_bias", True)
    query, key, value = _by_head(
        config, weights.linear(f"{name}.attention.query_key_value", 3 * width, width, bias)
    )
    return Layer(
        attention_norm=weights.norm(f"{name}.input_layernorm", width),
        query=query,
        key=key,
        value=value,
        output=weights.linear(f"{name}.attention.dense", width, width, bias),
        mlp_norm=weights.norm(f"{name}.post_attention_layernorm", width),
        up=weights.linear(f"{name}.mlp.dense_h_to_4h", hidden, width),
        down=weights.linear(f"{name}.mlp.dense_4h_to_h", width, hidden),
    )


def _by_head(config: Configuration, fused: Linear) -> list[Linear]:
    """Query, key and value from one matrix that has the three of each head together."""
    parts = (config.heads, 3, config.head_size)
    weight = np.asarray(fused.weight).reshape(*parts, config.width)  # (h, 3, r, i)
    bias = None if fused.bias is None else np.asarray(fused.bias).reshape(parts)  # (h, 3, r)
    return [
        Linear(
            weight[:, one].reshape(-1, config.width),
            None if bias is None else bias[:, one].reshape(-1),
        )
        for one in range(3)
    ]
