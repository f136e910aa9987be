"""The family of Llama: rotation, gated MLPs, and heads that share keys and values.

Llama and SmolLM are the plain ones; Mistral has a window, Qwen2 biases of query, key and value, and
Qwen3 norms of queries and keys.
"""

from typing import Any

from probattn.lens.rotation import rotation_of
from probattn.lens.settings import Settings
from probattn.lens.transformer import Configuration, Layer, Norm
from probattn.lens.weights import Weights

MISTRAL_WINDOW = 4096  # of configurations that do not say
QWEN3_HEAD_SIZE = 128  # likewise
WINDOW_KINDS = ("full_attention", "sliding_attention")


def llama_like_configuration(settings: Settings) -> Configuration:
    """The configuration from the fields of config.json."""
    family = settings.get("model_type")
    width, heads = settings.integer("hidden_size"), settings.integer("num_attention_heads")
    key_heads = settings.integer("num_key_value_heads", heads)
    if heads % key_heads:
        raise settings.refused(
            "num_attention_heads", f"a multiple of num_key_value_heads, {key_heads}", heads
        )
    head_size = settings.integer("head_dim", QWEN3_HEAD_SIZE if family == "qwen3" else None)
    if head_size is None:
        width, heads = settings.width_and_heads("hidden_size", "num_attention_heads")
        head_size = width // heads
    rotation: Any = rotation_of(settings, head_size, "rope_theta", "partial_rotary_factor", 1.0)
    if rotation["rotary"] != head_size:
        raise settings.refused(
            "partial_rotary_factor", "1, the one that is supported", rotation["rotary"] / head_size
        )
    return Configuration(
        family=family,
        width=width,
        heads=heads,
        key_heads=key_heads,
        head_size=head_size,
        context=settings.integer("max_position_embeddings"),
        windows=_windows(settings, family, settings.layers("num_hidden_layers")),
        norm="rms",
        epsilon=settings.number("rms_norm_eps"),
        activation=settings.activation("hidden_act", "silu"),
        **rotation,
    )


def _windows(settings: Settings, family: str, layers: int) -> tuple[int | None, ...]:
    """The window of each layer."""
    if family == "llama":
        return (None,) * layers
    if family == "mistral":
        # Null, as in Mistral's later configurations, is no window; absent is the default one.
        absent = "sliding_window" not in settings.fields
        return (settings.integer("sliding_window", MISTRAL_WINDOW if absent else None),) * layers
    if not settings.flag("use_sliding_window", False):
        return (None,) * layers
    window, first = settings.integer("sliding_window"), settings.get("max_window_layers", layers)
    kinds = settings.get("layer_types", [WINDOW_KINDS[n >= first] for n in range(layers)])
    if not isinstance(kinds, list) or len(kinds) != layers or not set(kinds) <= set(WINDOW_KINDS):
        raise settings.refused(
            "layer_types", f"{layers} words, each {' or '.join(WINDOW_KINDS)}", kinds
        )
    return tuple(window if kind == "sliding_attention" else None for kind in kinds)


def llama_like_layer(
    config: Configuration, settings: Settings, weights: Weights, number: int
) -> Layer:
    """Layer `number`, counted from 0."""
    width, queries = config.width, config.heads * config.head_size
    keys, hidden = config.key_heads * config.head_size, settings.integer("intermediate_size")
    attention, mlp = f"layers.{number}.self_attn", f"layers.{number}.mlp"
    # Qwen2 has biases without saying so, but none of the output matrix.
    asked = config.family in ("llama", "qwen3") and settings.flag("attention_bias", False)
    bias = asked or config.family == "qwen2"
    mlp_bias = config.family == "llama" and settings.flag("mlp_bias", False)

    def head_norm(name: str) -> Norm | None:
        if config.family != "qwen3":
            return None
        return weights.norm(f"{attention}.{name}", config.head_size, bias=False)

    return Layer(
        attention_norm=weights.norm(f"layers.{number}.input_layernorm", width, bias=False),
        query=weights.linear(f"{attention}.q_proj", queries, width, bias),
        key=weights.linear(f"{attention}.k_proj", keys, width, bias),
        value=weights.linear(f"{attention}.v_proj", keys, width, bias),
        output=weights.linear(f"{attention}.o_proj", width, queries, asked),
        mlp_norm=weights.norm(f"layers.{number}.post_attention_layernorm", width, bias=False),
        up=weights.linear(f"{mlp}.up_proj", hidden, width, mlp_bias),
        down=weights.linear(f"{mlp}.down_proj", width, hidden, mlp_bias),
        gate=weights.linear(f"{mlp}.gate_proj", hidden, width, mlp_bias),
        query_norm=head_norm("q_norm"),
        key_norm=head_norm("k_norm"),
    )
