"""Stability margins and support tokens (theory, section 3)."""

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from probattn.attention import Attention
from probattn.errors import InputError
from probattn.jacobian import jacobian_blocks


def stability_margin(attention: Attention, u: ArrayLike) -> Float[Array, "*batch length"]:
    """Distance of each position from the degeneracy boundary, `sigma_min(J_t)`.

    It is the spectral norm of the smallest change of J_t that makes it singular; 1 where there is nothing to
    attend over (strict mask, positions 1 and 2).

    Args: attention; u, embeddings of shape (..., length, dim). Raises: InputError on a wrong shape or a NaN.
    Source: theory, section 3.
    """
    return jnp.linalg.svd(jacobian_blocks(attention, u), compute_uv=False)[..., -1]


def support_tokens(attention: Attention, u: ArrayLike, k: int) -> Int[Array, "*batch {k}"]:
    """Positions with the k smallest stability margins, smallest first; ties go to the earlier position.

    Args: attention; u, embeddings of shape (..., length, dim); k, from 1 to length.
    Raises: InputError on a wrong shape, a NaN, or k outside 1 ... length. Source: theory, section 3.
    """
    margin = stability_margin(attention, u)
    if not 1 <= k <= margin.shape[-1]:
        raise InputError(f"k: expected 1 to {margin.shape[-1]} (the length), got {k}")
    return jnp.argsort(margin, axis=-1, stable=True)[..., :k]
