"""Where a fit runs: groups of devices that share the chains, and in each group shards that share
the sequences."""

import math
import os
from collections import Counter
from dataclasses import dataclass

import jax
import numpy as np
from jax.sharding import Mesh

from probattn.checks import whole_number
from probattn.errors import InputError

METHODS = ("parallel", "vectorised", "batches")


@dataclass(frozen=True)
class Placement:
    """How many chains run on how many devices, and over how many devices each chain's sequences are
    split.

    Args:
        method: "parallel", a chain in each group of devices; "vectorised", all chains of a group
            side by side in one program, where each waits for the longest trajectory; "batches",
            those of a group one after the other.
        num_chains: a multiple of the number of groups; 1 for a MAP.
        num_devices: of all groups together; a multiple of num_shards.
        platform: of the devices, such as "cpu".
        num_shards: devices in a group, each with its part of the sequences.
        num_processes: that have these devices.
    """

    method: str
    num_chains: int
    num_devices: int
    platform: str
    num_shards: int = 1
    num_processes: int = 1

    @property
    def num_groups(self) -> int:
        """Groups of devices; each has its own chains."""
        return self.num_devices // self.num_shards

    @property
    def for_starts(self) -> "Placement | None":
        """The placement of descents to the chains' starts; None, one device, where sequences are
        not split."""
        return self if self.num_shards > 1 or self.num_processes > 1 else None

    @property
    def mesh(self) -> Mesh:
        """The devices, (groups, shards); those of one process are next to each other, and so are
        those of a group."""
        devices = np.array(jax.devices()[: self.num_devices])
        return Mesh(devices.reshape(self.num_groups, self.num_shards), ("chains", "data"))

    @property
    def devices(self) -> str:
        """The devices and shards, as words."""
        shards = f"{self.num_shards} shards of the data on " if self.num_shards > 1 else ""
        processes = f" of {self.num_processes} processes" if self.num_processes > 1 else ""
        return f"{shards}{_several(self.num_devices, f'{self.platform} device')}{processes}"

    def __str__(self) -> str:
        each = self.num_chains // self.num_groups
        how = {
            "parallel": "in parallel",
            "vectorised": "side by side",
            "batches": "one after the other",
        }[self.method]
        where = (
            f"{each} on each " if self.num_shards == 1 else f"{each} on every {self.num_shards} "
        )
        shared = "" if each == 1 else f", {where if self.num_groups > 1 else ''}{how}"
        joined = " x " if self.num_shards > 1 else " on "
        return f"{_several(self.num_chains, 'chain')}{joined}{self.devices}{shared}"


def place_chains(
    num_chains: int, method: str | None = None, devices: int | None = None
) -> Placement:
    """The placement of chains on the devices of this process, or of all that have joined.

    With `devices`, that many are used, as gcd(num_chains, devices) groups: chains first, since they
    need not talk to each other, and what is left over splits the sequences. Without, a device each
    where there are enough, else as many as divide the chains, and sequences are not split; where
    several processes have joined, all devices of all of them.

    The chains of a group run one after the other on a CPU, whose caches a batch side by side
    leaves, and side by side on anything else.

    Raises: InputError for an unknown method, devices that are not there, or parallel chains with
    too few devices."""
    platform = jax.default_backend()
    if method not in (None, *METHODS):
        raise InputError(
            f"chain_method: expected one of {', '.join(METHODS)} or None, got {method!r}"
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
            "leave it out, "
            "or call numpyro.set_host_device_count before JAX wakes"
        )
    if method is None:
        method = (
            "parallel" if groups == num_chains else "batches" if platform == "cpu" else "vectorised"
        )
    return Placement(method, num_chains, used, platform, used // groups, jax.process_count())


def place_data(devices: int | None = None) -> Placement:
    """The placement of a fit without chains: sequences are split over `devices`, by default one, or
    all of all processes.

    Raises: InputError for devices that are not there.
    """
    return place_chains(1, devices=devices)


def _checked(devices: int | None, platform: str) -> int | None:
    """How many devices to use, None for as many as the chains need."""
    available, processes = jax.device_count(), jax.process_count()
    if devices is not None and whole_number("devices", devices) > available:
        raise InputError(
            f"devices: expected at most the {available} that there are ({platform}), got "
            f"{devices}; CPU devices are made "
            f"before JAX wakes (numpyro.set_host_device_count({devices}), as --devices does)"
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
            "devices: expected as many on each process; start the processes with equal numbers"
        )
    return available


def wake_host_devices(num_chains: int, devices: int | None = None) -> None:
    """Host devices on a CPU; JAX reads their number when its backend first wakes.

    As many as are asked for, of which the processes named by JAX_NUM_PROCESSES have a part each;
    without, one for each chain as far as there are cores. Raises: InputError if they do not divide
    among the processes."""
    import numpyro

    if devices is None:
        number = min(num_chains, os.cpu_count() or 1)
    else:
        processes = whole_number("JAX_NUM_PROCESSES", int(os.environ.get("JAX_NUM_PROCESSES") or 1))
        number = whole_number("devices", devices) // processes
        if number * processes != devices:
            raise InputError(
                f"devices: expected a multiple of the {processes} processes, got {devices}"
            )
    if number > 1:
        numpyro.set_host_device_count(number)


def _several(number: int, thing: str) -> str:
    return f"{number} {thing}{'s' if number > 1 else ''}"
