"""The points at which the chains of a sampler start: towards modes, from the prior, or random.

Chains do not start at a mode itself if any point on the way is inside. Where data are few, the mode
of a model with a boundary lies where hardly a step of a trajectory stays inside: chains that start
there never leave it. On the way from the mode to the origin of the unconstrained coordinates there
is room on all sides.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from probattn.checks import as_integer
from probattn.errors import InputError
from probattn.inference.contract import NumPyroModel
from probattn.inference.devices.compilation_cache import ONCE
from probattn.inference.devices.device_placement import Placement
from probattn.inference.devices.sharding import split_model
from probattn.inference.fitting.fit import Fit
from probattn.inference.fitting.map import find_modes, gradients_of
from probattn.inference.fitting.unconstrained import (
    Values,
    draw_start,
    potential,
    site_shapes,
    unconstrain,
)

START_WORDS = {
    "maps": "points on the way to independently trained modes",
    "map": "a point on the way to one mode",
    "prior": "draws from the prior",
    "random": "random points near the origin",
}
# Shares of the way from the origin to a mode, of which the largest is taken that has room.
MODE_SHARES = (0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6, 0.55, 0.5)
MODE_STEPS = 1000  # of descent to a start, which need not be a mode to the last digit


def check_start(start: Any, num_chains: int, num_starts: int | None) -> int:
    """The number of distinct points from which the chains start.

    Args:
        start: a key of START_WORDS, or a MAP fit, towards whose mode all chains start.
        num_starts: how many points to use; None is one for each chain, or one for a single mode.

    Raises: InputError for an unknown start, a fit by another method, or more points than chains.
    """
    single = not isinstance(start, str) or start == "map"
    if not isinstance(start, Fit) and not (isinstance(start, str) and start in START_WORDS):
        raise InputError(f"start: expected {', '.join(START_WORDS)} or a MAP fit, got {start!r}")
    if isinstance(start, Fit) and start.method != "map":
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
        got = {name: np.shape(value) for name, value in mode.items()}
        for name, shape in site_shapes(model, data).items():
            if got.get(name) != shape:
                raise InputError(
                    f"start: expected a fit of this model, with {name} of shape {shape}, got "
                    f"{got.get(name, 'none')}"
                )
        modes = jax.tree.map(lambda leaf: leaf[None], unconstrain(model, data, mode))
        return _with_room(model, data, modes), 0.0
    split = split_model(model, placement)
    points = draw_start(split, data, jax.random.split(key, num_starts), prior=start == "prior")
    if start not in ("maps", "map"):
        return points, 0.0
    modes, descent = find_modes(
        model, data, points, key, num_steps=MODE_STEPS, progress=progress, placement=placement
    )
    return _with_room(split, data, modes), gradients_of(descent, data)


def _with_room(model: NumPyroModel, data: Array, modes: Values) -> Values:
    """A point on the way from the origin to each mode.

    The negative log density of draws is above that of the mode by some half nat for each
    coordinate. The point is the one nearest to the mode where it is above by a whole one, and at
    the least of MODE_SHARES where it rises by less, as with few data. So the more the data say, the
    nearer chains start to what they say. Where the density is 0, as it may be at a share of its own
    where a boundary lies between, the next share counts; the mode itself if all are outside.
    """
    coordinates = sum(leaf[0].size for leaf in jax.tree.leaves(modes))
    at_modes = _energies(model, data, modes)
    found = jax.tree.map(lambda leaf: np.array(leaf), modes)
    taken = np.zeros(len(at_modes), bool)
    for share in reversed(MODE_SHARES):  # the last to be written is the largest with room
        points = jax.tree.map(lambda leaf, share=share: share * leaf, modes)
        rise = np.asarray(_energies(model, data, points) - at_modes)
        takes = np.isfinite(rise) & ((rise >= coordinates) | ~taken)
        taken |= takes
        for name, point in points.items():
            found[name][takes] = np.asarray(point)[takes]
    return jax.tree.map(jnp.asarray, found)


@partial(jax.jit, static_argnums=0, compiler_options=ONCE)
def _energies(model: NumPyroModel, data: Array, points: Values) -> Array:
    """The negative log density at each point."""
    return jax.lax.map(potential(model, data), points)
