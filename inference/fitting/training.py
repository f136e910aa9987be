"""Training with minibatches, vectorised over seeds, for studies that compare many trainings."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array
from numpyro.distributions import biject_to

from probattn.checks import as_integer
from probattn.errors import InputError
from probattn.inference.contract import TokenModel
from probattn.inference.data.on_disk import Windows
from probattn.inference.fitting.descent import CHUNK_STEPS
from probattn.inference.fitting.map import find_modes
from probattn.inference.fitting.unconstrained import Values

ADAMW_LEARNING_RATE = 0.2  # of AdamW, in unconstrained coordinates


class Trained(NamedTuple):
    """Parameters that were trained from several seeds, and the losses on the way.

    Args:
        params: parameters by name, with the seeds as leading axis.
        losses: minus the log joint per training sequence at each step, (seeds, steps).
    """

    params: Values
    losses: np.ndarray


def split_by_seed(params: Values) -> list[Values]:
    """Split parameters with the seeds as leading axis into the parameters of each seed."""
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
    learning_rate: float = ADAMW_LEARNING_RATE,
    weight_decay: float = 0.0,
) -> Trained:
    """Maximise the joint by AdamW for a number of steps, from a draw of the prior for each seed.

    The descent is that of `fit_map` with minibatches, but it need not end at a mode: there is no
    verdict, and no pass over all data at the end. Randomness in the model (noise, dropout) is drawn
    anew in each step.

    Args:
        model: a NumPyro model with minibatches and `priors()`.
        data: (num_sequences, ...).
        seeds: trained in one program; each has its start and its minibatches.
        num_steps: of the optimiser, at least 1.
        batch_size: sequences in a minibatch.
        learning_rate: of AdamW, in unconstrained coordinates.
        weight_decay: of AdamW.

    Raises:
        InputError: no seed, a count below 1, or weight decay that is negative or not finite.
        FitError: steps that keep leading out of the domain.
    """
    as_integer("num_steps", num_steps)
    if not seeds:
        raise InputError("seeds: expected at least one, got none")
    if not (math.isfinite(weight_decay) and weight_decay >= 0):
        raise InputError(f"weight_decay: expected a finite number >= 0, got {weight_decay}")
    keys = _keys(seeds)
    windows = Windows(data, CHUNK_STEPS * batch_size, seeds[0])
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


def initial_parameters(model: TokenModel, *, seeds: Sequence[int]) -> Values:
    """The parameters that `train` starts from: prior draws with the seeds as leading axis."""
    return _starts(model, _keys(seeds))


def _starts(model: TokenModel, keys: Array) -> Values:
    """A draw of the prior for each seed.

    The random key of a parameter is fixed by the seed and by its place in `priors()`: models that
    add parameters after the shared ones start at the same values of these.
    """
    priors = model.priors().items()

    @jax.vmap
    def draw(key: Array) -> Values:
        return {
            name: prior.sample(jax.random.fold_in(key, number))
            for number, (name, prior) in enumerate(priors)
        }

    return draw(keys)


def _transform(model: TokenModel, name: str) -> Any:
    """The bijection from the unconstrained coordinates of a parameter to the parameter."""
    return biject_to(model.priors()[name].support)


def _keys(seeds: Sequence[int]) -> Array:
    return jnp.stack([jax.random.key(seed) for seed in seeds])
