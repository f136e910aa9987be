"""Quantities that the symmetries of attention leave unchanged (theory, section 6)."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

MOST_SYMBOLS = 40  # of a larger vocabulary not all pairs of symbols are looked at
NUM_PAIRS = 300  # but so many chosen at random, the same each time, and so many that occur


def ordered_heads(forms: Float[Array, "heads n m"]) -> Float[Array, "heads n m"]:
    """The matrices of all heads, in ascending order of Frobenius norm.

    Exchanging heads gives the same model, so their order may differ from chain to chain.
    """
    return forms[jnp.argsort(jnp.linalg.norm(forms, axis=(-2, -1)))]


def pairwise(
    name: str,
    left: Float[Array, "vocab dim"],
    matrices: Float[Array, "heads dim dim"],
    right: Float[Array, "vocab dim"],
    tokens: Array,
) -> dict[str, Float[Array, "heads ..."]]:
    """`l_v^T M_h r_w` for pairs of symbols v, w, as arrays by name.

    Rotations of the embeddings rotate the rows of L and R along with M_h, and heads are in
    ascending order of the norm of `L M_h R^T`: neither rotations nor the order of the heads bear on
    the result. Up to MOST_SYMBOLS symbols these are all pairs, (heads, vocab, vocab); beyond, whose
    number grows with the square, "NAME of random pairs" and "NAME of pairs that occur" in the
    tokens, (heads, NUM_PAIRS) each.

    Args: name; left, matrices, right, as above; tokens, (num_sequences, length).
    """
    norms = jnp.einsum(  # squared, |L M R^T|^2 = tr(M^T L^T L M R^T R)
        "hij,ik,hkl,lj->h", matrices, left.T @ left, matrices, right.T @ right
    )
    matrices = matrices[jnp.argsort(norms)]
    vocab_size = len(left)
    if vocab_size <= MOST_SYMBOLS:
        return {name: jnp.einsum("vi,hij,wj->hvw", left, matrices, right)}
    chosen = np.random.default_rng(0).integers(vocab_size, size=(2, NUM_PAIRS))
    before, after = tokens[:, :-1].ravel(), tokens[:, 1:].ravel()
    some = np.linspace(0, len(before) - 1, NUM_PAIRS).round().astype(int)

    def form(rows: jax.Array, columns: jax.Array) -> jax.Array:
        return jnp.einsum("pi,hij,pj->hp", left[rows], matrices, right[columns])

    return {
        f"{name} of random pairs": form(*jnp.asarray(chosen)),
        f"{name} of pairs that occur": form(before[some], after[some]),
    }
