"""A model's joint density as a function of the unconstrained coordinates that samplers move in."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
from jaxtyping import Array
from numpyro.distributions import biject_to
from numpyro.handlers import seed, substitute, trace
from numpyro.infer import init_to_sample, init_to_uniform
from numpyro.infer.util import compute_log_probs, constrain_fn, potential_energy, unconstrain_fn

from probattn.checks import in_default_float
from probattn.errors import FitError
from probattn.inference.contract import NumPyroModel
from probattn.inference.devices.compilation_cache import ONCE
from probattn.inference.devices.multihost import gathered
from probattn.inference.fitting.handlers import refuse_params, refuse_reparam

Values = dict[str, Any]
ATTEMPTS = 100  # to draw a start point of finite density, for each start


def potential(model: NumPyroModel, data: Any) -> Callable[[Values], Array]:
    """The function `z -> -log p(z, data)`, with the density of the unconstrained coordinates z."""
    return partial(potential_energy, model, (data,), {})


def constrain(model: NumPyroModel, data: Any, z: Values) -> Values:
    """Values of all sites, including deterministic ones, at unconstrained coordinates z."""
    return constrain_fn(model, (data,), {}, z, return_deterministic=True)


@partial(jax.jit, static_argnums=0, compiler_options=ONCE)
def constrain_each(model: NumPyroModel, data: Any, z: Values) -> Values:
    """`constrain` at each of several points, which are the leading axis of z."""
    return jax.lax.map(partial(constrain, model, data), z)


def log_jacobian(model: NumPyroModel, data: Any, z: Values) -> Array:
    """The log Jacobian determinant `log |d values / d z|` at unconstrained coordinates z.

    The log density of z is that of the values of the sites plus this.
    """
    sites = trace(substitute(seed(model, 0), data=constrain_fn(model, (data,), {}, z))).get_trace(
        data
    )
    return _log_jacobian(sites)


def log_prior_and_likelihood(model: NumPyroModel, data: Any, z: Values) -> tuple[Array, Array]:
    """The two parts of `-potential`, each a scalar: `log p(z)` and `log p(data | z)`.

    The prior is the density of the unconstrained coordinates, log Jacobian included, so that it
    integrates to one over them. The likelihood has all that is observed, factors among it.
    """
    values = constrain_fn(model, (data,), {}, z)
    terms, sites = compute_log_probs(seed(model, 0), (data,), {}, values)
    prior, likelihood = _log_jacobian(sites), jnp.zeros(())
    for name, term in terms.items():
        if sites[name]["is_observed"]:
            likelihood += term
        else:
            prior += term
    return prior, likelihood


def draw_prior(model: NumPyroModel, data: Any, key: Array) -> Values:
    """Unconstrained coordinates of one draw from the prior, whatever its likelihood."""
    sites = trace(seed(model, key)).get_trace(data)
    return unconstrain(model, data, drawn_values(sites))


def objective(model: NumPyroModel, data: Any, coordinates: str) -> Any:
    """The negative log density to minimise, as a function of unconstrained coordinates z.

    Args:
        coordinates: whose density it is: "unconstrained", that of z, or "constrained", that of the
            sites at z.
    """
    energy = potential(model, data)
    if coordinates == "unconstrained":
        return energy
    return lambda z: energy(z) + log_jacobian(model, data, z)


def in_unconstrained_coordinates(model: NumPyroModel) -> Callable:
    """The model with the factor `log |d values / d z|`, called "coordinates".

    The density of its sites is thus that of the unconstrained coordinates, and so is its mode.
    """

    def transformed(data: Any, **settings: Any) -> None:
        with trace() as sites:
            model(data, **settings)
        numpyro.factor("coordinates", _log_jacobian(sites))

    return transformed


def _log_jacobian(sites: Any) -> Array:
    """`log_jacobian` at the values in a trace."""
    total = jnp.zeros(())
    for site in sites.values():
        if site["type"] == "sample" and not site["is_observed"]:
            transform = biject_to(site["fn"].support)
            total += jnp.sum(
                transform.log_abs_det_jacobian(transform.inv(site["value"]), site["value"])
            )
    return total


def unconstrain(model: NumPyroModel, data: Any, values: Values) -> Values:
    """Unconstrained coordinates of the given values of the sample sites."""
    return unconstrain_fn(model, (data,), {}, in_default_float(values))


def draw_start(model: NumPyroModel, data: Any, keys: Array, prior: bool = False) -> Values:
    """Random start points of finite density and gradient, in unconstrained coordinates.

    Args:
        keys: one for each point.
        prior: whether to draw from the prior; otherwise uniformly in (-2, 2).

    Returns: coordinates by name of site, with the points as the leading axis.
    Raises: InputError for data that the model refuses; FitError if a hundred attempts at one of
        them fail.
    """
    _show_data(model, data, prior)
    points = [_one_start(model, prior, key, data) for key in keys]
    return jax.tree.map(lambda *leaves: jnp.asarray(np.stack(leaves)), *points)


def site_shapes(model: NumPyroModel, data: Any) -> dict[str, tuple[int, ...]]:
    """Shapes of the values of the sites that are not observed, by name."""

    def run(key: Array) -> Values:
        return drawn_values(trace(seed(model, key)).get_trace(data))

    return {name: leaf.shape for name, leaf in jax.eval_shape(run, jax.random.key(0)).items()}


def drawn_values(sites: Any) -> Values:
    """Values by name of the sites in a trace that were drawn.

    Factors are not among them: NumPyro counts them as observed."""
    return {
        name: site["value"]
        for name, site in sites.items()
        if site["type"] == "sample" and not site["is_observed"]
    }


def _show_data(model: NumPyroModel, data: Any, prior: bool) -> None:
    """Let the model check the values of the data, which it does not see where it is compiled."""

    def run(key: Array) -> None:
        refuse_reparam(model, data)
        strategy = init_to_sample() if prior else init_to_uniform()
        substitute(seed(model, key), substitute_fn=strategy)(data)

    jax.eval_shape(run, jax.random.key(0))


def _one_start(model: NumPyroModel, prior: bool, key: Array, data: Any) -> Values:
    for attempt in range(ATTEMPTS):
        z, valid = gathered(
            _attempt(model, prior, jax.random.fold_in(key, attempt) if attempt else key, data)
        )
        if valid:
            return z
    raise FitError(
        "no start point of finite density was found: near the origin of the parameters some "
        "det J_t is not positive; use a smaller dim, or the contraction cap, which has no "
        "boundary (contraction=0.9)"
    )


# Compiled as a whole, since NumPyro's own search runs and compiles operation by operation; and for
# one point, so that any number of starts uses the same program.
@partial(jax.jit, static_argnums=(0, 1), compiler_options=ONCE)
def _attempt(model: NumPyroModel, prior: bool, key: Array, data: Any) -> tuple[Values, Array]:
    """One random point, and whether the density and its gradient are finite there."""
    strategy = init_to_sample() if prior else init_to_uniform()
    sites = trace(substitute(seed(model, key), substitute_fn=strategy)).get_trace(data)
    refuse_params(sites)
    z = unconstrain(model, data, drawn_values(sites))
    energy, gradient = jax.value_and_grad(potential(model, data))(z)
    finite = [jnp.isfinite(leaf).all() for leaf in (energy, *jax.tree.leaves(gradient))]
    return z, jnp.stack(finite).all()


def tree_size(z: Values) -> int:
    """Total number of coordinates in all arrays of z."""
    return sum(leaf.size for leaf in jax.tree.leaves(z))
