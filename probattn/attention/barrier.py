"""The barrier as a penalty in any training loop (theory, sections 2, 3 and 7)."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from probattn.attention.attention import Attention
from probattn.attention.batching import over_sequences
from probattn.attention.jacobian import density_parts, log_det
from probattn.attention.small_blocks import of_small_blocks
from probattn.checks import as_scale
from probattn.errors import InputError

VARIANTS = ("full", "margin_only", "one_sided", "bounded")


def barrier_loss(
    attention: Attention,
    embeddings: ArrayLike,
    weight: float | Array,
    variant: str = "full",
    *,
    scale: float | Array = 1.0,
    counted: Any = None,
) -> Float[Array, ""]:
    """`weight` times the mean, over the positions that count, of a penalty on attention that is
    close to ill-conditioned.

        full          |e_t|^2 / (2 scale^2) - log |det J_t|    minus the log density of the
                                                               embeddings, but for a constant
        margin_only   -log |det J_t|                           without the residuals
        one_sided     max(0, -log |det J_t|)                   counted only where it is positive
        bounded       -log |det J_t|, with A bounded: by the contraction cap where the attention
                      has one, else by its prior, a normal with standard deviation 1 / sqrt(d) in
                      each entry, spread over the positions that count

    Add it to the loss of a model, per token, with an attention whose query and key are trained too:
    an auxiliary one on the embeddings (strict mask), or the model's own heads on what they read
    (inclusive mask, with their value maps).

    What training does with it: `margin_only` rewards ever larger determinants, so that a trainable
    attention can run away from the boundary without bound. `full` holds back the embeddings, whose
    residuals grow with them, but not A. `one_sided` has its floor at 0, and `bounded` one that A
    cannot leave for long. The determinant counts by its absolute value, finite
    on both sides of the boundary: a step that jumps it goes unnoticed. Look at `stability_margin`,
    or take the cap.

    Args:
        attention: with one map, not a batch of them.
        embeddings: u, shape (..., length, dim).
        weight: lambda >= 0; the paper has 0.02 to 0.05.
        variant: as above.
        scale: sigma of the residuals in `full`, in the unit of the embeddings.
        counted: which positions count, shape (..., length); None is all.

    Raises:
        InputError: another variant, a negative weight, shapes that do not go together, a batch of
            maps, or the inclusive mask without value maps, under which the first position is
            exactly singular.
    Source: theory, sections 2 and 7.

    Example:

        >>> import jax.numpy as jnp
        >>> from probattn import Attention, barrier_loss
        >>> attention = Attention.from_interaction([[[0.5]]])
        >>> u = jnp.array([[-1.0], [1.0], [0.0]])  # keys at -1 and 1, and a token between them
        >>> print(round(float(barrier_loss(attention, u, 0.02, "one_sided")), 6))  # 0.02 log(2) / 3
        0.004621
    """
    number = (
        isinstance(weight, (int, float, np.number, jax.Array, np.ndarray)) and jnp.ndim(weight) == 0
    )
    if not isinstance(weight, jax.core.Tracer) and not (number and 0 <= float(weight) < math.inf):
        raise InputError(f"weight: expected a finite number >= 0, got {weight!r}")
    found = penalties(attention, embeddings, variant, scale)
    where = jnp.ones(found.shape, bool) if counted is None else jnp.asarray(counted, bool)
    if where.shape != found.shape:
        raise InputError(
            f"counted: expected shape {found.shape}, one entry for each position, got {where.shape}"
        )
    # Not a product with 0: a position that does not count may be singular.
    total = jnp.where(where, found, 0).sum()
    if variant == "bounded" and attention.contraction is None:
        total = total + 0.5 * attention.dim * (attention.interaction**2).sum()
    return weight * total / jnp.maximum(where.sum(), 1)


def penalties(
    attention: Attention, embeddings: ArrayLike, variant: str, scale: ArrayLike = 1.0
) -> Float[Array, "*batch length"]:
    """The penalty of each position; under `bounded` without what belongs to A itself."""
    if not isinstance(attention, Attention):
        raise InputError(
            f"attention: expected an Attention(query, key), got {type(attention).__name__}"
        )
    if 0 in jnp.shape(embeddings):
        raise InputError(
            f"embeddings: expected at least one sequence, got shape {jnp.shape(embeddings)}"
        )
    if variant not in VARIANTS:
        raise InputError(f"variant: expected {', '.join(VARIANTS)}, got {variant!r}")
    if attention.batch_shape:
        raise InputError(
            f"attention: expected one map, got a batch {attention.batch_shape}; use jax.vmap "
            "over it"
        )
    if attention.mask == "inclusive" and attention.value is None:
        raise InputError(
            "attention: the inclusive mask with value None is singular at the first position, "
            "which sees itself alone; "
            'give value maps, or mask="strict"'
        )
    if variant == "full":
        e, log_abs_det, _ = over_sequences(
            density_parts, attention, embeddings, working_set=of_small_blocks
        )
        return 0.5 * ((e / as_scale(scale)) ** 2).sum(-1) - log_abs_det
    barrier = -log_det(attention, embeddings)
    return jnp.maximum(barrier, 0) if variant == "one_sided" else barrier
