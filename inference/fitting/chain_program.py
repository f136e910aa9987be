"""The sampler of chains as compiled functions: begin, run a chunk of iterations, constrain."""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array
from numpyro.infer.hmc_util import dual_averaging

from probattn.inference.contract import NumPyroModel
from probattn.inference.devices.chain_sharding import over_chains
from probattn.inference.devices.compilation_cache import ONCE
from probattn.inference.devices.device_placement import Placement
from probattn.inference.devices.multihost import gathered
from probattn.inference.devices.sharding import WITHIN_A_CHAIN, split_model
from probattn.inference.fitting.metric import Block, Metric, blocks_of, second_moments, to_z
from probattn.inference.fitting.transitions import Point, Report, no_u_turn, random_length_hmc
from probattn.inference.fitting.unconstrained import Values, constrain, potential

CHUNK_ITERATIONS = 50  # in one call of the compiled program, so what a killed run can lose
SAMPLERS = ("hmc", "nuts")
TARGET = 0.7  # acceptance at which the step size aims
# The acceptance that a trajectory counts as in the tuning of the step size, where it met the
# boundary. As 0, the boundary would rule the step size where it is near: steps shrink until hardly
# any trajectory meets it, and the chain crawls.
AT_BOUNDARY = TARGET / 2
AVERAGING = 20  # trajectories over which a chain in warmup averages their length
_first_average, _next_average = dual_averaging()


class Chain(NamedTuple):
    """The state of one chain.

    Args:
        point: where it is, in the metric's coordinates w.
        key: random key.
        step_size: of the integrator.
        longest: most steps of a trajectory, as a real number.
        averaging: of the step size, NumPyro's dual averaging.
        done: iterations of this stage.
        moments: sums of the gradients' second moments, see `metric.second_moments`.
        turns: sum of the numbers of steps after which trajectories turned back.
        counted: iterations in these two sums.
    """

    point: Point
    key: Array
    step_size: Array
    longest: Array
    averaging: Any
    done: Array
    moments: Metric
    turns: Array
    counted: Array


class Kernel(NamedTuple):
    """Compiled functions over chains, which are the leading axis of first arguments and results.

    In states and chunks, z is one vector of n unconstrained coordinates.

    Args:
        blocks: of the metric.
        begin: `(w, keys, step_size, longest), data, metric -> chain`.
        chunk: `chain, data, metric, number, settle -> chain, (z, stats)`. z (chains,
            CHUNK_ITERATIONS, n) and each of the stats (chains, CHUNK_ITERATIONS) are filled up to
            `number`, and 0 after it. `settle` is 0 in sampling; in warmup the iteration of the
            stage, from 1, from which gradients and lengths are summed up.
        values: `z, data -> values of all sites`, for the z of a chunk.
    """

    blocks: tuple[Block, ...]
    begin: Callable
    chunk: Callable
    values: Callable


@lru_cache(maxsize=8)
def chain_kernel(
    model: NumPyroModel,
    placement: Placement,
    shapes: tuple[tuple, ...],
    sampler: str,
    max_tree_depth: int,
) -> Kernel:
    """The kernel for the posterior of `model`; the same object for equal settings.

    So another run with these settings in this process compiles nothing. A shorter last chunk, and
    other stages of warmup, do not either: they are arguments of the compiled functions.

    Args:
        placement: how chains and sequences are placed on devices.
        shapes: (name, shape, dtype) of each array of z.
        sampler: "hmc" or "nuts".
        max_tree_depth: a trajectory has fewer than 2 to this power steps.
    """
    blocks = blocks_of(model, [(name, shape) for name, shape, _ in sorted(shapes)])
    model = split_model(model, placement, WITHIN_A_CHAIN)
    unravel = ravel_pytree({name: np.zeros(shape, dtype) for name, shape, dtype in shapes})[1]

    def energy(data: Any, metric: Metric) -> Callable:
        of_z = potential(model, data)
        return lambda w: of_z(unravel(to_z(blocks, metric, w)))

    def begin(start: tuple[Array, ...], data: Any, metric: Metric) -> Chain:
        w, key, step_size, longest = start
        value, gradient = jax.value_and_grad(energy(data, metric))(w)
        zero = jnp.zeros((), int)
        return Chain(
            Point(w, value, gradient),
            key,
            step_size,
            longest,
            _first_average(jnp.log(2 * step_size)),
            zero,
            jax.tree.map(jnp.zeros_like, second_moments(blocks, gradient)),
            zero,
            zero,
        )

    def transition(chain: Chain, key: Array, data: Any, metric: Metric, measure: Array) -> Any:
        of_w = energy(data, metric)
        if sampler == "nuts":
            return no_u_turn(of_w, chain.point, key, chain.step_size, max_tree_depth)
        longest, most = jnp.round(chain.longest).astype(int), 2**max_tree_depth - 1
        return random_length_hmc(of_w, chain.point, key, chain.step_size, longest, most, measure)

    def iterate(
        chain: Chain, data: Any, metric: Metric, settle: Array
    ) -> tuple[Chain, dict[str, Array]]:
        key, now = jax.random.split(chain.key)
        tunes = settle > 0
        sums = tunes & (chain.done + 1 >= settle)
        point, report = transition(chain, now, data, metric, sums)
        acceptance = jnp.where(report.outside, AT_BOUNDARY, report.acceptance)
        averaging = _next_average(TARGET - acceptance, chain.averaging)
        longest = chain.longest + (report.turn - chain.longest) / AVERAGING
        moments = jax.tree.map(
            lambda total, one: total + jnp.where(sums, one, 0),
            chain.moments,
            second_moments(blocks, point.gradient),
        )
        after = Chain(
            point,
            key,
            jnp.where(tunes, jnp.exp(averaging[0]), chain.step_size),
            jnp.where(sums, longest, chain.longest),
            averaging,
            chain.done + 1,
            moments,
            chain.turns + jnp.where(sums, report.turn, 0),
            chain.counted + sums,
        )
        return after, _stats(chain, point, report)

    def chunk(chain: Chain, data: Any, metric: Metric, number: Array, settle: Array) -> Any:
        def one(index: Array, carry: Any) -> Any:
            chain, stats = iterate(carry[0], data, metric, settle)
            z = to_z(blocks, metric, chain.point.w)
            return chain, jax.tree.map(
                lambda buffer, value: buffer.at[index].set(value), carry[1], (z, stats)
            )

        # Shapes and types alone count; the iteration itself need not be traced for them.
        number_of, yes = jnp.zeros((), int), jnp.zeros((), bool)
        real = chain.point.potential
        nothing = Report(real, real, number_of, yes, yes, number_of)
        like = chain.point.w, _stats(chain, chain.point, nothing)
        empty = jax.tree.map(
            lambda leaf: jnp.zeros((CHUNK_ITERATIONS, *leaf.shape), leaf.dtype), like
        )
        return jax.lax.fori_loop(0, number, one, (chain, empty))

    def values(z: Array, data: Any) -> Values:
        return jax.lax.map(lambda one: constrain(model, data, unravel(one)), z)

    once = partial(over_chains, placement=placement, compiler_options=ONCE)
    return Kernel(blocks, once(begin), over_chains(chunk, placement), once(values))


def _stats(before: Chain, point: Point, report: Report) -> dict[str, Array]:
    """Statistics of an iteration, by ArviZ's names."""
    return {
        "n_steps": report.num_steps,
        "diverging": report.diverging,
        "outside": report.outside,
        "acceptance_rate": report.acceptance,
        "energy": report.energy,
        "potential_energy": point.potential,
        "step_size": before.step_size,
    }


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
