"""The density of a path and the mean that reads it out, of one query and key in one pass (theory,
sections 1, 2 and 7).

A path is scored under the strict mask and read out under the inclusive one. The two share all
logits but one: with `a_t = alpha_tt` of the inclusive softmax,

    sum_{s<=t} alpha_ts u_s = a_t u_t + (1 - a_t) ubar_t,
    a_t = sigmoid(l_tt - log sum_{s<t} exp l_ts)

and ubar_t the strict mean, which the density forms anyway.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from probattn.attention.attention import Attention
from probattn.attention.batching import over_sequences
from probattn.attention.jacobian import density_parts_of, log_density_of
from probattn.attention.small_blocks import of_small_blocks
from probattn.attention.weighted_mean import Attended, attend


def density_with_readout(
    attention: Attention, u: Array, scale: float = 1.0
) -> tuple[Float[Array, "*batch length"], Float[Array, "*batch length dim"]]:
    """`path_log_density` of the strict mask without values, and `attention_mean` of the attention,
    which is inclusive.

    Args: attention, with the inclusive mask and no position bias; u, embeddings (..., length, dim);
    scale, sigma of the path. Source: theory, sections 2 and 7.
    """
    e, log_det, inside, mean = over_sequences(_parts, attention, u, working_set=_of_parts)
    return log_density_of(e, log_det, inside, scale), mean


def _strict(attention: Attention) -> Attention:
    return dataclasses.replace(attention, value=None, mask="strict")


def _of_parts(attention: Attention, length: int) -> int:
    return of_small_blocks(_strict(attention), length)


def _parts(attention: Attention, u: jax.Array) -> tuple[jax.Array, ...]:
    strict = _strict(attention)
    parts, attended = density_parts_of(strict, u, attend(strict, u))
    return *parts, _inclusive_mean(attention, attended)


def _inclusive_mean(attention: Attention, strict: Attended) -> jax.Array:
    own = jax.nn.sigmoid((strict.query * strict.key).sum(-1) - strict.log_total)[..., None]
    means = strict.wbar + own * (strict.w[:, None] - strict.wbar) + strict.origin[:, None]
    return (
        means.mean(1)
        if attention.value is None
        else jnp.einsum("hij,bhtj->bti", attention.value, means)
    )
