"""Simulation-based calibration: whether a sampler draws from the posterior of a model."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optimistix
import xarray as xr
from arviz_base import dict_to_dataset
from arviz_stats.ecdf_utils import compute_ecdf, ecdf_pit
from jax.flatten_util import ravel_pytree
from jaxtyping import Array
from numpyro.handlers import seed, trace
from numpyro.infer.hmc import hmc

from probattn.checks import as_integer, as_key
from probattn.errors import FitError, InputError
from probattn.inference.contract import CalibratedModel, NumPyroModel, is_generalised, require
from probattn.inference.fitting.hessian import FLAT
from probattn.inference.fitting.unconstrained import (
    constrain,
    drawn_values,
    potential,
    unconstrain,
)

BAND_SIMULATIONS = 5_000  # by which ArviZ finds the width of the bands
CALIBRATED_METHODS = ("nuts", "laplace", "map")
ANOTHER_LAW = (
    "Generalised posterior: the density of the path is a factor beside the law of tokens that the "
    'data were drawn from, so that an exact sampler leaves the bands too; use barrier="normalised".'
)
SEARCH_STEPS = 1000  # of the quasi-Newton search for a mode, at most


@dataclass(frozen=True, eq=False)
class Calibration:
    """Ranks of the true quantities among their posterior draws, over many simulated data sets.

    Args:
        ranks: by quantity, shape (num_simulations,), from 0 to num_samples; uniform if sampler and
            model agree.
        num_samples: posterior draws of each simulation.
        diverging: share of transitions that diverged.
        probability: that the bands hold all quantities together when all ranks are uniform
            (Bonferroni).
        note: what a reader must know first: that the posterior is a generalised one.
    """

    ranks: Mapping[str, np.ndarray]
    num_samples: int
    diverging: float
    probability: float = 0.95
    note: str = ""

    def ecdf(self, name: str) -> "RankECDF":
        """Empirical distribution function of one quantity's ranks, with simultaneous bands."""
        level = 1 - (1 - self.probability) / len(self.ranks)
        uniform = self._spread(name)
        points, lower, upper = _bands(len(uniform), level)
        return RankECDF(points, compute_ecdf(uniform, points), lower, upper)

    def outside(self) -> list[str]:
        """Names of the quantities whose ranks leave their bands.

        If there are any, the sampler does not draw from the model's posterior.
        """
        return [name for name in self.ranks if not self.ecdf(name).inside]

    def to_datatree(self) -> xr.DataTree:
        """The ranks as numbers in (0, 1), for ArviZ's `plot_ecdf_pit`; group `prior_sbc`."""
        return xr.DataTree.from_dict(
            {"prior_sbc": dict_to_dataset({name: self._spread(name)[None] for name in self.ranks})}
        )

    def _spread(self, name: str) -> np.ndarray:
        # A rank is one of num_samples + 1 values. A uniform rank, plus a uniform number, divided
        # by num_samples + 1, is uniform on (0, 1).
        spread = np.random.default_rng(0).uniform(size=len(self.ranks[name]))
        return (self.ranks[name] + spread) / (self.num_samples + 1)


class RankECDF(NamedTuple):
    """Empirical distribution function of ranks at points in (0, 1), with simultaneous bands."""

    points: np.ndarray
    values: np.ndarray
    lower: np.ndarray
    upper: np.ndarray

    @property
    def inside(self) -> bool:
        """Whether the distribution function lies within the bands at all points."""
        return bool(((self.lower <= self.values) & (self.values <= self.upper)).all())


@lru_cache
def _bands(count: int, level: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points, lower and upper band of the ECDF of `count` uniform numbers.

    With probability `level` the ECDF is inside the bands at all points.
    """
    # `ecdf_pit` computes the bands from the number of values alone, so any values will do.
    anything = np.linspace(0, 1, count)
    points, _, lower, upper = ecdf_pit(
        anything, level, BAND_SIMULATIONS, rng=np.random.default_rng(1)
    )
    return points, lower, upper


def simulation_based_calibration(
    model: NumPyroModel,
    *,
    key: Array,
    num_simulations: int = 200,
    num_sequences: int = 16,
    num_samples: int = 99,
    thinning: int = 4,
    num_warmup: int = 300,
    max_tree_depth: int = 5,
    probability: float = 0.95,
    method: str = "nuts",
    posterior_model: NumPyroModel | None = None,
) -> Calibration:
    """Rank true quantities among posterior draws, for parameters and data drawn from the model.

    If theta ~ prior, data ~ model(theta) and theta_1 ... theta_L ~ posterior given the data, then
    theta is one more posterior draw, and the rank of any f(theta, data) among the f(theta_l, data)
    is uniform on 0 ... L. All simulations are one compiled program, vectorised on a GPU. Each chain
    starts at a draw from the prior, independent of the truth.

    Args:
        model: a NumPyro model called as `model(data)` and `model(num_sequences=n)`, with the name
            of what it observes as `observed` and the quantities to rank as `quantities(params,
            data)`, such as LatentAttention.
        key: random key.
        num_simulations: number of data sets, at least 10.
        num_sequences: number of sequences in each data set.
        num_samples, thinning: number of draws kept of each posterior; every `thinning`-th is kept.
        num_warmup, max_tree_depth: of NUTS.
        probability: that all quantities lie within their bands if all ranks are uniform.
        method: "nuts", "laplace" or "map". Laplace's Gaussian is not the posterior, and the draws
            of a MAP are all equal: the ranks show how far these two are from a sampler.
        posterior_model: the model whose posterior is sampled, if not `model`; a wrong one shows
            what a failure looks like.

    Raises:
        InputError: a count out of range.
        FitError: simulated data or draws that are not finite.

    Source: Talts et al., arXiv:1804.06788; for the bands Saeilynoja et al., arXiv:2103.10522, as
    implemented in ArviZ.
    """
    least = {
        "num_simulations": 10,
        "num_sequences": 1,
        "num_samples": 1,
        "thinning": 1,
        "num_warmup": 1,
    }
    given = (num_simulations, num_sequences, num_samples, thinning, num_warmup)
    for (name, low), value in zip(least.items(), given, strict=True):
        as_integer(name, value, low)
    if not 0 < probability < 1:
        raise InputError(f"probability: expected a number inside (0, 1), got {probability}")
    if method not in CALIBRATED_METHODS:
        raise InputError(f"method: expected one of {', '.join(CALIBRATED_METHODS)}, got {method!r}")
    settings = _Settings(method, num_sequences, num_samples, thinning, num_warmup, max_tree_depth)
    keys = jax.random.split(as_key(key), num_simulations)
    simulated = require("simulation_based_calibration", model, CalibratedModel)
    truth, draws, diverging = _simulate_and_sample(
        simulated, posterior_model or model, settings, keys
    )
    truth, draws = (_entries(quantities, axes) for quantities, axes in ((truth, 1), (draws, 2)))
    for name, values in [*truth.items(), *draws.items()]:
        if not np.isfinite(values).all():
            raise FitError(
                f"calibration: {name} is not finite in {int((~np.isfinite(values)).sum())} cases"
            )
    ranks = {name: _ranks(truth[name], draws[name]) for name in truth}
    note = ANOTHER_LAW if is_generalised(posterior_model or model) else ""
    return Calibration(ranks, num_samples, float(np.mean(diverging)), probability, note)


class _Settings(NamedTuple):
    method: str
    num_sequences: int
    num_samples: int
    thinning: int
    num_warmup: int
    max_tree_depth: int


@partial(jax.jit, static_argnums=(0, 1, 2))
def _simulate_and_sample(
    model: CalibratedModel, posterior_model: NumPyroModel, settings: _Settings, keys: Array
) -> tuple:
    one = partial(_one_simulation, model, posterior_model, settings)
    # Vectorised simulations all wait for the longest trajectory, and their arrays exceed a CPU's
    # cache. On a CPU running them one after the other, in one program, was five times as fast.
    return jax.lax.map(one, keys) if jax.default_backend() == "cpu" else jax.vmap(one)(keys)


def _one_simulation(
    model: CalibratedModel, posterior_model: NumPyroModel, settings: _Settings, key: Array
) -> tuple:
    for_truth, for_start, for_sampler = jax.random.split(key, 3)
    truth, data = _generate(model, settings.num_sequences, for_truth)
    start, _ = _generate(model, settings.num_sequences, for_start)
    z = unconstrain(posterior_model, data, start)
    sample = _nuts if settings.method == "nuts" else _around_mode
    draws, diverging = sample(posterior_model, settings, data, z, for_sampler)

    def quantities(z: Any) -> Any:
        return model.quantities(constrain(posterior_model, data, z), data)

    return model.quantities(truth, data), jax.lax.map(quantities, draws), diverging


def _nuts(
    model: NumPyroModel, settings: _Settings, data: Array, z: Any, key: Array
) -> tuple[Any, Array]:
    """Draws by NUTS in unconstrained coordinates, and whether each transition diverged."""
    initialise, transition = hmc(potential(model, data), algo="NUTS")
    state = initialise(z, settings.num_warmup, max_tree_depth=settings.max_tree_depth, rng_key=key)

    def advance(state: Any, _: Any) -> tuple[Any, Array]:
        state = transition(state)
        return state, state.diverging

    def draw(state: Any, _: Any) -> tuple[Any, tuple]:
        state, diverging = jax.lax.scan(advance, state, None, length=settings.thinning)
        return state, (state.z, diverging)

    state, _ = jax.lax.scan(advance, state, None, length=settings.num_warmup)
    return jax.lax.scan(draw, state, None, length=settings.num_samples)[1]


def _around_mode(
    model: NumPyroModel, settings: _Settings, data: Array, z: Any, key: Array
) -> tuple[Any, Array]:
    """Draws of Laplace's approximation at the unconstrained mode; for "map" that mode repeated."""
    flat, unravel = ravel_pytree(z)

    def energy(x: Array, _: Any = None) -> Array:
        return potential(model, data)(unravel(x))

    # Quasi-Newton, because descent by SVI takes many times as long and cannot be compiled into this
    # program.
    solver: Any = optimistix.BFGS(rtol=1e-4, atol=1e-4)
    mode = optimistix.minimise(energy, solver, flat, max_steps=SEARCH_STEPS, throw=False).value
    noise = jnp.zeros((settings.num_samples, flat.size))
    if settings.method == "laplace":
        values, vectors = jnp.linalg.eigh(jax.hessian(energy)(mode))
        curved = values > FLAT * abs(values).max()
        spread = jnp.where(curved, 1 / jnp.sqrt(jnp.where(curved, values, 1)), 0)
        noise = (jax.random.normal(key, noise.shape) * spread) @ vectors.T
    return jax.vmap(unravel)(mode + noise), jnp.zeros(1, bool)


def _ranks(truth: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """Ranks of the truth (n,) among draws (n, L), with ties broken at random.

    Ties occur: the margins of short sequences are 1 for all parameters. If the truth were always
    put first among them, its ranks would not be uniform.
    """
    below, equal = ((compared(draws, truth[:, None])).sum(-1) for compared in (np.less, np.equal))
    return below + np.random.default_rng(0).integers(0, equal + 1)


def _generate(
    model: CalibratedModel, num_sequences: int, key: Array
) -> tuple[dict[str, Array], Array]:
    """Draw parameters from the prior, and data given these parameters."""
    drawn = drawn_values(trace(seed(model, key)).get_trace(num_sequences=num_sequences))
    data = drawn.pop(model.observed)
    return drawn, data


def _entries(quantities: Mapping[str, Array], axes: int) -> dict[str, np.ndarray]:
    """Each entry of each quantity under its own name, with indices counted from 1.

    Args: axes, the number of leading axes that are not part of a quantity.
    """
    entries = {}
    for name, value in quantities.items():
        array = np.asarray(value)
        for index in np.ndindex(array.shape[axes:]):
            label = name + (str([i + 1 for i in index]) if index else "")
            entries[label] = array[(..., *index)]
    return entries
