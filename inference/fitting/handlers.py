"""What NumPyro's handlers around a model may do to its sites, so that it can be fitted."""

from typing import Any

from numpyro.handlers import reparam, seed, trace

from probattn.errors import InputError
from probattn.inference.contract import NumPyroModel, handlers_of
from probattn.inference.devices.sharding import Split


def refuse_params(sites: Any) -> None:
    """Raise InputError if a trace holds a `numpyro.param`, which is no part of a joint density."""
    for name, site in sites.items():
        if site["type"] == "param":
            raise InputError(
                f"{name}: expected sites with priors, got a numpyro.param, which a fit would "
                "neither estimate nor keep; draw it from a prior with numpyro.sample, or fix it "
                "(that of LocScaleReparam: centered=0)"
            )


def refuse_reparam(model: NumPyroModel, data: Any) -> None:
    """Raise InputError for a site that a `reparam` handler around the model cannot transform."""
    for handler in handlers_of(model.model if isinstance(model, Split) else model):
        if not isinstance(handler, reparam):
            continue
        with seed(rng_seed=0):
            sites = trace(handler.fn).get_trace(data)
            for name, site in sites.items():
                if site["type"] != "sample":
                    continue
                config = handler.config
                how = config.get(name) if isinstance(config, dict) else config(site)
                if how is not None:
                    _try(name, site, how)


def _try(name: str, site: Any, how: Any) -> None:
    observed = site["value"] if site["is_observed"] else None
    try:
        how(name, site["fn"], observed)
    except (AssertionError, AttributeError, ValueError) as error:
        why = str(error).rstrip(".")
        raise InputError(
            f"{name}: {type(how).__name__} does not apply to it ({why}); leave it out of the "
            "config of reparam (the priors of probattn.models are in units of their standard "
            "deviation already)"
        ) from error
