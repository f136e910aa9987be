"""A normal prior whose unconstrained coordinates are small near its mean."""

import jax.numpy as jnp
import numpyro.distributions as dist
from jax.typing import ArrayLike
from numpyro.distributions import biject_to, constraints
from numpyro.distributions.transforms import AffineTransform

# NumPyro starts a chain uniformly in (-2, 2) of the unconstrained coordinates: within half a
# standard deviation.
UNIT = 0.25


class _RealInUnits(constraints.Constraint):
    """Any real number; its unconstrained coordinate counts from `origin` in units of `unit`."""

    is_discrete = False
    event_dim = 0

    def __init__(self, origin, unit):
        self.origin, self.unit = origin, unit

    def __call__(self, x):
        return constraints.real(x)

    def feasible_like(self, prototype):
        return constraints.real.feasible_like(prototype)

    def tree_flatten(self):
        return (self.origin, self.unit), (("origin", "unit"), {})

    def eq(self, other, static=False):
        if not isinstance(other, _RealInUnits):
            return False
        return bool(
            jnp.array_equal(self.origin, other.origin) & jnp.array_equal(self.unit, other.unit)
        )


@biject_to.register(_RealInUnits)
def _(constraint):
    return AffineTransform(constraint.origin, constraint.unit)


class NearMeanNormal(dist.Normal):
    """A normal to whose mean NumPyro's default start points come within half a standard deviation.

    Attention starts in its local domain only when its interaction is small: under a plain Normal
    the default start in (-2, 2) lies outside it almost surely once there are many sequences. The
    change of coordinates is linear, so it moves neither the posterior nor the mode; it also makes
    one step size fit all parameters."""

    @constraints.dependent_property(is_discrete=False, event_dim=0)
    def support(self):
        return _RealInUnits(self.loc, UNIT * self.scale)


def normal(scale: ArrayLike, *shape: int, mean: ArrayLike = 0.0) -> dist.Distribution:
    """Independent NearMeanNormal(mean, scale) over an array of the given shape, as one event."""
    return NearMeanNormal(mean, scale).expand(shape).to_event(len(shape))
