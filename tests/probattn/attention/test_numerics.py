"""Extreme values, the neighbourhood of the boundary, and the three outcomes that are never
confused."""

from functools import cache

import cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from probattn import (
    Attention,
    AttentionProcess,
    AttentionTransform,
    InputError,
    jacobian_blocks,
    log_det,
    matrix_inequality_slack,
    path_log_density,
    stability_margin,
)
from probattn.attention.determinant import LARGEST_UNROLLED, sign_and_log_det

SYMMETRIC = Attention.from_interaction(np.diag([0.5, -1.0, 0.1])[None], symmetric=True)
MAPS = {
    "free": cases.attention(2, value=True),
    "contracted": cases.attention(2, value=True, contraction=0.9),
    "symmetric": SYMMETRIC,
}


@jax.jit
def everything(attention, scale, u):
    """Sums of all that is computed of embeddings, with -inf (outside the domain) as 0, and the
    gradients."""

    def total(attention, scale, u):
        density = path_log_density(attention, u, scale)
        parts = [
            density,
            log_det(attention, u),
            stability_margin(attention, u),
            stability_margin(attention, u, "spectral"),
        ]
        if attention.symmetric:
            parts.append(matrix_inequality_slack(attention, u))
        return sum(jnp.where(jnp.isneginf(part), 0, part).sum() for part in parts)

    return jax.value_and_grad(total, argnums=(0, 1, 2))(attention, scale, u)


# Of one position there is nothing to attend to, whatever the map; the free one has no more than the
# contracted one.
@pytest.mark.parametrize(
    ("length", "name"), [*((4, name) for name in MAPS), (1, "contracted"), (1, "symmetric")]
)
def test_no_nan_in_value_or_gradient(length, name):
    draws = np.random.default_rng(0).standard_normal((length, cases.DIM))
    equal, one_apart = np.broadcast_to(draws[:1], draws.shape), draws.copy()
    one_apart[1:] = draws[0]
    for size in (0.0, 1e-4, 1.0, 1e4):
        for u in (draws, equal, one_apart):
            for leaf in jax.tree.leaves(everything(MAPS[name], 1.0, size * u)):
                assert np.isfinite(leaf).all(), (size, u)


def test_sampling_takes_long_and_short_noise():
    transform = AttentionTransform(MAPS["contracted"])

    @jax.jit
    def value_and_gradient(noise):
        return jax.value_and_grad(lambda t, e: t(e).sum(), argnums=(0, 1))(transform, noise)

    draws = np.random.default_rng(0).standard_normal((4, cases.DIM))
    for size in (0.0, 1e-4, 1.0, 1e4):
        for noise in (draws, np.broadcast_to(draws[:1], draws.shape)):
            assert all(
                np.isfinite(leaf).all()
                for leaf in jax.tree.leaves(value_and_gradient(size * noise))
            )


@cache
def at_the_boundary():
    """A map and embeddings with the gain at which the first eigenvalue of a block vanishes."""
    draws = np.random.default_rng(4).standard_normal((6, cases.DIM))
    u = (
        jnp.asarray(draws).at[-1].set(draws[:-1].mean(0) + 0.1)
    )  # among its past, so that its weights stay spread
    plain = Attention.from_interaction(np.eye(cases.DIM)[None])

    # With A = c I the eigenvalues of S_t A meet 1 as c grows; c just short of the first such gain.
    blocks = jax.jit(lambda gain: jacobian_blocks(Attention(gain * plain.query, plain.key), u))

    def smallest(gain):
        return np.linalg.eigvals(blocks(gain)).real.min()

    gains = np.linspace(0, 6, 301)
    first = next(i for i, gain in enumerate(gains) if smallest(gain) < 0)
    low, high = gains[first - 1], gains[first]
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if smallest(middle) > 0 else (low, middle)
    return plain, u, low


@pytest.mark.parametrize("exponent", [1, 2, 3, 4])
def test_near_the_boundary_float32_keeps_the_digits_that_the_docstring_promises(exponent):
    plain, u, low = at_the_boundary()
    attention = Attention((1 - 10.0**-exponent) * low * plain.query, plain.key)
    blocks, margin = jacobian_blocks(attention, u), stability_margin(attention, u)
    assert 0 < margin.min() < 5 * 10.0**-exponent
    logit = jnp.abs(jnp.einsum("si,hij,tj->hts", u, attention.interaction, u)).max()
    slope = jnp.linalg.norm(jnp.eye(cases.DIM) - blocks, ord=2, axis=(-2, -1))
    bound = cases.DIM * np.finfo(np.float32).eps * (1 + logit) * (1 + slope) / margin
    single = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), (attention, u))
    with jax.enable_x64(False):  # all floats are computed with in the default float
        found = log_det(*single)
    error = jnp.abs(found.astype(jnp.float64) - log_det(attention, u))
    assert found.dtype == jnp.float32
    assert (error <= bound).all(), (error, bound)


@pytest.mark.parametrize("dim", [2, LARGEST_UNROLLED + 1])
def test_a_singular_block_leaves_no_nan_in_the_gradient_of_the_others(dim):
    draws = np.random.default_rng(0).standard_normal((3, 2, dim, dim))
    draws[0] = 0
    draws[1, :, 0] = 0  # singular, with other pivots that are not 0
    blocks = jnp.asarray(draws)
    value, gradient = jax.jit(jax.value_and_grad(lambda b: sign_and_log_det(b)[1][2].sum()))(blocks)
    assert jnp.isfinite(value)
    assert jnp.isfinite(gradient).all()

    @jax.jit
    @jax.grad
    def away_from_singular(blocks):
        sign, log_det = sign_and_log_det(blocks)
        return jnp.where(sign == 0, 0, log_det).sum()

    gradient = away_from_singular(blocks)
    assert not gradient[:2].any()
    assert gradient[2].any()


def test_a_first_position_that_is_singular_leaves_no_nan_in_the_gradient_of_the_others():
    inclusive = Attention(np.ones((1, 1, 3)), np.ones((1, 1, 3)), mask="inclusive")
    u = jnp.asarray(np.random.default_rng(1).standard_normal((4, 3)))
    gradient = jax.jit(jax.grad(lambda u: log_det(inclusive, u)[1:].sum()))(u)
    assert jnp.isfinite(gradient).all()


BEYOND = Attention.from_interaction([[[4.0]]])
OUTSIDE = jnp.asarray([[-1.0], [1.0], [0.0]])  # det J_3 = 1 - 4


def test_outside_the_support_is_minus_infinity_with_a_finite_gradient():
    law = AttentionProcess(BEYOND, 1.0, 3)
    assert law.log_prob(OUTSIDE) == -jnp.inf
    assert jax.jit(lambda u: law.log_prob(u))(OUTSIDE) == -jnp.inf
    assert jnp.isfinite(jax.grad(law.log_prob)(OUTSIDE)).all()


def test_the_local_domain_need_not_be_connected():
    """Between keys -1 and 1 a token at 0.2: with more and more gain one key gets all the weight."""
    u = jnp.asarray([[-1.0], [1.0], [0.2]])
    density = {
        gain: path_log_density(Attention.from_interaction([[[gain]]]), u)[2]
        for gain in (0.9, 1.5, 3.0, 6.0, 20.0)
    }
    assert [bool(jnp.isfinite(value)) for value in density.values()] == [True, *3 * [False], True]


def test_numerical_failure_is_nan():
    law = AttentionProcess(BEYOND, 1.0, 3)
    assert jnp.isnan(jax.jit(lambda u: law.log_prob(u * jnp.nan))(OUTSIDE))
    # At each position, and not only where there is no block to look at.
    assert jnp.isnan(jax.jit(lambda u: path_log_density(BEYOND, u * jnp.nan))(OUTSIDE)).all()
    overflow = jax.jit(lambda u: law.log_prob(u))(OUTSIDE * jnp.finfo(OUTSIDE.dtype).max)
    assert not jnp.isfinite(overflow)
    # Twice the jump against the token, and no certificate: the iteration goes to and fro.
    cycling = AttentionTransform(
        Attention.from_interaction([[[-30.0]]], value=[[[2.0]]]), "fixed_point"
    )
    assert jnp.isnan(cycling(jnp.asarray([[1.0], [-2.0], [0.1]]))[2])


def test_bad_input_is_an_error():
    with pytest.raises(InputError, match="embeddings: expected finite numbers"):
        AttentionProcess(BEYOND, 1.0, 3).log_prob(OUTSIDE * jnp.nan)
