"""AttentionProcess under checks as strong as NumPyro's own for its distributions."""

from functools import partial

import cases
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.distributions.batch_util import vmap_over
from numpyro.handlers import seed, trace
from scipy.stats import kstest

from probattn import Attention, AttentionProcess, InputError, certified, path_log_density, residuals

LENGTH = 4
every_case = pytest.mark.parametrize("name", cases.PROPER)


def process(name="contracted-value-origin-bias", scale=0.7):
    return AttentionProcess(cases.PROPER[name], scale, LENGTH)


def draws(*batch, seed=3):
    return jnp.asarray(np.random.default_rng(seed).standard_normal((*batch, LENGTH, cases.DIM)))


def batch_of_maps(count=3):
    maps = [cases.attention(2, value=True, seed=seed, contraction=0.8) for seed in range(count)]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *maps)


@every_case
def test_log_prob_is_the_change_of_variables_with_the_dense_jacobian(name):
    law, u = process(name), draws()
    dense = cases.slow_jacobian(law.attention, u).reshape(u.size, u.size)
    e = cases.slow_residuals(law.attention, u)
    normal = (-0.5 * (e / 0.7) ** 2 - np.log(0.7 * np.sqrt(2 * np.pi))).sum()
    np.testing.assert_allclose(law.log_prob(u), normal + np.linalg.slogdet(dense)[1], rtol=1e-11)


@pytest.mark.parametrize(
    ("maps", "scale", "sample_shape"),
    [(None, (), ()), (None, (5,), (2, 3)), (3, (), (2,)), (3, (2, 1), (4,))],
)
def test_shapes(maps, scale, sample_shape):
    attention = (
        cases.attention(2, value=True, contraction=0.8) if maps is None else batch_of_maps(maps)
    )
    law = AttentionProcess(attention, jnp.ones(scale), LENGTH)
    expected = np.broadcast_shapes(() if maps is None else (maps,), scale)
    assert (law.batch_shape, law.event_shape) == (expected, (LENGTH, cases.DIM))
    assert AttentionProcess.infer_shapes(attention, scale, LENGTH) == (
        law.batch_shape,
        law.event_shape,
    )
    shapes_only = jax.eval_shape(lambda: attention)
    assert AttentionProcess.infer_shapes(shapes_only, scale, LENGTH) == (
        law.batch_shape,
        law.event_shape,
    )
    assert law.event_dim == 2

    def drawn_and_scored(key):
        u = law.sample(key, sample_shape)
        return u, law.log_prob(u), law.support(u)

    # With most axes they are computed, the rest is traced.
    run = (
        jax.jit(drawn_and_scored)
        if len(expected) == 2
        else partial(jax.eval_shape, drawn_and_scored)
    )
    u, log_prob, inside = run(jax.random.key(0))
    assert u.shape == law.shape(sample_shape) == sample_shape + law.batch_shape + law.event_shape
    assert log_prob.shape == inside.shape == sample_shape + law.batch_shape
    if len(expected) == 2:
        assert jnp.isfinite(log_prob).all()
        assert inside.all()


def test_a_batch_is_its_processes_one_by_one():
    attention, scale = batch_of_maps(3), jnp.asarray([[0.5], [1.0]])
    law, u = AttentionProcess(attention, scale, LENGTH), draws(4, 2, 3)
    for j in range(3):
        one = jax.tree.map(lambda leaf, j=j: leaf[j], attention)
        for i in range(2):
            alone = AttentionProcess(one, scale[i, 0], LENGTH).log_prob(u[:, i, j])
            np.testing.assert_allclose(law.log_prob(u)[:, i, j], alone, rtol=1e-11)


def test_samples_are_the_transformed_noise():
    law, key = process(), jax.random.key(7)
    u = law.sample(key, (2000,))
    noise = np.asarray(residuals(law.attention, u) / 0.7).reshape(-1)
    # The residuals of exact samples are independent standard normals; below 1e-4 once in 10^4
    # seeds.
    assert kstest(noise, "norm").pvalue > 1e-4
    np.testing.assert_allclose(
        noise, jax.random.normal(key, (2000, LENGTH, cases.DIM)).reshape(-1), rtol=0, atol=2e-4
    )
    assert law.has_rsample
    np.testing.assert_array_equal(law.rsample(key, (2000,)), u)


def test_samples_follow_the_density_in_one_dimension():
    attention = Attention(np.full((1, 1, 1), 2.0), np.full((1, 1, 1), 2.0), contraction=0.95)
    law = AttentionProcess(attention, 0.6, 3)
    past = jnp.asarray([[-1.0], [1.2]])
    noise = np.random.default_rng(0).standard_normal((3000, 1, 1))
    e = residuals(attention, jnp.concatenate([past, jnp.zeros((1, 1))]))[:2]
    u = law.transform(jnp.concatenate([jnp.broadcast_to(e, (3000, 2, 1)), 0.6 * noise], axis=1))
    np.testing.assert_allclose(u[:, :2], np.broadcast_to(past, (3000, 2, 1)), atol=1e-12)
    grid = jnp.linspace(-8, 8, 4001)
    sequences = jnp.concatenate([jnp.broadcast_to(past, (4001, 2, 1)), grid[:, None, None]], axis=1)
    density = jnp.exp(law.log_prob(sequences))
    distribution = jnp.cumsum(density) / density.sum()
    assert kstest(u[:, 2, 0], lambda x: np.interp(x, grid, distribution)).pvalue > 1e-4


@pytest.mark.parametrize("what", ["log_prob", "sample"])
def test_gradients_are_those_of_finite_differences(what):
    law, u = process(), draws()

    def value(log_scale, gain, u):
        attention = Attention(
            gain * law.attention.query, law.attention.key, law.attention.value, contraction=0.9
        )
        moved = AttentionProcess(attention, jnp.exp(log_scale), LENGTH)
        return (
            moved.log_prob(u)
            if what == "log_prob"
            else jnp.sin(moved.sample(jax.random.key(1)) + u).sum()
        )

    both = jax.jit(jax.value_and_grad(value, argnums=(0, 1, 2)))
    value = lambda *at: both(*at)[0]  # noqa: E731
    at, h = (0.1, 1.2, u), 1e-6
    gradient = both(*at)[1]
    for i in range(2):
        moved = [tuple(x + sign * h * (i == k) for k, x in enumerate(at)) for sign in (1, -1)]
        np.testing.assert_allclose(
            gradient[i], (value(*moved[0]) - value(*moved[1])) / (2 * h), rtol=1e-7, atol=1e-7
        )
    direction = draws(seed=9)
    slope = (value(0.1, 1.2, u + h * direction) - value(0.1, 1.2, u - h * direction)) / (2 * h)
    np.testing.assert_allclose((gradient[2] * direction).sum(), slope, rtol=1e-7, atol=1e-7)


def test_jit_pytree_expand_and_vmap():
    law, u = process(), draws(3, 2)
    np.testing.assert_allclose(
        jax.jit(lambda law, u: law.log_prob(u))(law, u), law.log_prob(u), rtol=1e-5
    )
    back = jax.jit(lambda law: jax.tree.map(lambda leaf: leaf, law))(law)
    assert (back.batch_shape, back.event_shape, back.branch) == (
        law.batch_shape,
        law.event_shape,
        law.branch,
    )
    np.testing.assert_array_equal(back.log_prob(u), law.log_prob(u))
    wide = law.expand((3, 2))
    drawn = jax.eval_shape(lambda key: wide.sample(key, (5,)), jax.random.key(0))
    assert drawn.shape == (5, 3, 2, LENGTH, cases.DIM)
    np.testing.assert_allclose(wide.log_prob(u), law.log_prob(u), rtol=1e-6)

    maps = batch_of_maps(3)
    together = AttentionProcess(maps, 0.7, LENGTH)
    made = jax.vmap(lambda attention: AttentionProcess(attention, 0.7, LENGTH))(maps)
    axes = vmap_over(together, attention=0)
    one_by_one = jax.jit(jax.vmap(lambda law, u: law.log_prob(u), in_axes=(axes, 0)))
    log_prob = one_by_one(together, draws(3))
    np.testing.assert_allclose(log_prob, together.log_prob(draws(3)), rtol=1e-5)
    assert made.batch_shape == (3,)
    np.testing.assert_allclose(made.log_prob(draws(3)), together.log_prob(draws(3)), rtol=1e-5)
    keys = jax.random.split(jax.random.key(0), 3)
    sampled = jax.eval_shape(
        jax.vmap(lambda law, key: law.sample(key), in_axes=(axes, 0)), together, keys
    )
    assert sampled.shape == (3, LENGTH, cases.DIM)


def test_it_is_a_site_of_any_numpyro_model():
    def model(u=None):
        scale = numpyro.sample("scale", dist.LogNormal(0.0, 0.3))
        with numpyro.plate("sequences", 3):
            return numpyro.sample(
                "u", AttentionProcess(cases.PROPER["contracted"], scale, LENGTH), obs=u
            )

    with numpyro.validation_enabled():
        sites = trace(seed(model, 0)).get_trace()
        assert sites["u"]["value"].shape == (3, LENGTH, cases.DIM)
        sites = trace(seed(model, 0)).get_trace(sites["u"]["value"])
    assert sites["u"]["fn"].log_prob(sites["u"]["value"]).shape == (3,)


def test_without_a_cap_it_scores_its_local_domain_and_does_not_sample():
    attention = Attention.from_interaction([[[4.0]]])  # S_3 = 1 between keys at -1 and 1
    law = AttentionProcess(attention, 1.0, 3)
    inside, outside = jnp.asarray([[[-1.0], [1.0], [3.0]], [[-1.0], [1.0], [0.0]]])
    assert jnp.isfinite(law.log_prob(inside))
    assert law.log_prob(outside) == -jnp.inf
    np.testing.assert_array_equal(certified(attention, inside), [True, True, False])
    with pytest.raises(InputError, match="several solutions"):
        law.sample(jax.random.key(0))
    branch = AttentionProcess(attention, 1.0, 3, branch="fixed_point")
    assert jnp.isfinite(branch.log_prob(branch.sample(jax.random.key(0), (100,)))).all()


def test_symmetric_interactions_have_the_smaller_domain():
    # Both eigenvalues of S^{1/2} A S^{1/2} lie beyond 1: the determinant is positive again, on the
    # far side.
    u = jnp.asarray([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0], [0.0, 0.0]])
    interaction = 4 * jnp.eye(2)[None]  # at u_5 = 0 all weights are 1/4, so S_5 = I/2
    for symmetric, finite in ((False, True), (True, False)):
        attention = Attention.from_interaction(interaction, symmetric=symmetric)
        assert bool(jnp.isfinite(path_log_density(attention, u)[-1])) is finite


GOOD = cases.PROPER["contracted"]


@pytest.mark.parametrize(
    ("attempt", "message"),
    [
        (
            lambda: AttentionProcess(cases.attention(mask="inclusive"), 1.0, 3),
            'expected mask="strict".*"?inclusive',
        ),
        (lambda: AttentionProcess(GOOD, 0.0, 3), "scale: expected positive numbers, got 0.0"),
        (
            lambda: AttentionProcess(GOOD, np.asarray([1.0, -2.0]), 3),
            "scale: expected positive numbers, got -2.0",
        ),
        (lambda: AttentionProcess(GOOD, np.nan, 3), "scale: expected finite numbers"),
        (
            lambda: AttentionProcess(GOOD, 1.0, 0),
            "length: expected a whole number of at least 1, got 0",
        ),
        (
            lambda: AttentionProcess(cases.attention(bias=True), 1.0, 8),
            "length: 8 needs a position bias",
        ),
        (
            lambda: AttentionProcess(batch_of_maps(3), np.ones(2), 3),
            r"scale: .*broadcasts.*\(3,\).*got \(2,\)",
        ),
        (lambda: AttentionProcess(GOOD, 1.0, 3, branch="any"), "branch: expected None"),
        (
            lambda: AttentionProcess(GOOD, np.ones(2), 3).log_prob(np.zeros((5, 3, 3))),
            r"scale: .*broadcasts.*\(5,\).*got \(2,\)",
        ),
        (
            lambda: AttentionProcess(GOOD, 1.0, 3).log_prob(np.ones((4, 3))),
            r"expected shape .*\(3, 3\).*got \(4, 3\)",
        ),
        (
            lambda: AttentionProcess(GOOD, 1.0, 3).log_prob(np.ones(3)),
            r"expected shape .*got \(3,\)",
        ),
        (
            lambda: AttentionProcess(GOOD, 1.0, 3).log_prob(np.full((3, 3), np.nan)),
            "expected finite numbers",
        ),
        (
            lambda: AttentionProcess(batch_of_maps(3), 1.0, 3).log_prob(np.ones((2, 3, 3))),
            r"batch \(3,\), got shape",
        ),
    ],
)
def test_bad_input_is_refused_at_once(attempt, message):
    with pytest.raises(InputError, match=message):
        attempt()
