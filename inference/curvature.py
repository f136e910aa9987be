"""Gradient and Hessian of a potential at a point: is it a mode, how far from it, and along which directions is it flat?"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.flatten_util import ravel_pytree

from probattn.inference.processes import gathered

MOST_PARAMETERS = 1000  # of which a Hessian is made: its entries are their square
BATCH = 32
FLAT = 1e-6  # of the largest eigenvalue: below it a direction is flat, by a symmetry such as a rotation, or to rounding
SADDLE = 1e-4  # of the largest eigenvalue: a more negative one than this is no rounding


class Curvature(NamedTuple):
    """Second-order picture of a potential at a point.

    Args:
        gradient_norm: Euclidean norm of the gradient.
        eigenvalues, eigenvectors: of the Hessian, in ascending order, or None where it is too large.
        decrement: `1/2 g^T H^+ g` over the directions that are not flat, in nats: what a Newton step would gain. At 1/2 the
            mode is one posterior standard deviation away in all directions together. NaN without a Hessian.
    """

    gradient_norm: float
    eigenvalues: np.ndarray | None
    eigenvectors: np.ndarray | None
    decrement: float

    @property
    def curved(self) -> np.ndarray:
        """Which directions are neither flat nor downward."""
        assert self.eigenvalues is not None
        return self.eigenvalues > FLAT * abs(self.eigenvalues).max()

    @property
    def saddle(self) -> bool:
        """Whether there is a direction of clearly negative curvature."""
        return self.eigenvalues is not None and bool(
            self.eigenvalues[0] < -SADDLE * max(float(abs(self.eigenvalues).max()), 1e-12)
        )


def curvature(potential: Callable[[Any], Any], z: Any) -> Curvature:
    """Gradient and, for at most a thousand coordinates, Hessian of `potential` at z."""
    flat, unravel = ravel_pytree(z)
    slope = jax.grad(lambda x: potential(unravel(x)))
    if flat.size > MOST_PARAMETERS:
        return Curvature(float(np.linalg.norm(gathered(jax.jit(slope)(flat)).astype(float))), None, None, float("nan"))
    gradient, hessian = (found.astype(float) for found in gathered(_gradient_and_hessian(slope, flat)))
    norm = float(np.linalg.norm(gradient))
    if not np.isfinite(hessian).all():
        return Curvature(norm, None, None, float("nan"))
    values, vectors = np.linalg.eigh((hessian + hessian.T) / 2)
    found = Curvature(norm, values, vectors, 0.0)
    along = (vectors.T @ gradient)[found.curved]
    return found._replace(decrement=float(0.5 * (along**2 / values[found.curved]).sum()))


def _gradient_and_hessian(slope: Callable[[Any], Any], x: Any) -> tuple[Any, Any]:
    """Column by column, so that intermediate arrays are those of a few gradients and not of all of them."""

    def both(basis: Any) -> tuple[Any, Any]:
        gradients, columns = jax.lax.map(lambda direction: jax.jvp(slope, (x,), (direction,)), basis, batch_size=BATCH)
        return gradients[0], columns

    return jax.jit(both)(np.eye(x.size, dtype=x.dtype))
