"""A model trained by minibatches from several seeds side by side, for studies that compare many
trainings."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array
from numpyro.distributions import biject_to

from probattn.checks import whole_number
from probattn.errors import InputError
from probattn.inference.contract import TokenModel
from probattn.inference.data.on_disk import Windows
from probattn.inference.fitting.descent import CHUNK
from probattn.inference.fitting.map import find_modes
from probattn.inference.fitting.unconstrained import Values

LEARNING_RATE = 0.2  # of Adam, in the units of the priors' unconstrained coordinates


class Trained(NamedTuple):
    """Parameters with the seeds as leading axis, and the loss of each step, minus log joint per
    sequence, (seeds, steps)."""

    params: Values
    losses: np.ndarray


def each_seed(params: Values) -> list[Values]:
    """The parameters of each seed, of those that have the seeds as leading axis."""
    return [
        jax.tree.map(lambda leaf, i=i: leaf[i], params)
        for i in range(len(jax.tree.leaves(params)[0]))
    ]


def train(
    model: TokenModel,
    data: np.ndarray,
    *,
    seeds: Sequence[int],
    num_steps: int,
    batch_size: int = 32,
    learning_rate: float = LEARNING_RATE,
    weight_decay: float = 0.0,
) -> Trained:
    """Descend on the joint for a number of steps from a draw of the prior for each seed, as
    `fit_map` does with minibatches.

    Unlike a fit it does not ask for a mode: no verdict, no second look at all data. Randomness in
    the model (noise, dropout) is drawn anew in each step.

    Args: model, a NumPyro model with minibatches and `priors()`; data, (num_sequences, ...);
        weight_decay, of AdamW.
    Raises: InputError for counts below 1 or negative weight decay; FitError where every step leads
    out of the domain."""
    whole_number("num_steps", num_steps)
    if not seeds:
        raise InputError("seeds: expected at least one, got none")
    if not (math.isfinite(weight_decay) and weight_decay >= 0):
        raise InputError(f"weight_decay: expected a finite number >= 0, got {weight_decay}")
    keys = _keys(seeds)
    windows = Windows(data, CHUNK * batch_size, seeds[0])
    first = windows.draw()
    starts = {
        name: _transform(model, name).inv(value) for name, value in _starts(model, keys).items()
    }
    optimiser = optax.adamw(learning_rate, weight_decay=weight_decay)
    ends, descent = find_modes(
        model,
        first,
        starts,
        keys[0],
        optimiser=optimiser,
        num_steps=num_steps,
        batch_size=batch_size,
        progress=False,
        windows=windows,
    )
    params = {name: _transform(model, name)(value) for name, value in ends.items()}
    return Trained(params, descent.losses / len(data))


def untrained(model: TokenModel, *, seeds: Sequence[int]) -> Values:
    """Parameters drawn from the prior, as those that `train` begins with, the seeds as leading
    axis."""
    return _starts(model, _keys(seeds))


def _starts(model: TokenModel, keys: Array) -> Values:
    """A draw of the prior for each seed, in which parameters that two models share are the same."""
    priors = model.priors().items()

    @jax.vmap
    def draw(key: Array) -> Values:
        return {
            name: prior.sample(jax.random.fold_in(key, number))
            for number, (name, prior) in enumerate(priors)
        }

    return draw(keys)


def _transform(model: TokenModel, name: str) -> Any:
    """From the unconstrained coordinates of a parameter to the parameter."""
    return biject_to(model.priors()[name].support)


def _keys(seeds: Sequence[int]) -> Array:
    return jnp.stack([jax.random.key(seed) for seed in seeds])
