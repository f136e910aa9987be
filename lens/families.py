"""The families of models that are known, and a model from its configuration and its tensors."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from probattn.errors import InputError
from probattn.lens.gpt2 import gpt2_configuration, gpt2_layer
from probattn.lens.gpt_neox import gpt_neox_configuration, gpt_neox_layer
from probattn.lens.llama_like import llama_like_configuration, llama_like_layer
from probattn.lens.settings import Settings
from probattn.lens.transformer import Configuration, Layer, Tokenization, Transformer
from probattn.lens.weights import Weights


@dataclass(frozen=True)
class Family:
    """How the models of a family are read: names of their tensors, and their parts."""

    configuration: Callable[[Settings], Configuration]
    layer: Callable[[Configuration, Settings, Weights, int], Layer]
    prefix: str  # before all names but that of the readout, in some files
    embedding: str
    final_norm: str
    readout: tuple[str, ...]  # in memory it has another name than in files, in some versions
    position: str | None = None
    tied: bool = False  # whether the readout is the embedding where the configuration does not say


GPT2 = Family(
    gpt2_configuration,
    gpt2_layer,
    prefix="transformer.",
    embedding="wte.weight",
    final_norm="ln_f",
    readout=("lm_head.weight",),
    position="wpe.weight",
    tied=True,
)
GPT_NEOX = Family(
    gpt_neox_configuration,
    gpt_neox_layer,
    prefix="gpt_neox.",
    embedding="embed_in.weight",
    final_norm="final_layer_norm",
    readout=("embed_out.weight", "lm_head.weight"),
)
LLAMA_LIKE = Family(
    llama_like_configuration,
    llama_like_layer,
    prefix="model.",
    embedding="embed_tokens.weight",
    final_norm="norm",
    readout=("lm_head.weight",),
)
FAMILIES = {
    "gpt2": GPT2,
    "gpt_neox": GPT_NEOX,
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3"), LLAMA_LIKE),
}


def build_transformer(
    fields: Mapping[str, Any],
    arrays: Mapping[str, Any],
    tokenization: Tokenization,
    config_source: str,
    arrays_source: str,
) -> Transformer:
    """A model from the fields of its config.json and its tensors by their names.

    Args: fields; arrays; tokenization; what messages call the fields and the arrays.

    Raises: InputError for a family that is not known, and for fields and tensors that are missing,
        of another kind or shape, or that this family does not have.
    """
    settings = Settings(fields, config_source)
    kind = settings.get("model_type")
    if not isinstance(kind, str) or kind not in FAMILIES:
        raise settings.refused("model_type", f"a known one, {', '.join(FAMILIES)}", kind)
    if settings.get("quantization_config", None) is not None:
        raise InputError(
            f"{config_source}: quantization_config: expected a model that is not quantised; take "
            "its original weights or a GGUF file"
        )
    family = FAMILIES[kind]
    config = family.configuration(settings)
    weights = Weights(arrays, arrays_source, family.prefix)
    vocab, width = settings.integer("vocab_size"), config.width
    tied = settings.flag("tie_word_embeddings", family.tied)
    embedding = _in_jax(weights.take(family.embedding, vocab, width))
    position = family.position and _in_jax(weights.take(family.position, config.context, width))
    # Layer by layer, so that only one is held twice.
    layers = tuple(
        _in_jax(family.layer(config, settings, weights, number))
        for number in range(len(config.windows))
    )
    final_norm = _in_jax(weights.norm(family.final_norm, width, bias=config.norm == "layer"))
    readout = embedding
    if not tied:
        name = next((one for one in family.readout if one in arrays), family.readout[0])
        readout = _in_jax(weights.take(name, vocab, width, prefixed=False))
    weights.refuse_others(*(family.readout if tied else ()))
    _check_vocabulary(tokenization, vocab, arrays_source)
    return Transformer(config, embedding, position, layers, final_norm, readout, tokenization)


def _in_jax(tree: Any) -> Any:
    """Copies of the arrays: those of a file or of torch may change afterwards."""
    return jax.tree.map(jnp.array, tree)


def _check_vocabulary(tokenization: Tokenization, vocab: int, source: str) -> None:
    if tokenization.tokenizer is None:
        return
    last = max(tokenization.tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)
    if last >= vocab:
        raise InputError(
            f"{source}: expected a tokenizer with ids below {vocab}, the rows of the embedding, "
            f"got id {last}; give the model's own tokenizer"
        )
