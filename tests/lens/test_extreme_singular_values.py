"""Extreme singular values against all of them in double precision."""

import numpy as np
import pytest

from probattn.lens.extreme_singular_values import BASIS, TOLERANCE, extremes


def blocks():
    generator = np.random.default_rng(0)
    for size in (4, BASIS, BASIS + 1, 40, 96):
        noise = generator.normal(size=(size, size)) / np.sqrt(size)
        yield f"Gaussian, {size}", noise
        yield f"near the identity, {size}", np.eye(size) + 1e-3 * noise
        yield f"the identity and noise, {size}", np.eye(size) - 0.9 * noise
        left, _, right = np.linalg.svd(noise)
        yield f"nearly singular, {size}", left @ np.diag(np.geomspace(1e-4, 3, size)) @ right
        yield f"one value, {size}", left @ right
        yield f"a mirror, {size}", np.eye(size) - 2 * np.outer(left[0], left[0])


@pytest.mark.parametrize(("name", "block"), [pytest.param(*one, id=one[0]) for one in blocks()])
def test_they_are_those_of_the_whole_decomposition(name, block):
    """The tolerance of an eigenvalue is twice that of a singular value; what float32 rounds in a
    solve grows with the condition number."""
    single = block.astype(np.float32)
    found = extremes(single)
    _, values, _ = np.linalg.svd(single.astype(float))
    condition = values[0] / values[-1]
    rounding = 20 * np.finfo(np.float32).eps * condition
    assert abs(found.sigma_min / values[-1] - 1) < TOLERANCE / 2 + rounding
    assert abs(found.sigma_max / values[0] - 1) < TOLERANCE / 2 + 1e-5
    sign, log_det = np.linalg.slogdet(single.astype(float))
    assert found.sign == sign
    assert abs(found.log_det - log_det) < 1e-5 * len(block) * max(1, np.log(condition)) + rounding
    for vector, value in ((found.v_min, found.sigma_min), (found.v_max, found.sigma_max)):
        assert abs(np.linalg.norm(vector) - 1) < 1e-5
        assert abs(np.linalg.norm(single @ vector) - value) < (0.02 + rounding) * value


def test_a_singular_block_has_determinant_zero_and_its_null_vector():
    block = np.eye(30, dtype=np.float32)
    block[3, 3] = 0
    found = extremes(block)
    assert (found.sign, found.log_det) == (0, -np.inf)
    assert found.sigma_min < 1e-6
    assert abs(abs(found.v_min[3]) - 1) < 1e-6


def test_a_block_with_a_nan_is_nan_and_nothing_else():
    block = np.eye(30, dtype=np.float32)
    block[3, 4] = np.nan
    found = extremes(block)
    assert np.isnan([found.sigma_min, found.sigma_max, found.log_det, found.sign]).all()
    assert np.isnan(found.v_min).all()
