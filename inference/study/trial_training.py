"""One training of the trial: Adam with warmup and decay, and the readings that are made of it."""

import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

from probattn.errors import FitError
from probattn.inference.fitting.training import initial_parameters
from probattn.inference.fitting.unconstrained import Values
from probattn.inference.study.trial_measures import loss_of, members_of

LOOKS = 50  # at the loss on the part for early stopping, equally spaced
WARMUP = 0.1  # share of the steps
END_RATE = 0.1  # of the learning rate
LAST = 0.2  # share of the steps at the end, in which a loss at rest falls by less than REST
REST = 0.005
AVERAGE = 0.999  # decay of the exponential average of weights
MARGINS_AFTER = (0.0, 0.01, 0.03, 0.1, 0.3, 1.0)  # shares of the steps
OPTIMISER = optax.scale_by_adam()


class TrialTraining(NamedTuple):
    """What one training gave.

    Args:
        stopped: parameters of the lowest loss on the part for early stopping.
        averaged: exponential average over the steps.
        snapshots: parameters after the shares of the steps in MARGINS_AFTER.
        iterates: parameters at the looks of the last fifth of the steps, for SWAG.
        course: steps and loss on the part for early stopping, at each look.
        at_rest: whether that loss fell by less than 0.5 % in the last fifth of the steps.
        seconds: of the steps without the looks and without the first chunk, which compiles, for
            each step; NaN for a single chunk.
    """

    stopped: Values
    averaged: Values
    snapshots: dict[float, Values]
    iterates: list[Values]
    course: list[tuple[int, float]]
    at_rest: bool
    seconds: float


def train_trial(
    model: Any,
    training: np.ndarray,
    stopping: np.ndarray,
    *,
    seed: int,
    num_steps: int,
    learning_rate: float,
    batch_size: int,
    weight_decay: float = 0.0,
    ramp: float = 0.0,
    falling: bool = False,
    until: int | None = None,
) -> TrialTraining:
    """Train from a draw of the prior; start and minibatches are those of the seed in every family.

    Args:
        model: a TransformerLM, or another dataclass that is a LayeredModel.
        training, stopping: tokens (num_sequences, length).
        num_steps: of the schedules of learning rate and barrier.
        learning_rate: at its peak, after a tenth of the steps of linear warmup; then a cosine to a
            tenth of it.
        weight_decay: of AdamW.
        ramp: share of the steps over which the barrier's weight rises linearly from 0.
        falling: whether that weight then falls as 1 / n, with n passes through the training part,
            from the first on, so that the barrier's total stays that of one pass.
        until: the step at which training ends; None is `num_steps`.

    Raises: FitError where the loss is no longer finite.
    """
    chunk = -(-num_steps // LOOKS)
    until = num_steps if until is None else until
    rates = learning_rates(learning_rate, num_steps)
    passes = batch_size / len(training)
    strengths = barrier_strengths(num_steps, ramp, passes if falling else 0.0)
    if model.barrier_weight > 0:  # as a factor at each step, so that all weights are one program
        strengths, model = model.barrier_weight * strengths, replace(model, barrier_weight=1.0)
    params = members_of(initial_parameters(model, seeds=(seed,)), 0)
    state, averaged = OPTIMISER.init(params), jax.tree.map(jnp.zeros_like, params)
    rows, key = minibatches(len(training), batch_size, seed), jax.random.key(seed)
    snapshots, iterates, course = {0.0: params}, [], []
    best, stopped, seconds = np.inf, params, []
    for first in range(0, until, chunk):
        steps = np.arange(first, min(first + chunk, until))
        begun = time.perf_counter()
        data = jnp.asarray(training[np.stack([next(rows) for _ in steps])])
        params, state, averaged = jax.block_until_ready(
            _steps(
                model,
                (params, state, averaged),
                data,
                (rates[steps], strengths[steps], jnp.asarray(steps)),
                key,
                (weight_decay, 1 / len(training) / training.shape[1]),
            )
        )
        done = int(steps[-1]) + 1
        if first and len(steps) == chunk:
            seconds.append((time.perf_counter() - begun) / chunk)
        loss = float(loss_of(model.law, jax.tree.map(lambda x: x[None], params), stopping))
        if not np.isfinite(loss):
            raise FitError(f"training: the loss is {loss} after {done} of {num_steps} steps")
        course.append((done, loss))
        if loss < best:
            best, stopped = loss, params
        for share in MARGINS_AFTER[1:]:
            if share not in snapshots and done >= share * num_steps:
                snapshots[share] = params
        if done > (1 - LAST) * num_steps:
            iterates.append(params)
    debiased = jax.tree.map(lambda x: x / (1 - AVERAGE**until), averaged)
    rest = at_rest(course, num_steps)
    each = float(np.median(seconds)) if seconds else float("nan")
    return TrialTraining(stopped, debiased, snapshots, iterates, course, rest, each)


def learning_rates(peak: float, num_steps: int) -> np.ndarray:
    """The learning rate of each step: linear warmup, then a cosine to a tenth of the peak."""
    warmup = max(1, round(WARMUP * num_steps))
    schedule = optax.warmup_cosine_decay_schedule(
        0.0, peak, warmup, max(num_steps, warmup + 1), END_RATE * peak
    )
    return np.asarray(jax.vmap(schedule)(jnp.arange(1, num_steps + 1)), float)


def barrier_strengths(num_steps: int, ramp: float, passes_each_step: float) -> np.ndarray:
    """The factor of the barrier's weight at each step.

        min(1, step / (ramp steps)) * min(1, 1 / passes)

    Args: passes_each_step, share of the training part that a step sees; 0 for a weight that does
    not fall.
    """
    steps = np.arange(1, num_steps + 1)
    rising = np.minimum(1, steps / max(ramp * num_steps, 1))
    return rising / np.maximum(1, steps * passes_each_step)


def minibatches(number: int, size: int, seed: int) -> Iterator[np.ndarray]:
    """Rows of minibatches: passes through all of `number` rows, each in an order of its own."""
    random, waiting = np.random.default_rng(seed), np.zeros(0, int)
    while True:
        while len(waiting) < size:
            waiting = np.concatenate([waiting, random.permutation(number)])
        yield waiting[:size]
        waiting = waiting[size:]


def at_rest(course: list[tuple[int, float]], num_steps: int) -> bool:
    """Whether the loss fell by less than 0.5 % in the last fifth of the steps."""
    before = [loss for steps, loss in course if steps <= (1 - LAST) * num_steps]
    return bool(before and course[-1][0] >= num_steps and course[-1][1] > (1 - REST) * before[-1])


@partial(jax.jit, static_argnums=0)
def _steps(
    model: Any, carry: Any, data: Array, schedule: Any, key: Array, constants: Any
) -> tuple[Values, Any, Values]:
    """Take a chunk of steps on minibatches [step, n, t]; compiled once for a model and a length."""
    weight_decay, per_token = constants
    priors = model.priors()

    def loss(params: Values, tokens: Array, key: Array, strength: Array) -> Array:
        prior = sum(priors[name].log_prob(value).sum() for name, value in params.items())
        return model.loss(params, tokens, key, strength) - per_token * prior

    def step(carry: Any, inputs: Any) -> tuple[Any, None]:
        params, state, averaged = carry
        tokens, (rate, strength, number) = inputs
        slope = jax.grad(loss)(params, tokens, jax.random.fold_in(key, number), strength)
        updates, state = OPTIMISER.update(slope, state)
        params = jax.tree.map(
            lambda p, change: p - rate * (change + weight_decay * p), params, updates
        )
        averaged = jax.tree.map(lambda a, p: AVERAGE * a + (1 - AVERAGE) * p, averaged, params)
        return (params, state, averaged), None

    rate, strength, number = schedule
    schedule = (jnp.asarray(rate, float), jnp.asarray(strength, float), number)
    return jax.lax.scan(step, carry, (data, schedule))[0]
