"""Gradient and Hessian at a point: how far the mode is, and which directions are flat."""

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

MOST_PARAMETERS = 1000  # for which a Hessian is computed: it has the square of their number
BATCH = 32  # columns of the Hessian that are computed at once
# Both relative to the eigenvalue largest in size:
FLAT = 1e-6  # smaller ones are flat directions: a symmetry such as a rotation, or rounding
SADDLE = 1e-4  # one more negative than this is not rounding


class Curvature(NamedTuple):
    """Gradient and Hessian of a negative log density at a point, for n coordinates.

    Args:
        gradient_norm: Euclidean norm of the gradient.
        eigenvalues: of the Hessian, (n,), ascending; None if it is too large or not finite.
        eigenvectors: of the Hessian, (n, n), one in each column, or None.
        decrement: `1/2 g^T H^+ g` over the directions that are curved upwards, in nats: what a
            Newton step would gain. At 1/2 the mode is one posterior standard deviation away, all
            directions together. NaN without a Hessian.
    """

    gradient_norm: float
    eigenvalues: np.ndarray | None
    eigenvectors: np.ndarray | None
    decrement: float

    @property
    def curved(self) -> np.ndarray:
        """Which eigenvectors are neither flat nor of negative curvature, (n,)."""
        assert self.eigenvalues is not None
        return self.eigenvalues > FLAT * abs(self.eigenvalues).max()

    @property
    def saddle(self) -> bool:
        """Whether there is a direction of clearly negative curvature."""
        return self.eigenvalues is not None and bool(
            self.eigenvalues[0] < -SADDLE * max(float(abs(self.eigenvalues).max()), 1e-12)
        )


def curvature(model: NumPyroModel, data: Any, z: Any, coordinates: str) -> Curvature:
    """Curvature at z of the negative log density in `coordinates`.

    The Hessian is computed for at most 1,000 coordinates.

    Args:
        z: unconstrained coordinates, by which derivatives are taken in either case.
        coordinates: "constrained" or "unconstrained", see `objective`.
    """
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
    """Gradient (n,) and Hessian (n, n) at z.

    The Hessian is computed 32 columns at a time, each the derivative of the gradient along one
    coordinate, so that intermediate arrays are those of 32 gradients and not of n.
    """
    flat, unravel = ravel_pytree(z)
    gradient = jax.grad(lambda x: objective(model, data, coordinates)(unravel(x)))
    basis = jnp.eye(flat.size, dtype=flat.dtype)
    gradients, columns = map_in_batches(
        lambda along: jax.jvp(gradient, (flat,), (along,)), basis, BATCH
    )
    return gradients[0], columns  # every jvp returns the same gradient
