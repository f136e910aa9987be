"""Tensors of a model by their names, each checked when it is taken."""

from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np

from probattn.errors import InputError
from probattn.lens.transformer import Linear, Norm

FLOATS = (np.float16, ml_dtypes.bfloat16, np.float32, np.float64)
# Buffers that older files hold beside the weights: causal masks, and the frequencies of rotation.
BUFFERS = (
    *(".attn.bias", ".attn.masked_bias", ".attention.bias", ".attention.masked_bias"),
    *(".rotary_emb.inv_freq", "rope_freqs.weight"),
)
NAMES_SHOWN = 3  # of tensors that nothing uses


class Weights:
    """The tensors of one model, as float32 arrays of numpy.

    Args:
        arrays: what has each tensor by its name, such as a state dict of torch.
        source: what messages call it.
        prefix: what some files put before the names, such as "transformer.".
    """

    def __init__(self, arrays: Mapping[str, Any], source: str, prefix: str = ""):
        self.arrays, self.source, self.prefix = arrays, source, prefix
        self.taken: set[str] = set()
        self.spelled = getattr(arrays, "spelled", str)  # a GGUF file has names of its own

    def take(self, name: str, *shape: int, prefixed: bool = True) -> np.ndarray:
        """The tensor `name`, which some files have with the prefix if it is `prefixed`.

        Raises: InputError if there is none, or one of another shape or dtype, or if an entry is a
            NaN or infinite.
        """
        full = self.prefix + name if prefixed else name
        found = next((one for one in (full, name) if one in self.arrays), None)
        if found is None:
            raise InputError(f"{self.source}: expected a tensor {self.spelled(full)}, found none")
        self.taken.add(found)
        called = f"{self.source}: tensor {self.spelled(found)}"
        array = _as_float32(called, self.arrays[found])
        if array.shape != shape:
            raise InputError(f"{called}: expected shape {shape}, got {array.shape}")
        if not np.isfinite(array).all():
            raise InputError(f"{called}: expected finite numbers, got NaN or infinity")
        return array

    def linear(self, name: str, out: int, into: int, bias: bool = True) -> Linear:
        """The tensors `name`.weight, (out, into), and `name`.bias, (out,)."""
        weight = self.take(f"{name}.weight", out, into)
        return Linear(weight, self.take(f"{name}.bias", out) if bias else None)

    def norm(self, name: str, size: int, bias: bool = True) -> Norm:
        """The tensors `name`.weight and `name`.bias, (size,)."""
        gain = self.take(f"{name}.weight", size)
        return Norm(gain, self.take(f"{name}.bias", size) if bias else None)

    def refuse_others(self, *known: str) -> None:
        """Raises an InputError if there are tensors that were not taken: they would be missed.

        Buffers may be there, and those that are `known`.
        """
        others = sorted(
            self.spelled(name)
            for name in self.arrays
            if name not in self.taken
            and not name.endswith(BUFFERS)
            and name.removeprefix(self.prefix) not in known
        )
        if others:
            more = f" and {len(others) - NAMES_SHOWN} more" if len(others) > NAMES_SHOWN else ""
            raise InputError(
                f"{self.source}: tensors that this family does not have: "
                f"{', '.join(others[:NAMES_SHOWN])}{more}"
            )


def _as_float32(name: str, value: Any) -> np.ndarray:
    """An array, or a tensor of torch, in float32."""
    if hasattr(value, "detach"):  # a tensor of torch, which need not be installed
        value = value.detach().cpu()
        if value.is_floating_point():
            value = value.float()  # numpy has no bfloat16
    array = np.asarray(value)
    if array.dtype not in FLOATS:
        raise InputError(
            f"{name}: expected floats of 16, 32 or 64 bits, got {array.dtype}; for a quantised "
            "model take its original weights or a GGUF file"
        )
    with np.errstate(over="ignore"):  # too large a number becomes infinity, which is refused
        return array.astype(np.float32, copy=False)
