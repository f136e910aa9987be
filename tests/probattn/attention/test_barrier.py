"""The penalty for training loops: its variants by their formulas, what bounds them, and bad
input."""

import dataclasses

import cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from probattn import Attention, InputError, barrier_loss, jacobian_blocks, residuals
from probattn.attention.barrier import VARIANTS

THRESHOLD = 0.6  # of the hinge: some margins of the cases are below it and some above


def embeddings(*shape, seed=1, scale=1.0):
    return scale * jnp.asarray(np.random.default_rng(seed).standard_normal((*shape, cases.DIM)))


def by_formula(attention, u, weight, variant, scale, counted):
    blocks = jacobian_blocks(attention, u)
    barrier = -jnp.linalg.slogdet(blocks)[1]
    each = {
        "full": 0.5 * (residuals(attention, u) ** 2).sum(-1) / scale**2 + barrier,
        "margin_only": barrier,
        "one_sided": jnp.where(barrier > 0, barrier, 0),
        "bounded": barrier,
        # The smallest singular value as the root of an eigenvalue of J^T J.
        "hinge": jnp.maximum(
            0, 1 - jnp.sqrt(jnp.linalg.eigvalsh(blocks.mT @ blocks)[..., 0]) / THRESHOLD
        ),
    }[variant]
    total = (each * counted).sum()
    if variant == "bounded" and attention.contraction is None:
        total += cases.DIM / 2 * (attention.interaction**2).sum()
    return weight * total / counted.sum()


@pytest.mark.parametrize(
    ("mask", "contraction", "variants"),
    [
        ("strict", None, VARIANTS),
        ("strict", 0.8, ("full", "bounded")),
        ("inclusive", None, ("one_sided", "bounded", "hinge")),
    ],
)
def test_each_variant_is_its_formula(mask, contraction, variants):
    attention = cases.attention(2, value=True, mask=mask, contraction=contraction)
    u, counted = embeddings(3, 5), np.random.default_rng(0).random((3, 5)) < 0.7

    @jax.jit  # as one program: each of its operations by itself would be compiled by itself
    def both(u):
        def ours(u, variant):
            threshold = THRESHOLD if variant == "hinge" else None
            return barrier_loss(
                attention, u, 0.3, variant, scale=0.7, threshold=threshold, counted=counted
            )

        def expected(u, variant):
            return by_formula(attention, u, 0.3, variant, 0.7, counted)

        def slope(function):  # with a weight of its own for each, no two of which cancel
            each = lambda u: jnp.stack([function(u, variant) for variant in variants])  # noqa: E731
            value, pullback = jax.vjp(each, u)
            return value, pullback(jnp.sqrt(jnp.arange(2.0, 2 + len(variants))))

        return slope(ours), slope(expected)

    for one, other in zip(*map(jax.tree.leaves, both(u)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-12)


def test_by_default_all_positions_count_and_the_scale_is_one():
    attention, u = cases.attention(2, value=True), embeddings(3, 5)
    everywhere = by_formula(attention, u, 1.0, "full", 1.0, np.ones((3, 5)))
    np.testing.assert_allclose(barrier_loss(attention, u, 1.0), everywhere, rtol=1e-10)


def test_what_bounds_a_runaway_determinant():
    """A = -c I with the past at two points of equal weight: log det grows without bound, and so
    falls the margin-only penalty."""
    points = jnp.asarray(
        [[1.0, 0.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
    )  # the third attends to both alike

    def at(variant, gain, contraction=None):
        interaction = -gain * jnp.eye(3)[None]
        return float(
            barrier_loss(
                Attention.from_interaction(interaction, contraction=contraction),
                points,
                1.0,
                variant,
            )
        )

    gains = (1e1, 1e3, 1e5)
    # The spread of the past is 1 in one direction: -log(1 + c) at the third position of three.
    np.testing.assert_allclose(
        [at("margin_only", c) for c in gains], [-np.log1p(c) / 3 for c in gains], rtol=1e-5
    )
    assert [at("one_sided", c) for c in gains] == [0, 0, 0]
    assert all(at("bounded", c) > 0 for c in gains)
    # |I - J| < 0.9: the log determinant is below 3 log 1.9.
    assert all(at("bounded", c, contraction=0.9) > -3 * np.log(1.9) / 3 for c in gains)


def test_a_position_that_does_not_count_may_be_singular():
    attention = Attention(jnp.asarray([[[1.0, 0.0, 0.0]]]), jnp.asarray([[[1.0, 0.0, 0.0]]]))
    # Two points at distance 2 in one direction, seen alike: spread 1, hence det J = 0 at the third
    # position.
    u = jnp.asarray([[1.0, 0.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    assert float(barrier_loss(attention, u, 1.0, "margin_only")) == np.inf
    loss, slope = jax.jit(
        jax.value_and_grad(
            lambda u: barrier_loss(
                attention, u, 1.0, "margin_only", counted=jnp.asarray([True, True, False])
            )
        )
    )(u)
    assert float(loss) == 0
    np.testing.assert_array_equal(slope, 0)


def test_bad_input_says_what_was_expected():
    attention, u = cases.attention(1, value=True), embeddings(2, 4)
    batch = Attention(jnp.ones((2, 1, 2, 3)), jnp.ones((2, 1, 2, 3)))
    inclusive = dataclasses.replace(attention, value=None, mask="inclusive")
    for arguments, settings, words in (
        ((attention, u, 0.1, "both"), {}, "variant: expected full, margin_only"),
        ((attention, u, -0.1), {}, "weight: expected a finite number >= 0, got -0.1"),
        ((attention, u[:0], 0.1), {}, "embeddings: expected at least one sequence"),
        ((attention, u, 0.1), {"counted": np.ones(3)}, r"counted: expected shape \(2, 4\)"),
        ((attention, u, 0.1), {"scale": 0.0}, "scale: expected positive"),
        (
            (attention, u, 0.1, "hinge"),
            {},
            'threshold: expected a finite number > 0 with variant "h',
        ),
        ((attention, u, 0.1, "hinge"), {"threshold": 0.0}, "threshold: expected a finite number"),
        ((attention, u, 0.1, "full"), {"threshold": 0.3}, "threshold: expected None with variant"),
        ((batch, u, 0.1), {}, r"expected one map, got a batch \(2,\)"),
        ((inclusive, u, 0.1), {}, "singular at the first position"),
        ((attention, u[..., :2], 0.1), {}, "embeddings: expected shape"),
    ):
        with pytest.raises(InputError, match=words):
            barrier_loss(*arguments, **settings)
