"""Laplace's approximation: a Gaussian around a mode of the posterior."""

import time
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array

from probattn.attention.batching import map_in_batches
from probattn.checks import as_data, as_integer, as_key
from probattn.errors import FitError, InputError
from probattn.inference.contract import NumPyroModel
from probattn.inference.devices.device_placement import place_data
from probattn.inference.devices.multihost import gathered
from probattn.inference.devices.sharding import split_model
from probattn.inference.fitting.fit import Fit, split_latents
from probattn.inference.fitting.hessian import MOST_PARAMETERS, Curvature, curvature
from probattn.inference.fitting.map import (
    LEARNING_RATE,
    NUM_STARTS,
    NUM_STEPS,
    adam,
    find_modes,
    gradients_of,
)
from probattn.inference.fitting.map_verdict import judge
from probattn.inference.fitting.unconstrained import (
    Values,
    constrain_each,
    draw_start,
    potential,
    tree_size,
)

LEAST_INSIDE = 0.05  # least share of the Gaussian's draws that must be inside the domain


def fit_laplace(
    model: NumPyroModel,
    data: Any,
    *,
    key: Array,
    num_samples: int = 500,
    num_steps: int = NUM_STEPS,
    learning_rate: float = LEARNING_RATE,
    num_starts: int = NUM_STARTS,
    devices: int | None = None,
    progress: bool = True,
) -> Fit:
    """Draws from Laplace's approximation, a Gaussian around the mode in unconstrained coordinates.

        z ~ N(z_MAP, H^+),   H = Hessian of -log p(z, data) at z_MAP

    Along directions in which the density is flat, such as rotations of the embeddings, the draws do
    not vary: predictions and all that is identified are constant along them. Draws outside the
    local domain are replaced by others; `stats["outside"]` is their share, and the approximation is
    poor where it is large. `fit.gradients` counts those of the descent. The Hessian costs about one
    more for each parameter.

    Args:
        num_samples: number of draws.
        model, data, key, num_steps, learning_rate, num_starts, devices, progress: as `fit_map`.

    Raises:
        InputError: as `fit_map`, or more than 1,000 parameters, including latent variables.
        FitError: as `fit_map`, a saddle in place of a mode, a Hessian that is not finite, or too
            few draws inside the domain.

    Source: theory, section 6.
    """
    started = time.perf_counter()
    as_integer("num_samples", num_samples)
    data, key, placement = as_data(data), as_key(key), place_data(devices)
    split = split_model(model, placement)
    starts = draw_start(split, data, jax.random.split(key, as_integer("num_starts", num_starts)))
    one = jax.tree.map(lambda leaf: leaf[0], starts)
    if tree_size(one) > MOST_PARAMETERS:
        raise InputError(
            f"Laplace: {tree_size(one)} numbers to be approximated, at most {MOST_PARAMETERS} "
            "have a Hessian here; use a smaller model, or an ensemble"
        )
    ends, descent = find_modes(
        model,
        data,
        starts,
        key,
        coordinates="unconstrained",
        optimiser=adam(learning_rate),
        num_steps=num_steps,
        progress=progress,
        placement=placement,
    )
    losses = descent.at_end
    best = int(np.nanargmin(losses))
    mode = jax.tree.map(lambda leaf: leaf[best], ends)
    found = curvature(split, data, mode, "unconstrained")
    verdict = judge(
        split,
        data,
        mode,
        "unconstrained",
        bool(descent.at_rest[best]),
        losses,
        nans=int(descent.nans[best]),
        found=found,
    )
    if found.eigenvalues is None or found.saddle:
        raise FitError(f"Laplace: no mode to approximate around. {verdict}")
    z, outside = gaussian_draws(split, data, mode, found, key, num_samples)
    values = constrain_each(model, data, z)
    draws, latents = split_latents(
        model, {name: np.asarray(value)[None] for name, value in values.items()}
    )
    stats = {"loss": descent.losses[best], "outside": np.array(outside)}
    return Fit(
        model,
        "laplace",
        np.asarray(data),
        draws,
        stats,
        latents,
        time.perf_counter() - started,
        gradients_of(descent, data),
        coordinates="unconstrained",
        verdict=verdict,
    )


def gaussian_draws(
    model: NumPyroModel, data: Array, mode: Values, found: Curvature, key: Array, num_samples: int
) -> tuple[Values, float]:
    """Draws from the Gaussian around a mode, and the share of all draws outside the domain.

    Args:
        mode: unconstrained coordinates, n of them in all.
        found: the curvature at `mode`, with k directions of positive curvature.

    Returns: draws inside the domain, by name of site with shape (num_samples, ...), and the share.
    Raises: FitError if so few draws are inside that twenty rounds do not yield `num_samples`.
    """
    assert found.eigenvalues is not None
    assert found.eigenvectors is not None
    flat, unravel = ravel_pytree(mode)
    # (n, k): eigenvectors as columns, each as long as the standard deviation along it.
    spread = found.eigenvectors[:, found.curved] / np.sqrt(found.eigenvalues[found.curved])
    kept, tried = np.zeros((0, flat.size)), 0
    for attempt in range(round(1 / LEAST_INSIDE)):
        noise = jax.random.normal(jax.random.fold_in(key, attempt), (num_samples, spread.shape[1]))
        z = np.asarray(flat) + np.asarray(noise) @ spread.T  # (num_samples, n)
        several = jax.vmap(unravel)(jnp.asarray(z, flat.dtype))
        inside = np.isfinite(gathered(_energies(model, data, several)))
        kept, tried = np.concatenate([kept, z[inside]]), tried + num_samples
        if len(kept) >= num_samples:
            break
    if len(kept) < num_samples:
        raise FitError(
            f"Laplace: only {len(kept)} of {tried} draws are inside the local domain; the "
            "approximation is of no use here, sample the posterior instead"
        )
    return jax.vmap(unravel)(jnp.asarray(kept[:num_samples], flat.dtype)), 1 - len(kept) / tried


@partial(jax.jit, static_argnums=0)
def _energies(model: NumPyroModel, data: Array, z: Values) -> Array:
    """`potential` at each of several points, the leading axis of z."""
    return map_in_batches(potential(model, data), z, 32)
