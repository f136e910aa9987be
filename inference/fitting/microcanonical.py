"""Microcanonical Langevin dynamics by BlackJAX: an approximation at two gradients a step."""

import importlib.util
import time
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from probattn.checks import as_data, as_integer, as_key
from probattn.errors import FitError, InputError
from probattn.inference.contract import BoundedModel, NumPyroModel
from probattn.inference.devices.chain_sharding import over_chains
from probattn.inference.devices.device_placement import Placement, place_chains
from probattn.inference.devices.multihost import gathered
from probattn.inference.devices.sharding import WITHIN_A_CHAIN, replicate, split_model
from probattn.inference.fitting.chain_starts import START_WORDS, check_start, origins, start_points
from probattn.inference.fitting.fit import Fit, split_latents
from probattn.inference.fitting.unconstrained import constrain, potential

# A third of the tuning steps each for step size, preconditioner and decoherence length.
TUNING_SHARE = 3
THINNING = 10
# McLachlan's integrator, BlackJAX's default, moves twice a step, with a gradient after each move.
GRADIENTS_A_STEP = 2


def sample_microcanonical(
    model: NumPyroModel,
    data: Any,
    *,
    key: Array,
    num_chains: int = 4,
    num_warmup: int = 5000,
    num_samples: int = 500,
    thinning: int = THINNING,
    start: str | Fit = "maps",
    devices: int | None = None,
    progress: bool = True,
) -> Fit:
    """Posterior draws by unadjusted microcanonical Langevin dynamics: fast, with a small bias.

    The step size is tuned to a small error, which no accept step corrects: compare the draws with
    those of `sample_posterior`. Needs the extra `blackjax`.

    Args:
        model, data, key: as `sample_posterior`.
        num_chains: number of chains.
        num_warmup: tuning steps of each chain, at least 100.
        num_samples: draws kept of each chain.
        thinning: steps for each draw that is kept.
        start, devices: as `sample_posterior`; by default each chain starts at a mode of its own.
        progress: show progress of the descent to the modes; the chains show none.

    Raises:
        InputError: as `sample_posterior`; BlackJAX is not installed; a model with a boundary (no
            contraction cap).
        FitError: a step or the tuning was not finite. BlackJAX alone would refuse such a step
            without a message.

    Source: Robnik et al., arXiv:2212.08549.
    """
    if importlib.util.find_spec("blackjax") is None:
        raise InputError(
            'microcanonical: needs BlackJAX; install it with `pip install "probattn[blackjax]"`'
        )
    for name, value in dict(
        num_chains=num_chains, num_samples=num_samples, thinning=thinning
    ).items():
        as_integer(name, value)
    as_integer("num_warmup", num_warmup, 100)
    started = time.perf_counter()
    num_starts = check_start(start, num_chains, None)
    data, placement = as_data(data), place_chains(num_chains, devices=devices)
    for_start, *for_chains = jax.random.split(as_key(key), num_chains + 1)
    if isinstance(model, BoundedModel) and model.has_boundary:
        raise InputError(
            "microcanonical: expected a model without a boundary, got one whose local domain ends "
            "where det J_t = 0, which no step may cross; use the contraction cap "
            "(contraction=0.9), or sample_posterior"
        )
    shared = origins(num_chains, num_starts)
    points, gradients = start_points(
        model, data, for_start, start, num_starts, progress, placement.for_starts
    )
    z = jax.tree.map(lambda leaf: leaf[np.array(shared)], points)
    split = split_model(model, placement, WITHIN_A_CHAIN)
    run = _program(split, placement, num_warmup, num_samples, thinning)
    values, stats, tuning_steps = gathered(
        run((z, jnp.stack(for_chains)), replicate(data, placement))
    )
    if not stats["finite"].all() or not np.isfinite(stats["step_size"]).all():
        chain = int((stats["finite"].all(1) & np.isfinite(stats["step_size"]).all(1)).argmin())
        raise FitError(
            f"microcanonical: a step of chain {chain + 1} was not finite: it met the boundary "
            "of the local domain, or its tuning failed; use the contraction cap (contraction=0.9), "
            "which has no boundary, or sample_posterior"
        )
    draws, latents = split_latents(model, values)
    words = START_WORDS[start] if isinstance(start, str) else START_WORDS["map"]
    del stats["finite"]
    steps = int(np.sum(tuning_steps)) + num_chains * num_samples * thinning
    return Fit(
        model,
        "microcanonical",
        np.asarray(data),
        draws,
        stats,
        latents,
        time.perf_counter() - started,
        gradients + GRADIENTS_A_STEP * steps,
        start=words,
        origins=shared,
        planned=num_samples,
    )


@lru_cache(maxsize=8)
def _program(
    model: NumPyroModel, placement: Placement, num_warmup: int, num_samples: int, thinning: int
) -> Callable:
    """`_chain` compiled over chains; the same object for equal settings, so that it compiles once.

    `(z, keys), data -> (values, stats, tuning steps)`, all with the chains as the leading axis.
    """
    return over_chains(_chain(model, num_warmup, num_samples, thinning), placement)


def _chain(model: NumPyroModel, num_warmup: int, num_samples: int, thinning: int) -> Any:
    """The function `(z, key), data -> (values, stats, tuning steps)` that runs one chain.

    Values and stats have the draws as their leading axis, (num_samples, ...).
    """
    import blackjax

    kernel = blackjax.mcmc.mclmc.build_kernel()

    def one_chain(start: Any, data: Array) -> Any:
        z, key = start

        def log_density(z: Any) -> Array:
            return -potential(model, data)(z)

        for_init, for_tuning, for_steps = jax.random.split(key, 3)
        state = blackjax.mcmc.mclmc.init(z, log_density, for_init)
        # BlackJAX takes a ninth more steps than it is asked for (the preconditioner's phase is a
        # third longer). Its count of them may be one too few, by rounding.
        state, tuned, tuning_steps = blackjax.mclmc_find_L_and_step_size(
            kernel,
            num_warmup,
            state,
            for_tuning,
            log_density,
            *[1 / TUNING_SHARE] * 3,
            diagonal_preconditioning=True,
        )

        def step(carry: Any, _: None) -> Any:
            state, key = carry
            key, now = jax.random.split(key)
            state, info = kernel(
                now, state, log_density, tuned.inverse_mass_matrix, tuned.L, tuned.step_size
            )
            return (state, key), (info.nonans, info.energy_change)

        def draw(carry: Any, _: None) -> Any:
            carry, (finite, change) = jax.lax.scan(step, carry, None, length=thinning)
            state = carry[0]
            stats = {
                "finite": finite.all(),
                "energy_error": change[-1],
                "potential_energy": -state.logdensity,
                "n_steps": jnp.asarray(thinning),
                "step_size": tuned.step_size,
            }
            return carry, (constrain(model, data, state.position), stats)

        values, stats = jax.lax.scan(draw, (state, for_steps), None, length=num_samples)[1]
        return values, stats, jnp.asarray(tuning_steps)

    return one_chain
