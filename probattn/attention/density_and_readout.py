"""A path's density and the mean that predicts the next token, in one pass (theory, 1, 2 and 7).

The language model needs two things of an embedding path: its log density, under the strict mask
(s < t), and the attention mean from which the logits of the next token are read out, under the
inclusive mask (s <= t). Query and key are the same, so the inclusive softmax has one logit more
than the strict one, l_tt. Its mean follows from the strict mean ubar_t, which the density needs
anyway, and from the weight a_t of the token on itself:

    sum_{s<=t} alpha_ts u_s = a_t u_t + (1 - a_t) ubar_t
    a_t = sigmoid(l_tt - log sum_{s<t} exp l_ts)
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from probattn.attention.attention import Attention
from probattn.attention.batching import over_sequences
from probattn.attention.jacobian import density_parts_of, log_density_of
from probattn.attention.small_blocks import small_blocks_working_set
from probattn.attention.weighted_mean import Attended, attend


def density_with_readout(
    attention: Attention, u: Array, scale: float = 1.0
) -> tuple[Float[Array, "*batch length"], Float[Array, "*batch length dim"]]:
    """Log density of each embedding and inclusive mean at each position, from the same logits.

    The density is `path_log_density` of the same query and key with the strict mask and without
    values; the mean is `attention_mean(attention, u)`.

    Args:
        attention: with the inclusive mask and no position bias.
        u: embeddings (..., length, dim).
        scale: standard deviation sigma of the path's noise.

    Raises: InputError on a wrong shape, a NaN or a scale that is not positive. Source: theory,
    sections 2 and 7.
    """
    e, log_det, inside, mean = over_sequences(_parts, attention, u, working_set=_parts_working_set)
    return log_density_of(e, log_det, inside, scale), mean


def strict_map(attention: Attention) -> Attention:
    """The map that scores the path: the same query and key, strict mask, no values."""
    return dataclasses.replace(attention, value=None, mask="strict")


def _parts_working_set(attention: Attention, length: int) -> int:
    """Numbers that one sequence needs at once in `_parts`; the density needs most of them."""
    return small_blocks_working_set(strict_map(attention), length)


def _parts(attention: Attention, u: jax.Array) -> tuple[jax.Array, ...]:
    """Residuals, log |det J_t| and domain of the strict map, then the inclusive mean [b, t, d]."""
    strict = strict_map(attention)
    parts, attended = density_parts_of(strict, u, attend(strict, u))
    return *parts, inclusive_mean(attention, attended)


def inclusive_mean(attention: Attention, strict: Attended) -> jax.Array:
    """Inclusive mean [b, t, d] of the attention, from the weights and means of its strict map.

    At the first position, which has no strict past, w and wbar are 0, so that the mean is u_1.
    """
    # a_t, [b, h, t, 1]: query and key at the same position give l_tt.
    own = jax.nn.sigmoid((strict.query * strict.key).sum(-1) - strict.log_total)[..., None]
    # [b, h, t, d]; w and wbar count from the first embedding, which is added back.
    means = strict.wbar + own * (strict.w[:, None] - strict.wbar) + strict.origin[:, None]
    return (
        means.mean(1)
        if attention.value is None
        else jnp.einsum("hij,bhtj->bti", attention.value, means)
    )
