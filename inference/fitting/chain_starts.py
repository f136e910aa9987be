"""The points at which the chains of a sampler start: towards modes, from the prior, or random.

Chains do not start at a mode itself. Where data are few, the mode of a model with a boundary lies
where hardly a step of a trajectory stays inside: chains that start there never leave it. Halfway
from the origin of the unconstrained coordinates the same mode has room on all sides.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array

from probattn.checks import as_integer
from probattn.errors import InputError
from probattn.inference.contract import NumPyroModel
from probattn.inference.devices.compilation_cache import ONCE
from probattn.inference.devices.device_placement import Placement
from probattn.inference.devices.sharding import split_model
from probattn.inference.fitting.fit import Fit
from probattn.inference.fitting.map import find_modes, gradients_of
from probattn.inference.fitting.unconstrained import Values, draw_start, potential, unconstrain

START_WORDS = {
    "maps": "points halfway to independently trained modes",
    "map": "a point halfway to one mode",
    "prior": "draws from the prior",
    "random": "random points near the origin",
}
MODE_SHARE = 0.5  # of the way from the origin to a mode
MODE_STEPS = 1000  # of descent to a start, which need not be a mode to the last digit


def check_start(start: str | Fit, num_chains: int, num_starts: int | None) -> int:
    """The number of distinct points from which the chains start.

    Args:
        start: a key of START_WORDS, or a MAP fit, towards whose mode all chains start.
        num_starts: how many points to use; None is one for each chain, or one for a single mode.

    Raises: InputError for an unknown start, a fit by another method, or more points than chains.
    """
    single = not isinstance(start, str) or start == "map"
    if isinstance(start, str) and start not in START_WORDS:
        raise InputError(f"start: expected {', '.join(START_WORDS)} or a MAP fit, got {start!r}")
    if not isinstance(start, str) and start.method != "map":
        raise InputError(f"start: expected a MAP fit, got one by {start.method}")
    if num_starts is None:
        return 1 if single else num_chains
    as_integer("num_starts", num_starts)
    if num_starts > num_chains or (single and num_starts != 1):
        raise InputError(
            f"num_starts: expected at most {1 if single else num_chains}, got {num_starts}"
        )
    return num_starts


def origins(num_chains: int, num_starts: int) -> tuple[int, ...]:
    """The index of the start of each chain; neighbouring chains share a start."""
    return tuple(chain * num_starts // num_chains for chain in range(num_chains))


def start_points(
    model: NumPyroModel,
    data: Array,
    key: Array,
    start: str | Fit,
    num_starts: int,
    progress: bool,
    placement: Placement | None = None,
) -> tuple[Values, float]:
    """Start points of chains, and the cost of finding them in gradients on the whole data.

    Args:
        start: "maps" or "map", "prior", "random", or a MAP fit, as `check_start`.
        num_starts: number of points; 1 for "map" and for a fit.
        progress: whether to show the progress of the descents to modes.
        placement: devices over which the sequences are split; None is one device.

    Returns: unconstrained coordinates by name of site, (num_starts, ...), and the cost.
    """
    if not isinstance(start, str):
        mode = {
            name: jnp.asarray(value[0, 0])
            for name, value in {**start.draws, **start.latents}.items()
        }
        modes = jax.tree.map(lambda leaf: leaf[None], unconstrain(model, data, mode))
        return _halfway(model, data, modes), 0.0
    split = split_model(model, placement)
    points = draw_start(split, data, jax.random.split(key, num_starts), prior=start == "prior")
    if start not in ("maps", "map"):
        return points, 0.0
    modes, descent = find_modes(
        model, data, points, key, num_steps=MODE_STEPS, progress=progress, placement=placement
    )
    return _halfway(split, data, modes), gradients_of(descent, data)


def _halfway(model: NumPyroModel, data: Array, modes: Values) -> Values:
    """The points at MODE_SHARE of the way to each mode; the mode itself where that is outside."""
    points = jax.tree.map(lambda leaf: MODE_SHARE * leaf, modes)
    inside = jnp.isfinite(_energies(model, data, points))
    return jax.tree.map(
        lambda near, far: jnp.where(inside.reshape(-1, *[1] * (far.ndim - 1)), near, far),
        points,
        modes,
    )


@partial(jax.jit, static_argnums=0, compiler_options=ONCE)
def _energies(model: NumPyroModel, data: Array, points: Values) -> Array:
    """The negative log density at each point."""
    return jax.lax.map(potential(model, data), points)
