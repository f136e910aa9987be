"""Tiny random models of each family, and their logits by transformers: the references of the tests.

    python tests/lens/reference/make_reference.py

in an environment with torch and transformers (made with torch 2.13.0 and transformers 5.24.0). Each
folder beside this file gets config.json, model.safetensors, and expected.safetensors with token ids
and logits, all in float32. Every entry is random, biases and gains of norms too, so that one that
is left out or used in another place changes the logits.
"""

import sys
from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file

VOCAB, LENGTH = 48, 24
SMALL = dict(
    vocab_size=VOCAB,
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=2,
    num_attention_heads=4,
    max_position_embeddings=64,
)
GROUPED = SMALL | dict(num_key_value_heads=2)
# Rows of whole blocks of 32, as GGUF's quantised types have.
IN_BLOCKS = GROUPED | dict(hidden_size=32, intermediate_size=32)
LLAMA3 = dict(
    rope_type="llama3",
    rope_theta=500.0,
    factor=8.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=32,
)


def configurations():
    """Configurations by the names of their folders."""
    neox = SMALL | dict(
        hidden_size=32,
        rope_parameters=dict(rope_type="default", rope_theta=100.0, partial_rotary_factor=0.25),
    )
    return {
        "gpt2": transformers.GPT2Config(
            vocab_size=VOCAB, n_embd=16, n_layer=2, n_head=4, n_positions=64
        ),
        "gpt_neox": transformers.GPTNeoXConfig(**neox, use_parallel_residual=True),
        "gpt_neox_serial": transformers.GPTNeoXConfig(**neox, use_parallel_residual=False),
        "llama": transformers.LlamaConfig(**IN_BLOCKS),
        "llama_biased": transformers.LlamaConfig(
            **GROUPED, attention_bias=True, mlp_bias=True, tie_word_embeddings=True
        ),
        "llama3": transformers.LlamaConfig(**GROUPED, rope_parameters=LLAMA3, head_dim=16),
        "mistral": transformers.MistralConfig(**GROUPED, head_dim=8, sliding_window=5),
        "qwen2": transformers.Qwen2Config(**IN_BLOCKS, tie_word_embeddings=True),
        "qwen2_windowed": transformers.Qwen2Config(
            **GROUPED, use_sliding_window=True, sliding_window=5, max_window_layers=1
        ),
        "qwen3": transformers.Qwen3Config(**GROUPED, head_dim=8),
    }


def random_model(configuration, seed):
    """A model whose parameters are all random: weights, biases, and gains of norms about 1."""
    configuration._attn_implementation = "eager"
    model = transformers.AutoModelForCausalLM.from_config(configuration).float().eval()
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=draw)
            if parameter.ndim == 1:
                parameter.copy_(0.5 * noise + parameter)  # norms begin with 1, biases with 0
            else:
                parameter.copy_(noise / parameter.shape[-1] ** 0.5)
    return model


def tokens_and_logits(model, seed):
    """Random token ids (t,), and the logits after each (t, v)."""
    tokens = torch.randint(VOCAB, (LENGTH,), generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        return tokens, model(tokens[None]).logits[0]


def main(folder):
    for number, (name, configuration) in enumerate(configurations().items()):
        model = random_model(configuration, number)
        model.save_pretrained(folder / name)
        (folder / name / "generation_config.json").unlink(missing_ok=True)
        tokens, logits = tokens_and_logits(model, number)
        save_file(
            {"tokens": tokens, "logits": logits.contiguous()},
            folder / name / "expected.safetensors",
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
