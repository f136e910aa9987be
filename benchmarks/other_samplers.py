"""Samplers of other packages on probattn's density: BlackJAX (NUTS, diagonal metric), nutpie."""

import itertools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from probattn.inference.devices.chain_sharding import over_chains
from probattn.inference.devices.device_placement import place_chains
from probattn.inference.fitting.unconstrained import constrain_each, potential
from probattn.models import LanguageModel

CHAINS = 4
Draws = Mapping[str, np.ndarray]


class Setting(NamedTuple):
    """Iterations of each chain, and the most doublings of a trajectory."""

    warmup: int
    draws: int
    depth: int


class Run(NamedTuple):
    """Draws (chains, draws, ...) of each parameter, and gradients of warmup and of sampling, over
    all chains; those of the common starts are in neither."""

    draws: Draws
    warmup: float
    sampling: float


def with_blackjax(
    model: LanguageModel, data: Any, starts: Any, gradients: float, key: Any, setting: Setting
) -> Run:
    """BlackJAX's window adaptation of a diagonal metric, and its NUTS."""
    import blackjax

    energy = potential(model, data)
    adaptation = blackjax.window_adaptation(
        blackjax.nuts, lambda z: -energy(z), max_num_doublings=setting.depth
    )

    def chain(at: Any) -> Any:
        z, key = at
        for_warmup, for_draws = jax.random.split(key)
        (state, parameters), info = adaptation.run(for_warmup, z, setting.warmup)
        step = blackjax.nuts(lambda z: -energy(z), **parameters).step

        def one(state: Any, key: Any) -> Any:
            state, info = step(key, state)
            return state, (state.position, info.num_integration_steps)

        _, (draws, steps) = jax.lax.scan(one, state, jax.random.split(for_draws, setting.draws))
        return draws, steps.sum(), info.info.num_integration_steps.sum()

    run = over_chains(chain, place_chains(CHAINS))
    z, sampling, warmup = run((starts, jax.random.split(jax.random.fold_in(key, 1), CHAINS)))
    return Run(constrained(model, data, z), float(warmup.sum()), float(sampling.sum()))


def with_nutpie(
    model: LanguageModel, data: Any, starts: Any, gradients: float, key: Any, setting: Setting
) -> Run:
    """nutpie's NUTS with its own metric from draws and gradients."""
    import nutpie

    one = jax.tree.map(lambda leaf: leaf[0], starts)
    size, restore = len(ravel_pytree(one)[0]), ravel_pytree(one)[1]
    points = np.asarray(jax.vmap(lambda z: ravel_pytree(z)[0])(starts), np.float64)
    energy, turn = potential(model, data), itertools.count()
    density = jax.jit(jax.value_and_grad(lambda z: -energy(restore(z))))

    def make_density() -> Callable:
        def at(z: np.ndarray, **_: Any) -> tuple[float, np.ndarray]:
            value, slope = density(jnp.asarray(z, jnp.float32))
            return float(value), np.asarray(slope, np.float64)

        return at

    compiled = nutpie.compiled_pyfunc.from_pyfunc(
        size,
        make_density,
        lambda *_: lambda z, **_: {"z": np.asarray(z, np.float64)},
        [np.dtype(np.float64)],
        [(size,)],
        ["z"],
        make_initial_point_fn=lambda seed: points[next(turn) % CHAINS],
    )
    trace = nutpie.sample(
        compiled,
        draws=setting.draws,
        tune=setting.warmup,
        chains=CHAINS,
        cores=2,
        seed=int(jax.random.bits(key) >> 1),
        progress_bar=False,
        maxdepth=setting.depth,
    )
    flat = jnp.asarray(trace.posterior["z"].values, jnp.float32)  # [chains, draws, n]
    warmup, sampling = (
        float(trace[group]["n_steps"].sum()) for group in ("warmup_sample_stats", "sample_stats")
    )
    return Run(constrained(model, data, jax.vmap(jax.vmap(restore))(flat)), warmup, sampling)


def constrained(model: LanguageModel, data: Any, z: Any) -> Draws:
    """Values of the parameters at z (chains, draws, ...)."""
    chains, draws = next(iter(z.values())).shape[:2]
    values = constrain_each(
        model, data, jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), z)
    )
    return {
        name: np.asarray(value).reshape(chains, draws, *value.shape[1:])
        for name, value in values.items()
    }
