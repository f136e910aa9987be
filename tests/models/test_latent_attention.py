"""LatentAttention: priors, generation, recovery of known parameters, and bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from numpyro.infer import Predictive

from probattn import AttentionProcess, InputError, matrix_inequality_slack
from probattn.inference import fit_map, sample_posterior
from probattn.models import LatentAttention

EVERY = [
    dict(parametrisation="full"),
    dict(parametrisation="factored", heads=2, rank=1),
    dict(parametrisation="symmetric"),
    dict(parametrisation="full", values=False, contraction=None, branch="fixed_point"),
]


@pytest.mark.parametrize("fields", EVERY)
def test_prior_predictive_sampling(fields):
    model = LatentAttention(2, 4, **fields)
    # As programs: each operation of the model by itself would be compiled by itself.
    sites = jax.jit(lambda key: Predictive(model, num_samples=30)(key, num_sequences=3))(
        jax.random.key(0)
    )
    u = sites.pop("embeddings")
    assert set(sites) == set(model.priors())
    assert u.shape == (30, 3, 4, 2)
    if model.contraction:
        assert jnp.isfinite(u).all()
    one = {name: value[0] for name, value in sites.items()}
    process = AttentionProcess(model.attention(one), one["scale"], 4, branch=model.branch)
    scored = process.log_prob(u[0])
    np.testing.assert_allclose(model.log_likelihood(one, u[0]), scored, rtol=1e-5)
    margins, quantities = jax.jit(lambda one, u: (model.margins(one, u), model.quantities(one, u)))(
        one, u[0]
    )
    assert margins.shape == (3, 4)
    np.testing.assert_allclose(quantities["log_likelihood"], np.sum(scored), rtol=1e-6)
    np.testing.assert_array_equal(quantities["smallest_margin"], np.min(margins))


@pytest.mark.parametrize("parametrisation", ["full", "factored", "symmetric"])
def test_the_prior_of_the_interaction_has_the_documented_spread(parametrisation):
    model, count = LatentAttention(3, 4, parametrisation=parametrisation), 4000
    keys = jax.random.split(jax.random.key(1), len(model.priors()))
    draws = {
        name: prior.sample(key, (count,))
        for key, (name, prior) in zip(keys, model.priors().items(), strict=True)
    }
    interaction = np.asarray(model.interaction(draws))
    assert interaction.shape == (count, 1, 3, 3)
    expected = np.full((3, 3), 3**-0.5)
    if parametrisation == "symmetric":
        np.testing.assert_array_equal(interaction, interaction.swapaxes(-1, -2))
        expected[~np.eye(3, dtype=bool)] = 6**-0.5
    # A sum of three products has kurtosis 5: the error of its standard deviation is 1 / sqrt(count)
    # of it.
    np.testing.assert_allclose(interaction.std(0)[0], expected, rtol=5 / np.sqrt(count))
    np.testing.assert_allclose(interaction.mean(0)[0], 0, atol=5 / np.sqrt(3 * count))


def test_the_posterior_recovers_known_parameters():
    model = LatentAttention(2, 6)
    truth = {
        "interaction": jnp.asarray([[[0.8, -0.5], [0.3, -0.6]]]),
        "value": jnp.asarray([[[0.9, 0.2], [-0.3, 0.8]]]),
        "scale": jnp.asarray(0.7),
    }
    u = model.process(truth).sample(jax.random.key(1), (150,))
    posterior = sample_posterior(
        model,
        u,
        key=jax.random.key(2),
        num_chains=1,
        num_warmup=150,
        num_samples=150,
        max_tree_depth=5,
        start="random",
        progress=False,
    )
    for name, prior in model.priors().items():
        draws = posterior.flat_draws()[name]
        mean, spread = draws.mean(0), draws.std(0)
        assert (np.abs(mean - truth[name]) < 4 * spread).all(), name
        prior_spread = np.sqrt(np.asarray(prior.variance))
        assert (spread < 0.8 * prior_spread).all(), name  # the data say more than the prior
    tree = posterior.to_datatree()
    assert tree.observed_data["embeddings"].dims == ("sequence", "time", "axis")
    assert tree.log_likelihood["embeddings"].shape == (1, 150, 150)


def test_the_map_recovers_known_parameters():
    fields = dict(dim=2, length=6, values=False, contraction=None)
    model, generator = LatentAttention(**fields), LatentAttention(**fields, branch="fixed_point")
    truth = {"interaction": jnp.asarray([[[0.8, -0.5], [0.3, -0.6]]]), "scale": jnp.asarray(0.7)}
    u = generator.process(truth).sample(jax.random.key(1), (150,))
    assert jnp.isfinite(u).all()
    mode = fit_map(model, u, key=jax.random.key(3), num_steps=300, progress=False)
    flat, restore = ravel_pytree(jax.tree.map(jnp.asarray, mode.params))
    information = -jax.jit(jax.hessian(lambda flat: model.log_likelihood(restore(flat), u).sum()))(
        flat
    )
    spread = jnp.sqrt(jnp.diag(jnp.linalg.inv(information)))
    assert (spread < 0.2).all()
    assert (jnp.abs(flat - ravel_pytree(truth)[0]) < 4 * spread).all(), (flat, spread)


def test_a_symmetric_map_stays_in_its_convex_domain():
    model = LatentAttention(2, 5, parametrisation="symmetric", contraction=None)
    entries, scale = jnp.asarray([1.2, 0.0, 0.4]), jnp.asarray(1.0)
    truth = {"interaction_entries": entries, "scale": scale}
    generator = LatentAttention(
        2, 5, parametrisation="symmetric", contraction=None, branch="fixed_point"
    )
    u = generator.process(truth).sample(jax.random.key(0), (60,))
    assert jnp.isfinite(u).all()
    mode = fit_map(model, u, key=jax.random.key(1), num_steps=200, progress=False)
    slack = matrix_inequality_slack(model.attention(mode.params), u)
    assert (slack > 0).all()
    assert slack.min() < 0.9  # the barrier is near enough to matter


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(dim=0), "dim: expected a whole number of at least 1, got 0"),
        (dict(heads=True), "heads: expected a whole number"),
        (dict(rank=1), 'rank: expected None unless parametrisation="factored", got 1'),
        (dict(parametrisation="diagonal"), "parametrisation: expected .* got 'diagonal'"),
        (
            dict(parametrisation="symmetric", heads=2),
            "symmetric expects one head and no value maps, got heads=2",
        ),
        (dict(parametrisation="symmetric", values=True), "values=True"),
        (dict(contraction=1.0), r"contraction: expected a number inside \(0, 1\)"),
        (dict(branch="any"), "branch: expected None"),
    ],
)
def test_bad_fields_are_refused(fields, message):
    with pytest.raises(InputError, match=message):
        LatentAttention(**(dict(dim=2, length=4) | fields))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda m: m(np.ones((3, 5, 2))),
            r"expected shape \(num_sequences >= 1, 4, 2\), got \(3, 5, 2\)",
        ),
        (lambda m: m(np.ones((4, 2))), r"expected shape \(num_sequences, 4, 2\), got \(4, 2\)"),
        (lambda m: m(np.ones((0, 4, 2))), r"got \(0, 4, 2\)"),
        (lambda m: m(np.full((3, 4, 2), np.nan)), "expected finite numbers"),
        (lambda m: m(np.ones((3, 4, 2)), num_sequences=2), "num_sequences: expected 3 .* got 2"),
        (
            lambda m: m(),
            "num_sequences: expected at least 1 when no embeddings are given, got None",
        ),
    ],
)
def test_bad_embeddings_are_refused(call, message):
    with pytest.raises(InputError, match=message):
        call(LatentAttention(2, 4))


def test_quantities_are_blind_to_the_order_of_heads():
    model = LatentAttention(2, 4, heads=2)
    params = {
        name: np.asarray(prior.sample(jax.random.key(i)))
        for i, (name, prior) in enumerate(model.priors().items())
    }
    u = np.asarray(jax.random.normal(jax.random.key(9), (3, 4, 2)))
    exchanged = params | {name: params[name][::-1] for name in ("interaction", "value")}
    for before, after in zip(
        model.quantities(params, u).values(), model.quantities(exchanged, u).values(), strict=True
    ):
        np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-5)


def test_generating_without_a_cap_is_refused():
    with pytest.raises(InputError, match="several solutions"):
        Predictive(LatentAttention(2, 4, contraction=None), num_samples=2)(
            jax.random.key(0), num_sequences=3
        )
