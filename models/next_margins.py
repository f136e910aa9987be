"""The margin that each token would have if it came next: the barrier at a step of decoding."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from probattn import Attention
from probattn.attention.batching import LARGEST_WORKING_SET, in_pieces
from probattn.attention.candidates import candidate_blocks
from probattn.sequence.tokens import counted


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["log_prob", "margin", "log_det", "outside"],
    meta_fields=[],
)
@dataclass(frozen=True, eq=False)
class Candidates:
    """Every token at every step of sequences; all arrays have shape (..., length, vocab_size).

    The margins are those of the path position that the token's embedding would take, the next one.
    They are NaN where there is none, at the last step, and after the end. The end token counts as
    any other, as it does in the normalised barrier; under the factor, whose sums stop at the end,
    its embedding has no part in anything.

    Args:
        log_prob: `log p(x_t | x_<t)` of the token, in nats; NaN after the end.
        margin: `sigma_min(J)`, which depends on the coordinates of the embeddings.
        log_det: `log |det J|`, which does not.
        outside: whether det J <= 0, so that the token would leave the local domain.
    """

    log_prob: Any
    margin: Any
    log_det: Any
    outside: Any


@jax.jit
def candidate_margins(
    attention: Attention, following: Array, u: Array, tokens: Array, log_prob: Array
) -> Candidates:
    """The candidates of sequences with paths u (n, length, dim).

    Args: attention, of the path, strict; following, the embedding of each token at the second
    position, the third, and so on, (length - 1, vocab_size, dim); tokens (n, length); log_prob, of
    every token (n, length, vocab_size).
    """
    _, vocab, dim = following.shape
    length = u.shape[1]

    def of_paths(u: Array) -> tuple[Array, Array, Array]:
        blocks = candidate_blocks(attention, u, following)
        sign, log_det = jnp.linalg.slogdet(blocks)
        margin = jnp.linalg.svd(blocks, compute_uv=False)[..., -1]
        return margin, log_det, sign <= 0

    numbers = vocab * length * (dim + 8 * dim**2)
    margin, log_det, outside = in_pieces(of_paths, u, max(1, LARGEST_WORKING_SET // numbers))
    before_end = counted(tokens)[..., None]  # [n, t, 1]

    def at_next(values: Array, missing: Any) -> Array:
        padded = jnp.pad(values, ((0, 0), (0, 1), (0, 0)), constant_values=missing)
        return jnp.where(before_end, padded, missing)

    return Candidates(
        jnp.where(before_end, log_prob, jnp.nan),
        at_next(margin, jnp.nan),
        at_next(log_det, jnp.nan),
        at_next(outside, False),
    )
