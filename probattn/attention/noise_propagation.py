"""How noise at one token moves the later ones: the inverse of the residual map's Jacobian.

Letters in shapes: b sequence, t and s position, i and j components of an embedding.
"""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from probattn.attention.attention import Attention
from probattn.attention.batching import over_sequences
from probattn.attention.weighted_mean import mean


def sensitivity(attention: Attention, u: ArrayLike) -> Float[Array, "*batch length dim length dim"]:
    """Derivative of each embedding of the implicit process in the noise of each token.

        G_ts = d u_t / d e_s,    u_t = mu_t(u_t; u_<t) + e_t
        G_ss = J_s^{-1},    G_ts = J_t^{-1} sum_{s <= r < t} (d mu_t / d u_r) G_rs,    0 for t < s

    The Jacobian of u -> e is block lower triangular, and this is its inverse by substitution. At
    the token itself `|G_ss|_2 = 1 / sigma_min(J_s)`, so that a small margin amplifies noise there;
    what reaches later tokens is that times what they attend to. Where the process has several
    solutions G belongs to the one through u. Where J_t is singular it is not finite.

    Args: attention, with either mask; u, embeddings of shape (..., length, dim).
    Returns: entry [..., t, i, s, j] is that of component i at t in component j of the noise at s.
    Raises: InputError on a wrong shape or a NaN. Source: theory, section 2 (the inverse is not in
    the paper).

    Example:

        >>> import jax.numpy as jnp
        >>> from probattn import Attention, sensitivity
        >>> attention = Attention.from_interaction([[[0.5]]])
        >>> u = jnp.array([[-1.0], [1.0], [0.0]])  # keys at -1 and 1, and a token between them
        >>> print(sensitivity(attention, u)[:, 0, :, 0])
        [[1. 0. 0.]
         [1. 1. 0.]
         [2. 1. 2.]]
    """
    return over_sequences(_sensitivity, attention, u, working_set=_working_set)


def _sensitivity(attention: Attention, u: jax.Array) -> jax.Array:
    length, dim = u.shape[1:]

    def of_one(u: jax.Array) -> jax.Array:
        moved = jax.jacfwd(lambda u: mean(attention, u[None])[0])(u)  # d mu_t / d u_s, [t, i, s, j]

        def row(found: jax.Array, position: jax.Array) -> tuple[jax.Array, None]:
            here = moved[position]  # [i, s, j]
            block = jnp.eye(dim, dtype=u.dtype) - here[:, position]
            # Rows of `found` from this position on are 0 still.
            from_past = jnp.einsum("isj,sjrk->irk", here, found)
            own = jnp.where(jnp.arange(length) == position, 1, 0)[:, None]
            right = from_past + jnp.eye(dim, dtype=u.dtype)[:, None] * own
            solved = jnp.linalg.solve(block, right.reshape(dim, length * dim))
            return found.at[position].set(solved.reshape(dim, length, dim)), None

        nothing = jnp.zeros((length, dim, length, dim), u.dtype)
        return jax.lax.scan(row, nothing, jnp.arange(length))[0]

    return jax.vmap(of_one)(u)


def _working_set(attention: Attention, length: int) -> int:
    """Numbers that a sequence needs at once: tangents of the weights and the Jacobian itself."""
    directions = length * attention.dim
    return directions * (directions + attention.heads * length**2)
