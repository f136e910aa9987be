"""Where chains run: on one device each, side by side on one, or in batches on each of several."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from probattn.errors import InputError

METHODS = ("parallel", "vectorised", "batches")


@dataclass(frozen=True)
class Placement:
    """How many chains run on how many devices.

    Args:
        method: "parallel", a chain on each device; "vectorised", all chains of a device side by side in one program,
            where each waits for the longest trajectory; "batches", those of a device one after the other.
        num_chains, num_devices: the first is a multiple of the second.
        platform: of the devices, such as "cpu".
    """

    method: str
    num_chains: int
    num_devices: int
    platform: str

    def __str__(self) -> str:
        devices = f"{self.num_devices} {self.platform} device{'s' if self.num_devices > 1 else ''}"
        each = self.num_chains // self.num_devices
        how = {"parallel": "in parallel", "vectorised": "side by side", "batches": "one after the other"}[self.method]
        shared = "" if each == 1 else f", {each} on each {how}" if self.num_devices > 1 else f", {how}"
        return f"{self.num_chains} chain{'s' if self.num_chains > 1 else ''} on {devices}{shared}"


def place_chains(num_chains: int, method: str | None = None) -> Placement:
    """The placement of chains on this machine's devices.

    By default a device each where there are enough. Else as many devices as divide the chains, and on each of them
    batches on a CPU, whose caches a batch side by side leaves, and side by side on anything else.

    Raises: InputError for an unknown method, or parallel chains with too few devices.
    """
    available, platform = jax.local_device_count(), jax.default_backend()
    if method not in (None, *METHODS):
        raise InputError(f"chain_method: expected one of {', '.join(METHODS)} or None, got {method!r}")
    if method == "parallel" and available < num_chains:
        raise InputError(
            f"chain_method: parallel needs a device for each of {num_chains} chains, there are {available}; leave it out, "
            "or call numpyro.set_host_device_count before JAX wakes"
        )
    shared = max(number for number in range(1, num_chains + 1) if num_chains % number == 0 and number <= available)
    if method is None:
        method = "parallel" if shared == num_chains else "batches" if platform == "cpu" else "vectorised"
    return Placement(method, num_chains, shared, platform)


def over_chains(function: Callable, placement: Placement) -> Callable:
    """`function(chain, *shared)` of each chain, compiled; chains are the leading axis of `chain` and of what it returns."""
    side_by_side = placement.method == "vectorised"

    def on_one_device(chain: Any, *shared: Any) -> Any:
        if side_by_side:
            return jax.vmap(lambda one: function(one, *shared))(chain)
        if placement.num_chains == placement.num_devices:  # one chain: neither loop nor batch
            one = function(jax.tree.map(lambda leaf: leaf[0], chain), *shared)
            return jax.tree.map(lambda leaf: leaf[None], one)
        return jax.lax.map(lambda one: function(one, *shared), chain)

    if placement.num_devices == 1:
        return jax.jit(on_one_device)
    mesh = Mesh(np.array(jax.local_devices()[: placement.num_devices]), ("chains",))

    def sharded(chain: Any, *shared: Any) -> Any:
        whole = jax.tree.map(lambda _: PartitionSpec(), shared)
        split = PartitionSpec("chains")
        on_all = jax.shard_map(on_one_device, mesh=mesh, in_specs=(split, *whole), out_specs=split, check_vma=False)
        return on_all(chain, *shared)

    return jax.jit(sharded)


def wake_host_devices(num_chains: int) -> None:
    """One host device a chain, as far as there are cores; JAX reads this when its backend first wakes."""
    import numpyro

    if num_chains > 1:
        numpyro.set_host_device_count(min(num_chains, os.cpu_count() or 1))
