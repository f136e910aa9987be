"""MAP and posterior against cases with known answers; predictions as mixtures over whole sequences."""

import arviz as az
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

from probattn import FitError, InputError
from probattn.inference import fit_map, sample_posterior
from probattn.models import LanguageModel

DATA = np.array([[0.9], [1.4], [0.2], [1.1]])
KEY = jax.random.key(0)


class Conjugate:
    """y ~ N(theta, 1), theta ~ N(0, 2): the posterior is normal with the mean and spread below."""

    precision = 1 / 4 + len(DATA)
    mean, spread = DATA.sum() / precision, precision**-0.5

    def __call__(self, tokens):
        theta = numpyro.sample("theta", dist.Normal(0, 2))
        numpyro.sample("y", dist.Normal(theta, 1), obs=tokens[:, 0])

    def log_likelihood(self, params, tokens):
        return dist.Normal(params["theta"], 1).log_prob(tokens[..., 0])


class Walled(Conjugate):
    """The same, but of density 0 above 0.8, so that steps towards the mode run into a wall."""

    def __call__(self, tokens):
        theta = numpyro.sample("theta", dist.Normal(0, 2))
        numpyro.factor("wall", jnp.where(theta < 0.8, 0.0, -jnp.inf))
        numpyro.sample("y", dist.Normal(theta, 1), obs=tokens[:, 0])


class Impossible(Conjugate):
    def __call__(self, tokens):
        numpyro.sample("theta", dist.Normal(0, 2))
        numpyro.factor("never", -jnp.inf)


def test_map_finds_the_known_mode():
    fit = fit_map(Conjugate(), DATA, key=KEY, num_steps=400, progress=False)
    # Adam's last steps, at a learning rate of nearly 0, are shorter than 1e-4.
    np.testing.assert_allclose(fit.params["theta"], Conjugate.mean, atol=1e-3)
    assert len(fit.stats["loss"]) == 400


def test_posterior_has_the_known_mean_and_spread():
    fit = sample_posterior(
        Conjugate(), DATA, key=KEY, num_chains=2, num_warmup=300, num_samples=1000, max_tree_depth=4, progress=False
    )
    theta = fit.draws["theta"]
    assert theta.shape == (2, 1000)
    size = az.ess(theta)
    assert size > 400
    assert abs(theta.mean() - Conjugate.mean) < 4 * Conjugate.spread / np.sqrt(size)
    assert abs(theta.std() / Conjugate.spread - 1) < 4 / np.sqrt(2 * size)


def test_map_steps_never_leave_the_domain():
    fit = fit_map(Walled(), DATA, key=KEY, num_steps=300, learning_rate=0.5, progress=False)
    assert 0.7 < fit.params["theta"] < 0.8
    assert np.isfinite(fit.stats["loss"]).all()


@pytest.mark.parametrize(
    "run",
    [
        lambda model: fit_map(model, DATA, key=KEY, num_steps=5, progress=False),
        lambda model: sample_posterior(model, DATA, key=KEY, num_chains=1, num_warmup=5, num_samples=5, progress=False),
    ],
    ids=["map", "posterior"],
)
def test_a_fit_without_a_start_point_raises(run):
    with pytest.raises(FitError, match="no start point of finite density"):
        run(Impossible())


@pytest.mark.parametrize("name", ["num_chains", "num_warmup", "num_samples"])
def test_counts_below_one_are_refused(name):
    with pytest.raises(InputError, match=f"{name}: expected at least 1, got 0"):
        sample_posterior(Conjugate(), DATA, key=KEY, **{name: 0})
    with pytest.raises(InputError, match="num_steps: expected at least 1, got 0"):
        fit_map(Conjugate(), DATA, key=KEY, num_steps=0)


def test_predictive_is_the_mixture_of_sequence_probabilities(fits, corpus):
    posterior, model = fits["posterior"], fits["posterior"].model
    flat = posterior.flat_draws()
    probabilities = []
    for i in range(80):
        params = {name: value[i] for name, value in flat.items()}
        probabilities.append(np.exp(np.asarray(model.log_likelihood(params, corpus.heldout), np.float64)))
    expected = np.log(np.mean(probabilities, axis=0))
    tolerance = 100 * np.finfo(posterior.draws["bias"].dtype).eps * np.abs(expected).max()
    np.testing.assert_allclose(posterior.predictive_log_prob(corpus.heldout), expected, rtol=0, atol=tolerance)
    np.testing.assert_allclose(posterior.process().log_prob(corpus.heldout), expected, rtol=0, atol=tolerance)
    point = fits["map"]
    np.testing.assert_array_equal(
        point.process().log_prob(corpus.heldout), model.log_likelihood(point.params, corpus.heldout)
    )
    single = model.log_likelihood(point.params, corpus.heldout)
    np.testing.assert_allclose(point.predictive_log_prob(corpus.heldout), single, rtol=0, atol=tolerance)


def test_the_mixture_over_sequences_is_not_the_product_of_averaged_conditionals(fits, corpus):
    posterior, model = fits["posterior"], fits["posterior"].model
    tokens, flat = corpus.heldout[:5], posterior.flat_draws()
    conditionals = np.mean(
        [
            np.take_along_axis(
                np.asarray(jax.nn.softmax(model.next_token_logits({k: v[i] for k, v in flat.items()}, tokens))),
                tokens[..., None],
                -1,
            )[..., 0]
            for i in range(80)
        ],
        axis=0,
    )
    before_end = np.concatenate([np.ones((5, 1), bool), tokens[:, :-1] != 0], axis=1)
    wrong = np.where(before_end, np.log(conditionals), 0).sum(1)
    assert np.abs(posterior.predictive_log_prob(tokens) - wrong).max() > 1e-3


def test_datatree_of_a_posterior_has_what_arviz_needs(fits, corpus):
    tree = fits["posterior"].to_datatree()
    assert {"posterior", "sample_stats", "log_likelihood", "observed_data"} <= set(tree.children)
    assert tree["posterior"]["embedding"].shape == (2, 40, 4, 2)
    assert {"diverging", "energy", "n_steps", "step_size", "acceptance_rate"} <= set(tree["sample_stats"].data_vars)
    assert tree["log_likelihood"]["tokens"].shape == (2, 40, 40)
    assert np.isfinite(az.rhat(tree, var_names=["bias"])["bias"]).all()


def test_datatree_of_a_map_has_no_sample_to_diagnose(fits):
    tree = fits["map"].to_datatree()
    assert {"map", "log_likelihood", "observed_data"} == set(tree.children)
    assert tree["map"]["embedding"].shape == (4, 2)
    with pytest.raises(AttributeError, match="a posterior has draws"):
        _ = fits["posterior"].params


def test_no_fit_returns_a_finite_number_for_tokens_it_cannot_score(fits):
    with pytest.raises(InputError, match="expected ids 0 to 3, got 9"):
        fits["map"].predictive_log_prob(np.full((2, 5), 9))
    with pytest.raises(InputError, match="to length 5, got length 3"):
        fits["posterior"].predictive_log_prob(np.ones((2, 3), int))


def test_vectorised_chains_when_there_are_more_than_devices():
    model = LanguageModel(3, 3, 1)
    tokens = np.array([[1, 2, 0], [2, 1, 1]])
    fit = sample_posterior(
        model, tokens, key=KEY, num_chains=3, num_warmup=30, num_samples=8, max_tree_depth=3, progress=False
    )
    assert fit.shape == (3, 8)
    assert len({float(chain[-1]) for chain in fit.stats["potential_energy"]}) == 3
