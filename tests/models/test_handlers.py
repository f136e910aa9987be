"""A model given its tokens by a handler has the density of one given them as its argument."""

import jax
import numpy as np
import numpyro
import pytest
from numpyro.handlers import condition, replay, seed, substitute, trace
from numpyro.infer import Predictive
from numpyro.infer.util import log_density

from probattn.inference.evaluation.simulation_calibration import _generate
from probattn.models import EmissionModel, LanguageModel, LatentAttention, TransformerLM

TOKENS = np.array([[1, 2, 0, 0], [2, 2, 1, 1], [1, 0, 0, 0]], np.int32)
MODELS = {
    "language": LanguageModel(3, 4, 2, barrier_weight=0.0),
    "language barred": LanguageModel(3, 4, 2, barrier_weight=0.5, contraction=0.9),
    "language whole": LanguageModel(3, 4, 2, barrier_weight=1.0, contraction=0.9),
    "emission": EmissionModel(3, 4, 2),
    "emission noise": EmissionModel(3, 4, 2, coordinates="noise"),
    "transformer": TransformerLM(3, 4, 4, 1, 2),
    "transformer barred": TransformerLM(3, 4, 4, 1, 2, barrier_weight=0.5),
    "transformer noisy": TransformerLM(3, 4, 4, 1, 2, noise=0.3),
    "latent": LatentAttention(dim=2, length=4),
}


def parameters(model, data):
    """Values of all latent sites given the data, from the prior."""
    sites = trace(seed(model, 1)).get_trace(data)
    return {
        name: site["value"]
        for name, site in sites.items()
        if site["type"] == "sample" and not site["is_observed"]
    }


@pytest.mark.parametrize("name", MODELS)
def test_the_density_is_the_same_whoever_gives_the_data(name):
    model = MODELS[name]
    latent = isinstance(model, LatentAttention)
    data = np.random.default_rng(0).normal(size=(3, 4, 2)) if latent else TOKENS
    params = parameters(model, data)
    given = {model.observed: data}
    expected = log_density(seed(model, 0), (data,), {}, params)[0]
    assert np.isfinite(expected)
    settings = {"num_sequences": len(data)}
    drawn = trace(substitute(seed(model, 1), given)).get_trace(**settings)
    ways = {
        "condition": (condition(seed(model, 0), given), params),
        "substitute": (substitute(seed(model, 0), given), params),
        "replay": (replay(seed(model, 0), drawn), params),
        "data as parameters": (seed(model, 0), params | given),
    }
    for way, (handled, values) in ways.items():
        found = log_density(handled, (), settings, values)[0]
        np.testing.assert_allclose(found, expected, rtol=1e-5, err_msg=way)


def test_a_model_around_it_may_observe_the_tokens():
    """`obs` in a user's own model: the inner model's site is conditioned by name."""
    model = MODELS["language barred"]

    def around(data=None):
        numpyro.sample("other", numpyro.distributions.Normal())
        inner = model if data is None else condition(model, {"tokens": data})
        return inner(num_sequences=3)

    params = parameters(model, TOKENS)
    expected = log_density(model, (TOKENS,), {}, params)[0]
    found = log_density(around, (TOKENS,), {}, params | {"other": np.zeros(())})[0]
    normal = numpyro.distributions.Normal().log_prob(0.0)
    np.testing.assert_allclose(found, expected + normal, rtol=1e-5)


def test_predictive_draws_what_the_process_draws():
    model = MODELS["language barred"]
    draws = {name: value[None] for name, value in parameters(model, TOKENS).items()}
    tokens = Predictive(model, draws)(jax.random.key(0), num_sequences=5)["tokens"]
    assert tokens.shape == (1, 5, 4)


@pytest.mark.parametrize("name", ["language", "language barred", "transformer barred"])
def test_the_factors_are_what_the_joint_has_beside_prior_and_likelihood(name):
    model = MODELS[name]
    params = parameters(model, TOKENS)
    joint = log_density(model, (TOKENS,), {}, params)[0]
    prior = sum(prior.log_prob(params[name]).sum() for name, prior in model.priors().items())
    terms = model.log_likelihood(params, TOKENS) + model.log_factors(params, TOKENS)
    np.testing.assert_allclose(prior + terms.sum(), joint, rtol=1e-5)
    assert (model.log_factors(params, TOKENS) != 0).all() == (model.barrier_weight > 0)


@pytest.mark.parametrize("name", ["language barred", "emission"])
def test_the_factor_of_drawn_tokens_is_no_parameter(name):
    """What draws parameters and data from a model must tell a factor from a value."""
    values, data = _generate(MODELS[name], 3, jax.random.key(0))
    assert data.shape == (3, 4)
    latent = {"embeddings"} if name == "emission" else set()
    assert set(values) == set(MODELS[name].priors()) | latent
