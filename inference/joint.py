"""A model's joint density as a function of the unconstrained coordinates in which optimisers and samplers move."""

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
from numpyro.infer.util import constrain_fn, potential_energy, unconstrain_fn

from probattn.errors import FitError
from probattn.inference.processes import gathered

Values = dict[str, Any]
ATTEMPTS = 100  # at a start point of finite density


def potential(model: Any, data: Any) -> Callable[[Values], Array]:
    """`z -> -log p(z, data)`, the density that of the unconstrained coordinates z."""
    return partial(potential_energy, model, (data,), {})


def constrain(model: Any, data: Any, z: Values) -> Values:
    """Values of all sites, deterministic ones included, at unconstrained coordinates z."""
    return constrain_fn(model, (data,), {}, z, return_deterministic=True)


def log_jacobian(model: Any, data: Any, z: Values) -> Array:
    """`log |d values / d z|`, by which the density of the sites and that of their unconstrained coordinates differ."""
    sites = trace(substitute(seed(model, 0), data=constrain_fn(model, (data,), {}, z))).get_trace(data)
    return _log_jacobian(sites)


def in_unconstrained_coordinates(model: Any) -> Callable:
    """The model with `log |d values / d z|` as a factor: its mode in the sites is that of the unconstrained coordinates."""

    def transformed(data: Any, **settings: Any) -> None:
        with trace() as sites:
            model(data, **settings)
        numpyro.factor("coordinates", _log_jacobian(sites))

    return transformed


def _log_jacobian(sites: Any) -> Array:
    total = jnp.zeros(())
    for site in sites.values():
        if site["type"] == "sample" and not site["is_observed"]:
            transform = biject_to(site["fn"].support)
            total += jnp.sum(transform.log_abs_det_jacobian(transform.inv(site["value"]), site["value"]))
    return total


def unconstrain(model: Any, data: Any, values: Values) -> Values:
    """Unconstrained coordinates of values of the sample sites."""
    return unconstrain_fn(model, (data,), {}, values)


def draw_start(model: Any, data: Any, keys: Array, prior: bool = False) -> Values:
    """Unconstrained points of finite density, one for each key: uniform in (-2, 2), or from the prior.

    Raises: FitError if a hundred attempts at each find none.
    """
    found, valid = gathered(_attempt(model, prior, keys, data))
    for attempt in range(1, ATTEMPTS):
        if valid.all():
            return jax.tree.map(jnp.asarray, found)
        again = jax.vmap(partial(jax.random.fold_in, data=attempt))(keys)
        others, fine = gathered(_attempt(model, prior, again, data))
        found = jax.tree.map(partial(_where_valid, valid), found, others)
        valid = valid | fine
    raise FitError(
        "no start point of finite density was found: near the origin of the parameters some det J_t is not "
        "positive; use a smaller dim, or the contraction cap, which has no boundary (contraction=0.9)"
    )


@partial(jax.jit, static_argnums=(0, 1))  # as a whole: NumPyro's own search would compile each operation by itself
def _attempt(model: Any, prior: bool, keys: Array, data: Array) -> tuple[Values, Array]:
    strategy = init_to_sample() if prior else init_to_uniform()

    def one(key: Array) -> tuple[Values, Array]:
        sites = trace(substitute(seed(model, key), substitute_fn=strategy)).get_trace(data)
        values = {
            name: site["value"] for name, site in sites.items() if site["type"] == "sample" and not site["is_observed"]
        }
        z = unconstrain(model, data, values)
        energy, slope = jax.value_and_grad(potential(model, data))(z)
        finite = [jnp.isfinite(leaf).all() for leaf in (energy, *jax.tree.leaves(slope))]
        return z, jnp.stack(finite).all()

    return jax.lax.map(one, keys)


def _where_valid(valid: np.ndarray, kept: np.ndarray, other: np.ndarray) -> np.ndarray:
    return np.where(valid.reshape(-1, *[1] * (kept.ndim - 1)), kept, other)


def tree_size(z: Values) -> int:
    """How many numbers the coordinates are."""
    return sum(leaf.size for leaf in jax.tree.leaves(z))
