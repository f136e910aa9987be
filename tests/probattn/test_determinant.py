"""The unrolled elimination against the library's LU, sign included."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from probattn.determinant import sign_and_log_det


@pytest.mark.parametrize("dim", [1, 2, 4, 8, 9])
def test_sign_and_log_det_agree_with_the_library(float64, dim):
    blocks = np.random.default_rng(dim).standard_normal((3, dim, dim, 20))
    batch_first = np.moveaxis(blocks, -1, 1)
    sign, log_det = sign_and_log_det(jnp.asarray(blocks))
    expected_sign, expected = np.linalg.slogdet(batch_first)
    assert {-1.0, 1.0} == set(expected_sign.ravel())
    np.testing.assert_array_equal(sign, expected_sign)
    np.testing.assert_allclose(log_det, expected, rtol=0, atol=1e-10)
    gradient = jax.grad(lambda blocks: sign_and_log_det(blocks)[1].sum())(jnp.asarray(blocks))
    inverse = np.moveaxis(np.linalg.inv(batch_first).swapaxes(-1, -2), 1, -1)
    np.testing.assert_allclose(gradient, inverse, rtol=1e-8, atol=1e-8)


def test_singular_blocks_and_zero_pivots():
    exchange = jnp.asarray([[0.0, 1.0], [1.0, 0.0]])[None, :, :, None]
    assert [float(part[0, 0]) for part in sign_and_log_det(exchange)] == [-1, 0]
    sign, log_det = sign_and_log_det(jnp.ones((1, 3, 3, 1)))
    assert float(sign[0, 0]) == 0
    assert float(log_det[0, 0]) == -np.inf
