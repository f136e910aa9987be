"""What a model generates, and how each token came about."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["tokens", "log_prob", "margin", "support"],
    meta_fields=["path_has_start"],
)
@dataclass(frozen=True, eq=False)
class Generation:
    """Generated sequences, all arrays of shape (num_sequences, length); what follows the end is 0,
    NaN, NaN and -1.

    Args:
        tokens: ids, padded with the end token.
        log_prob: `log p(x_t | x_<t)` of each, in nats; its sum is the log probability of the
            sequence.
        margin: stability margin of the path position that x_t comes from; no unit. With a start it
            reads x_{t-1} and predicts x_t; without, it is the latent embedding that emits x_t.
        support: the path position with the smallest margin so far.
        path_has_start: whether position 0 of the path is the start and position s the s-th token,
            or the first token.
    """

    tokens: Any
    log_prob: Any
    margin: Any
    support: Any
    path_has_start: bool = True


def support_so_far(margin: Float[Array, "*shape length"]) -> Int[Array, "*shape length"]:
    """The first position with the smallest margin up to each: the support token when the sequence
    was that long."""

    def smaller(left: tuple[Array, Array], right: tuple[Array, Array]) -> tuple[Array, Array]:
        replaced = right[0] < left[0]
        return jnp.where(replaced, right[0], left[0]), jnp.where(replaced, right[1], left[1])

    position = jnp.broadcast_to(jnp.arange(margin.shape[-1]), margin.shape)
    return jax.lax.associative_scan(smaller, (margin, position), axis=-1)[1]
