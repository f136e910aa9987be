"""Certificates that the implicit equation `u = mu_t(u) + e_t` has one root only (theory, section
4)."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool

from probattn.attention.attention import Attention
from probattn.attention.batching import over_sequences
from probattn.attention.weighted_mean import squared_diameter
from probattn.errors import InputError


def certified(attention: Attention, u: ArrayLike) -> Bool[Array, "*batch length"]:
    """Whether a bound proves, given the past of each position, that the embedding there is the only
    root.

    The covariance of any weights on points of diameter D has `|S|_2 <= D^2 / 4`, so there is one
    root if

        contraction             always: the cap makes mu_t a contraction
        any heads and values    sum_h |V_h|_2 |A_h|_2 D_t^2 / 4 < 1
        one head, V = I         lambda_max((A + A^T) / 2) D_t^2 / 4 < 1

    The third holds for all histories if `A + A^T <= 0`. It follows from mu_t(u) = grad g(A u), with
    g a log-sum-exp that is convex and D^2/4-smooth: two roots at distance w would have `w^T A w >=
    |w|^2 / (D^2/4)`. False means that no bound proves it, not that there are several roots
    (`expected_roots` counts them).

    Args: attention, strict mask; u, embeddings of shape (..., length, dim).
    Raises: InputError on a wrong shape, a NaN or an inclusive mask. Source: theory, section 4, and
    for the third with `A + A^T` not negative: the argument above.

    Example:

        >>> import jax.numpy as jnp
        >>> from probattn import Attention, certified
        >>> attention = Attention.from_interaction([[[0.5]]])
        >>> u = jnp.array([[-1.0], [1.0], [0.0]])  # keys at -1 and 1, and a token between them
        >>> print(certified(attention, u))
        [ True  True  True]
    """
    require_strict(attention)
    return over_sequences(_certified, attention, u)


def require_strict(attention: Any) -> None:
    """InputError unless each position attends to its strict past only, as a process needs."""
    if not isinstance(attention, Attention):
        raise InputError(
            f"attention: expected a probattn.Attention, got {type(attention).__name__}"
        )
    if attention.mask != "strict":
        raise InputError(
            'attention: expected mask="strict" for a process (each embedding given its past), '
            f"got {attention.mask!r}"
        )


def always_unique(attention: Attention, length: int) -> bool:
    """Whether a certificate holds for every history: the cap, two positions, or `A + A^T <= 0`
    (known outside jit)."""
    if attention.contraction is not None or length <= 2:
        return True
    if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(attention)):
        return False
    return bool((np.asarray(_gain(attention)) <= 0).all())


def _gain(attention: Attention) -> jax.Array:
    """What `D_t^2 / 4` is multiplied by in the bound, shape of the batch of maps."""
    interaction = attention.interaction
    heads = jnp.linalg.norm(interaction, ord=2, axis=(-2, -1))
    if attention.value is None:
        of_values, identity = jnp.ones(()) / attention.heads, jnp.full((), attention.heads == 1)
    else:
        of_values = jnp.linalg.norm(attention.value, ord=2, axis=(-2, -1))
        identity = (attention.heads == 1) & (attention.value == jnp.eye(attention.dim)).all(
            axis=(-3, -2, -1)
        )
    symmetric_part = (interaction + jnp.swapaxes(interaction, -1, -2)) / 2
    largest = jnp.linalg.eigvalsh(symmetric_part)[..., 0, -1]
    return jnp.where(identity, largest, (of_values * heads).sum(-1))


def _certified(attention: Attention, u: jax.Array) -> jax.Array:
    past = squared_diameter(u)
    if attention.contraction is not None:
        return jnp.ones_like(past, bool)
    # The bound itself is rounded: it must hold with room for that.
    rounding = 16 * attention.dim * jnp.finfo(u.dtype).eps
    return _gain(attention) * past / 4 < 1 - rounding
