"""EmissionModel: its joint density in both coordinates, what the end hides, and its use by plain
NumPyro."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from numpyro.infer import MCMC, NUTS, SVI, Predictive, Trace_ELBO
from numpyro.infer.autoguide import AutoDelta
from numpyro.infer.util import log_density

from probattn import InputError, jacobian_blocks, log_det, residuals, stability_margin
from probattn.models import EmissionModel

TOKENS = np.array([[1, 2, 0, 0], [3, 1, 2, 3], [0, 0, 0, 0], [2, 2, 1, 0]])
COUNTED = np.array([[1, 1, 1, 0], [1, 1, 1, 1], [1, 0, 0, 0], [1, 1, 1, 1]], bool)
BOTH = ["embedding", "noise"]


def model(coordinates="embedding", **fields):
    return EmissionModel(
        **(
            dict(vocab_size=4, length=4, dim=2, heads=2, coordinates=coordinates, scale=0.7)
            | fields
        )
    )


# Each operation outside of a compiled function is compiled by itself, which is what takes the time
# here.
@partial(jax.jit, static_argnums=0)
def _drawn(model, key):
    keys = jax.random.split(key, len(model.priors()))
    return {
        name: prior.sample(key)
        for key, (name, prior) in zip(keys, model.priors().items(), strict=True)
    }


def random_params(model, seed=0):
    return _drawn(model, jax.random.key(seed))


def random_embeddings(seed=1):
    return jnp.asarray(np.random.default_rng(seed).standard_normal((4, 4, 2)))


@partial(jax.jit, static_argnums=0)
def at(model, params, u):
    """Log joint of the model in its own coordinates, at embeddings that are noise after the end."""
    if model.coordinates == "embedding":
        site = {"embeddings": u}
    else:
        site = {"noise": jnp.where(COUNTED[..., None], residuals(model.attention(params), u), u)}
    return log_density(model, (TOKENS,), {}, params | site)[0]


@partial(jax.jit, static_argnums=0)
def quantities_at(model, values):
    return model.quantities(values, TOKENS)


@jax.jit
def barrier_at(params, u):
    """The log determinant at the positions that count."""
    return jnp.where(COUNTED, log_det(model().attention(params), u), 0).sum()


def test_joint_density_follows_the_formula():
    one, u = model(), random_embeddings()
    params = random_params(one)

    @jax.jit
    def parts(params, u):
        attention = one.attention(params)
        prior = sum(prior.log_prob(params[name]) for name, prior in one.priors().items())
        return prior, residuals(attention, u), jacobian_blocks(attention, u)

    expected, *of_rows = jax.tree.map(np.asarray, parts(params, u))
    readout, bias = np.asarray(params["readout"]), np.asarray(params["bias"])
    for row, tokens, is_counted, e, blocks in zip(
        np.asarray(u), TOKENS, COUNTED, *of_rows, strict=True
    ):
        for t, x in enumerate(tokens):
            alone = e[t] if is_counted[t] else row[t]
            expected = (
                expected - 0.5 * (alone**2).sum() / 0.7**2 - 2 * np.log(0.7 * np.sqrt(2 * np.pi))
            )
            if is_counted[t]:
                logits = readout @ row[t] + bias
                expected += (
                    np.log(np.linalg.det(blocks[t])) + logits[x] - np.log(np.exp(logits).sum())
                )
    np.testing.assert_allclose(at(one, params, u), expected, rtol=0, atol=1e-10)


def test_the_two_coordinates_differ_by_the_log_determinant():
    for seed in range(3):
        params, u = random_params(model(), seed), random_embeddings(seed)
        change = barrier_at(params, u)
        assert abs(change) > 0.01
        np.testing.assert_allclose(
            at(model(), params, u) - at(model("noise"), params, u), change, rtol=0, atol=1e-9
        )


@pytest.mark.parametrize("coordinates", BOTH)
def test_what_follows_the_end_bears_on_nothing(coordinates):
    one = model(coordinates)
    site = "embeddings" if coordinates == "embedding" else "noise"
    params, values = random_params(one), random_embeddings(2)

    def log_joint(params, values):
        return log_density(one, (TOKENS,), {}, params | {site: values})[0]

    slopes = jax.jit(jax.grad(log_joint, argnums=(0, 1)))
    elsewhere = jnp.where(COUNTED[..., None], values, 9.0)
    (before, slope), (after, _) = (slopes(params, at) for at in (values, elsewhere))
    for name in params:
        np.testing.assert_allclose(after[name], before[name], rtol=0, atol=1e-9)
    slope, values = np.asarray(slope), np.asarray(values)
    np.testing.assert_allclose(slope[~COUNTED], -values[~COUNTED] / 0.7**2, rtol=0, atol=1e-9)
    quantities = [quantities_at(one, params | {site: at}) for at in (values, elsewhere)]
    for name, value in quantities[0].items():
        np.testing.assert_allclose(quantities[1][name], value, rtol=0, atol=1e-9)


@pytest.mark.parametrize("coordinates", BOTH)
def test_prior_predictive_sampling(coordinates):
    one = model(coordinates, length=5)
    sites = jax.jit(lambda key: Predictive(one, num_samples=40)(key, num_sequences=3))(
        jax.random.key(0)
    )
    sites = jax.tree.map(np.asarray, sites)
    tokens, u = np.asarray(sites["tokens"]), sites["embeddings"]
    assert tokens.shape == (40, 3, 5)
    assert u.shape == (40, 3, 5, 2)
    assert set(sites) == {*one.priors(), "embeddings", "tokens"} | (
        {"noise"} if coordinates == "noise" else {"stopped"}
    )
    ended = np.cumsum(tokens == 0, -1) - (tokens == 0) > 0
    assert (tokens[ended] == 0).all()
    assert ended.any()
    assert np.isfinite(u).all()
    # Given the embeddings each token has its own probability: the share of ends is what their
    # readouts say.
    weights = np.exp(
        np.einsum("snti,svi->sntv", u, sites["readout"]) + sites["bias"][:, None, None]
    )
    first = (weights[..., 0] / weights.sum(-1))[:, :, 0]
    error = np.sqrt((first * (1 - first)).mean() / first.size)
    assert abs((tokens[:, :, 0] == 0).mean() - first.mean()) < 4 * error


@pytest.mark.parametrize("coordinates", BOTH)
def test_it_is_a_plain_numpyro_model(coordinates):
    one = model(coordinates, heads=1, dim=1)

    @jax.jit
    def draws_of(key):
        mcmc = MCMC(NUTS(one, max_tree_depth=3), num_warmup=5, num_samples=3, progress_bar=False)
        mcmc.run(key, TOKENS)
        return mcmc.get_samples()

    draws = draws_of(jax.random.key(0))
    assert draws["embeddings"].shape == (3, 4, 4, 1)
    assert jnp.isfinite(draws["embeddings"]).all()
    if (
        coordinates == "embedding"
    ):  # the mode in the other ones is looked for below, and in the tests of fits
        svi = SVI(one, AutoDelta(one), optax.adam(0.01), Trace_ELBO())
        losses = jax.jit(lambda key: svi.run(key, 30, TOKENS, progress_bar=False).losses)(
            jax.random.key(0)
        )
        assert losses[-1] < losses[0]


def test_quantities_are_blind_to_rotations_of_the_embeddings():
    one, u = model(), random_embeddings()
    params = random_params(one)
    turn = jnp.asarray([[0.6, -0.8], [0.8, 0.6]])
    turned = params | {
        "query": params["query"] @ turn.T,
        "key": params["key"] @ turn.T,
        "value": turn @ params["value"] @ turn.T,
        "origin": turn @ params["origin"],
        "readout": params["readout"] @ turn.T,
    }
    before, after = (
        quantities_at(one, p | {"embeddings": x}) for p, x in ((params, u), (turned, u @ turn.T))
    )
    assert set(before) == {"interaction", "value", "emitted", "log_det", "smallest_margin"}
    for name in before:
        np.testing.assert_allclose(after[name], before[name], rtol=0, atol=1e-10)
    np.testing.assert_allclose(
        one.log_likelihood(turned, TOKENS), one.log_likelihood(params, TOKENS), atol=0.5
    )


def test_a_mode_in_embedding_coordinates_has_the_smaller_barrier():
    """u maximises f + log det, v maximises f: add up what each gains on the other, and log det is
    larger at u."""
    params = random_params(model())
    params["query"] = 3 * params["query"]

    @partial(jax.jit, static_argnums=0)
    def mode(coordinates):
        one, adam = model(coordinates), optax.adam(0.05)
        site = "embeddings" if coordinates == "embedding" else "noise"
        slope = jax.grad(lambda x: -log_density(one, (TOKENS,), {}, params | {site: x})[0])

        def step(carry, _):
            change, state = adam.update(slope(carry[0]), carry[1])
            return (optax.apply_updates(carry[0], change), state), None

        start = jnp.zeros((4, 4, 2))
        (found, _), _ = jax.lax.scan(step, (start, adam.init(start)), None, length=1000)
        return jnp.where(COUNTED[..., None], one.embeddings(params | {site: found}), 0), jnp.abs(
            slope(found)
        ).max()

    (u, slope_u), (v, slope_v) = mode("embedding"), mode("noise")
    assert max(slope_u, slope_v) < 1e-3
    at_u, at_v = barrier_at(params, u), barrier_at(params, v)
    assert at_u > at_v + 0.05
    assert at(model(), params, u) > at(model(), params, v) + 0.01
    assert at(model("noise"), params, v) > at(model("noise"), params, u) + 0.01


SEQUENCES = 60  # the two tests below filter as many, since each other number is another program


def test_margins_are_means_given_the_tokens():
    one = model(num_particles=300)
    params = random_params(one)
    tokens, is_counted = (np.tile(each, (SEQUENCES // 4, 1)) for each in (TOKENS, COUNTED))
    margins = np.asarray(one.margins(params, tokens))
    margins_of_paths = jax.jit(lambda params, paths: stability_margin(one.attention(params), paths))
    assert (np.isfinite(margins) == is_counted).all()
    np.testing.assert_allclose(margins[:, :2][is_counted[:, :2]], 1, rtol=1e-5)
    filtered = one.process(params).filter(tokens)
    expected = np.einsum("sn,snt->st", filtered.weights, margins_of_paths(params, filtered.paths))
    np.testing.assert_allclose(margins[is_counted], expected[is_counted], rtol=1e-4)
    np.testing.assert_array_equal(
        one.margins(params, tokens.reshape(3, -1, 4)), margins.reshape(3, -1, 4)
    )


def test_generation_agrees_with_the_process():
    one = model(num_particles=300)
    params = random_params(one)
    generation = one.generate(params, SEQUENCES, key=jax.random.key(0))
    ended = np.cumsum(generation.tokens == 0, -1) - (generation.tokens == 0) > 0
    assert np.isnan(generation.log_prob[ended]).all()
    assert (generation.support[ended] == -1).all()
    assert not generation.path_has_start
    total = np.nansum(generation.log_prob, -1)
    process = one.process(params, key=jax.random.key(5))
    filtered = process.filter(generation.tokens)
    error = np.sqrt(2) * np.asarray(filtered.standard_error)
    assert (np.abs(total - filtered.log_prob) < 5 * error + 1e-3).all()
    np.testing.assert_array_equal(generation.margin[:, :2][~ended[:, :2]], 1)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(vocab_size=1), "vocab_size: expected a whole number of at least 2, got 1"),
        (dict(dim=0), "dim: expected a whole number of at least 1, got 0"),
        (dict(num_particles=1), "num_particles: expected a whole number of at least 2, got 1"),
        (
            dict(contraction=None),
            r"contraction: expected a number inside \(0, 1\), got None; without a cap",
        ),
        (dict(contraction=1.0), r"contraction: expected a number inside \(0, 1\), got 1.0"),
        (dict(coordinates="polar"), 'coordinates: expected "embedding" or "noise", got \'polar\''),
        (dict(scale=0.0), "scale: expected a finite number > 0, got 0.0"),
    ],
)
def test_bad_fields_are_refused(fields, message):
    with pytest.raises(InputError, match=message):
        EmissionModel(**(dict(vocab_size=4, length=4, dim=2) | fields))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m(TOKENS[:, :3]), "to length 4, got length 3"),
        (lambda m: m(TOKENS[0]), r"expected shape \(num_sequences, 4\), got \(4,\)"),
        (lambda m: m(TOKENS * 2), "expected ids 0 to 3, got 4"),
        (lambda m: m(np.array([[1, 0, 2, 0]])), "after the end token 0 only 0 may follow"),
        (lambda m: m(TOKENS, num_sequences=2), "num_sequences: expected 4 .* got 2"),
        (lambda m: m(), "num_sequences: expected at least 1 when no tokens are given, got None"),
    ],
)
def test_bad_tokens_are_refused(call, message):
    with pytest.raises(InputError, match=message):
        call(model())
