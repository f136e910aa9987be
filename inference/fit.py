"""What a fit is: a model, the data it saw, and parameter draws; a MAP fit has one draw."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import arviz as az
import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array, Float

from probattn import InputError, ProcessMixture, SequenceProcess
from probattn.inference.particles import particle_log_prob

Method = Literal["map", "posterior"]


@dataclass(frozen=True, eq=False)
class Fit:
    """A model fitted to data.

    Args:
        model: anything with `log_likelihood(params, data)` and the name of the site it observes, `observed`, such as
            LanguageModel and LatentAttention.
        method: "map" or "posterior".
        data: the training data: tokens of shape (num_sequences, length), or embeddings with an axis more.
        draws: parameters by name with leading axes (chains, draws); (1, 1) for a MAP.
        latents: likewise the latent variables of the training sequences, (chains, draws, num_sequences, ...), of a model
            that has some (`EmissionModel`).
        stats: what the method reports of itself: for a MAP `loss` (steps,), the negative log joint; for a
            posterior per-draw arrays of shape (chains, draws).
        seconds: wall time of the fit, compilation included.
    """

    model: Any
    method: Method
    data: np.ndarray
    draws: Mapping[str, np.ndarray]
    stats: Mapping[str, np.ndarray] = field(default_factory=dict)
    latents: Mapping[str, np.ndarray] = field(default_factory=dict)
    seconds: float = math.nan

    @property
    def estimated(self) -> bool:
        """Whether the model's likelihood is itself an estimate, by particles."""
        return hasattr(self.model, "num_particles")

    @property
    def shape(self) -> tuple[int, int]:
        """Number of chains and of draws in each."""
        chains, draws = next(iter(self.draws.values())).shape[:2]
        return chains, draws

    def flat_draws(self, most: int | None = None) -> dict[str, np.ndarray]:
        """Draws of all chains on one axis; with `most`, at most so many, evenly spaced."""
        total = self.shape[0] * self.shape[1]
        if most is None or most >= total:
            return flatten(self.draws)
        chosen = np.linspace(0, total - 1, most).round().astype(int)
        return {name: value[chosen] for name, value in flatten(self.draws).items()}

    @property
    def params(self) -> dict[str, np.ndarray]:
        """The parameters of a MAP; for a posterior there is no single one."""
        if self.method != "map":
            raise AttributeError("params: a posterior has draws, not one value; use `draws` or `flat_draws()`")
        return {name: np.asarray(value[0, 0]) for name, value in self.draws.items()}

    def thinned(self, most: int) -> "Fit":
        """The same fit with about `most` draws, evenly spaced in each chain and as many in each; `stats` stay whole."""
        chains, total = self.shape
        chosen = np.linspace(0, total - 1, min(total, -(-most // chains))).round().astype(int)
        draws, latents = ({name: value[:, chosen] for name, value in of.items()} for of in (self.draws, self.latents))
        return dataclasses.replace(self, draws=draws, latents=latents)

    def draw_log_prob(self, data: Any) -> Float[np.ndarray, "chains draws num_sequences"]:
        """`log P_theta(sequence)` of each sequence under each draw, in nats."""
        return self.estimate_log_prob(data)[0]

    def estimate_log_prob(self, data: Any) -> tuple[np.ndarray, np.ndarray]:
        """`draw_log_prob`, and the standard error of each: 0 unless it is by particles."""
        if self.estimated:
            found = particle_log_prob(self.model, self.draws, data, self.model.num_particles, jax.random.key(0))
            return np.asarray(found.log_prob), np.asarray(found.standard_error)
        per_draw = over_draws(self.model.log_likelihood, self.flat_draws(), data).reshape(*self.shape, -1)
        return per_draw, np.zeros_like(per_draw)

    def predictive_log_prob(self, data: Any) -> Float[np.ndarray, " num_sequences"]:
        """Log probability of each sequence, `log mean over draws of P_theta(sequence)`, in nats.

        The mixture is over whole sequences: averaging per-token conditionals would be a different law. Source:
        theory, section 8.
        """
        return mixture_log_prob(self.draw_log_prob(data))

    def process(self) -> SequenceProcess:
        """The law over token sequences: of a MAP the model's process, of a posterior the mixture over its draws.

        Raises: InputError for a model whose process is not one over tokens. Source: theory, section 8.
        """
        draws = self.flat_draws()
        one = self.model.process({name: jnp.asarray(value[0]) for name, value in draws.items()})
        if not isinstance(one, SequenceProcess):
            raise InputError(f"process: expected a model of token sequences, got {self.model}")
        if self.method == "map":
            return one
        return ProcessMixture(one, jax.vmap(lambda params: self.model.process(params).params)(draws))

    def to_datatree(self) -> xr.DataTree:
        """An ArviZ DataTree.

        A posterior has the groups posterior, sample_stats, log_likelihood (per training sequence) and
        observed_data. A MAP has `map` in place of the first two: one point is no sample to diagnose. Latent variables are
        in the group of the parameters. A posterior whose likelihood is an estimate has no log_likelihood: it
        would be a particle filter for each draw (`thinned(100).draw_log_prob(data)` runs it for some).
        """
        site, values = self.model.observed, {**self.draws, **self.latents}
        dims = {name: [f"{name}_{axis}" for axis in range(value.ndim - 2)] for name, value in values.items()}
        attributes = {"model": repr(self.model), "method": self.method, "inference_library": "numpyro"}
        axes = {site: ["sequence", "time", "axis"][: self.data.ndim]}
        groups = {"observed_data": az.dict_to_dataset({site: self.data}, sample_dims=[], dims=axes)}
        dims[site] = ["sequence"]
        if self.method == "map":
            mode = {name: np.asarray(value[0, 0]) for name, value in values.items()}
            groups["map"] = az.dict_to_dataset(mode, sample_dims=[], dims=dims, attrs=attributes)
            point = {site: self.draw_log_prob(self.data)[0, 0]}
            groups["log_likelihood"] = az.dict_to_dataset(point, sample_dims=[], dims=dims)
        else:
            groups["posterior"] = az.dict_to_dataset(values, dims=dims, attrs=attributes)
            groups["sample_stats"] = az.dict_to_dataset(dict(self.stats))
            if not self.estimated:
                groups["log_likelihood"] = az.dict_to_dataset({site: self.draw_log_prob(self.data)}, dims=dims)
        return xr.DataTree.from_dict(groups)


def split_latents(model: Any, draws: Mapping[str, Any]) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Draws of parameters, and of the model's latent variables, if it has any."""
    names = getattr(model, "latents", ())
    arrays = {name: np.asarray(value) for name, value in draws.items()}
    return (
        {name: value for name, value in arrays.items() if name not in names},
        {name: value for name, value in arrays.items() if name in names},
    )


def flatten(draws: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Arrays with the leading axes (chains, draws) as one."""
    return {name: value.reshape(-1, *value.shape[2:]) for name, value in draws.items()}


def mixture_log_prob(log_prob: np.ndarray) -> np.ndarray:
    """`log mean exp` over the two leading axes, chains and draws."""
    chains, draws = log_prob.shape[:2]
    return np.logaddexp.reduce(log_prob.reshape(chains * draws, -1), axis=0) - math.log(chains * draws)


def mixture_error(log_prob: np.ndarray, error: np.ndarray) -> np.ndarray:
    """Standard error of `mixture_log_prob`, from independent ones of its terms."""
    flat = log_prob.reshape(-1, log_prob.shape[-1])
    share = np.exp(flat - np.logaddexp.reduce(flat, axis=0))
    return np.sqrt(((share * error.reshape(flat.shape)) ** 2).sum(0))


def over_draws(function: Callable, draws: Mapping[str, np.ndarray], data: Any) -> np.ndarray:
    """`function(params, data)` at each draw, as an array on the host with the draws first."""
    first = {name: value[0] for name, value in draws.items()}
    jax.eval_shape(lambda params: function(params, data), first)  # the data not traced, so that bad ones are refused
    return np.asarray(_over_draws(function, dict(draws), jnp.asarray(data)))


@partial(jax.jit, static_argnums=0)
def _over_draws(function: Callable, draws: dict[str, Array], data: Array) -> Array:
    return jax.lax.map(lambda params: function(params, data), draws)
