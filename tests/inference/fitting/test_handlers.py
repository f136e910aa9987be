"""Models inside NumPyro's handlers: what can be fitted is, and what cannot is named."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from known import DATA, Conjugate
from numpyro.distributions.transforms import AffineTransform
from numpyro.handlers import condition, reparam
from numpyro.infer.reparam import LocScaleReparam, TransformReparam

from probattn import InputError
from probattn.inference import Fit, fit_laplace, fit_map, sample_posterior
from probattn.inference.contract import name_of
from probattn.models import EmissionModel, LanguageModel

KEY = jax.random.key(0)
TOKENS = np.array([[1, 2, 0], [2, 1, 0], [1, 1, 2], [2, 0, 0]])


def affine(tokens):
    """The model of `Conjugate`, with its parameter as a transformed standard normal."""
    prior = dist.TransformedDistribution(dist.Normal(0, 1), AffineTransform(0.0, 2.0))
    theta = numpyro.sample("theta", prior)
    with numpyro.plate("rows", len(tokens)):
        numpyro.sample("y", dist.Normal(theta, 1), obs=tokens[:, 0])


WRAPPED = {
    "theta_decentered": reparam(Conjugate(), config={"theta": LocScaleReparam(0)}),
    "theta_base": reparam(affine, config={"theta": TransformReparam()}),
}


@pytest.mark.parametrize("inner", WRAPPED)
def test_a_reparametrised_model_has_the_known_mode_and_draws_both_sites(inner):
    model = WRAPPED[inner]
    fit = fit_map(model, DATA, key=KEY, progress=False)
    # The posterior is normal: the change of coordinates is linear and leaves its mode.
    np.testing.assert_allclose(fit.params["theta"], Conjugate.mean, atol=1e-3)
    np.testing.assert_allclose(fit.params["theta"], 2 * fit.params[inner], rtol=1e-5)
    few = dict(num_chains=2, num_warmup=30, num_samples=20, max_tree_depth=4, start="random")
    draws = sample_posterior(model, DATA, key=KEY, progress=False, **few).draws
    np.testing.assert_allclose(draws["theta"], 2 * draws[inner], rtol=1e-5)


@pytest.mark.parametrize(
    ("model", "config", "message"),
    [
        (LanguageModel(3, 3, 1), {"bias": LocScaleReparam(0)}, "bias: LocScaleReparam does not"),
        (LanguageModel(3, 3, 1), {"tokens": LocScaleReparam(0)}, "tokens: LocScaleReparam does"),
        (
            EmissionModel(3, 3, 1),
            {"embeddings": TransformReparam()},
            "embeddings: TransformReparam does not apply",
        ),
        (
            LanguageModel(3, 3, 1),
            lambda site: LocScaleReparam(0) if site["name"] == "key" else None,
            "key: LocScaleReparam does not apply",
        ),
    ],
)
def test_a_site_that_cannot_be_reparametrised_is_named(model, config, message):
    for fit in (fit_map, sample_posterior):
        with pytest.raises(InputError, match=f"{message}.*leave it out of the config"):
            fit(reparam(model, config=config), TOKENS, key=KEY, progress=False)


def test_also_where_its_sequences_are_split_over_devices():
    model = reparam(LanguageModel(3, 3, 1), config={"bias": LocScaleReparam(0)})
    with pytest.raises(InputError, match="bias: LocScaleReparam does not apply"):
        fit_map(model, TOKENS, key=KEY, devices=2, progress=False)


def test_a_parameter_without_a_prior_is_refused():
    """It would be neither estimated nor what its initial value says."""

    def model(tokens):
        spread = numpyro.param("spread", 0.5, constraint=dist.constraints.positive)
        theta = numpyro.sample("theta", dist.Normal(0, spread))
        numpyro.sample("y", dist.Normal(theta, 1), obs=tokens[:, 0])

    learned = reparam(Conjugate(), config={"theta": LocScaleReparam()})
    for fit in (fit_map, fit_laplace, sample_posterior):
        with pytest.raises(InputError, match="spread: expected sites with priors"):
            fit(model, DATA, key=KEY, progress=False)
        with pytest.raises(InputError, match=r"theta_centered: .*centered=0"):
            fit(learned, DATA, key=KEY, progress=False)


def test_a_wrapped_model_is_told_by_what_is_inside():
    model = LanguageModel(3, 3, 1)
    wrapped = condition(reparam(model, config={}), {"bias": jnp.zeros(3)})
    assert name_of(wrapped) == "condition(reparam(LanguageModel))"
    assert name_of(reparam(affine, config={})) == "reparam(affine)"
    with pytest.raises(InputError, match=r"got condition\(reparam\(LanguageModel\)\), which lacks"):
        Fit(wrapped, "map", TOKENS, {"theta": np.zeros((1, 1))}).draw_log_prob(TOKENS)
    fits = [Fit(reparam(LanguageModel(3, n, 1), config={}), "map", TOKENS, {}) for n in (3, 4)]
    assert fits[0].density.differences(fits[1].density) == ["length: 3, 4"]
