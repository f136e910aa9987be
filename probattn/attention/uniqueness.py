"""Certificates that the equation `u = mu_t(u) + e_t` has only one root (theory, section 4)."""

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
    """Whether a bound proves that each position's equation, given its past, has only one root.

    Points of diameter D have a covariance with `|S|_2 <= D^2 / 4` under any weights. So there is
    only one root in each of these cases:

        contraction             always: the cap makes mu_t a contraction
        any heads and values    sum_h |V_h|_2 |A_h|_2 D_t^2 / 4 < 1
        one head, V = I         lambda_max((A + A^T) / 2) D_t^2 / 4 < 1

    The third bound follows from mu_t(u) = grad g(A u), with g a log-sum-exp that is convex and
    D^2/4-smooth: two roots that differ by w would have `w^T A w >= |w|^2 / (D^2/4)`. It holds for
    all histories if `A + A^T <= 0`. False means that no bound proves it, not that there are several
    roots (`expected_roots` counts them).

    Args: attention, strict mask; u, embeddings of shape (..., length, dim). Raises: InputError on a
    wrong shape, a NaN or an inclusive mask. Source: theory, section 4; for the third bound the
    argument above.

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
    """Raise InputError unless `attention` is an Attention with the strict mask."""
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
    """Whether there is one root whatever the history of up to `length` positions.

    So it is under the cap, for up to two positions, and if `_bound_factor` is not positive (for
    instance with one head, V = I and `A + A^T <= 0`). The last is not known of traced arrays:
    False.
    """
    if attention.contraction is not None or length <= 2:
        return True
    if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(attention)):
        return False
    return bool((np.asarray(_bound_factor(attention)) <= 0).all())


def _bound_factor(attention: Attention) -> jax.Array:
    """Factor of `D_t^2 / 4` in the bounds of `certified`, in the shape of the batch of maps."""
    interaction = attention.interaction
    heads = jnp.linalg.norm(interaction, ord=2, axis=(-2, -1))  # |A_h|_2, [..., h]
    if attention.value is None:
        of_values, identity = jnp.ones(()) / attention.heads, jnp.full((), attention.heads == 1)
    else:
        of_values = jnp.linalg.norm(attention.value, ord=2, axis=(-2, -1))
        identity = (attention.heads == 1) & (attention.value == jnp.eye(attention.dim)).all(
            axis=(-3, -2, -1)
        )
    symmetric_part = (interaction + jnp.swapaxes(interaction, -1, -2)) / 2
    largest = jnp.linalg.eigvalsh(symmetric_part)[..., 0, -1]  # of the only head
    return jnp.where(identity, largest, (of_values * heads).sum(-1))


def _certified(attention: Attention, u: jax.Array) -> jax.Array:
    """`certified` of u[b, t, i] for one map, as [b, t]."""
    past = squared_diameter(u)  # D_t^2, [b, t]
    if attention.contraction is not None:
        return jnp.ones_like(past, bool)
    # The bound is computed with rounding errors: require it with room for them.
    rounding = 16 * attention.dim * jnp.finfo(u.dtype).eps
    return _bound_factor(attention) * past / 4 < 1 - rounding
