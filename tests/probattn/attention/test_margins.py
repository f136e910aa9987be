"""Margins against dense computations, and what they are invariant under."""

import cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from probattn import (
    Attention,
    InputError,
    jacobian_blocks,
    log_det,
    matrix_inequality_slack,
    stability_margin,
    support_weights,
)
from probattn.attention.weighted_mean import attend

LENGTH = 5


def embeddings(seed=1, length=LENGTH):
    return jnp.asarray(np.random.default_rng(seed).standard_normal((length, cases.DIM)))


@pytest.mark.parametrize(
    "name", ["strict-3heads-value", "inclusive-1heads-value", "contracted-1heads-value"]
)
def test_each_kind_from_its_definition(name):
    attention, u = cases.build(name), embeddings()
    blocks = np.asarray(jacobian_blocks(attention, u))
    singular = np.linalg.svd(blocks, compute_uv=False)
    slope = np.linalg.svd(np.eye(cases.DIM) - blocks, compute_uv=False)[:, 0]
    np.testing.assert_allclose(stability_margin(attention, u), singular[:, -1], rtol=0, atol=1e-12)
    np.testing.assert_allclose(
        stability_margin(attention, u, "spectral"), 1 - slope, rtol=0, atol=1e-12
    )
    np.testing.assert_array_equal(stability_margin(attention, u, "log_det"), log_det(attention, u))
    np.testing.assert_allclose(
        support_weights(attention, u),
        np.linalg.norm(np.linalg.inv(blocks), 2, axis=(-2, -1)),
        rtol=1e-9,
    )
    assert (
        stability_margin(attention, u, "spectral") <= stability_margin(attention, u) + 1e-12
    ).all()
    if attention.contraction:
        assert (stability_margin(attention, u, "spectral") > 1 - attention.contraction).all()


def test_sigma_min_is_the_distance_to_the_nearest_singular_matrix():
    attention, u = cases.build("strict-3heads-value"), embeddings()
    rng = np.random.default_rng(0)
    for block, margin in zip(
        np.asarray(jacobian_blocks(attention, u)), stability_margin(attention, u), strict=True
    ):
        left, singular, right = np.linalg.svd(block)
        change = -singular[-1] * np.outer(left[:, -1], right[-1])
        np.testing.assert_allclose(np.linalg.norm(change, 2), margin, rtol=1e-12)
        assert abs(np.linalg.det(block + change)) < 1e-12
        for _ in range(200):  # no shorter change makes it singular: det keeps its sign all the way
            other = rng.standard_normal((cases.DIM, cases.DIM))
            other *= 0.999 * float(margin) / np.linalg.norm(other, 2)
            assert np.linalg.det(block) * np.linalg.det(block + other) > 0


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("length", [2, 3, 8])
def test_slack_is_that_of_the_dense_matrix_inequality(sign, length):
    square = np.random.default_rng(3).standard_normal((cases.DIM, cases.DIM))
    interaction = sign * square @ square.T
    attention, u = (
        Attention.from_interaction(interaction[None], symmetric=True),
        embeddings(length=length),
    )
    alpha = np.asarray(attend(attention, u[None]).alpha)[0, 0]
    expected, det = [], []
    for row in alpha:
        centred = np.asarray(u) - row @ np.asarray(u)
        values, vectors = np.linalg.eigh(centred.T @ (row[:, None] * centred))
        root = vectors @ np.diag(np.sqrt(np.maximum(values, 0))) @ vectors.T
        dense = np.eye(cases.DIM) - root @ interaction @ root
        expected.append(np.linalg.eigvalsh(dense)[0])
        det.append(np.linalg.det(dense))
    slack = matrix_inequality_slack(attention, u)
    np.testing.assert_allclose(
        slack, expected, rtol=0, atol=1e-6
    )  # a square root of a zero eigenvalue: 1e-8
    np.testing.assert_allclose(log_det(attention, u), np.log(np.abs(det)), rtol=0, atol=1e-6)
    assert (slack[-1] != 1) == (
        length == 8 or (length == 3 and sign == 1)
    )  # a singular S has an eigenvalue 0
    gradient = jax.jit(jax.grad(lambda u: matrix_inequality_slack(attention, u).sum()))(u)
    assert jnp.isfinite(gradient).all()
    if length == 8:
        h, direction = 1e-6, embeddings(9, 8)
        moved = [matrix_inequality_slack(attention, u + s * h * direction).sum() for s in (1, -1)]
        np.testing.assert_allclose(
            (gradient * direction).sum(), (moved[0] - moved[1]) / (2 * h), rtol=1e-5, atol=1e-5
        )


def transformed(name, attention, u, rng):
    """The same model in other coordinates."""
    value = attention.value
    if name == "rotation":
        rotation = np.linalg.qr(rng.standard_normal((cases.DIM, cases.DIM)))[0]
        turned = None if value is None else rotation @ value @ rotation.T
        return Attention(
            attention.query @ rotation.T, attention.key @ rotation.T, turned
        ), u @ rotation.T
    if name == "heads":
        order = rng.permutation(attention.heads)
        return Attention(attention.query[order], attention.key[order], value[order]), u
    gauge = (
        np.eye(attention.rank)
        + 0.3 * rng.standard_normal((attention.rank, attention.rank)) / attention.rank
    )
    return Attention(gauge @ attention.query, np.linalg.inv(gauge).T @ attention.key, value), u


@pytest.mark.parametrize("symmetry", ["rotation", "heads", "gauge"])
@settings(max_examples=25, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10_000), size=st.floats(0.1, 3.0), length=st.just(LENGTH))
def test_margins_are_invariant(symmetry, seed, size, length):
    rng = np.random.default_rng(seed)
    attention = cases.attention(3, value=True, seed=seed)
    u = size * embeddings(seed, length)
    other, moved = transformed(symmetry, attention, u, rng)
    blocks = jacobian_blocks(attention, u)
    # Rounding moves a block by that of the logits times its slope, and a singular value by no more
    # than the block.
    logits = jnp.abs(attention.interaction).max() * cases.DIM**2 * (u**2).max()
    bound = 100 * jnp.finfo(u.dtype).eps * (1 + logits) * (1 + jnp.abs(blocks).max())
    for kind in ("sigma_min", "spectral"):
        ours, theirs = stability_margin(attention, u, kind), stability_margin(other, moved, kind)
        np.testing.assert_allclose(theirs, ours, rtol=0, atol=bound)
    change = jnp.abs(log_det(other, moved) - log_det(attention, u))
    assert (change <= cases.DIM * bound / stability_margin(attention, u) + bound).all()


def test_bad_input_is_refused():
    attention, u = cases.attention(), embeddings()
    with pytest.raises(
        InputError, match='kind: expected "sigma_min", "log_det" or "spectral", got \'norm\''
    ):
        stability_margin(attention, u, "norm")
    with pytest.raises(InputError, match="symmetric=True"):
        matrix_inequality_slack(attention, u)
    with pytest.raises(
        InputError, match=r"symmetric: expected A = A\^T, got entries that differ by up to"
    ):
        Attention(attention.query, attention.key, symmetric=True)
    with pytest.raises(InputError, match=r"symmetric: expected one head.*got 2 heads"):
        Attention.from_interaction(np.stack([np.eye(3)] * 2), symmetric=True)
    with pytest.raises(InputError, match=r"interaction: expected shape .*got \(3, 3\)"):
        Attention.from_interaction(np.eye(3))
