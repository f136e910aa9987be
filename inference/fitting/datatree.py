"""Fits as ArviZ DataTrees."""

import json
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from arviz_base import dict_to_dataset
from jaxtyping import Float
from numpyro.handlers import seed
from numpyro.infer.util import compute_log_probs

from probattn.checks import as_key
from probattn.errors import InputError
from probattn.inference.contract import (
    LabelledModel,
    Model,
    TokenModel,
    is_generalised,
    require,
)
from probattn.inference.devices.environment import versions
from probattn.inference.fitting.density import density_of
from probattn.inference.fitting.fit import Fit, over_draws
from probattn.inference.fitting.simulated_data import draws_of_prior, new_data
from probattn.sequence.tokens import check_tokens

OF_A_SAMPLE = ("posterior", "sample_stats")  # groups that only chains have
TOKEN = "token"  # the dimension that is the vocabulary


def to_datatree(
    fit: Fit,
    *,
    key: Any = None,
    symbols: Any = None,
    statistic: Callable[[np.ndarray], Any] | None = None,
    predict: Any = None,
) -> xr.DataTree:
    """The fit as an ArviZ DataTree, which can be written as NetCDF or zarr.

    Chains give the groups posterior, sample_stats (energy, n_steps, tree_depth, acceptance_rate,
    step_size, diverging, lp: the log density of the unconstrained coordinates), log_prior (of each
    parameter), log_likelihood (per training sequence), log_path (likewise, of a `FactoredModel`
    with a factor: the weighted terms beside the likelihood) and observed_data. A MAP has the group
    `map` in place of the first two, as one chain of one draw, and Laplace's approximation and an
    ensemble have the group `approximation`, since they are no sample to diagnose:
    `az.summary(tree, group="map", kind="stats")` and `az.plot_forest(tree, group="approximation")`
    work, while what asks for `posterior` or `sample_stats`, such as `az.loo`, gets an InputError.
    (`az.rhat` and `az.ess` do not ask; ArviZ warns that the group is missing and fails.) Latent
    variables are in the same group as the parameters.

    `az.loo` of a posterior weighs draws by the likelihood alone. It is `leave_one_out` for a model
    whose joint density has no other terms of a sequence (a `FactoredModel` has), and from 25 draws.

    A model whose likelihood is an estimate has no log_likelihood, which would take a particle
    filter for each draw; `thinned(100).draw_log_prob(data)` runs it for about 100 draws.
    Attributes of the group of parameters name the density of the fit and how it started.

    `az.psense` works on the tree: how much the posterior moves with the power of the prior or of
    the likelihood. For the power of the path give it log_path in the place of log_prior:
    `az.psense(tree.assign(log_prior=tree["log_path"]))`.

    Args:
        key: random key. With it the tree also has the groups posterior_predictive (a data set of
            the size of the observed one for each draw, from the model's law of data), prior and
            prior_predictive (as many draws). `thinned(200).to_datatree(key=...)` is quick.
        symbols: what each token stands for, as labels of the axes that are the vocabulary.
        statistic: a number of each sequence, (..., t) -> (...), such as its length: what observed
            and predictive data hold in place of the sequences. ArviZ's checks of single
            observations (`plot_ppc_pit`, `plot_ppc_rootogram`, `plot_loo_pit`) need one.
        predict: tokens (num_sequences, length), for the groups predictions (next_token: the
            probability of every token at every position of them, given the tokens before it, at
            each draw) and predictions_constant_data (these tokens).

    Raises: InputError for a model without `log_likelihood`, what is no key, another number of
    symbols than tokens, a statistic of another shape, or tokens to predict that the model refuses
    or has no exact probabilities of."""
    model = require("to_datatree", fit.model, Model)
    site = model.observed
    coords = _labels(model, symbols)
    values = {**fit.draws, **fit.latents}
    dims: dict[Any, Any] = {
        name: [f"{name}_{axis}" for axis in range(value.ndim - 2)] for name, value in values.items()
    }
    for name in model.token_sites if isinstance(model, LabelledModel) else ():
        dims[name][0] = TOKEN
    of = partial(_statistic, statistic, fit.data.ndim - 1)
    observed = of(fit.data)
    axes: dict[Any, Any] = {site: ["sequence", "time", "axis"][: observed.ndim]}
    groups = {"observed_data": dict_to_dataset({site: observed}, sample_dims=[], dims=axes)}
    attributes = _attributes(fit)
    group = "posterior" if fit.sampled else "map" if fit.method == "map" else "approximation"
    groups[group] = dict_to_dataset(values, dims=dims, coords=coords, attrs=attributes)
    if fit.sampled:
        groups["sample_stats"] = dict_to_dataset(_sample_stats(fit))
    groups["log_prior"] = dict_to_dataset(log_prior_of_draws(fit))
    of_sequence: dict[Any, Any] = {name: ["sequence"] for name in (site, "path")}
    if not fit.estimated:
        each = {site: fit.draw_log_prob(fit.data)}
        groups["log_likelihood"] = dict_to_dataset(each, dims=of_sequence)
    if is_generalised(model):
        each = {"path": fit.draw_log_factors(fit.data)}
        groups["log_path"] = dict_to_dataset(each, dims=of_sequence)
    if key is not None:
        for_prior, for_posterior = jax.random.split(as_key(key))
        drawn = {site: of(_of_draws(fit, new_data, for_posterior))}
        groups["posterior_predictive"] = dict_to_dataset(drawn, dims=axes)
        number = fit.shape[0] * fit.shape[1]
        of_prior = draws_of_prior(model, [*fit.draws, site], for_prior, number, len(fit.data))
        prior = {name: value[None] for name, value in of_prior.items()}
        new = {site: of(prior.pop(site))}
        groups["prior"] = dict_to_dataset(prior, dims=dims, coords=coords)
        groups["prior_predictive"] = dict_to_dataset(new, dims=axes)
    if predict is not None:
        at: dict[Any, Any] = {"next_token": ["sequence", "time", TOKEN], site: ["sequence", "time"]}
        given, found = _predictions(fit, predict)
        kept = dict_to_dataset({site: given}, sample_dims=[], dims=at)
        groups["predictions_constant_data"] = kept
        groups["predictions"] = dict_to_dataset({"next_token": found}, dims=at, coords=coords)
    return (xr.DataTree if fit.sampled else NotSampled).from_dict(groups)


def log_prior_of_draws(fit: Fit) -> dict[str, Float[np.ndarray, "chains draws"]]:
    """Log density of each parameter under its prior, by name, in nats."""
    return _of_draws(fit, _log_prior)


def _labels(model: Any, symbols: Any) -> dict[Any, Any]:
    """The coordinate of axes that are the vocabulary; none without symbols."""
    if symbols is None:
        return {}
    number = require("symbols", model, TokenModel).vocab_size
    if isinstance(symbols, str) or not isinstance(symbols, Sequence) or len(symbols) != number:
        raise InputError(f"symbols: expected {number}, one for each token, got {symbols!r}")
    return {TOKEN: [str(symbol) for symbol in symbols]}


def _statistic(statistic: Any, axes: int, data: np.ndarray) -> np.ndarray:
    """The statistic of sequences with this number of axes; the data themselves without one."""
    if statistic is None:
        return data
    found, expected = np.asarray(statistic(data)), data.shape[: data.ndim - axes]
    if found.shape != expected:
        raise InputError(
            f"statistic: expected one number of each sequence, shape {expected} of data of shape "
            f"{data.shape}, got {found.shape}; reduce the last axis"
        )
    return found


def _predictions(fit: Fit, tokens: Any) -> tuple[np.ndarray, np.ndarray]:
    """The tokens, and the probability of each next one at each draw, (chain, draw, n, t, token)."""
    model = require("predict", fit.model, TokenModel)
    if fit.estimated:
        raise InputError("predict: the probabilities of this model are estimates; leave it out")
    given = np.asarray(check_tokens(tokens, model.vocab_size, model.length, rank=2))
    return given, np.exp(_of_draws(fit, _next_token, data=given))


def _next_token(model: Any, params: dict[str, Any], tokens: Any) -> Any:
    return model.process(params).next_token_log_probs(tokens)


def _of_draws(fit: Fit, function: Any, key: Any = None, data: Any = None) -> Any:
    """A function of model, parameters and data at each draw, as (chain, draw, ...).

    Args: data, those of the fit if None."""
    # A model may index its data by what is traced, which numpy's arrays do not take.
    data = jnp.asarray(fit.data if data is None else data)
    found = over_draws(function, fit.model, fit.flat_draws(), data, key=key)
    return jax.tree.map(lambda value: value.reshape(*fit.shape, *value.shape[1:]), found)


def _log_prior(model: Any, params: dict[str, Any], data: Any) -> dict[str, Any]:
    # The data decide nothing here but the sizes of latent variables, whose values do not matter.
    one = seed(model, jax.random.key(0))
    of_site = compute_log_probs(one, (data,), {}, params, sum_log_prob=True)[0]
    return {name: of_site[name] for name in params}


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
