"""The fast path, blocks no larger than the rank, against its twin: each whole block from its
definition."""

import cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from probattn import Attention, jacobian_blocks, log_det, matrix_inequality_slack, path_log_density
from probattn.attention.domain import inequality_holds
from probattn.attention.small_blocks import reduced_blocks
from probattn.attention.weighted_mean import attend

# heads, rank, values, whether by the lemma: at dimension 3
SHAPES = [
    (1, 1, False, True),
    (1, 3, True, True),
    (1, 5, False, False),
    (2, 1, False, True),
    (2, 1, True, True),
    (2, 2, True, False),
]


def embeddings(*shape, seed=1):
    return jnp.asarray(np.random.default_rng(seed).standard_normal((*shape, cases.DIM)))


@pytest.mark.parametrize(("heads", "rank", "value", "by_lemma"), SHAPES)
def test_value_and_derivatives_are_those_of_the_whole_blocks(heads, rank, value, by_lemma):
    contraction = 0.8 if heads == 2 else None
    attention, u = (
        cases.attention(heads, rank, value=value, contraction=contraction),
        embeddings(2, 6),
    )
    size = reduced_blocks(attention, u, attend(attention, u))[0].shape[-1]
    assert size == (heads * rank if by_lemma else cases.DIM)

    def fast(attention, u):
        return log_det(attention, u).sum()

    def whole(attention, u):
        return jnp.linalg.slogdet(jacobian_blocks(attention, u))[1].sum()

    def to_second_order(function):  # the second along one direction, forward over reverse
        at, direction = (attention, u), jax.tree.map(jnp.ones_like, (attention, u))
        return jax.jit(lambda: jax.jvp(jax.value_and_grad(function, (0, 1)), at, direction))()

    for one, other in zip(
        *(jax.tree.leaves(to_second_order(function)) for function in (fast, whole)), strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("length", [3, 6])
@pytest.mark.parametrize("gain", [0.3, 1.0, 3.0, -2.0])
def test_the_inequality_holds_where_its_slack_is_positive(length, gain):
    square = np.random.default_rng(5).standard_normal((cases.DIM, cases.DIM))
    attention = Attention.from_interaction(gain * (square + square.T)[None] / 2, symmetric=True)
    u = embeddings(200, length)
    slack = matrix_inequality_slack(attention, u)
    holds = ~jnp.isneginf(path_log_density(attention, u))
    clear = jnp.abs(slack) > 1e3 * jnp.finfo(u.dtype).eps * (
        1 + jnp.abs(slack).max()
    )  # of rounding
    np.testing.assert_array_equal(holds[clear], (slack > 0)[clear])
    assert clear.mean() > 0.9
    if length == 6 and gain > 0.5:
        assert 0.02 < holds.mean() < 0.98


def test_a_nan_is_not_outside():
    assert inequality_holds(jnp.full((2, 3, 3), jnp.nan), jnp.eye(3)).all()
    assert not inequality_holds(jnp.eye(3)[None], 2 * jnp.eye(3)).any()


def test_no_sequences_are_no_blocks():
    for attention in (cases.attention(1), cases.attention(2, value=True), cases.attention(1, 3)):
        assert log_det(attention, jnp.zeros((0, 4, attention.dim))).shape == (0, 4)
