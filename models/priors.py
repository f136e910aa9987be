"""A normal prior whose unconstrained coordinates are small near its mean."""

import jax.numpy as jnp
import numpyro.distributions as dist
from jax.typing import ArrayLike
from numpyro.distributions import biject_to, constraints
from numpyro.distributions.transforms import AffineTransform

from probattn.checks import in_default_float

# Unit of the unconstrained coordinates, in standard deviations. NumPyro starts chains uniformly in
# (-2, 2) of these coordinates, which then is within half a standard deviation of the mean.
UNIT = 0.25


class _RealInUnits(constraints.Constraint):
    """Any real number x; its unconstrained coordinate is `(x - origin) / unit`."""

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
    """The map from the unconstrained coordinate to the real number."""
    return AffineTransform(constraint.origin, constraint.unit)


class NearMeanNormal(dist.Normal):
    """A normal prior whose default start points in NumPyro are near its mean.

    They are within half a standard deviation of it.

    Attention starts in its local domain only if its interaction is small: under a plain Normal,
    once there are many sequences, the default start in (-2, 2) is almost surely outside. The change
    of coordinates is linear, so it moves neither the posterior nor the mode. It also puts all
    parameters on one scale, so that one step size fits all.
    """

    @constraints.dependent_property(is_discrete=False, event_dim=0)
    def support(self):
        """All real numbers, with unconstrained coordinates in units of UNIT standard deviations."""
        return _RealInUnits(self.loc, UNIT * self.scale)


class LogNormal(dist.LogNormal):
    """A log-normal prior that takes the logarithm of a value in JAX's default float."""

    def log_prob(self, value, intermediates=None):
        return super().log_prob(in_default_float(value), intermediates)


def normal(scale: ArrayLike, *shape: int, mean: ArrayLike = 0.0) -> dist.Distribution:
    """Independent NearMeanNormal(mean, scale) over an array of the given shape, as one event."""
    mean, scale = in_default_float((mean, scale))  # so that values of other types are promoted
    return NearMeanNormal(mean, scale).expand(shape).to_event(len(shape))
