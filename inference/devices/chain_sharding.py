"""A function of one chain, compiled for all chains wherever they are placed."""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import PartitionSpec

from probattn.inference.devices.device_placement import Placement


def over_chains(function: Callable, placement: Placement, compiler_options: Any = None) -> Callable:
    """`function(chain, *shared)` of each chain, compiled; chains are the leading axis of `chain`
    and of what it returns.

    Groups of devices run apart, each for as long as its own trajectories are; within a group XLA
    divides the work where `function` splits something over "data".
    """
    side_by_side = placement.method == "vectorised"

    def on_one_group(chain: Any, *shared: Any) -> Any:
        if side_by_side:
            return jax.vmap(lambda one: function(one, *shared))(chain)
        if placement.num_chains == placement.num_groups:  # one chain: neither loop nor batch
            one = function(jax.tree.map(lambda leaf: leaf[0], chain), *shared)
            return jax.tree.map(lambda leaf: leaf[None], one)
        return jax.lax.map(lambda one: function(one, *shared), chain)

    if placement.num_devices == 1:
        return jax.jit(on_one_group, compiler_options=compiler_options)

    def sharded(chain: Any, *shared: Any) -> Any:
        whole = jax.tree.map(lambda _: PartitionSpec(), shared)
        split = PartitionSpec("chains")
        on_all = jax.shard_map(
            on_one_group,
            mesh=placement.mesh,
            in_specs=(split, *whole),
            out_specs=split,
            axis_names={"chains"},
            check_vma=False,
        )
        return on_all(chain, *shared)

    return jax.jit(sharded, compiler_options=compiler_options)
