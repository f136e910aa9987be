"""Closed forms against automatic differentiation of loops that follow the formulas."""

from functools import partial

import cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from probattn import (
    attention_mean,
    jacobian_blocks,
    log_barrier,
    log_det,
    path_log_density,
    residuals,
    stability_margin,
    support_tokens,
)

every_case = pytest.mark.parametrize("name", cases.CASES | cases.CONTRACTED)
# Lengths 1 and 2 are edge cases of the masks, not of heads and values.
FULLEST = (
    "strict-3heads-value-origin-bias",
    "inclusive-3heads-value-origin-bias",
    "inclusive-1heads-plain",
)
# One of each mask, with one head (blocks of the rank) and several (blocks of the dimension), with
# values and without: for what compiles several programs, or large ones.
some_cases = pytest.mark.parametrize(
    "name",
    [
        "strict-3heads-value-origin-bias",
        "inclusive-1heads-plain",
        "inclusive-3heads-value-origin-bias",
        "contracted-1heads-value",
        "contracted-3heads-plain",
    ],
)
every_case_and_length = pytest.mark.parametrize(
    ("name", "length"),
    [(name, 4) for name in cases.CASES | cases.CONTRACTED]
    + [(name, n) for name in FULLEST for n in (1, 2)],
)


def singular_positions(attention):
    """With self included and V = I, position 1 attends to itself alone: its block is exactly
    zero."""
    return int(attention.mask == "inclusive" and attention.value is None)


def embeddings(length, *batch, seed=1):
    return jnp.asarray(np.random.default_rng(seed).standard_normal((*batch, length, cases.DIM)))


@every_case_and_length
def test_residuals_follow_the_formula(name, length):
    attention, u = cases.build(name), embeddings(length)
    np.testing.assert_allclose(
        residuals(attention, u), cases.slow_residuals(attention, u), rtol=0, atol=1e-10
    )
    np.testing.assert_allclose(
        attention_mean(attention, u), u - residuals(attention, u), rtol=0, atol=1e-14
    )


@every_case_and_length
def test_blocks_are_the_diagonal_of_a_block_triangular_jacobian(name, length):
    attention, u = cases.build(name), embeddings(length)
    dense, blocks = cases.slow_jacobian(attention, u), np.asarray(jacobian_blocks(attention, u))
    for t in range(length):
        np.testing.assert_allclose(blocks[t], dense[t, :, t], rtol=0, atol=1e-10)
        assert not dense[t, :, t + 1 :].any()
        for s in range(t):
            assert dense[t, :, s].any()
    first = singular_positions(attention)
    if first == length:
        return
    rest = dense[first:, :, first:].reshape((length - first) * cases.DIM, -1)
    total = np.asarray(log_det(attention, u))[first:].sum()
    np.testing.assert_allclose(total, np.linalg.slogdet(rest)[1], rtol=0, atol=1e-10)


@every_case
def test_log_det_and_margin_agree_with_dense_computations(name):
    attention, u = cases.build(name), embeddings(4)
    dense = cases.slow_jacobian(attention, u)
    blocks = np.stack([dense[t, :, t] for t in range(4)])
    first = singular_positions(attention)
    expected = np.log(np.abs(np.linalg.det(blocks[first:])))
    np.testing.assert_allclose(log_det(attention, u)[first:], expected, rtol=0, atol=1e-10)
    np.testing.assert_array_equal(log_barrier(attention, u), -log_det(attention, u))
    margins = np.linalg.svd(blocks, compute_uv=False)[:, -1]
    np.testing.assert_allclose(stability_margin(attention, u), margins, rtol=0, atol=1e-10)
    np.testing.assert_array_equal(
        support_tokens(attention, u, 3), np.argsort(margins, kind="stable")[:3]
    )
    ranked = support_tokens(attention, u, 4, kind="log_det")[first:]
    order = np.argsort(expected.round(9), kind="stable") + first
    np.testing.assert_array_equal(ranked, order)


def test_position_one_is_degenerate_when_it_attends_to_itself_alone():
    barrier = log_barrier(cases.attention(mask="inclusive"), embeddings(3))
    assert barrier[0] == jnp.inf
    assert jnp.isfinite(barrier[1:]).all()


@pytest.mark.parametrize(
    "name",
    ["inclusive-1heads-plain", "inclusive-3heads-value-origin-bias", "contracted-1heads-value"],
)
def test_gradient_of_log_det_agrees_with_differentiating_the_slow_map(name):
    attention, u = cases.build(name), embeddings(3)

    def slow(attention, u):
        slow_jacobian = jax.jacobian(partial(cases.slow_residuals, xp=jnp), argnums=1)
        dense = slow_jacobian(attention, u)[first:, :, first:]
        return jnp.linalg.slogdet(dense.reshape((3 - first) * cases.DIM, -1))[1]

    def fast(attention, u):
        return log_det(attention, u)[first:].sum()

    first = singular_positions(attention)
    fast, slow = (
        jax.jit(jax.grad(function, argnums=(0, 1)))(attention, u) for function in (fast, slow)
    )
    for ours, theirs in zip(jax.tree.leaves(fast), jax.tree.leaves(slow), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-10)


@partial(jax.jit, static_argnums=0)
def in_three_ways(function, attention, u):
    one_by_one = jax.lax.map(
        lambda rows: jax.lax.map(lambda row: function(attention, row), rows), u
    )
    vmapped = jax.vmap(jax.vmap(function, (None, 0)), (None, 0))(attention, u)
    return function(attention, u), one_by_one, vmapped


@some_cases
def test_a_batch_is_its_sequences_one_by_one(name):
    attention, u = cases.build(name), embeddings(4, 2, 3)
    tolerance = (
        100 * jnp.finfo(u.dtype).eps
    )  # sums of at most 4 x 3 terms of order 1, in another order
    for function in (residuals, jacobian_blocks):
        together, one_by_one, vmapped = in_three_ways(function, attention, u)
        np.testing.assert_allclose(together, one_by_one, rtol=0, atol=tolerance * 10)
        np.testing.assert_allclose(vmapped, one_by_one, rtol=0, atol=tolerance * 10)


def test_float32_and_float64_agree_to_the_conditioning_of_the_blocks():
    attention, u = cases.build("strict-3heads-value"), embeddings(5, 20)
    with jax.enable_x64(True):
        exact_attention, exact_u = cases.build("strict-3heads-value"), embeddings(5, 20)
        exact = np.asarray(log_det(exact_attention, exact_u))
        blocks = np.asarray(jacobian_blocks(exact_attention, exact_u))
        condition = (
            np.linalg.norm(blocks, axis=(-2, -1)) / np.linalg.svd(blocks, compute_uv=False)[..., -1]
        )
    # Entries of a block sum some tens of products, so its relative error is some tens of epsilons.
    bound = 100 * cases.DIM * np.finfo(np.float32).eps * condition
    single = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), attention)
    assert (np.abs(np.asarray(log_det(single, u.astype(jnp.float32))) - exact) <= bound).all()


@jax.jit
def values_and_slopes(attention, u):
    of_blocks = jax.value_and_grad(lambda a, u: jacobian_blocks(a, u).sum(), argnums=(0, 1))(
        attention, u
    )
    return of_blocks, residuals(attention, u), jax.grad(lambda u: residuals(attention, u).sum())(u)


@pytest.mark.parametrize("mask", ["strict", "inclusive"])
@pytest.mark.parametrize("size", [0.0, 1e-4, 1.0, 1e4])
@pytest.mark.parametrize("length", [1, 2, 4])
def test_extreme_embeddings_give_finite_values_and_gradients(mask, size, length):
    attention = cases.attention(2, mask=mask)
    draws = size * embeddings(length)
    for u in (draws, np.broadcast_to(draws[:1], draws.shape)):
        assert all(
            np.isfinite(leaf).all() for leaf in jax.tree.leaves(values_and_slopes(attention, u))
        )


def test_contraction_has_a_finite_gradient_at_the_zero_map():
    zero = cases.attention(contraction=0.5)
    zero = jax.tree.map(jnp.zeros_like, zero)
    gradient = jax.jit(jax.grad(lambda a: path_log_density(a, embeddings(4)).sum()))(zero)
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_path_log_density_is_minus_infinity_outside_the_local_domain_and_nan_on_failure():
    u = jnp.asarray([[-1.0], [1.0], [0.0]])
    inside, outside = (
        cases.Attention([[[gain]]], [[[1.0]]]) for gain in (0.5, 4.0)
    )  # S_3 = 1 at u_3 = 0
    np.testing.assert_allclose(log_det(inside, u)[2], np.log(0.5), rtol=1e-5)
    expected = -0.5 * np.log(2 * np.pi) - np.log(2.0) + np.log(0.5)  # e_3 = 0 at scale 2
    np.testing.assert_allclose(path_log_density(inside, u, 2.0)[2], expected, rtol=1e-5)
    assert path_log_density(outside, u)[2] == -jnp.inf
    np.testing.assert_allclose(log_det(outside, u)[2], np.log(3.0), rtol=1e-5)
    assert jnp.isnan(jax.jit(path_log_density)(inside, u * jnp.nan)).any()


def test_the_density_integrates_to_one_under_the_contraction_cap():
    past = jnp.asarray([[-1.0], [1.5]])
    attention = cases.Attention([[[2.5]]], [[[1.5]]], contraction=0.9)
    grid = jnp.linspace(-12, 12, 4001)
    sequences = jnp.concatenate([jnp.broadcast_to(past, (4001, 2, 1)), grid[:, None, None]], axis=1)
    density = jnp.exp(path_log_density(attention, sequences, 0.7)[:, 2])
    np.testing.assert_allclose(jnp.trapezoid(density, grid), 1, rtol=0, atol=1e-9)
