"""Data that stay on disk: a memory-mapped array of sequences, read one window at a time."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from numpyro.infer.util import log_density

from probattn.inference.contract import NumPyroModel

# The factor that `in_unconstrained_coordinates` adds; like the prior, it counts once.
COORDINATES_FACTOR = "coordinates"


@dataclass(frozen=True, eq=False)
class Windows:
    """Windows of `size` sequences each, of an array that is usually memory-mapped.

    A window of random sequences stands for all sequences: its likelihood counts `scale` times, the
    prior once.

    Args:
        data: the sequences, (num_sequences, ...).
        size: sequences in a window, at most all.
        seed: of the random windows.
    """

    data: np.ndarray
    size: int
    seed: int
    random: np.random.Generator = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", min(self.size, len(self.data)))
        object.__setattr__(self, "random", np.random.default_rng(self.seed))

    @property
    def scale(self) -> float:
        """How often the likelihood of a window counts: all sequences over those of a window."""
        return len(self.data) / self.size

    def draw(self) -> Array:
        """The next window of random sequences, (size, ...).

        They are in the order in which they lie on disk, which is harmless: minibatches are drawn
        from the window at random. An array longer than two windows is drawn from with replacement.
        """
        return jnp.asarray(
            self.data[
                np.sort(self.random.choice(len(self.data), self.size, replace=self.scale > 2))
            ]
        )

    def in_order(self) -> Iterator[Array]:
        """All sequences once, window by window; the last window may be shorter."""
        for start in range(0, len(self.data), self.size):
            yield jnp.asarray(self.data[start : start + self.size])

    def total(self, function: Callable[[Array, float], Any]) -> Any:
        """The sum over all sequences, as the weighted mean of estimates from each window.

        `function(rows, scale)` estimates the sum from the rows of one window; each estimate, a tree
        of arrays, is weighted by the window's share of the sequences.
        """
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
    """The log joint density with a scaled likelihood: log p(values) + scale log p(data | values).

    Factors are scaled with the likelihood, except the one that changes the coordinates.
    """
    density, sites = log_density(model, args, settings, values)
    if scale == 1:
        return density
    once = [
        site["fn"].log_prob(site["value"]).sum()
        for name, site in sites.items()
        if site["type"] == "sample" and (not site["is_observed"] or name == COORDINATES_FACTOR)
    ]
    return scale * density - (scale - 1) * sum(once, start=jnp.zeros(()))
