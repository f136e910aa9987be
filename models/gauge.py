"""What the symmetries of attention leave alone (theory, section 6)."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def ordered_heads(forms: Float[Array, "heads n m"]) -> Float[Array, "heads n m"]:
    """One matrix for each head, ordered by Frobenius norm: heads have no names, and a chain may
    permute them."""
    return forms[jnp.argsort(jnp.linalg.norm(forms, axis=(-2, -1)))]


def gram(
    left: Float[Array, "n dim"],
    matrices: Float[Array, "heads dim dim"],
    right: Float[Array, "m dim"],
) -> Float[Array, "heads n m"]:
    """`L M_h R^T` for each head, ordered: blind to rotations of the embeddings and to the order of
    heads."""
    return ordered_heads(jnp.einsum("vi,hij,wj->hvw", left, matrices, right))
