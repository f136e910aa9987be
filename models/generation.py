"""What a model generates, and how each token came about."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


@partial(jax.tree_util.register_dataclass, data_fields=["tokens", "log_prob", "margin", "support"], meta_fields=[])
@dataclass(frozen=True, eq=False)
class Generation:
    """Generated sequences, all arrays of shape (num_sequences, length); what follows the end is 0, NaN, NaN and -1.

    Args:
        tokens: ids, padded with the end token.
        log_prob: `log p(x_t | x_<t)` of each, in nats; its sum is the log probability of the sequence.
        margin: stability margin of the path position that predicts x_t, which reads x_{t-1}; no unit.
        support: the path position with the smallest margin so far: 0 is the start, s the s-th token.
    """

    tokens: Any
    log_prob: Any
    margin: Any
    support: Any


def support_so_far(margin: Float[Array, "*shape length"]) -> Int[Array, "*shape length"]:
    """The first position with the smallest margin up to each: the support token when the sequence was that long."""

    def smaller(left: tuple[Array, Array], right: tuple[Array, Array]) -> tuple[Array, Array]:
        replaced = right[0] < left[0]
        return jnp.where(replaced, right[0], left[0]), jnp.where(replaced, right[1], left[1])

    position = jnp.broadcast_to(jnp.arange(margin.shape[-1]), margin.shape)
    return jax.lax.associative_scan(smaller, (margin, position), axis=-1)[1]
