"""Margins of a trained model of the trial, and whether its support tokens are where it is fragile.

Letters in shapes: n sequence, t position, i component of an embedding, v token.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from probattn.inference.contract import LayeredModel
from probattn.inference.fitting.unconstrained import Values
from probattn.inference.study.under_stress import (
    CHOSEN,
    CHOSEN_NOISE,
    MOST_MARGINS,
    blocks_of_heads,
    margins_of_heads,
)

WAYS = ("sigma_min", "log_det", "random", "entropy", "gradient")


def geometry(model: LayeredModel, params: Values, tokens: np.ndarray) -> dict[str, Any]:
    """Margins of the model's heads on the first 32 sequences.

    Returns: that of `margins_of_heads`, and `smallest_median`, the median over the sequences of the
    smallest margin of all layers and positions of a sequence.
    """
    some = jnp.asarray(tokens[:MOST_MARGINS])
    margin, _, _ = blocks_of_heads(model, params, some)  # [layer, n, t]
    smallest = np.median(np.asarray(margin, float).min((0, 2)))
    return margins_of_heads(model, params, tokens) | {"smallest_median": float(smallest)}


def support(
    model: LayeredModel, params: Values, tokens: np.ndarray, *, seed: int
) -> dict[str, float]:
    """Loss that noise on 6 tokens of each sequence adds, by the way in which these are chosen.

    The noise is the same for all ways: of standard deviation 0.5 root mean squares of the
    embeddings.

    Returns: by name of WAYS (smallest margin by sigma_min and by log det, random, highest entropy,
    highest gradient), in nats per token.
    """
    some = jnp.asarray(tokens[:MOST_MARGINS])
    margin, _, barrier = blocks_of_heads(model, params, some)
    added = _added(model, params, some, margin.min(0), -barrier.max(0), jax.random.key(seed))
    return dict(zip(WAYS, np.asarray(added, float).tolist(), strict=True))


@partial(jax.jit, static_argnums=0)
def _added(
    model: Any, params: Values, tokens: Array, margin: Array, log_det: Array, key: Array
) -> Array:
    """Loss added by noise on chosen tokens, [way]; the smallest margins over layers are [n, t]."""
    for_noise, for_random = jax.random.split(key)
    u = model.path(params, tokens)

    def rows(u: Array) -> Array:
        return jax.nn.log_softmax(model.logits_at(params, u))  # [n, t, v]

    def loss(u: Array) -> Array:
        return -jnp.take_along_axis(rows(u), tokens[..., None], axis=-1).mean()

    probable = rows(u)
    scores = jnp.stack(  # in the order of WAYS, [way, n, t]
        [
            -margin,
            -log_det,
            jax.random.uniform(for_random, tokens.shape),
            -(jnp.exp(probable) * probable).sum(-1),
            jnp.linalg.norm(jax.grad(loss)(u), axis=-1),
        ]
    )
    noise = CHOSEN_NOISE * jnp.sqrt((u**2).mean()) * jax.random.normal(for_noise, u.shape)

    def of_way(score: Array) -> Array:
        _, chosen = jax.lax.top_k(score, min(CHOSEN, score.shape[-1]))  # [n, chosen]
        here = jax.nn.one_hot(chosen, score.shape[-1]).sum(1)  # [n, t]
        return loss(u + here[..., None] * noise) - loss(u)

    return jax.lax.map(of_way, scores)
