"""Gradient and Hessian of a mode's objective at a point: how far is it from a mode, and along which
directions is it flat?"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from scipy.linalg import eigh

from probattn.attention.batching import map_in_batches
from probattn.inference.contract import NumPyroModel
from probattn.inference.devices.compilation_cache import ONCE
from probattn.inference.devices.multihost import gathered
from probattn.inference.fitting.unconstrained import objective, tree_size

MOST_PARAMETERS = 1000  # of which a Hessian is made: its entries are their square
BATCH = 32
# of the largest eigenvalue: below it a direction is flat, by a symmetry such as a rotation, or to
# rounding
FLAT = 1e-6
SADDLE = 1e-4  # of the largest eigenvalue: a more negative one than this is no rounding


class Curvature(NamedTuple):
    """Second-order picture of a potential at a point.

    Args:
        gradient_norm: Euclidean norm of the gradient.
        eigenvalues, eigenvectors: of the Hessian, in ascending order, or None where it is too
            large.
        decrement: `1/2 g^T H^+ g` over the directions that are not flat, in nats: what a Newton
            step would gain. At 1/2 the mode is one posterior standard deviation away in all
            directions together. NaN without a Hessian.
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


def curvature(model: NumPyroModel, data: Any, z: Any, coordinates: str) -> Curvature:
    """Gradient and, for at most a thousand coordinates, Hessian of the objective of a mode in
    `coordinates`, at z."""
    if tree_size(z) > MOST_PARAMETERS:
        gradient = gathered(_gradient(model, coordinates, data, z)).astype(float)
        return Curvature(float(np.linalg.norm(gradient)), None, None, float("nan"))
    gradient, hessian = (
        found.astype(float)
        for found in gathered(_gradient_and_hessian(model, coordinates, data, z))
    )
    norm = float(np.linalg.norm(gradient))
    if not np.isfinite(hessian).all():
        return Curvature(norm, None, None, float("nan"))
    values, vectors = eigh((hessian + hessian.T) / 2)
    found = Curvature(norm, values, vectors, 0.0)
    along = (vectors.T @ gradient)[found.curved]
    return found._replace(decrement=float(0.5 * (along**2 / values[found.curved]).sum()))


@partial(jax.jit, static_argnums=(0, 1), compiler_options=ONCE)
def _gradient(model: NumPyroModel, coordinates: str, data: Any, z: Any) -> Any:
    return ravel_pytree(jax.grad(objective(model, data, coordinates))(z))[0]


@partial(jax.jit, static_argnums=(0, 1))
def _gradient_and_hessian(
    model: NumPyroModel, coordinates: str, data: Any, z: Any
) -> tuple[Any, Any]:
    """Column by column, so that intermediate arrays are those of a few gradients and not of all of
    them."""
    flat, unravel = ravel_pytree(z)
    slope = jax.grad(lambda x: objective(model, data, coordinates)(unravel(x)))
    basis = jnp.eye(flat.size, dtype=flat.dtype)
    gradients, columns = map_in_batches(
        lambda along: jax.jvp(slope, (flat,), (along,)), basis, BATCH
    )
    return gradients[0], columns
