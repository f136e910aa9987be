"""The identity of the density that a model with data defines."""

import dataclasses
import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from probattn.inference.contract import NumPyroModel, handlers_of, name_of

HASHED_ROWS = 100_000  # hashed at a time
# Fields that bear on how a density is computed, and not on which density it is.
NOT_OF_THE_DENSITY = ("num_particles", "one_hot")


@dataclass(frozen=True)
class Density:
    """Identity of a joint density: fits of different densities answer different questions.

    Args:
        model: name of the model's class.
        fields: the model's fields as (name, value) pairs, such as barrier weight, contraction,
            coordinates and sizes.
        data: SHA-256 of the training data and their shape, see `data_hash`.
    """

    model: str
    fields: tuple[tuple[str, Any], ...]
    data: str

    def differences(self, other: "Density") -> list[str]:
        """The differences from `other`, each as "name: value here, value there"."""
        if self.model != other.model:
            return [f"model: {self.model}, {other.model}"]
        mine, theirs = dict(self.fields), dict(other.fields)
        found = [
            f"{name}: {mine.get(name)}, {theirs.get(name)}"
            for name in mine | theirs
            if mine.get(name) != theirs.get(name)
        ]
        return found + (["data: other training sequences"] if self.data != other.data else [])

    @property
    def law(self) -> str:
        """The model and its fields as text."""
        return f"{self.model}({', '.join(f'{name}={value}' for name, value in self.fields)})"

    def to_json(self) -> dict[str, Any]:
        """The identity as a JSON object."""
        return {"model": self.model, "fields": dict(self.fields), "data_sha256": self.data}

    def __str__(self) -> str:
        return f"{self.law} of data {self.data[:12]}"


def density_of(model: NumPyroModel, data: Any) -> Density:
    """The identity of `model` conditioned on `data`.

    A model that is not a dataclass has no fields: its name alone identifies it. The handlers around
    a model, such as NumPyro's `reparam`, are in the name; what they are set to is not."""
    handlers = handlers_of(model)
    inner: Any = handlers[-1].fn if handlers else model
    fields: dict[str, Any] = (
        dataclasses.asdict(inner)
        if dataclasses.is_dataclass(inner) and not isinstance(inner, type)
        else {}
    )
    kept = tuple(
        (field, value) for field, value in fields.items() if field not in NOT_OF_THE_DENSITY
    )
    return Density(name_of(model), kept, data_hash(data))


def data_hash(data: Any) -> str:
    """SHA-256 of an array, its shape and whether it holds integers, whatever its precision.

    Floats count as float32 has them, since a model in float32 conditions on nothing more."""
    array = np.asarray(data)
    kind = "<i8" if array.dtype.kind in "iub" else "<f8"
    found = hashlib.sha256(repr((array.shape, kind)).encode())
    # HASHED_ROWS at a time: an array on disk may be larger than memory.
    for first in range(0, len(array) if array.ndim else 1, HASHED_ROWS):
        rows = array[first : first + HASHED_ROWS] if array.ndim else array
        if kind == "<f8":
            with np.errstate(over="ignore"):
                rows = rows.astype("<f4")
        found.update(np.ascontiguousarray(rows, kind).tobytes())
    return found.hexdigest()
