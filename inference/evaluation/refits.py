"""Refits without some sequences, for ArviZ's cross-validation."""

import warnings
from typing import Any

import jax
import numpy as np
import xarray as xr
from arviz_stats.loo import SamplingWrapper
from jaxtyping import Array

from probattn.checks import as_key
from probattn.errors import InputError
from probattn.inference.evaluation.convergence import diagnose
from probattn.inference.fitting.fit import Fit
from probattn.inference.fitting.posterior import sample_posterior


class Refits(SamplingWrapper):
    """How ArviZ refits a posterior without some of its sequences: `az.reloo`, `az.loo_kfold`.

    A sequence is left out with all its terms, also where the density of a path is a factor. A refit
    that has not converged is a warning.

    Args:
        fit: a posterior by `sample_posterior`, of a model whose likelihood is no estimate.
        key: random key, of which each refit gets its own.
        settings: of `sample_posterior`, for each refit.

    Raises: InputError for another fit, or what is no key.

    Example: az.loo_kfold(fit.to_datatree(), Refits(fit, key=key), k=5)
    """

    def __init__(self, fit: Fit, *, key: Array, **settings: Any):
        if fit.method != "posterior":
            raise InputError(f"Refits: expected a fit by posterior, got one by {fit.method}")
        if fit.estimated:
            raise InputError(
                "Refits: the likelihood of this model is an estimate; use held-out sequences"
            )
        self.fit, self.key = fit, as_key(key)
        self.settings: dict[str, Any] = {"progress": False, **settings}
        super().__init__(fit.model, idata_orig=fit.to_datatree())

    def sel_observations(self, idx: Any) -> tuple[tuple[np.ndarray, int], np.ndarray]:
        """The sequences that stay, with a number for their key, and those that are left out."""
        out = np.atleast_1d(np.asarray(idx))
        return (np.delete(self.fit.data, out, axis=0), int(out[0])), self.fit.data[out]

    def sample(self, modified_observed_data: tuple[np.ndarray, int]) -> Fit:
        """The posterior given the sequences that stay."""
        data, number = modified_observed_data
        key = jax.random.fold_in(self.key, number)
        refit = sample_posterior(self.fit.model, data, key=key, **self.settings)
        verdict = diagnose(refit).verdict
        if not verdict.converged:
            warnings.warn(f"the refit without sequence {number}: {verdict}", stacklevel=2)
        return refit

    def get_inference_data(self, fitted_model: Fit) -> xr.DataTree:
        """The refit as a DataTree."""
        return fitted_model.to_datatree()

    def log_likelihood__i(self, excluded_obs: np.ndarray, idata__i: Any) -> xr.DataArray:
        """Log probability of the sequences that were left out at each draw of their refit."""
        draws = {name: idata__i["posterior"][name].values for name in self.fit.draws}
        refit = Fit(self.fit.model, "posterior", excluded_obs, draws)
        found = refit.draw_log_prob(excluded_obs)
        return xr.DataArray(found, dims=("chain", "draw", "sequence"))
