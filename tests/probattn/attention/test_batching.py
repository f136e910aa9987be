"""Many sequences are computed piece by piece: the same as all at once, in memory that does not grow
with their number."""

import cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from probattn import jacobian_blocks, log_det, path_log_density, residuals
from probattn.attention import batching


def embeddings(*shape, seed=1):
    return jnp.asarray(np.random.default_rng(seed).standard_normal((*shape, cases.DIM)))


@pytest.mark.parametrize(("mask", "maps"), [("strict", 1), ("inclusive", 2)])
def test_pieces_are_the_whole(monkeypatch, mask, maps):
    attention, u = cases.attention(2, value=True, mask=mask), embeddings(7, 5)
    if maps > 1:  # a batch of maps, each applied to every sequence
        attention, u = jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf]), attention), u[:, None]

    def total(attention, u):
        density = path_log_density(attention, u)
        return (
            jnp.where(jnp.isneginf(density), 0, density).sum()
            + jnp.abs(residuals(attention, u)).sum()
        )

    def everything():
        jax.clear_caches()
        slopes = jax.jit(
            jax.value_and_grad(total, (0, 1))
        )  # as one program, and not one for each operation
        return jax.tree.leaves(
            (slopes(attention, u), jacobian_blocks(attention, u), log_det(attention, u))
        )

    whole = everything()
    called = []
    original = batching.in_pieces
    monkeypatch.setattr(batching, "LARGEST_WORKING_SET", 1500)
    monkeypatch.setattr(
        batching, "in_pieces", lambda run, u, most: called.append(most) or original(run, u, most)
    )
    pieces = everything()
    assert min(called) < 7
    # Sums of some hundred terms, each of a few units in the last place, in another order.
    for one, other in zip(pieces, whole, strict=True):
        scale = float(jnp.abs(other[jnp.isfinite(other)]).max())
        np.testing.assert_allclose(one, other, rtol=0, atol=300 * jnp.finfo(u.dtype).eps * scale)


def test_memory_of_pieces_does_not_grow_with_the_number_of_sequences(monkeypatch):
    monkeypatch.setattr(batching, "LARGEST_WORKING_SET", 20_000)
    jax.clear_caches()
    attention = cases.attention()

    def temporaries(number):
        gradient = jax.grad(lambda u: path_log_density(attention, u).sum())
        compiled = jax.jit(gradient).lower(jnp.zeros((number, 16, cases.DIM))).compile()
        return compiled.memory_analysis().temp_size_in_bytes / (4 * number * 16 * cases.DIM)

    # In units of the embeddings, what is left is a few copies of them; all at once it is 100 times
    # them.
    assert temporaries(2000) < 20
