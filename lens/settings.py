"""Fields of a model's configuration, each checked when it is read."""

import math
from collections.abc import Mapping
from typing import Any

from probattn.checks import as_integer
from probattn.errors import InputError

MOST_LAYERS = 10_000  # a damaged number would fill the memory with what is kept for each
REQUIRED: Any = object()  # in place of a default
ACTIVATION_NAMES = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "silu": "silu",
    "swish": "silu",
}


class Settings:
    """The fields of a configuration; a field that is null counts as absent.

    Args: fields; source, what messages call it. A reader raises an InputError for a field of
        another kind, and for one that is absent and has no default.
    """

    def __init__(self, fields: Mapping[str, Any], source: str):
        self.fields, self.source = fields, source

    def get(self, name: str, default: Any = REQUIRED) -> Any:
        """A field of any kind."""
        value = self.fields.get(name)
        if value is not None:
            return value
        if default is REQUIRED:
            raise InputError(f"{self.source}: expected a field {name}, found none")
        return default

    def integer(self, name: str, default: Any = REQUIRED) -> Any:
        """A whole number of at least 1."""
        value = self.get(name, default)
        return value if value is default else as_integer(f"{self.source}: {name}", value)

    def layers(self, name: str) -> int:
        """The number of layers."""
        value = self.integer(name)
        if value > MOST_LAYERS:
            raise self.refused(name, f"at most {MOST_LAYERS} layers", value)
        return value

    def width_and_heads(self, width: str, heads: str) -> tuple[int, int]:
        """The width and the number of heads among which it is divided evenly."""
        whole, number = self.integer(width), self.integer(heads)
        if whole % number:
            raise self.refused(width, f"a multiple of {heads}, {number}", whole)
        return whole, number

    def number(self, name: str, default: Any = REQUIRED) -> float:
        """A finite number > 0."""
        value = self.get(name, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise self.refused(name, "a number", value)
        if not 0 < value < math.inf:
            raise self.refused(name, "a finite number > 0", value)
        return float(value)

    def flag(self, name: str, default: bool) -> bool:
        """True or false."""
        value = self.get(name, default)
        if not isinstance(value, bool):
            raise self.refused(name, "true or false", value)
        return value

    def mapping(self, name: str) -> "Settings":
        """Fields within a field; none if it is absent."""
        value = self.get(name, {})
        if not isinstance(value, Mapping):
            raise self.refused(name, "an object with fields", value)
        return Settings(value, f"{self.source}: {name}")

    def activation(self, name: str, default: Any = REQUIRED) -> str:
        """The activation of the MLP, as `Configuration` calls it."""
        value = self.get(name, default)
        if not isinstance(value, str) or value not in ACTIVATION_NAMES:
            raise self.refused(name, f"one of {', '.join(ACTIVATION_NAMES)}", value)
        return ACTIVATION_NAMES[value]

    def refused(self, name: str, expected: str, value: Any) -> InputError:
        """The error for a field of a wrong value."""
        return InputError(f"{self.source}: {name}: expected {expected}, got {value!r}")

    def refuse_true(self, *names: str) -> None:
        """Raises an InputError if one of these flags is set."""
        for name in names:
            if self.flag(name, False):
                raise self.refused(name, "false, the one that is supported", True)
