"""Data that stay on disk: a memory-mapped array of sequences, read a window at a time."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from numpyro.infer.util import log_density

from probattn.inference.contract import NumPyroModel

COORDINATES_FACTOR = (
    "coordinates"  # of `in_unconstrained_coordinates`: it counts once, as the prior does
)


@dataclass(frozen=True, eq=False)
class Windows:
    """Windows of an array `data`, as a rule memory-mapped (num_sequences, ...), each of `size`
    sequences.

    A window of random sequences stands for all of them: its likelihood counts `scale` times, the
    prior once."""

    data: np.ndarray
    size: int
    seed: int
    random: np.random.Generator = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", min(self.size, len(self.data)))
        object.__setattr__(self, "random", np.random.default_rng(self.seed))

    @property
    def scale(self) -> float:
        return len(self.data) / self.size

    def draw(self) -> Array:
        """The next window; in the order in which they lie on disk, since minibatches are drawn from
        it at random."""
        return jnp.asarray(
            self.data[
                np.sort(self.random.choice(len(self.data), self.size, replace=self.scale > 2))
            ]
        )

    def in_order(self) -> Iterator[Array]:
        """All sequences, once."""
        for start in range(0, len(self.data), self.size):
            yield jnp.asarray(self.data[start : start + self.size])

    def total(self, function: Callable[[Array, float], Any]) -> Any:
        """The sum over all sequences of what `function(rows, scale)` estimates of it from some."""
        total: Any = None
        for rows in self.in_order():
            share = len(rows) / len(self.data)
            part = jax.tree.map(
                lambda leaf, share=share: share * np.asarray(leaf, float), function(rows, 1 / share)
            )
            total = part if total is None else jax.tree.map(np.add, total, part)
        return total


def scaled_log_density(
    model: NumPyroModel, args: tuple, settings: dict[str, Any], values: Any, scale: Any
) -> Array:
    """`log p(values) + scale * log p(data | values)`; factors count with the data."""
    density, sites = log_density(model, args, settings, values)
    if scale == 1:
        return density
    once = [
        site["fn"].log_prob(site["value"]).sum()
        for name, site in sites.items()
        if site["type"] == "sample" and (not site["is_observed"] or name == COORDINATES_FACTOR)
    ]
    return scale * density - (scale - 1) * sum(once, start=jnp.zeros(()))
