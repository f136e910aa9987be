"""GPT-2: a table of positions, layer norms, and matrices that are stored inputs first."""

import numpy as np

from probattn.lens.settings import Settings
from probattn.lens.transformer import Configuration, Layer, Linear
from probattn.lens.weights import Weights


def gpt2_configuration(settings: Settings) -> Configuration:
    """The configuration from the fields of config.json."""
    settings.refuse_true("scale_attn_by_inverse_layer_idx", "add_cross_attention")
    if not settings.flag("scale_attn_weights", True):
        raise settings.refused("scale_attn_weights", "true, the one that is supported", False)
    width, heads = settings.width_and_heads("n_embd", "n_head")
    return Configuration(
        family="gpt2",
        width=width,
        heads=heads,
        key_heads=heads,
        head_size=width // heads,
        context=settings.integer("n_positions"),
        windows=(None,) * settings.layers("n_layer"),
        norm="layer",
        epsilon=settings.number("layer_norm_epsilon"),
        activation=settings.activation("activation_function", "gelu_new"),
    )


def gpt2_layer(config: Configuration, settings: Settings, weights: Weights, number: int) -> Layer:
    """Layer `number`, counted from 0."""
    width, name = config.width, f"h.{number}"
    hidden = settings.integer("n_inner", 4 * width)

    def linear(part: str, out: int, into: int) -> Linear:
        return Linear(
            weights.take(f"{name}.{part}.weight", into, out).T,
            weights.take(f"{name}.{part}.bias", out),
        )

    fused = linear("attn.c_attn", 3 * width, width)
    query, key, value = map(
        Linear, np.split(np.asarray(fused.weight), 3), np.split(np.asarray(fused.bias), 3)
    )
    return Layer(
        attention_norm=weights.norm(f"{name}.ln_1", width),
        query=query,
        key=key,
        value=value,
        output=linear("attn.c_proj", width, width),
        mlp_norm=weights.norm(f"{name}.ln_2", width),
        up=linear("mlp.c_fc", hidden, width),
        down=linear("mlp.c_proj", width, hidden),
    )
