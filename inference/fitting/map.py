"""Maximum a posteriori by stochastic variational inference with a point guide."""

import inspect
import math
import time
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

from probattn.checks import as_data, as_integer, as_key
from probattn.errors import FitError, InputError
from probattn.inference.contract import BoundedModel, NumPyroModel, name_of
from probattn.inference.data.on_disk import Windows, scaled_log_density
from probattn.inference.devices.compilation_cache import ONCE
from probattn.inference.devices.device_placement import Placement, place_data
from probattn.inference.devices.multihost import gathered, is_first
from probattn.inference.devices.progress import Progress
from probattn.inference.devices.sharding import (
    condensed,
    replicate,
    replicated_sharding,
    split_model,
)
from probattn.inference.fitting.descent import CHUNK_STEPS, Descent, descend
from probattn.inference.fitting.fit import Fit, split_latents
from probattn.inference.fitting.hessian import Curvature
from probattn.inference.fitting.map_verdict import judge
from probattn.inference.fitting.point_elbo import (
    coordinates_of,
    initialiser,
    point_svi,
    whole_loss,
)
from probattn.inference.fitting.unconstrained import (
    Values,
    constrain,
    constrain_each,
    draw_start,
    in_unconstrained_coordinates,
    log_jacobian,
)

MODE_COORDINATES = ("constrained", "unconstrained")
NUM_STEPS = 8000
NUM_STARTS = 4  # modes of words differ by tens of nats, and a single descent may end at a saddle
LEARNING_RATE = 0.1


def fit_map(
    model: NumPyroModel,
    data: Any,
    *,
    key: Array,
    num_steps: int = NUM_STEPS,
    learning_rate: float = LEARNING_RATE,
    optimiser: optax.GradientTransformation | None = None,
    num_starts: int = NUM_STARTS,
    batch_size: int | None = None,
    coordinates: str = "constrained",
    devices: int | None = None,
    progress: bool = True,
) -> Fit:
    """Mode of the joint density, by SVI with a point guide and an optax optimiser.

    Descent stops when it is at rest, or after `num_steps`. Latent variables are fitted along with
    the parameters.

    The place of a mode depends on the coordinates. "constrained" is where the density of the sites
    themselves is highest (as NumPyro's AutoDelta), "unconstrained" where the density of the
    sampler's coordinates is highest, which is the mode that Laplace's approximation needs. For
    Exponential(1) they are at 0 and at 1. `fit.modes` has both.

    A step that would leave the local domain is halved until it does not, since past the boundary
    the density rises again (theory, section 3). `fit.verdict` says whether the end is a mode: at
    rest, with little left for a Newton step to gain, and with no direction of negative curvature
    (the last two for at most 1,000 parameters).

    Args:
        model: a NumPyro model called as `model(data)`; with `batch_size`, as `model(data,
            batch_size=)`, whose plate subsamples.
        data: what the model conditions on, sequences first: tokens (num_sequences, length) or
            embeddings (num_sequences, length, dim). With `batch_size`, a memory-mapped array
            (`numpy.load(path, mmap_mode="r")`) stays on disk: every 50 steps take their minibatches
            from 50 `batch_size` sequences, read at random. The Hessian is then not computed.
        key: JAX random key, for start points and minibatches.
        num_steps: the most steps to take.
        learning_rate: of Adam, in unconstrained coordinates.
        optimiser: used in place of Adam. Its steps are shortened where the loss no longer falls by
            more than its noise.
        num_starts: number of independent start points, vectorised; the fit is the best end.
        batch_size: sequences in a minibatch; None is all of them.
        coordinates: "constrained" or "unconstrained".
        devices: number of devices over which the sequences, or those of each minibatch, are split.
            None is one, or all devices of several processes. Results agree up to rounding.
        progress: show progress.

    Raises:
        InputError: data that the model refuses, a count below 1, a model without minibatches, or
            more devices than there are.
        FitError: no start point of finite density, a boundary or a NaN loss that no step leads away
            from (the message names the position, if the model knows it), or minibatch steps that
            keep leaving the domain or end outside.

    Source: theory, sections 6 and 7.

    Example:

        >>> import jax
        >>> import numpy as np
        >>> from probattn.inference import fit_map
        >>> from probattn.models import LanguageModel
        >>> words = np.array([[1, 2, 0], [1, 2, 0], [2, 1, 0]])
        >>> fit = fit_map(LanguageModel(3, 3, dim=1), words, key=jax.random.key(0), progress=False)
        >>> fit.method, fit.draws["embedding"].shape  # one chain of one draw
        ('map', (1, 1, 3, 1))
    """
    started = time.perf_counter()
    as_integer("num_starts", num_starts)
    windows, placement = None, place_data(devices)
    on_disk, key = data, as_key(key)
    if batch_size is not None:
        _checked_batch(model, data, batch_size)
    if isinstance(data, np.memmap) and batch_size is not None:
        windows = Windows(data, CHUNK_STEPS * batch_size, int(jax.random.bits(key)))
    data = as_data(data) if windows is None else windows.draw()
    split = split_model(model, placement)
    if progress and is_first() and placement.num_devices > 1:
        print(placement.devices)
    starts = draw_start(split, data, jax.random.split(key, num_starts))
    optimiser = adam(learning_rate) if optimiser is None else optimiser
    settings: dict[str, Any] = dict(
        optimiser=optimiser, num_steps=num_steps, batch_size=batch_size, progress=progress
    )
    settings |= dict(placement=placement, windows=windows)
    ends, descent = find_modes(model, data, starts, key, coordinates=coordinates, **settings)
    known_curvature = None
    if windows is None:
        losses = descent.at_end
    else:  # `descent.at_end` is the loss on one window
        losses, gradients_at_ends = _over_windows(split, windows, ends, coordinates)
    best = int(np.nanargmin(losses))
    mode = jax.tree.map(lambda leaf: leaf[best], ends)
    if windows is not None:
        if not np.isfinite(losses[best]):
            raise FitError(
                "MAP: the end lies outside the domain of some sequence; use a larger batch_size"
            )
        known_curvature = Curvature(
            float(np.linalg.norm(gradients_at_ends[best])), None, None, math.nan
        )
    verdict = judge(
        split,
        data,
        mode,
        coordinates,
        bool(descent.at_rest[best]),
        losses,
        batch_size,
        int(descent.nans[best]),
        known_curvature,
        on_disk=windows is not None,
    )
    other = next(name for name in MODE_COORDINATES if name != coordinates)
    # The mode in the other coordinates, by a second descent that starts from this one.
    there, gradients = mode, gradients_of(descent, on_disk, batch_size)
    if _coordinates_matter(split, data, mode):
        several = jax.tree.map(lambda leaf: leaf[None], mode)
        others, descent_there = find_modes(model, data, several, key, coordinates=other, **settings)
        there = jax.tree.map(lambda leaf: leaf[0], others)
        gradients += gradients_of(descent_there, on_disk, batch_size)
    draws, latents = _as_draws(model, data, mode)
    other_draws, _ = _as_draws(model, data, there)
    return Fit(
        model,
        "map",
        np.asarray(on_disk),
        draws,
        {"loss": descent.losses[best], "start_loss": losses},
        latents,
        time.perf_counter() - started,
        gradients,
        coordinates=coordinates,
        other_mode={name: np.asarray(value[0, 0]) for name, value in other_draws.items()},
        verdict=verdict,
    )


def find_modes(
    model: NumPyroModel,
    data: Array,
    starts: Values,
    key: Array,
    *,
    coordinates: str = "constrained",
    optimiser: optax.GradientTransformation | None = None,
    num_steps: int = NUM_STEPS,
    batch_size: int | None = None,
    progress: bool = True,
    placement: Placement | None = None,
    windows: Windows | None = None,
) -> tuple[Values, Descent]:
    """The ends of descents from several starts, and the descents themselves.

    Starts and ends are in unconstrained coordinates, by name of site with the starts as the leading
    axis, whatever `coordinates` the density is in. Other arguments and errors are as `fit_map`.

    Args:
        placement: devices over which the sequences are split; None is one device.
        windows: windows of data that stay on disk, of which `data` is one; None if it is all.
    """
    as_integer("num_steps", num_steps)
    if coordinates not in MODE_COORDINATES:
        raise InputError(
            f'coordinates: expected "constrained" or "unconstrained", got {coordinates!r}'
        )
    if batch_size is not None:
        _checked_batch(model, data, batch_size)
    split, sharding = split_model(model, placement), replicated_sharding(placement)
    scale = 1.0 if windows is None else windows.scale
    svi = point_svi(
        split, tuple(starts), coordinates, optimiser or adam(LEARNING_RATE), batch_size, scale
    )
    keys = jax.random.split(jax.random.fold_in(key, 1), len(jax.tree.leaves(starts)[0]))
    given = data
    if batch_size is None and windows is None:
        given = condensed(model, data, placement)
    states = initialiser(svi, sharding)(starts, keys, replicate(given, placement))

    def explain(state: Any) -> str:
        return where_outside(model, data, constrain(model, data, coordinates_of(svi, state)))

    with Progress("MAP", num_steps, progress) as bar:
        descent = descend(
            svi,
            states,
            (lambda: replicate(given if windows is None else windows.draw(), placement)),
            num_steps,
            None if batch_size is None else whole_loss(svi, split, coordinates),
            explain,
            bar,
            sharding,
        )
    ends = gathered(coordinates_of(svi, descent.states))
    return jax.tree.map(jnp.asarray, ends), descent


def gradients_of(descent: Descent, data: Any, batch_size: int | None = None) -> float:
    """The cost of a descent, in gradients on the whole data.

    Each step of each start is one, also of a start at rest; a step with a minibatch is its share of
    one. Chunks that were discarded because they left the domain, which are few, are not counted.
    """
    return descent.losses.size * (1.0 if batch_size is None else batch_size / len(data))


@lru_cache(maxsize=32)
def adam(learning_rate: float) -> optax.GradientTransformation:
    """Adam, the same object for equal rates, so that descents with it share a compiled program."""
    return optax.adam(learning_rate)


def _over_windows(
    model: NumPyroModel, windows: Windows, ends: Values, coordinates: str
) -> tuple[np.ndarray, np.ndarray]:
    """Objective on the whole data at each end, (starts,), and gradients, (starts, parameters)."""
    fitted = model if coordinates == "constrained" else in_unconstrained_coordinates(model)

    @partial(jax.jit, static_argnums=2)
    def of_rows(ends: Values, rows: Array, scale: float) -> Any:
        def energy(z: Values) -> Array:
            return -scaled_log_density(fitted, (rows,), {}, constrain(model, rows, z), scale)

        losses, gradients = jax.vmap(jax.value_and_grad(energy))(ends)
        return losses, jnp.concatenate(
            [leaf.reshape(len(losses), -1) for leaf in jax.tree.leaves(gradients)], axis=1
        )

    return windows.total(lambda rows, scale: gathered(of_rows(ends, rows, scale)))


def where_outside(model: NumPyroModel, data: Any, values: Values) -> str:
    """Why the density vanishes: text with the first position outside the local domain, if any."""
    if isinstance(model, BoundedModel):
        outside = np.argwhere(np.asarray(model.outside_domain(values, data)))
        if len(outside):
            sequence, position = outside[0]
            more = f" (and {len(outside) - 1} more positions)" if len(outside) > 1 else ""
            return (
                f"det J is not positive at sequence {sequence}, position {position}, counted from "
                f"0{more}"
            )
    return "the density there is 0 or not a number"


def _checked_batch(model: NumPyroModel, data: Any, batch_size: int) -> int:
    as_integer("batch_size", batch_size)
    if "batch_size" not in inspect.signature(model).parameters:
        raise InputError(
            f"batch_size: {name_of(model)} has no minibatches (it takes no argument "
            "batch_size by which its plate subsamples); leave it out"
        )
    if batch_size > len(data):
        raise InputError(
            f"batch_size: expected at most the {len(data)} sequences, got {batch_size}"
        )
    return batch_size


def _coordinates_matter(model: NumPyroModel, data: Array, z: Values) -> bool:
    """Whether the modes in the two coordinates differ: whether any site's transform is not linear.

    If all are linear, the log Jacobian is constant. Only its gradient at `z` is examined.
    """
    return any(
        leaf.any() for leaf in jax.tree.leaves(gathered(_gradient_of_log_jacobian(model, data, z)))
    )


@partial(jax.jit, static_argnums=0, compiler_options=ONCE)
def _gradient_of_log_jacobian(model: NumPyroModel, data: Array, z: Values) -> Values:
    return jax.grad(lambda z: log_jacobian(model, data, z))(z)


def _as_draws(model: NumPyroModel, data: Array, z: Values) -> tuple[Any, Any]:
    """Parameters and latent variables at z, as one chain of one draw: (1, 1, ...)."""
    values = constrain_each(model, data, jax.tree.map(lambda leaf: leaf[None], z))
    return split_latents(model, {name: np.asarray(value)[None] for name, value in values.items()})
