"""Where a fit runs: groups of devices divide the chains, a group's devices the sequences."""

import math
import os
from collections import Counter
from dataclasses import dataclass

import jax
import numpy as np
from jax.sharding import Mesh

from probattn.checks import as_integer
from probattn.errors import InputError

CHAIN_METHODS = ("parallel", "vectorised", "batches")


@dataclass(frozen=True)
class Placement:
    """How many chains run on how many devices, and how many devices share a chain's sequences.

    Args:
        method: "parallel", one chain in each group of devices; "vectorised", all chains of a group
            at once in one program, where each waits for the longest trajectory; "batches", the
            chains of a group one after the other.
        num_chains: a multiple of the number of groups; 1 for a MAP.
        num_devices: devices of all groups together; a multiple of num_shards.
        platform: the kind of the devices, such as "cpu".
        num_shards: devices in a group, each with its part of the sequences.
        num_processes: processes that own these devices.
    """

    method: str
    num_chains: int
    num_devices: int
    platform: str
    num_shards: int = 1
    num_processes: int = 1

    @property
    def num_groups(self) -> int:
        """Number of groups of devices; each group has its own chains."""
        return self.num_devices // self.num_shards

    @property
    def for_starts(self) -> "Placement | None":
        """The placement of the descents to the chains' start points; None stands for one device.

        It is None unless sequences are split or several processes have joined.
        """
        return self if self.num_shards > 1 or self.num_processes > 1 else None

    @property
    def mesh(self) -> Mesh:
        """The devices as a mesh of (groups, shards), with the axes "chains" and "data".

        Devices of one process are next to each other, and so are those of one group.
        """
        devices = np.array(jax.devices()[: self.num_devices])
        return Mesh(devices.reshape(self.num_groups, self.num_shards), ("chains", "data"))

    @property
    def devices(self) -> str:
        """The shards, devices and processes in words: "2 shards of the data on 4 cpu devices"."""
        shards = f"{self.num_shards} shards of the data on " if self.num_shards > 1 else ""
        processes = f" of {self.num_processes} processes" if self.num_processes > 1 else ""
        return f"{shards}{_plural(self.num_devices, f'{self.platform} device')}{processes}"

    def __str__(self) -> str:
        each = self.num_chains // self.num_groups
        how = {
            "parallel": "in parallel",
            "vectorised": "vectorised",
            "batches": "one after the other",
        }[self.method]
        where = (
            f"{each} on each, " if self.num_shards == 1 else f"{each} on every {self.num_shards}, "
        )
        shared = "" if each == 1 else f", {where if self.num_groups > 1 else ''}{how}"
        joined = " x " if self.num_shards > 1 else " on "
        return f"{_plural(self.num_chains, 'chain')}{joined}{self.devices}{shared}"


def place_chains(
    num_chains: int, method: str | None = None, devices: int | None = None
) -> Placement:
    """Place chains on the devices of this process, or of all processes that have joined.

    With `devices`, that many are used, in gcd(num_chains, devices) groups: chains come first, since
    they need not communicate, and the devices of each group split the sequences. Without it, the
    largest number of devices that divides the chains is used, at best one for each chain, and
    sequences are not split. Several processes that have joined always use all their devices.

    Without `method`, one chain in each group is "parallel". Several chains in a group run one after
    the other on a CPU ("batches"), where a vectorised batch outgrows the caches, and are vectorised
    on other platforms.

    Raises: InputError for an unknown method, for more devices than there are, for only some of the
        devices of several processes or unequal numbers of them, and for parallel chains with too
        few devices.
    """
    platform = jax.default_backend()
    if method not in (None, *CHAIN_METHODS):
        raise InputError(
            f"chain_method: expected one of {', '.join(CHAIN_METHODS)} or None, got {method!r}"
        )
    asked = _checked(devices, platform)
    if asked is None:
        available = jax.local_device_count()
        used = groups = max(
            n for n in range(1, num_chains + 1) if num_chains % n == 0 and n <= available
        )
    else:
        used, groups = asked, math.gcd(num_chains, asked)
    if method == "parallel" and groups < num_chains:
        there = (
            f"there are {available}"
            if asked is None
            else f"{used} devices make {groups} equal groups"
        )
        raise InputError(
            f"chain_method: parallel needs a device for each of {num_chains} chains, {there}; "
            "leave it out, or call numpyro.set_host_device_count before JAX's backend starts"
        )
    if method is None:
        method = (
            "parallel" if groups == num_chains else "batches" if platform == "cpu" else "vectorised"
        )
    return Placement(method, num_chains, used, platform, used // groups, jax.process_count())


def place_data(devices: int | None = None) -> Placement:
    """Place a fit without chains: its sequences are split over `devices`.

    The default is one device, or all devices of all processes if several have joined.

    Raises: InputError as `place_chains`.
    """
    return place_chains(1, devices=devices)


def _checked(devices: int | None, platform: str) -> int | None:
    """The number of devices to use; None stands for as many as the chains need.

    Raises: InputError for more devices than there are, and, with several processes, unless all
        devices are used and every process has the same number.
    """
    available, processes = jax.device_count(), jax.process_count()
    if devices is not None and as_integer("devices", devices) > available:
        raise InputError(
            f"devices: expected at most the {available} that there are ({platform}), got "
            f"{devices}; CPU devices are made before JAX's backend starts "
            f"(numpyro.set_host_device_count({devices}))"
        )
    if processes == 1:
        return devices
    if devices not in (None, available):
        raise InputError(
            f"devices: expected all {available} of the {processes} processes, got {devices}; "
            "leave it out"
        )
    if len(set(Counter(device.process_index for device in jax.devices()).values())) > 1:
        raise InputError(
            "devices: expected the same number in each process; start all with equal numbers"
        )
    return available


def set_host_device_count(num_chains: int, devices: int | None = None) -> None:
    """Set how many devices the CPU is divided into; JAX reads this when its backend starts.

    `devices` counts those of all processes; each of the JAX_NUM_PROCESSES processes makes an equal
    part. Without it, there is one device for each chain, and at most one for each core.

    Raises: InputError if `devices` is not a multiple of the number of processes.
    """
    import numpyro

    if devices is None:
        number = min(num_chains, os.cpu_count() or 1)
    else:
        processes = as_integer("JAX_NUM_PROCESSES", int(os.environ.get("JAX_NUM_PROCESSES") or 1))
        number = as_integer("devices", devices) // processes
        if number * processes != devices:
            raise InputError(
                f"devices: expected a multiple of the {processes} processes, got {devices}"
            )
    if number > 1:
        numpyro.set_host_device_count(number)


def _plural(number: int, thing: str) -> str:
    return f"{number} {thing}{'s' if number > 1 else ''}"
