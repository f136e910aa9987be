"""Generated sequences, with the log probability, margin and support token of each token."""

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
    """Generated sequences; all arrays have shape (num_sequences, length).

    Args:
        tokens: ids, padded with the end token, 0.
        log_prob: `log p(x_t | x_<t)` of each token, in nats; NaN after the end. The sum over the
            positions that count is the log probability of the sequence.
        margin: stability margin of the path position that x_t comes from, without a unit; NaN after
            the end. If the path has a start, that position reads x_{t-1} and predicts x_t;
            otherwise it is the latent embedding that emits x_t.
        support: the path position, from 0, with the smallest margin so far; -1 after the end.
        path_has_start: whether position 0 of the path is the start, so that position s is the s-th
            token; otherwise position 0 is the first token.
    """

    tokens: Any
    log_prob: Any
    margin: Any
    support: Any
    path_has_start: bool = True


def support_so_far(margin: Float[Array, "*shape length"]) -> Int[Array, "*shape length"]:
    """For each position, the first position with the smallest margin up to there, counted from 0.

    It is the support token of the sequence as far as it was generated then.
    """

    def smaller(left: tuple[Array, Array], right: tuple[Array, Array]) -> tuple[Array, Array]:
        # Strictly smaller: of equal margins the first position stays.
        replaced = right[0] < left[0]
        return jnp.where(replaced, right[0], left[0]), jnp.where(replaced, right[1], left[1])

    position = jnp.broadcast_to(jnp.arange(margin.shape[-1]), margin.shape)
    return jax.lax.associative_scan(smaller, (margin, position), axis=-1)[1]
