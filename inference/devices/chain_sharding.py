"""A function of one chain, compiled for all chains on the devices where they are placed."""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import PartitionSpec

from probattn.inference.devices.device_placement import Placement


def over_chains(function: Callable, placement: Placement, compiler_options: Any = None) -> Callable:
    """Compile `function(chain, *shared)` of one chain for all chains of a placement.

    The compiled function takes and returns trees whose leaves have the chains as leading axis;
    `shared` is the same for all chains. Groups of devices run independently, each for as long as
    its own trajectories take. Within a group XLA divides the work where `function` splits an array
    over the mesh axis "data". `compiler_options` are those of `jax.jit`.
    """
    vectorised = placement.method == "vectorised"

    def on_one_group(chain: Any, *shared: Any) -> Any:  # leaves of chain: [chains of a group, ...]
        if vectorised:
            return jax.vmap(lambda one: function(one, *shared))(chain)
        if placement.num_chains == placement.num_groups:  # one chain: no loop, no batch axis
            one = function(jax.tree.map(lambda leaf: leaf[0], chain), *shared)
            return jax.tree.map(lambda leaf: leaf[None], one)
        return jax.lax.map(lambda one: function(one, *shared), chain)

    if placement.num_devices == 1:
        return jax.jit(on_one_group, compiler_options=compiler_options)

    def sharded(chain: Any, *shared: Any) -> Any:
        replicated = jax.tree.map(lambda _: PartitionSpec(), shared)
        split = PartitionSpec("chains")
        on_all = jax.shard_map(
            on_one_group,
            mesh=placement.mesh,
            in_specs=(split, *replicated),
            out_specs=split,
            axis_names={"chains"},
            check_vma=False,
        )
        return on_all(chain, *shared)

    return jax.jit(sharded, compiler_options=compiler_options)
