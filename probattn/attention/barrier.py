"""The barrier as a penalty to add to any training loss (theory, sections 2, 3 and 7)."""

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
from probattn.attention.margins import stability_margin
from probattn.attention.small_blocks import small_blocks_working_set
from probattn.checks import as_scale
from probattn.errors import InputError

VARIANTS = ("full", "margin_only", "one_sided", "bounded", "hinge")


def barrier_loss(
    attention: Attention,
    embeddings: ArrayLike,
    weight: float | Array,
    variant: str = "full",
    *,
    scale: ArrayLike = 1.0,
    threshold: float | None = None,
    counted: Any = None,
) -> Float[Array, ""]:
    """A penalty on attention that is close to ill-conditioned, `weight` times its mean.

    The mean is over the positions that count; `variant` is the penalty of one position:

        full          |e_t|^2 / (2 scale^2) - log |det J_t|    minus the log density of the
                                                               embeddings, up to a constant
        margin_only   -log |det J_t|                           without the residuals
        one_sided     max(0, -log |det J_t|)                   only where it is positive
        bounded       -log |det J_t|, with A bounded: by the contraction cap where the attention
                      has one, else by a normal prior with standard deviation 1 / sqrt(d) on each
                      entry of A, spread over the positions that count
        hinge         max(0, 1 - sigma_min(J_t) / threshold)   only where the margin is smaller than
                                                               a threshold; between 0 and 1

    Add it to a model's loss per token, with an attention whose query and key are trained too: an
    auxiliary one on the embeddings (strict mask), or the model's own heads on their own inputs
    (inclusive mask, with their value maps).

    Effect in training: `margin_only` rewards ever larger determinants, so that a trainable
    attention can run away from the boundary without bound. `full` restrains the embeddings, whose
    residuals grow with them, but not A. `one_sided` and `hinge` cannot fall below 0. `bounded`
    restrains A itself. `hinge` takes a singular value decomposition of each block, which costs more
    than a determinant. All but `hinge` use the absolute value of the determinant, which is finite
    on both sides of the boundary, and `hinge` a margin that is positive on both: a step that jumps
    over the boundary is not noticed. Watch `stability_margin`, or use the cap.

    Args:
        attention: one map, not a batch.
        embeddings: u, shape (..., length, dim).
        weight: lambda >= 0; the paper uses 0.02 to 0.05.
        variant: "full", "margin_only", "one_sided", "bounded" or "hinge", as above.
        scale: sigma of the residuals in `full`, in the unit of the embeddings.
        threshold: of the margin in `hinge`, above 0; None in the other variants.
        counted: which positions count, shape (..., length); None is all.

    Raises:
        InputError: an unknown variant, a negative weight, a threshold that is not above 0 or that
            the variant has no use for, shapes that do not fit together, a batch
            of maps, or the inclusive mask without value maps, under which the first position is
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
    found = penalties(attention, embeddings, variant, scale, threshold)
    where = jnp.ones(found.shape, bool) if counted is None else jnp.asarray(counted, bool)
    if where.shape != found.shape:
        raise InputError(
            f"counted: expected shape {found.shape}, one entry for each position, got {where.shape}"
        )
    # A select, not a product with 0: the penalty of a position that does not count may be infinite.
    total = jnp.where(where, found, 0).sum()
    if variant == "bounded" and attention.contraction is None:
        total = total + 0.5 * attention.dim * (attention.interaction**2).sum()
    return weight * total / jnp.maximum(where.sum(), 1)


def penalties(
    attention: Attention,
    embeddings: ArrayLike,
    variant: str,
    scale: ArrayLike = 1.0,
    threshold: float | None = None,
) -> Float[Array, "*batch length"]:
    """The penalty of each position, without the weight; for "bounded" also without the prior on A.

    Arguments, errors and source as in `barrier_loss`.
    """
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
    check_threshold(variant, threshold)
    if attention.batch_shape:
        raise InputError(
            f"attention: expected one map, got a batch {attention.batch_shape}; use jax.vmap "
            "over the maps"
        )
    if attention.mask == "inclusive" and attention.value is None:
        raise InputError(
            "attention: the inclusive mask with value None is singular at the first position, "
            'which attends to itself alone; give value maps, or mask="strict"'
        )
    if variant == "full":
        e, log_abs_det, _ = over_sequences(
            density_parts, attention, embeddings, working_set=small_blocks_working_set
        )
        return 0.5 * ((e / as_scale(scale)) ** 2).sum(-1) - log_abs_det
    if variant == "hinge":
        return hinge(stability_margin(attention, embeddings), threshold)
    barrier = -log_det(attention, embeddings)
    return jnp.maximum(barrier, 0) if variant == "one_sided" else barrier


def hinge(margin: Array, threshold: float | None) -> Array:
    """`max(0, 1 - margin / threshold)` of each margin."""
    assert threshold is not None
    return jnp.maximum(1 - margin / threshold, 0)


def check_threshold(variant: str, threshold: float | None) -> None:
    """Raise InputError unless the variant "hinge" has a finite threshold > 0, and the others none.

    Args: variant, one of VARIANTS; threshold, of the margin."""
    if variant != "hinge":
        if threshold is not None:
            raise InputError(
                f"threshold: expected None with variant {variant!r}, got {threshold!r}; the "
                'variant with a threshold is "hinge"'
            )
        return
    if not (isinstance(threshold, (int, float)) and 0 < threshold < math.inf):
        raise InputError(
            f'threshold: expected a finite number > 0 with variant "hinge", got {threshold!r}'
        )
