"""The full posterior by NUTS."""

import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from numpyro.infer import MCMC, NUTS

from probattn.errors import FitError, InputError
from probattn.inference.fit import Fit, split_latents
from probattn.inference.map import start

# NumPyro's names of what a transition reports, and ArviZ's.
STATS = {
    "num_steps": "n_steps",
    "diverging": "diverging",
    "accept_prob": "acceptance_rate",
    "energy": "energy",
    "potential_energy": "potential_energy",
    "adapt_state.step_size": "step_size",
}


def sample_posterior(
    model: Any,
    data: Any,
    *,
    key: Array,
    num_chains: int = 4,
    num_warmup: int = 500,
    num_samples: int = 500,
    max_tree_depth: int = 8,
    progress: bool = True,
) -> Fit:
    """Draws from the posterior by the No-U-Turn sampler.

    Chains run in parallel when there is a device for each (`numpyro.set_host_device_count` before JAX wakes), and
    vectorised on one device otherwise.

    Args:
        model: a NumPyro model called as `model(data)`.
        data: what it conditions on, sequences first: tokens (num_sequences, length) or embeddings.
        key: JAX random key.
        num_chains, num_warmup, num_samples: at least 1 each; samples are per chain.
        max_tree_depth: at most 2^depth - 1 gradients a draw.
        progress: show NumPyro's progress bars.

    Raises:
        InputError: data that the model refuses, or a count below 1.
        FitError: no start point of finite density, a NaN among the draws or their density, or a chain that never
            moved.
    """
    counts = {
        "num_chains": num_chains,
        "num_warmup": num_warmup,
        "num_samples": num_samples,
        "max_tree_depth": max_tree_depth,
    }
    for name, value in counts.items():
        if value < 1:
            raise InputError(f"{name}: expected at least 1, got {value}")
    started = time.perf_counter()
    data = jnp.asarray(data)
    mcmc = MCMC(
        NUTS(model, max_tree_depth=max_tree_depth),
        num_warmup=num_warmup,
        num_samples=num_samples,
        num_chains=num_chains,
        chain_method="parallel" if jax.local_device_count() >= num_chains else "vectorized",
        progress_bar=progress,
    )
    start(lambda: mcmc.run(key, data, extra_fields=tuple(STATS)))
    draws = {name: np.asarray(value) for name, value in mcmc.get_samples(group_by_chain=True).items()}
    fields = mcmc.get_extra_fields(group_by_chain=True)
    stats = {STATS[name]: np.asarray(value) for name, value in fields.items()}
    _refuse_failure(draws, stats["potential_energy"])
    draws, latents = split_latents(model, draws)
    return Fit(model, "posterior", np.asarray(data), draws, stats, latents, time.perf_counter() - started)


def _refuse_failure(draws: dict[str, np.ndarray], potential: np.ndarray) -> None:
    for name, value in {**draws, "potential energy": potential}.items():
        if not np.isfinite(value).all():
            chain, draw = np.argwhere(~np.isfinite(value))[0][:2]
            raise FitError(
                f"posterior: {name} is not finite at chain {chain + 1}, draw {draw + 1}; the fit is unusable"
            )
    for chain, energies in enumerate(potential, start=1):
        if len(energies) > 1 and (energies == energies[0]).all():
            raise FitError(f"posterior: chain {chain} never moved; give it more warmup (num_warmup, --num-warmup)")
