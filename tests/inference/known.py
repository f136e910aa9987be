"""Models whose posterior is known, and one whose density has a wall.

They are dataclasses so that two of a kind are equal: what was compiled for one serves the other.
"""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

DATA = np.array([[0.9], [1.4], [0.2], [1.1]])


@dataclass(frozen=True)
class Conjugate:
    """y ~ N(theta, 1), theta ~ N(0, 2): the posterior is normal with the mean and spread below."""

    observed = "y"
    precision = 1 / 4 + len(DATA)
    mean, spread = DATA.sum() / precision, precision**-0.5

    def __call__(self, tokens, batch_size=None):
        theta = numpyro.sample("theta", dist.Normal(0, 2))
        with numpyro.plate("rows", len(tokens), subsample_size=batch_size) as rows:
            numpyro.sample("y", dist.Normal(theta, 1), obs=tokens[rows, 0])

    def log_likelihood(self, params, tokens):
        return dist.Normal(params["theta"], 1).log_prob(tokens[..., 0])


@dataclass(frozen=True)
class Line:
    """y_i ~ N(offset + slopes . (1, i), 1): sites of different shapes, whose programs are small.

    The density is 0 where the offset is above `wall`."""

    wall: float = float("inf")

    observed = "y"

    def __call__(self, tokens):
        offset = numpyro.sample("offset", dist.Normal(0, 2))
        numpyro.factor("wall", jnp.where(offset <= self.wall, 0.0, -jnp.inf))
        slopes = numpyro.sample("slopes", dist.Normal(0, 1).expand((2,)).to_event(1))
        with numpyro.plate("rows", len(tokens)):
            mean = offset + slopes[0] + jnp.arange(len(tokens)) * slopes[1]
            numpyro.sample("y", dist.Normal(mean, 1), obs=tokens[:, 0])


@dataclass(frozen=True)
class Walled:
    """The same without minibatches, and of density 0 above 0.8, so that steps towards the mode run
    into a wall."""

    has_boundary = True

    def __call__(self, tokens):
        theta = numpyro.sample("theta", dist.Normal(0, 2))
        numpyro.factor("wall", jnp.where(theta < 0.8, 0.0, -jnp.inf))
        numpyro.sample("y", dist.Normal(theta, 1), obs=tokens[:, 0])

    def outside_domain(self, params, tokens):
        return jnp.arange(len(tokens))[:, None] == jnp.where(params["theta"] < 0.8, -1, 2)


@dataclass(frozen=True)
class Barred(Conjugate):
    """A logarithmic barrier at 0.8 in place of the wall: the mode is inside, where 1 / (0.8 - x) =
    3.6 - 4.25 x."""

    def __call__(self, tokens, batch_size=None):
        theta = numpyro.sample("theta", dist.Normal(0, 2))
        room = 0.8 - theta
        numpyro.factor(
            "barrier", jnp.where(room > 0, jnp.log(jnp.where(room > 0, room, 1)), -jnp.inf)
        )
        with numpyro.plate("rows", len(tokens), subsample_size=batch_size) as rows:
            numpyro.sample("y", dist.Normal(theta, 1), obs=tokens[rows, 0])


@dataclass(frozen=True)
class Exponential:
    """x ~ Exponential(1): its constrained mode is 0, its unconstrained one 1."""

    observed = "y"

    def __call__(self, data):
        numpyro.sample("x", dist.Exponential(1.0))


@dataclass(frozen=True)
class Impossible:
    def __call__(self, tokens):
        numpyro.sample("theta", dist.Normal(0, 2))
        numpyro.factor("never", -jnp.inf)


@dataclass(frozen=True)
class Many:
    """More numbers than have a Hessian."""

    def __call__(self, data):
        numpyro.sample("theta", dist.Normal(0, 2).expand((1001,)).to_event(1))


@dataclass(frozen=True)
class Saddle:
    """Density rising along x from a saddle at x = 0, where every symmetric descent stays."""

    def __call__(self, data):
        x = numpyro.sample("x", dist.ImproperUniform(dist.constraints.real, (), ()))
        numpyro.factor("double well", 2 * x**2 - x**4)


@dataclass(frozen=True)
class BarredRows(Conjugate):
    """A barrier of each row's own, at 0.8, 1.8, 2.8 and 3.8: a batch without the first row does not
    know of 0.8."""

    def __call__(self, tokens, batch_size=None):
        theta = numpyro.sample("theta", dist.Normal(0, 2))
        with numpyro.plate("rows", len(tokens), subsample_size=batch_size) as rows:
            room = 0.8 + rows - theta
            numpyro.factor(
                "barrier",
                0.05 * jnp.where(room > 0, jnp.log(jnp.where(room > 0, room, 1)), -jnp.inf),
            )
            numpyro.sample("y", dist.Normal(theta, 1), obs=tokens[rows, 0])


@dataclass(frozen=True)
class Broken(Conjugate):
    """Not a number above 0.8: a failure, and no boundary."""

    def __call__(self, tokens):
        theta = numpyro.sample("theta", dist.Normal(0, 2))
        numpyro.factor(
            "broken", jnp.where(theta < 0.8, 3 * jnp.log(0.81 - jnp.minimum(theta, 0.8)), jnp.nan)
        )
        numpyro.sample("y", dist.Normal(theta, 1), obs=tokens[:, 0])
