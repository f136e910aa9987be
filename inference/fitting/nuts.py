"""NumPyro's No-U-Turn kernel, compiled over chains: begin, run a chunk of iterations, constrain."""

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

CHUNK_ITERATIONS = 50  # in one call of the compiled program, so what a killed run can lose

# Statistics of an iteration: NumPyro's names and ArviZ's.
STATS = {
    "num_steps": "n_steps",
    "diverging": "diverging",
    "accept_prob": "acceptance_rate",
    "energy": "energy",
    "potential_energy": "potential_energy",
}


class Kernel(NamedTuple):
    """Compiled functions over chains, which are the leading axis of first arguments and results.

    In states and chunks, z is one vector of n unconstrained coordinates, so that NumPyro's
    trajectory tree keeps one array of each kind and not one for each site.

    Args:
        begin: `(z, keys), data -> state`, with z by name of site.
        chunk: `state, data, number -> state, (z, stats)`. z (chains, CHUNK_ITERATIONS, n)
            and each of the stats (chains, CHUNK_ITERATIONS) are filled up to `number`, and 0 after
            it.
        values: `z, data -> values of all sites`, for the z of a chunk.
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
    """The kernel for the posterior of `model`; the same object for equal settings.

    So another run with these settings in this process compiles nothing. A shorter last chunk does
    not either, since the number of iterations is an argument of the compiled function.

    Args:
        placement: how chains and sequences are placed on devices.
        shapes: (name, shape, dtype) of each array of z.
        num_warmup: iterations that adapt step size and mass matrix.
        max_tree_depth: a trajectory has fewer than 2 to this power steps.
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

    # z and the statistics of the last iteration of one chain.
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
            lambda leaf: jnp.zeros((CHUNK_ITERATIONS, *leaf.shape), leaf.dtype), report(state)
        )
        return jax.lax.fori_loop(0, number, one, (state, empty))

    def values(z: Array, data: Array) -> Values:
        return jax.lax.map(lambda one: constrain(model, data, unravel(one)), z)

    once = partial(over_chains, placement=placement, compiler_options=ONCE)
    return Kernel(once(begin), over_chains(chunk, placement), once(values))


def to_host(state: Any) -> list[np.ndarray]:
    """The arrays of a state as NumPy arrays, with random keys as their raw integers."""
    return gathered(
        [jax.random.key_data(leaf) if _is_key(leaf) else leaf for leaf in jax.tree.leaves(state)]
    )


def to_device(arrays: list[np.ndarray], like: Any, impl: Any) -> Any:
    """The state whose arrays are these: the inverse of `to_host`.

    Args:
        like: a state, or its shapes, with the structure and dtypes to restore.
        impl: the implementation of its random keys, as `jax.random.key_impl` returns.
    """
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
