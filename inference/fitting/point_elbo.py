"""SVI with a point guide: the ELBO is the log joint density at one point of unconstrained space."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpyro
from jaxtyping import Array
from numpyro.distributions import Delta
from numpyro.handlers import block, seed, substitute, trace
from numpyro.infer import SVI
from numpyro.infer.elbo import ELBO
from numpyro.infer.util import constrain_fn

from probattn.inference.contract import NumPyroModel
from probattn.inference.data.on_disk import scaled_log_density
from probattn.inference.devices.compilation_cache import ONCE
from probattn.inference.fitting.unconstrained import (
    Values,
    in_unconstrained_coordinates,
    objective,
)

OF_GUIDE = "_unconstrained"  # suffix of a site's name in the parameters of the guide


@lru_cache(maxsize=32)
def point_svi(
    model: NumPyroModel,
    names: tuple[str, ...],
    coordinates: str,
    optimiser: Any,
    batch_size: int | None,
    scale: float,
) -> SVI:
    """SVI with a point guide; the same object for equal settings, so that it compiles once."""
    fitted = model if coordinates == "constrained" else in_unconstrained_coordinates(model)
    batch = {} if batch_size is None else {"batch_size": batch_size}
    return SVI(fitted, _point_guide(model, names), optimiser, PointELBO(scale), **batch)


def _point_guide(model: NumPyroModel, names: tuple[str, ...]) -> Callable:
    """A guide like NumPyro's AutoDelta, with unconstrained parameters.

    Unlike AutoDelta, it never runs the model outside of compiled programs.
    """

    def guide(data: Any, **settings: Any) -> None:
        z = {name: numpyro.param(name + OF_GUIDE) for name in names}
        with block():
            values = constrain_fn(seed(model, 0), (data,), settings, z)
        for name in names:
            numpyro.sample(name, Delta(values[name], event_dim=jnp.ndim(values[name])))

    return guide


@lru_cache(maxsize=32)
def initialiser(svi: SVI, sharding: Any) -> Callable:
    """The compiled function `starts, keys, data -> SVI states`, with the starts as leading axis."""

    def begin(start: Values, key: Array, data: Any) -> Any:
        named = {name + OF_GUIDE: value for name, value in start.items()}
        return svi.init(key, data, init_params=named)._replace(rng_key=key)

    return jax.jit(jax.vmap(begin, (0, 0, None)), out_shardings=sharding, compiler_options=ONCE)


@lru_cache(maxsize=32)
def whole_loss(svi: SVI, model: NumPyroModel, coordinates: str) -> Callable:
    """The loss on the whole data for `descend`; the same object for equal arguments."""
    return lambda state, data: objective(model, data, coordinates)(coordinates_of(svi, state))


def coordinates_of(svi: SVI, state: Any) -> Values:
    """Unconstrained coordinates by name of site, of one SVI state or several."""
    return {name.removesuffix(OF_GUIDE): value for name, value in svi.get_params(state).items()}


class PointELBO(ELBO):
    """The ELBO of a point guide: the log joint density there, the same program in every process.

    It adds its terms in the order of the model's sites. Trace_ELBO adds them in the order of a set
    of names, which differs between processes: the last bits of a fit would differ, and a later run
    would not find its program in the compilation cache.

    Args:
        scale: factor of the likelihood, for data that are a window of all.
    """

    def __init__(self, scale: float = 1.0):
        super().__init__()
        self.scale = scale

    def loss_with_mutable_state(
        self,
        rng_key: Array,
        param_map: dict[str, Array],
        model: NumPyroModel,
        guide: Any,
        *args: Any,
        **kwargs: Any,
    ) -> dict[str, Any]:
        for_model, for_guide = jax.random.split(rng_key)
        point = trace(substitute(seed(guide, for_guide), data=param_map)).get_trace(*args, **kwargs)
        values = {name: site["value"] for name, site in point.items() if site["type"] == "sample"}
        density = scaled_log_density(seed(model, for_model), args, kwargs, values, self.scale)
        return {"loss": -density, "mutable_state": None}
