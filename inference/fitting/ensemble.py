"""Deep ensembles: modes trained independently, as draws of equal weight."""

import time
from typing import Any

import jax
import numpy as np
from jaxtyping import Array

from probattn.checks import as_data, as_integer, as_key
from probattn.inference.contract import NumPyroModel
from probattn.inference.devices.device_placement import place_data
from probattn.inference.devices.sharding import split_model
from probattn.inference.fitting.fit import Fit, split_latents
from probattn.inference.fitting.map import LEARNING_RATE, NUM_STEPS, adam, find_modes, gradients_of
from probattn.inference.fitting.unconstrained import constrain_each, draw_start
from probattn.inference.fitting.verdict import Verdict


def fit_ensemble(
    model: NumPyroModel,
    data: Any,
    *,
    key: Array,
    num_members: int = 5,
    num_steps: int = NUM_STEPS,
    learning_rate: float = LEARNING_RATE,
    batch_size: int | None = None,
    devices: int | None = None,
    progress: bool = True,
) -> Fit:
    """A deep ensemble: modes trained independently from random points, as draws of equal weight.

    It represents that the density has several modes, but not how wide they are.

    Args:
        num_members: number of modes, at least 2.
        model, data, key, num_steps, learning_rate, batch_size, devices, progress: as `fit_map`.

    Raises: as `fit_map`. Source: theory, section 6.
    """
    started = time.perf_counter()
    as_integer("num_members", num_members, 2)
    data, key, placement = as_data(data), as_key(key), place_data(devices)
    starts = draw_start(split_model(model, placement), data, jax.random.split(key, num_members))
    ends, descent = find_modes(
        model,
        data,
        starts,
        key,
        optimiser=adam(learning_rate),
        num_steps=num_steps,
        batch_size=batch_size,
        progress=progress,
        placement=placement,
    )
    values = constrain_each(model, data, ends)
    draws, latents = split_latents(
        model, {name: np.asarray(value)[None] for name, value in values.items()}
    )
    still = int((~descent.at_rest).sum())
    finding = (
        f"{still} of {num_members} members were still falling."
        if still
        else f"All {num_members} members came to rest."
    )
    verdict = Verdict(not still, (finding,), ("Allow more steps (`num_steps`).",) if still else ())
    return Fit(
        model,
        "ensemble",
        np.asarray(data),
        draws,
        {"member_loss": descent.losses[:, -1]},
        latents,
        time.perf_counter() - started,
        gradients_of(descent, data, batch_size),
        coordinates="constrained",
        verdict=verdict,
    )
