"""Sequences split over devices: each computes from its part, and XLA adds up the parts.

A compiled function gives the same result whether its data are split or not, whatever the model. So
models need no change: only the data get a sharding, and XLA computes what depends on a sequence
where that sequence is. The tokens themselves, four bytes each, are on every device; activations and
gradients, which take the memory and the time, are split.
"""

from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.lax import with_sharding_constraint
from jax.sharding import NamedSharding, PartitionSpec
from numpyro.primitives import Messenger

from probattn.errors import InputError
from probattn.inference.contract import CondensedModel, NumPyroModel
from probattn.inference.devices.device_placement import Placement

WITHIN_A_CHAIN = PartitionSpec("data")
ON_ALL_DEVICES = PartitionSpec(("chains", "data"))


@dataclass(frozen=True)
class Split:
    """A model that splits its sequences over devices when it is compiled.

    With minibatches, it splits the sequences of each minibatch.
    """

    model: NumPyroModel
    sharding: NamedSharding

    def __call__(self, data: Any, **settings: Any) -> Any:
        if not isinstance(data, jax.core.Tracer):
            return self.model(data, **settings)
        if settings.get("batch_size") is None:
            return self.model(with_sharding_constraint(data, self.sharding), **settings)
        with _SplitRows(self.sharding):
            return self.model(data, **settings)


class _SplitRows(Messenger):
    """Split the sequence indices that a plate draws, and with them the rows that a model takes."""

    def __init__(self, sharding: NamedSharding):
        super().__init__()
        self.sharding = sharding

    def postprocess_message(self, msg: Any) -> None:
        if msg["type"] == "plate":
            msg["value"] = with_sharding_constraint(msg["value"], self.sharding)


def split_model(
    model: NumPyroModel, placement: Placement | None, over: PartitionSpec = ON_ALL_DEVICES
) -> Any:
    """The model with its sequences split over all devices, or over those of one chain.

    Args: over, `ON_ALL_DEVICES` or `WITHIN_A_CHAIN`.
    Returns: the model itself if that is one device.
    """
    axes = over[0] if isinstance(over[0], tuple) else over
    if placement is None or all(placement.mesh.shape[axis] == 1 for axis in axes):
        return model
    return Split(model, NamedSharding(placement.mesh, over))


def replicated_sharding(placement: Placement | None) -> NamedSharding | None:
    """The sharding of arrays that every device holds whole; None if there is one device."""
    return (
        None
        if placement is None or placement.num_devices == 1
        else NamedSharding(placement.mesh, PartitionSpec())
    )


def condensed(model: NumPyroModel, data: Any, placement: Placement | None) -> Any:
    """The data in the form of which `model` computes its density fastest, see `CondensedModel`.

    Sequences that are split over devices stay as they are."""
    split = placement is not None and placement.num_shards > 1
    return model.condensed(data) if isinstance(model, CondensedModel) and not split else data


def replicate(data: Any, placement: Placement | None) -> Any:
    """The data, whole on every device.

    Raises: InputError for fewer sequences than shards, or for data that are not the same in every
        process.
    """
    whole = replicated_sharding(placement)
    if placement is None or whole is None:
        return data
    if len(data) < placement.num_shards:
        raise InputError(
            f"devices: {placement.num_shards} shards of the data need as many sequences, got "
            f"{len(data)}; use fewer devices, or, with several chains, one device for each"
        )
    try:
        return jax.device_put(jax.tree.map(np.asarray, data), whole)
    except AssertionError as error:
        raise InputError(
            "data: not the same in every process; give each the same sequences in the same order"
        ) from error
