"""Quantities that the symmetries of attention leave unchanged (theory, section 6)."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def ordered_heads(forms: Float[Array, "heads n m"]) -> Float[Array, "heads n m"]:
    """The matrices of all heads, in ascending order of Frobenius norm.

    Exchanging heads gives the same model, so their order may differ from chain to chain.
    """
    return forms[jnp.argsort(jnp.linalg.norm(forms, axis=(-2, -1)))]


def gram(
    left: Float[Array, "n dim"],
    matrices: Float[Array, "heads dim dim"],
    right: Float[Array, "m dim"],
) -> Float[Array, "heads n m"]:
    """`L M_h R^T` for each head, in ascending order of Frobenius norm.

    Rotations of the embeddings rotate the rows of L and R along with M_h; together with the
    ordering, the result depends neither on rotations nor on the order of the heads.
    """
    return ordered_heads(jnp.einsum("vi,hij,wj->hvw", left, matrices, right))
