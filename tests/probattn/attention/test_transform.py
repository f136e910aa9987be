"""The attention transform: inverse, Jacobian, derivatives, and what it refuses."""

import cases
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

from probattn import Attention, AttentionProcess, AttentionTransform, InputError, residuals
from probattn.attention.uniqueness import require_strict

every_case = pytest.mark.parametrize("name", cases.PROPER)
LENGTH = 4
BATCH = 20  # of most tests here, so that they share the programs of each map


def noise(*batch, dim=cases.DIM, seed=1):
    return jnp.asarray(np.random.default_rng(seed).standard_normal((*batch, LENGTH, dim)))


def rounding(attention, u):
    """By how much rounding moves a residual: that of the logits moves the weights, and those the
    mean."""
    interaction = jnp.abs(attention.interaction).max()
    values = 1 if attention.value is None else jnp.abs(attention.value).sum()
    size = jnp.abs(u).max()
    return 20 * jnp.finfo(u.dtype).eps * size * values * (1 + cases.DIM * interaction * size**2)


@every_case
def test_forward_and_inverse_undo_each_other(name):
    transform, e = AttentionTransform(cases.PROPER[name]), noise(BATCH)
    u = transform(e)
    assert u.shape == e.shape
    np.testing.assert_allclose(transform.inv(u), e, rtol=0, atol=rounding(transform.attention, u))


@every_case
def test_inverse_and_forward_undo_each_other(name):
    transform, u = AttentionTransform(cases.PROPER[name]), noise(BATCH)
    np.testing.assert_allclose(transform(transform.inv(u)), u, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", [name for name in cases.PROPER if "contracted" in name])
def test_forward_is_the_limit_of_the_plain_iteration(name):
    attention, e = cases.PROPER[name], noise(BATCH)
    found = AttentionTransform(attention)(e)
    np.testing.assert_allclose(found[0], cases.slow_sample(attention, e[0]), rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", ["contracted-value-origin-bias", "dissipative"])
def test_log_det_is_that_of_the_dense_jacobian_in_both_directions(name):
    transform = AttentionTransform(cases.PROPER[name])
    u = jnp.asarray(np.asarray(transform(noise(BATCH)))[0])  # the program that is there already
    e = noise(BATCH)[0]
    for function, at, sign in ((transform, e, 1), (transform.inv, u, -1)):
        # Of 12 columns as of 12 rows; gradients are held against differences below.
        dense = np.asarray(jax.jacfwd(function)(at))
        for t in range(LENGTH):
            assert not dense[t, :, t + 1 :].any()  # causal
        expected = np.linalg.slogdet(dense.reshape(at.size, at.size))
        assert expected[0] == 1
        np.testing.assert_allclose(
            sign * transform.log_abs_det_jacobian(e, u), expected[1], rtol=0, atol=1e-9
        )
    np.testing.assert_allclose(
        transform.inv.log_abs_det_jacobian(u, e), -transform.log_abs_det_jacobian(e, u), rtol=1e-12
    )


@pytest.mark.parametrize("name", ["contracted-value-origin-bias", "dissipative"])
def test_derivatives_in_the_parameters_are_those_of_finite_differences(name):
    attention, e = cases.PROPER[name], 0.1 * noise()
    leaves, structure = jax.tree.flatten(attention)
    draw = np.random.default_rng(5).standard_normal
    directions = jax.tree.unflatten(structure, [jnp.asarray(draw(leaf.shape)) for leaf in leaves])
    # Of traced parameters nothing is known, so without the cap a branch must be named.
    branch = None if attention.contraction else "fixed_point"

    def along(step):
        moved = jax.tree.map(lambda leaf, direction: leaf + step * direction, attention, directions)
        return jnp.sin(AttentionTransform(moved, branch)(e)).sum()

    @jax.jit  # value and slope, and how they change: all in one program
    def everything(step):
        slope = jax.value_and_grad(along)
        if attention.contraction:
            return jax.jvp(slope, (step,), (1.0,))
        return slope(step), (jax.jvp(along, (step,), (1.0,))[1], None)

    h = 1e-5
    ((_, first), (forward, second)), *around = (everything(step) for step in (0.0, h, -h))
    (above, first_above), (below, first_below) = (value_and_slope for value_and_slope, _ in around)
    # The error of a central difference is h^2 times the third derivative, and that of rounding
    # 1e-16 / h.
    np.testing.assert_allclose(first, (above - below) / (2 * h), rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(forward, first, rtol=1e-10)
    if attention.contraction:
        np.testing.assert_allclose(
            second, (first_above - first_below) / (2 * h), rtol=1e-6, atol=1e-7
        )


def test_jit_vmap_and_scan_give_the_same():
    transform, e = AttentionTransform(cases.PROPER["contracted-value-origin-bias"]), noise(BATCH)
    expected = transform(e)

    @jax.jit
    def in_other_ways(transform, e):
        scanned = jax.lax.scan(lambda _, one: (None, transform(one)), None, e)[1]
        return transform(e), jax.vmap(transform)(e), scanned

    for other in in_other_ways(transform, e):
        np.testing.assert_allclose(other, expected, rtol=0, atol=1e-12)


def test_a_batch_of_maps_is_its_maps_one_by_one():
    maps = [cases.attention(2, value=True, seed=seed, contraction=0.8) for seed in range(3)]
    batch, e = jax.tree.map(lambda *leaves: jnp.stack(leaves), *maps), noise(2, 3)
    assert batch.batch_shape == (3,)
    together = AttentionTransform(batch)(e)
    for i, attention in enumerate(maps):
        np.testing.assert_allclose(
            together[:, i], AttentionTransform(attention)(e[:, i]), rtol=0, atol=1e-12
        )
        np.testing.assert_allclose(
            residuals(batch, e)[:, i], residuals(attention, e[:, i]), rtol=0, atol=1e-12
        )
    one_sequence = jax.eval_shape(AttentionTransform(batch), e[0, 0])
    assert one_sequence.shape == (3, LENGTH, cases.DIM)  # of three maps


def test_pytree_equality_and_shapes():
    transform = AttentionTransform(cases.PROPER["contracted-value-origin-bias"])
    again = jax.tree.unflatten(jax.tree.structure(transform), jax.tree.leaves(transform))
    assert again == transform
    assert transform != AttentionTransform(cases.PROPER["dissipative"])
    assert transform != AttentionTransform(transform.attention, "fixed_point")
    assert transform != jax.tree.map(lambda leaf: leaf + 1, transform)
    assert transform.forward_shape((5, 4, 3)) == transform.inverse_shape((5, 4, 3)) == (5, 4, 3)
    assert transform.inv.inv is transform


def test_numpyro_composes_it_with_any_noise():
    attention = cases.PROPER["contracted-value-origin-bias"]
    law = dist.TransformedDistribution(
        dist.Normal(0, 0.7).expand((LENGTH, cases.DIM)).to_event(2), AttentionTransform(attention)
    )
    process = AttentionProcess(attention, 0.7, LENGTH)
    u = law.sample(jax.random.key(0), (BATCH,))
    np.testing.assert_allclose(law.log_prob(u), process.log_prob(u), rtol=2e-5)


def test_past_the_boundary_forward_refuses_unless_the_branch_is_named():
    attention = Attention.from_interaction([[[3.0]]])
    with pytest.raises(
        InputError, match=r"several solutions.*contraction=0\.9.*branch=\"fixed_point\""
    ):
        AttentionTransform(attention)(noise(dim=1))
    with pytest.raises(InputError, match="several solutions"):  # known at trace time too
        jax.jit(lambda a, e: AttentionTransform(a)(e))(cases.PROPER["dissipative"], noise())
    # Two positions have one root always.
    assert jax.eval_shape(AttentionTransform(attention), noise(dim=1)[:2]).shape == (2, 1)
    transform, e = AttentionTransform(attention, "fixed_point"), noise(50, dim=1)
    u = transform(e)
    np.testing.assert_allclose(transform.inv(u), e, rtol=0, atol=rounding(attention, u))
    assert (
        AttentionProcess(attention, 1.0, LENGTH).log_prob(u) > -jnp.inf
    ).all()  # attracting: det J > 0


def test_an_iteration_without_a_limit_is_nan_where_newton_finds_the_root():
    cycling = Attention.from_interaction(
        [[[-30.0]]]
    )  # mu jumps against the token: the iteration goes to and fro
    e = jnp.asarray([[1.0], [-2.0], [0.1], [0.2]])
    for branch in (None, "fixed_point"):  # A < 0 is a certificate: there is no branch to choose
        u = AttentionTransform(cycling, branch)(e)
        np.testing.assert_allclose(residuals(cycling, u), e, rtol=0, atol=1e-4)
    u = jax.jit(lambda a, e: AttentionTransform(a, "fixed_point")(e))(
        cycling, e
    )  # not known of a traced A
    assert jnp.isfinite(u[:2]).all()
    assert jnp.isnan(u[2:]).all()


@pytest.mark.parametrize(
    ("attempt", "message"),
    [
        (
            lambda: AttentionTransform(cases.attention(mask="inclusive")),
            "mask=\"strict\".*got 'inclusive'",
        ),
        (lambda: require_strict("attention"), "expected a probattn.Attention, got str"),
        (
            lambda: AttentionTransform(cases.attention(), "newton"),
            "branch: expected None or \"fixed_point\".*'newton'",
        ),
        (
            lambda: AttentionTransform(cases.PROPER["dissipative"])(jnp.ones(3)),
            r"noise: expected shape .*got \(3,\)",
        ),
        (
            lambda: AttentionTransform(cases.PROPER["dissipative"])(jnp.ones((4, 2))),
            r"noise: .*got \(4, 2\)",
        ),
        (
            lambda: AttentionTransform(cases.PROPER["dissipative"])(jnp.full((4, 3), jnp.nan)),
            "noise: .*NaN",
        ),
    ],
)
def test_bad_input_is_refused(attempt, message):
    with pytest.raises(InputError, match=message):
        attempt()
