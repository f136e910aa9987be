"""The unrolled elimination against the library's LU, sign included."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from probattn.attention.determinant import LARGEST_UNROLLED, sign_and_log_det


@pytest.mark.parametrize("dim", [1, 2, 4, 8, LARGEST_UNROLLED, LARGEST_UNROLLED + 1])
def test_sign_and_log_det_agree_with_the_library(dim):
    blocks = np.random.default_rng(dim).standard_normal((3, 20, dim, dim))

    @jax.jit
    def with_gradient(blocks):
        gradient = jax.grad(lambda blocks: sign_and_log_det(blocks)[1].sum())(blocks)
        return *sign_and_log_det(blocks), gradient

    sign, log_det, gradient = with_gradient(blocks)
    expected_sign, expected = np.linalg.slogdet(blocks)
    assert {-1.0, 1.0} == set(expected_sign.ravel())
    np.testing.assert_array_equal(sign, expected_sign)
    np.testing.assert_allclose(log_det, expected, rtol=0, atol=1e-10)
    np.testing.assert_allclose(
        gradient, np.linalg.inv(blocks).swapaxes(-1, -2), rtol=1e-8, atol=1e-8
    )


@pytest.mark.parametrize("dim", [1, 3, LARGEST_UNROLLED + 1])
def test_forward_and_second_derivatives_agree_with_the_library(dim):
    draw = np.random.default_rng(dim).standard_normal
    block, direction = jnp.asarray(draw((dim, dim))), jnp.asarray(draw((dim, dim)))
    ours, theirs = (lambda b: sign_and_log_det(b)[1]), (lambda b: jnp.linalg.slogdet(b)[1])
    derivatives = (
        lambda f: jax.jvp(f, (block,), (direction,))[1],
        lambda f: jax.jvp(jax.grad(f), (block,), (direction,))[1],
        lambda f: jax.grad(lambda b: (jax.grad(f)(b) * direction).sum())(block),
        lambda f: jax.jvp(lambda b: jax.jvp(f, (b,), (direction,))[1], (block,), (direction,))[1],
    )
    found = jax.jit(
        lambda: [[derivative(f) for derivative in derivatives] for f in (ours, theirs)]
    )()
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-7, atol=1e-7)


def test_pivots_are_exchanged_where_they_vanish_or_nearly_do():
    """Without exchange the first block divides by zero, and the second loses all digits."""
    exchange = np.asarray([[0.0, 1.0], [1.0, 0.0]])
    tiny = np.asarray([[1e-17, 1.0, 2.0], [1.0, 1.0, 0.0], [3.0, 2.0, 1.0]])
    assert [float(part) for part in sign_and_log_det(jnp.asarray(exchange))] == [-1, 0]
    sign, log_det = sign_and_log_det(jnp.asarray(tiny))
    np.testing.assert_allclose([sign, log_det], np.linalg.slogdet(tiny), rtol=1e-14)


def test_singular_blocks_and_failures():
    sign, log_det = sign_and_log_det(jnp.ones((1, 3, 3)))
    assert (float(sign[0]), float(log_det[0])) == (0, -np.inf)
    for dim in (3, LARGEST_UNROLLED + 1):
        for row in range(dim):
            blocks = jnp.eye(dim).at[row, dim - 1].set(jnp.nan)
            assert jnp.isnan(sign_and_log_det(blocks)[1])


def near_identity(size, *shape):
    """Blocks whose pivots, in the order given, are all large."""
    return jnp.eye(size) + 0.1 * jnp.asarray(
        np.random.default_rng(size).standard_normal((*shape, size, size))
    )


def test_one_block_that_needs_exchanges_costs_the_others_no_digits():
    """In the order given elimination would lose some eleven digits of the block in the middle."""
    calm = near_identity(3, 5)
    mixed = calm.at[2].set(jnp.asarray([[1e-11, 1.0, 2.0], [1.0, 1.0, 0.0], [3.0, 2.0, 1.0]]))
    for blocks in (calm, mixed):
        np.testing.assert_allclose(
            sign_and_log_det(blocks)[1], np.linalg.slogdet(blocks)[1], rtol=0, atol=1e-13
        )


def test_a_batch_stands_beside_the_blocks():
    """Mapped over a batch, even twice, the choice stays one choice; as a selection it would be both
    ways for every member."""
    blocks = near_identity(3, 2, 4, 5)
    mapped = jax.vmap(jax.vmap(jax.value_and_grad(lambda b: sign_and_log_det(b)[1].sum())))
    assert " cond[" in str(jax.make_jaxpr(mapped)(blocks))
    tolerance = 1e2 * float(jnp.finfo(blocks.dtype).eps)
    log_det, gradient = mapped(blocks)
    np.testing.assert_allclose(
        log_det, np.linalg.slogdet(blocks)[1].sum(-1), rtol=0, atol=tolerance
    )
    np.testing.assert_allclose(
        gradient, np.linalg.inv(blocks).swapaxes(-1, -2), rtol=0, atol=tolerance
    )
