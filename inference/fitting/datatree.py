"""Fits as ArviZ DataTrees."""

import json
from typing import Any

import numpy as np
import xarray as xr
from arviz_base import dict_to_dataset

from probattn.inference.contract import Model, require
from probattn.inference.devices.environment import versions
from probattn.inference.fitting.density import density_of
from probattn.inference.fitting.fit import Fit


def to_datatree(fit: Fit) -> xr.DataTree:
    """The fit as an ArviZ DataTree, which can be written as NetCDF or zarr.

    Chains give the groups posterior, sample_stats (energy, n_steps, tree_depth, acceptance_rate,
    step_size, diverging, lp: the log density of the unconstrained coordinates), log_likelihood (per
    training sequence) and observed_data. A MAP has the group `map` in place of the first two, and
    Laplace's approximation and an ensemble have the group `approximation`, since they are no sample
    to diagnose. Latent variables are in the same group as the parameters.

    A model whose likelihood is an estimate has no log_likelihood, which would take a particle
    filter for each draw; `thinned(100).draw_log_prob(data)` runs it for about 100 draws.
    Attributes of the group of parameters name the density of the fit and how it started."""
    site = require("to_datatree", fit.model, Model).observed
    values = {**fit.draws, **fit.latents}
    dims: dict[Any, Any] = {
        name: [f"{name}_{axis}" for axis in range(value.ndim - 2)] for name, value in values.items()
    }
    dims[site] = ["sequence"]
    axes: dict[Any, Any] = {site: ["sequence", "time", "axis"][: fit.data.ndim]}
    groups = {"observed_data": dict_to_dataset({site: fit.data}, sample_dims=[], dims=axes)}
    attributes = _attributes(fit)
    if fit.method == "map":
        mode = {name: np.asarray(value[0, 0]) for name, value in values.items()}
        groups["map"] = dict_to_dataset(mode, sample_dims=[], dims=dims, attrs=attributes)
        if not fit.estimated:
            point = {site: fit.draw_log_prob(fit.data)[0, 0]}
            groups["log_likelihood"] = dict_to_dataset(point, sample_dims=[], dims=dims)
        return xr.DataTree.from_dict(groups)
    group = "posterior" if fit.sampled else "approximation"
    groups[group] = dict_to_dataset(values, dims=dims, attrs=attributes)
    if fit.sampled:
        groups["sample_stats"] = dict_to_dataset(_sample_stats(fit))
    if not fit.estimated:
        groups["log_likelihood"] = dict_to_dataset({site: fit.draw_log_prob(fit.data)}, dims=dims)
    return xr.DataTree.from_dict(groups)


def _sample_stats(fit: Fit) -> dict[str, np.ndarray]:
    stats = {
        name: np.asarray(value)
        for name, value in fit.stats.items()
        if np.shape(value)[:2] == fit.shape
    }
    if "n_steps" in stats:
        stats["tree_depth"] = np.floor(np.log2(stats["n_steps"])).astype(int) + 1
    if "potential_energy" in stats:
        stats["lp"] = -stats.pop("potential_energy")
    return stats


def _attributes(fit: Fit) -> dict[str, str | float]:
    return {
        "model": repr(fit.model),
        "method": fit.method,
        "density": json.dumps(density_of(fit.model, fit.data).to_json()),
        "start": fit.start,
        "coordinates": fit.coordinates,
        "sampling_time": fit.seconds,
        "inference_library": "numpyro",
        "versions": json.dumps(versions()),
        "precision": str(next(iter(fit.draws.values())).dtype),
    }
