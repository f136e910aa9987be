"""Fits as ArviZ DataTrees."""

import json
from typing import Any

import numpy as np
import xarray as xr
from arviz_base import dict_to_dataset

from probattn.errors import InputError
from probattn.inference.contract import Model, require
from probattn.inference.devices.environment import versions
from probattn.inference.fitting.density import density_of
from probattn.inference.fitting.fit import Fit

OF_A_SAMPLE = ("posterior", "sample_stats")  # groups that only chains have


def to_datatree(fit: Fit) -> xr.DataTree:
    """The fit as an ArviZ DataTree, which can be written as NetCDF or zarr.

    Chains give the groups posterior, sample_stats (energy, n_steps, tree_depth, acceptance_rate,
    step_size, diverging, lp: the log density of the unconstrained coordinates), log_likelihood (per
    training sequence) and observed_data. A MAP has the group `map` in place of the first two, as
    one chain of one draw, and Laplace's approximation and an ensemble have the group
    `approximation`, since they are no sample to diagnose: `az.summary(tree, group="map",
    kind="stats")` and `az.plot_forest(tree, group="approximation")` work, while what asks for
    `posterior` or `sample_stats`, such as `az.loo`, gets an InputError. (`az.rhat` and `az.ess` do
    not ask; ArviZ warns that the group is missing and fails.) Latent variables are in the same
    group as the parameters.

    `az.loo` of a posterior weighs draws by the likelihood alone. It is `leave_one_out` for a model
    whose joint density has no other terms of a sequence (a `FactoredModel` has), and from 25 draws.

    A model whose likelihood is an estimate has no log_likelihood, which would take a particle
    filter for each draw; `thinned(100).draw_log_prob(data)` runs it for about 100 draws.
    Attributes of the group of parameters name the density of the fit and how it started.

    Raises: InputError for a model without `log_likelihood`."""
    site = require("to_datatree", fit.model, Model).observed
    values = {**fit.draws, **fit.latents}
    dims: dict[Any, Any] = {
        name: [f"{name}_{axis}" for axis in range(value.ndim - 2)] for name, value in values.items()
    }
    dims[site] = ["sequence"]
    axes: dict[Any, Any] = {site: ["sequence", "time", "axis"][: fit.data.ndim]}
    groups = {"observed_data": dict_to_dataset({site: fit.data}, sample_dims=[], dims=axes)}
    attributes = _attributes(fit)
    group = "posterior" if fit.sampled else "map" if fit.method == "map" else "approximation"
    groups[group] = dict_to_dataset(values, dims=dims, attrs=attributes)
    if fit.sampled:
        groups["sample_stats"] = dict_to_dataset(_sample_stats(fit))
    if not fit.estimated:
        groups["log_likelihood"] = dict_to_dataset({site: fit.draw_log_prob(fit.data)}, dims=dims)
    return (xr.DataTree if fit.sampled else NotSampled).from_dict(groups)


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


class NotSampled(xr.DataTree):
    """The tree of a fit that is no sample; asking it for the groups of one is an InputError.

    `"posterior" in tree` asks whether the group is there. A tree read from a file is a plain one.
    """

    __slots__ = ()

    def __getattr__(self, name: str) -> Any:
        self._refuse(name)
        return super().__getattr__(name)

    def __getitem__(self, key: str) -> Any:
        self._refuse(key)
        return super().__getitem__(key)

    def _refuse(self, name: Any) -> None:
        if name not in OF_A_SAMPLE or name in self.children:
            return
        for group in ("map", "approximation"):
            if group in self.children:
                raise InputError(
                    f'{name}: expected draws of Markov chains, got the group "{group}" of a fit '
                    f'that is no sample; give group="{group}" to what takes a group, and use '
                    "sample_posterior for what needs a sample"
                )
