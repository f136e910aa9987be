"""Maximum a posteriori by stochastic variational inference with a point guide."""

import time
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array
from numpyro.infer import SVI, Trace_ELBO, init_to_uniform
from numpyro.infer.autoguide import AutoDelta
from numpyro.infer.svi import SVIState
from rich.progress import Progress

from probattn.errors import FitError, InputError
from probattn.inference.fit import Fit, split_latents

CHUNK = 50  # steps between two reports of progress
HALVINGS = 30  # a step shorter than 2^-30 of its length is no step


def fit_map(
    model: Any,
    data: Any,
    *,
    key: Array,
    num_steps: int = 1500,
    learning_rate: float = 0.1,
    progress: bool = True,
) -> Fit:
    """Mode of the joint density, by SVI with AutoDelta and Adam under a cosine schedule.

    The mode is the one in the constrained coordinates of the sites (AutoDelta's), latent variables included. A step that would leave the local
    domain is halved until it does not, since past the boundary the density rises again (theory, section 3).

    Args:
        model: a NumPyro model called as `model(data)`.
        data: what it conditions on, sequences first: tokens (num_sequences, length) or embeddings.
        key: JAX random key; it draws the start point.
        num_steps, learning_rate: of Adam, in unconstrained coordinates.
        progress: show a progress bar.

    Raises:
        InputError: data that the model refuses, or a number of steps below 1.
        FitError: no start point of finite density, or a loss that ends as NaN or infinity.
    """
    if num_steps < 1:
        raise InputError(f"num_steps: expected at least 1, got {num_steps}")
    started = time.perf_counter()
    data = jnp.asarray(data)
    guide = AutoDelta(model, init_loc_fn=init_to_uniform)  # where NUTS starts too
    optimiser = optax.adam(optax.cosine_decay_schedule(learning_rate, num_steps))
    svi = SVI(model, guide, optimiser, Trace_ELBO())
    state = start(lambda: svi.init(key, data))
    run = jax.jit(partial(_run, svi, data), static_argnums=1)
    losses = []
    with Progress(transient=True, disable=not progress) as bar:
        task = bar.add_task("MAP", total=num_steps)
        for done in range(0, num_steps, CHUNK):
            state, loss = run(state, min(CHUNK, num_steps - done))
            losses.append(np.asarray(loss))
            bar.update(task, completed=done + len(loss))
            if not np.isfinite(loss[-1]):
                raise FitError(
                    f"MAP: the loss became {loss[-1]} at step {done + len(loss)}; lower learning_rate (now {learning_rate})"
                )
    params = guide.median(svi.get_params(state))
    draws, latents = split_latents(model, {name: np.asarray(value)[None, None] for name, value in params.items()})
    stats = {"loss": np.concatenate(losses)}
    return Fit(model, "map", np.asarray(data), draws, stats, latents, time.perf_counter() - started)


def start(initialise: Any) -> Any:
    """`initialise()`, with NumPyro's failure to find a start point told as a FitError."""
    try:
        return initialise()
    except RuntimeError as error:
        if "valid initial parameters" not in str(error):
            raise
        raise FitError(
            "no start point of finite density was found: near the origin of the parameters some det J_t is not "
            "positive; use a smaller dim, or the contraction cap, which has no boundary (contraction=0.9)"
        ) from error


def _run(svi: SVI, data: Array, state: SVIState, num_steps: int) -> tuple[SVIState, Array]:
    return jax.lax.scan(lambda state, _: _step(svi, data, state), state, None, length=num_steps)


def _step(svi: SVI, data: Array, state: SVIState) -> tuple[SVIState, Array]:
    """One step of the optimiser, halved until the loss is finite; returns the loss after it."""
    before = state.optim_state[1][0]
    proposed, loss_before = svi.update(state, data)
    count, (target, moments) = proposed.optim_state

    def at(fraction: Array) -> SVIState:
        params = jax.tree.map(lambda old, new: old + fraction * (new - old), before, target)
        return proposed._replace(optim_state=(count, (params, moments)))

    def outside(carry: tuple[Array, Array]) -> Array:
        fraction, loss = carry
        return ~jnp.isfinite(loss) & (fraction > 2.0**-HALVINGS)

    def halve(carry: tuple[Array, Array]) -> tuple[Array, Array]:
        fraction = carry[0] / 2
        return fraction, svi.evaluate(at(fraction), data)

    one = jnp.ones(())
    fraction, loss = jax.lax.while_loop(outside, halve, (one, svi.evaluate(proposed, data)))
    # No step at all is finite where the last one was: it then stays there, on the edge of the domain.
    inside = jnp.isfinite(loss)
    return at(jnp.where(inside, fraction, 0)), jnp.where(inside, loss, loss_before)
