"""NumPyro's No-U-Turn kernel as three compiled functions over chains: begin, a chunk of iterations,
values of draws."""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array
from numpyro.infer.hmc import hmc

from probattn.inference.contract import NumPyroModel
from probattn.inference.devices.chain_sharding import over_chains
from probattn.inference.devices.compilation_cache import ONCE
from probattn.inference.devices.device_placement import Placement
from probattn.inference.devices.multihost import gathered
from probattn.inference.devices.sharding import WITHIN_A_CHAIN, split_model
from probattn.inference.fitting.unconstrained import Values, constrain, potential

CHUNK = 50  # iterations between two looks from the host, and so what a kill can cost

# NumPyro's names of what a transition reports, and ArviZ's.
STATS = {
    "num_steps": "n_steps",
    "diverging": "diverging",
    "accept_prob": "acceptance_rate",
    "energy": "energy",
    "potential_energy": "potential_energy",
}


class Kernel(NamedTuple):
    """Compiled functions; chains are the leading axis of what they take first and of all that they
    return.

    Inside, z is one vector: what NumPyro's trees of trajectories keep of each array of z, they then
    keep once.

    Args:
        begin: `(z, keys), data -> state`.
        chunk: `state, data, number -> state, (z, stats)`, the latter (chains, CHUNK, ...), of which
            `number` are filled.
        values: `z, data -> values of all sites`, of the z of a chunk.
    """

    begin: Callable
    chunk: Callable
    values: Callable


@lru_cache(maxsize=8)
def nuts_kernel(
    model: NumPyroModel,
    placement: Placement,
    shapes: tuple[tuple, ...],
    num_warmup: int,
    max_tree_depth: int,
) -> Kernel:
    """The kernel of `model`'s posterior; how many iterations a chunk has is an argument, so that
    each compiles once.

    The same for equal settings: another run of them in this process compiles nothing. `shapes` are
    name, shape and type of the arrays of z.
    """
    model = split_model(model, placement, WITHIN_A_CHAIN)
    unravel = ravel_pytree({name: np.zeros(shape, dtype) for name, shape, dtype in shapes})[1]

    def energy(data: Array) -> Callable:
        return lambda z: potential(model, data)(unravel(z))

    initialise, transition = hmc(potential_fn_gen=energy, algo="NUTS")

    def begin(start: tuple[Values, Array], data: Array) -> Any:
        z, key = start
        return initialise(
            ravel_pytree(z)[0],
            num_warmup,
            max_tree_depth=max_tree_depth,
            model_args=(data,),
            rng_key=key,
        )

    def report(state: Any) -> tuple[Array, dict[str, Array]]:
        stats = {theirs: getattr(state, ours) for ours, theirs in STATS.items()}
        return state.z, stats | {"step_size": state.adapt_state.step_size}

    def chunk(state: Any, data: Array, number: Array) -> Any:
        def one(index: Array, carry: Any) -> Any:
            state = transition(carry[0], (data,), {})
            return state, jax.tree.map(
                lambda buffer, value: buffer.at[index].set(value), carry[1], report(state)
            )

        empty = jax.tree.map(
            lambda leaf: jnp.zeros((CHUNK, *leaf.shape), leaf.dtype), report(state)
        )
        return jax.lax.fori_loop(0, number, one, (state, empty))

    def values(z: Array, data: Array) -> Values:
        return jax.lax.map(lambda one: constrain(model, data, unravel(one)), z)

    once = partial(over_chains, placement=placement, compiler_options=ONCE)
    return Kernel(once(begin), over_chains(chunk, placement), once(values))


def to_host(state: Any) -> list[np.ndarray]:
    """The arrays of a state, random keys as their numbers."""
    return gathered(
        [jax.random.key_data(leaf) if _is_key(leaf) else leaf for leaf in jax.tree.leaves(state)]
    )


def to_device(arrays: list[np.ndarray], like: Any, impl: Any) -> Any:
    """The state of these arrays; `like` has its structure and types, `impl` is the kind of its
    random keys."""
    leaves, structure = jax.tree.flatten(like)
    restored = [
        jax.random.wrap_key_data(jnp.asarray(array), impl=impl)
        if _is_key(leaf)
        else jnp.asarray(array, leaf.dtype)
        for array, leaf in zip(arrays, leaves, strict=True)
    ]
    return jax.tree.unflatten(structure, restored)


def _is_key(leaf: Any) -> bool:
    return jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
