"""A pretrained decoder-only transformer: its configuration and its arrays.

Letters in shapes: h head, g key head, r component of a head, i component of the stream, j hidden
unit, v token, p position. A matrix has its outputs first.
"""

import math
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from jax.tree_util import register_dataclass


@dataclass(frozen=True, eq=False)
class Tokenization:
    """How a model turns text into tokens, or why it cannot."""

    tokenizer: Any = None  # of the library tokenizers
    reason: str = "it was loaded without one"  # why the tokenizer is None


@dataclass(frozen=True)
class Llama3Scaling:
    """Llama 3's frequencies for a longer context.

    A frequency f with wavelength 2 pi / f below `original_context / high` stays, one above
    `original_context / low` is divided by `factor`, and in between the two are mixed, linearly in
    f.
    """

    factor: float
    low: float
    high: float
    original_context: int

    def scaled(self, frequencies: list[float]) -> list[float]:
        """The frequencies after scaling."""
        turns = [self.original_context * f / (2 * math.pi) for f in frequencies]
        kept = [min(max((n - self.low) / (self.high - self.low), 0.0), 1.0) for n in turns]
        return [f * (k + (1 - k) / self.factor) for f, k in zip(frequencies, kept, strict=True)]


@dataclass(frozen=True)
class FrequencyDivisors:
    """Frequencies divided by numbers, which is how a GGUF file keeps Llama 3's scaling."""

    divisors: tuple[float, ...]

    def scaled(self, frequencies: list[float]) -> list[float]:
        """The frequencies after scaling."""
        return [f / divisor for f, divisor in zip(frequencies, self.divisors, strict=True)]


@dataclass(frozen=True)
class Configuration:
    """What is known of a transformer before its weights; hashable, static under jit.

    Args:
        family: the name that config.json has for it, such as gpt2.
        width: number of components of the stream.
        heads, key_heads: number of heads, and of heads of keys and values, which groups of
            `heads / key_heads` heads share.
        head_size: number of components of a head.
        context: most positions.
        windows: for each layer the most positions that one sees, itself included; None is all.
        norm, epsilon: "layer" or "rms", and what is added to the variance.
        activation: "gelu" (exact), "gelu_tanh" or "silu".
        rotary: how many components of a head are rotated, the first ones; 0 is no rotation.
        rotary_base, rotary_scaling: the frequencies of rotation, base^(-2 k / rotary), and how they
            are scaled.
        parallel: whether attention and MLP of a layer read the same stream.
        softcap: c of logits that are c tanh(logits / c); None is no cap.
    """

    family: str
    width: int
    heads: int
    key_heads: int
    head_size: int
    context: int
    windows: tuple[int | None, ...]
    norm: str
    epsilon: float
    activation: str
    rotary: int = 0
    rotary_base: float = 10000.0
    rotary_scaling: Llama3Scaling | FrequencyDivisors | None = None
    parallel: bool = False
    softcap: float | None = None


# Arrays are of type Any, since JAX builds these also from placeholders.
@partial(register_dataclass, data_fields=["weight", "bias"], meta_fields=[])
@dataclass(frozen=True, eq=False)
class Linear:
    """x -> weight x + bias."""

    weight: Any  # (out, in)
    bias: Any = None  # (out,)


@partial(register_dataclass, data_fields=["gain", "bias"], meta_fields=[])
@dataclass(frozen=True, eq=False)
class Norm:
    """The learned part of a normalisation, x -> gain n(x) + bias."""

    gain: Any  # (i,), or (r,) over a head
    bias: Any = None  # (i,)


@partial(
    register_dataclass,
    data_fields=[
        *("attention_norm", "query", "key", "value", "output"),
        *("mlp_norm", "up", "down", "gate", "query_norm", "key_norm"),
    ],
    meta_fields=[],
)
@dataclass(frozen=True, eq=False)
class Layer:
    """One layer: attention and an MLP, each behind a norm."""

    attention_norm: Norm
    query: Linear  # (h r, i)
    key: Linear  # (g r, i)
    value: Linear  # (g r, i)
    output: Linear  # (i, h r)
    mlp_norm: Norm
    up: Linear  # (j, i)
    down: Linear  # (i, j)
    gate: Linear | None = None  # (j, i)
    query_norm: Norm | None = None  # over the components of a head
    key_norm: Norm | None = None


@partial(
    register_dataclass,
    data_fields=["embedding", "position", "layers", "final_norm", "readout"],
    meta_fields=["config", "tokenization"],
)
@dataclass(frozen=True, eq=False)
class Transformer:
    """A pretrained decoder-only transformer, a pytree of float32 arrays.

        x = embedding[token] + position[p]
        x = x + attention(n(x));   x = x + mlp(n(x))        in each layer
        logits = readout n(x)

    Where the configuration is parallel, the MLP of a layer reads the stream that its attention
    reads. `probattn.lens.load_transformer` makes one.
    """

    config: Configuration
    embedding: Any  # (v, i)
    position: Any  # (p, i); None where positions enter by rotation
    layers: tuple[Layer, ...]
    final_norm: Norm
    readout: Any  # (v, i); the embedding, where the two are tied
    # Static and compared by identity, since the text of tokens is no array.
    tokenization: Tokenization = field(default_factory=Tokenization)
