"""Fits: a model, the data it was fitted to, and parameter draws; a MAP fit has one draw."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from probattn import ProcessMixture, SequenceProcess
from probattn.inference.contract import (
    Model,
    NumPyroModel,
    ParticleModel,
    TokenModel,
    is_generalised,
    require,
)
from probattn.inference.fitting.density import Density, density_of
from probattn.inference.fitting.particles import particle_log_prob
from probattn.inference.fitting.verdict import Verdict

if TYPE_CHECKING:
    import xarray

Method = Literal["map", "laplace", "ensemble", "posterior", "microcanonical"]
CHAINS = ("posterior", "microcanonical")  # methods whose draws are those of Markov chains


@dataclass(frozen=True, eq=False)
class Fit:
    """A model fitted to data.

    Args:
        model: a NumPyro model. Log probabilities need one with `log_likelihood(params, data)`, such
            as LanguageModel and LatentAttention.
        method: "map", "laplace", "ensemble", "posterior" or "microcanonical".
        data: the training data, sequences first: tokens (num_sequences, length), or embeddings
            (num_sequences, length, dim).
        draws: parameters by name with leading axes (chains, draws); (1, 1) for a MAP.
        latents: latent variables of the training sequences by name, (chains, draws, num_sequences,
            ...), for a model that has some (`EmissionModel`).
        stats: figures of the method by name: for a MAP `loss` (steps,), the negative log joint; for
            a posterior, arrays (chains, draws).
        seconds: wall time of the fit, compilation included.
        gradients: number of gradients of the log density on all the data that the fit took, over
            all its starts and chains, warmup included; a gradient on a minibatch counts as the
            minibatch's share of the data. Second derivatives, and the few gradients that look for
            start points of finite density, are not counted.
        start: how chains were started, as text.
        origins: the index of the start point of each chain.
        planned: the number of draws that each chain is to have; None for a fit without chains.
        coordinates: the coordinates in which a MAP is a mode, "constrained" or "unconstrained".
        other_mode: the parameters of the mode in the other coordinates.
        verdict: whether a MAP is a mode; for chains see `diagnose`.
    """

    model: NumPyroModel
    method: Method
    data: np.ndarray
    draws: Mapping[str, np.ndarray]
    stats: Mapping[str, np.ndarray] = field(default_factory=dict)
    latents: Mapping[str, np.ndarray] = field(default_factory=dict)
    seconds: float = math.nan
    gradients: float = math.nan
    start: str = ""
    origins: tuple[int, ...] = ()
    planned: int | None = None
    coordinates: str = ""
    other_mode: Mapping[str, np.ndarray] = field(default_factory=dict)
    verdict: Verdict | None = None

    def __repr__(self) -> str:
        chains, draws = self.shape
        number = (
            f"{chains} chains of {draws} draws"
            if self.sampled
            else f"{draws} draw{'s' if draws > 1 else ''}"
        )
        unfinished = f" of {self.planned}" if self.unfinished else ""
        return f"Fit({self.method}, {number}{unfinished}, {self.density})"

    @property
    def unfinished(self) -> bool:
        """Whether the chains have fewer draws than planned."""
        return self.planned is not None and self.shape[1] < self.planned

    @property
    def sampled(self) -> bool:
        """Whether the draws are those of Markov chains.

        R-hat, effective sample sizes and leave-one-out presuppose it."""
        return self.method in CHAINS

    @property
    def modes(self) -> dict[str, dict[str, np.ndarray]]:
        """The parameters of a MAP's mode in "constrained" and in "unconstrained" coordinates."""
        other = {"constrained": "unconstrained", "unconstrained": "constrained"}[
            self.coordinates or "constrained"
        ]
        return {self.coordinates: self.params, other: dict(self.other_mode)}

    @property
    def estimated(self) -> bool:
        """Whether the model's likelihood is itself an estimate, by a particle filter."""
        return isinstance(self.model, ParticleModel)

    @property
    def shape(self) -> tuple[int, int]:
        """The number of chains, and of draws in each chain."""
        chains, draws = next(iter(self.draws.values())).shape[:2]
        return chains, draws

    def flat_draws(self, most: int | None = None) -> dict[str, np.ndarray]:
        """Parameters by name with the draws of all chains on one axis.

        Args: most, an upper limit on their number; those kept are evenly spaced."""
        total = self.shape[0] * self.shape[1]
        if most is None or most >= total:
            return flatten(self.draws)
        chosen = np.linspace(0, total - 1, most).round().astype(int)
        return {name: value[chosen] for name, value in flatten(self.draws).items()}

    def flat_latents(self) -> dict[str, np.ndarray]:
        """Latent variables by name with the draws of all chains on one axis."""
        return flatten(self.latents)

    @property
    def params(self) -> dict[str, np.ndarray]:
        """The parameters of a MAP.

        Raises: AttributeError for other methods, which have draws."""
        if self.method != "map":
            raise AttributeError(
                "params: a posterior has draws, not one value; use `draws` or `flat_draws()`"
            )
        return {name: np.asarray(value[0, 0]) for name, value in self.draws.items()}

    def thinned(self, most: int) -> "Fit":
        """The same fit with about `most` draws, evenly spaced and equally many in each chain.

        `stats` stay whole."""
        chains, total = self.shape
        chosen = np.linspace(0, total - 1, min(total, -(-most // chains))).round().astype(int)
        draws, latents = (
            {name: value[:, chosen] for name, value in of.items()}
            for of in (self.draws, self.latents)
        )
        return dataclasses.replace(self, draws=draws, latents=latents)

    def chain(self, number: int) -> "Fit":
        """One chain, counted from 0, as a fit of its own; its cost is that of all."""
        draws, latents = (
            {name: value[number : number + 1] for name, value in of.items()}
            for of in (self.draws, self.latents)
        )
        stats = {
            name: value[number : number + 1] if np.shape(value)[:2] == self.shape else value
            for name, value in self.stats.items()
        }
        origins = self.origins[number : number + 1]
        return dataclasses.replace(self, draws=draws, latents=latents, stats=stats, origins=origins)

    def with_particles(self, num_particles: int) -> "Fit":
        """The same fit with this number of particles; the fit itself unless `estimated`."""
        if not self.estimated:
            return self
        model: Any = self.model
        return dataclasses.replace(
            self, model=dataclasses.replace(model, num_particles=num_particles)
        )

    def draw_log_prob(self, data: Any) -> Float[np.ndarray, "chains draws num_sequences"]:
        """`log P_theta(sequence)` of each sequence under each draw theta, in nats."""
        return self.estimate_log_prob(data)[0]

    def draw_log_factors(self, data: Any) -> Float[np.ndarray, "chains draws num_sequences"]:
        """What each sequence adds to the log of the joint beside `draw_log_prob`, 0 if nothing."""
        model: Any = self.model
        if not is_generalised(model):
            return np.zeros((*self.shape, len(data)))
        found = over_draws(type(model).log_factors, model, self.flat_draws(), data)
        return found.reshape(*self.shape, -1)

    def estimate_log_prob(self, data: Any) -> tuple[np.ndarray, np.ndarray]:
        """`draw_log_prob` and its standard errors, of the same shape: 0 unless `estimated`."""
        if isinstance(self.model, ParticleModel):
            found = particle_log_prob(
                self.model,
                self.draws,
                data,
                num_particles=self.model.num_particles,
                key=jax.random.key(0),
            )
            return np.asarray(found.log_prob), np.asarray(found.standard_error)
        model = require("log probabilities", self.model, Model)
        per_draw = over_draws(type(model).log_likelihood, model, self.flat_draws(), data).reshape(
            *self.shape, -1
        )
        return per_draw, np.zeros_like(per_draw)

    def predictive_log_prob(self, data: Any) -> Float[np.ndarray, " num_sequences"]:
        """Log probability of each sequence, `log mean over draws of P_theta(sequence)`, in nats.

        The mixture is over whole sequences: averaging conditionals of single tokens would define
        another law. Source: theory, section 8.
        """
        return mixture_log_prob(self.draw_log_prob(data))

    def process(self) -> SequenceProcess:
        """The law of token sequences: the model's process, or the mixture of it over the draws.

        The first is that of a MAP, the mixture that of all other methods.

        Raises: InputError for a model that is no `TokenModel`. Source: theory, section 8."""
        draws = self.flat_draws()
        model = require("process", self.model, TokenModel)
        one = model.process({name: jnp.asarray(value[0]) for name, value in draws.items()})
        if self.method == "map":
            return one
        return ProcessMixture(one, jax.vmap(lambda params: model.process(params).params)(draws))

    @property
    def density(self) -> Density:
        """The identity of the density that was fitted: model, fields and training data."""
        return density_of(self.model, self.data)

    def to_datatree(self, **how: Any) -> "xarray.DataTree":
        """The fit as an ArviZ DataTree, see `probattn.inference.fitting.datatree.to_datatree`."""
        from probattn.inference.fitting.datatree import to_datatree

        return to_datatree(self, **how)


class OnDemand(Mapping[str, np.ndarray]):
    """A mapping from names to arrays that reads an array when it is accessed, such as from disk.

    Args: read, a function from a name to its array; names, all the names.
    """

    def __init__(self, read: Callable[[str], Any], names: tuple[str, ...]):
        self._read, self._names = read, names

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self._names:
            raise KeyError(name)
        return np.asarray(self._read(name))

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __or__(self, other: Mapping[str, Any]) -> dict[str, Any]:
        return {**self, **other}

    def __reduce__(self) -> tuple[type, tuple[dict[str, np.ndarray]]]:
        """Another process gets the arrays themselves, since it may not have the file."""
        return dict, (dict(self),)


def _leaves(arrays: OnDemand) -> tuple[Any, Any]:
    return tuple(arrays.values()), tuple(arrays)


def _dictionary(names: Any, values: Any) -> Any:
    return dict(zip(names, values, strict=True))


# To JAX, an OnDemand is the dictionary of its arrays.
jax.tree_util.register_pytree_node(OnDemand, _leaves, _dictionary)


def split_latents(
    model: NumPyroModel, draws: Mapping[str, Any]
) -> tuple[Mapping[str, np.ndarray], Mapping[str, np.ndarray]]:
    """Split draws by name into those of parameters and those of the model's latent variables."""
    names = model.latents if isinstance(model, ParticleModel) else ()
    parts = (
        OnDemand(draws.__getitem__, tuple(name for name in draws if name not in names)),
        OnDemand(draws.__getitem__, tuple(name for name in draws if name in names)),
    )
    if isinstance(draws, dict):
        return dict(parts[0]), dict(parts[1])
    return parts


def flatten(draws: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays with their leading axes (chains, draws) merged into one."""
    return {name: value.reshape(-1, *value.shape[2:]) for name, value in draws.items()}


def mixture_log_prob(log_prob: np.ndarray) -> np.ndarray:
    """`log mean exp` over the leading axes: (chains, draws, num_sequences) to (num_sequences,)."""
    chains, draws = log_prob.shape[:2]
    return np.logaddexp.reduce(log_prob.reshape(chains * draws, -1), axis=0) - math.log(
        chains * draws
    )


def mixture_error(log_prob: np.ndarray, error: np.ndarray) -> np.ndarray:
    """Standard error of `mixture_log_prob`, from the independent errors of its terms.

    Args: log_prob, error, both (chains, draws, num_sequences).
    """
    flat = log_prob.reshape(-1, log_prob.shape[-1])  # [chains * draws, num_sequences]
    # The derivative of the log mean with respect to each term is the term's share of the sum.
    share = np.exp(flat - np.logaddexp.reduce(flat, axis=0))
    return np.sqrt(((share * error.reshape(flat.shape)) ** 2).sum(0))


def over_draws(
    function: Callable,
    model: NumPyroModel,
    draws: Mapping[str, np.ndarray],
    *given: Any,
    key: Any = None,
) -> Any:
    """`function(model, params, *given)` at each draw, as arrays on the host with the draws first.

    The function is compiled for one draw: once for all fits of equal models, however many draws
    they have.

    Args: draws, parameters by name with the draws as leading axis; key, a random key that is split
        over the draws and passed after `params`, or None for a function that is not random."""
    number = len(next(iter(draws.values())))
    keys = [()] * number if key is None else [(one,) for one in jax.random.split(key, number)]
    each = [{name: value[i] for name, value in draws.items()} for i in range(number)]
    # Here `given` holds concrete data, so that the function's checks of values can refuse bad data.
    jax.eval_shape(lambda params: function(model, params, *keys[0], *given), each[0])
    given = jax.tree.map(jnp.asarray, given)
    found = [
        _at_draw(function, model, params, *own, *given)
        for params, own in zip(each, keys, strict=True)
    ]
    return jax.tree.map(lambda *leaves: np.stack(leaves), *found)


@partial(jax.jit, static_argnums=(0, 1))
def _at_draw(function: Callable, model: NumPyroModel, params: dict[str, Array], *given: Any) -> Any:
    return function(model, params, *given)
