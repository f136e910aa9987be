"""The evidence against exact, quadrature and bridge answers, and what has none."""

import importlib.util
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from known import DATA, Barred, Conjugate
from scipy import stats

from probattn import FitError, InputError
from probattn.inference import evidence, log_bayes_factor, sample_posterior
from probattn.inference.evaluation import marginal_likelihood, tempering
from probattn.models import EmissionModel, LanguageModel, LatentAttention

pytest.importorskip("blackjax")
KEY = jax.random.key(0)
# Of the conjugate model: y is normal, with unit noise and the prior's variance in common.
EXACT = stats.multivariate_normal(np.zeros(len(DATA)), np.eye(len(DATA)) + 4).logpdf(DATA[:, 0])
SMALL = {"num_particles": 128, "progress": False}


@dataclass(frozen=True)
class Scaled:
    """y ~ N(theta, s), theta ~ N(0, 2), s ~ LogNormal(0, 1): s has a curved coordinate."""

    observed = "y"

    def __call__(self, tokens):
        theta = numpyro.sample("theta", dist.Normal(0, 2))
        spread = numpyro.sample("spread", dist.LogNormal(0, 1))
        numpyro.sample("y", dist.Normal(theta, spread), obs=tokens[:, 0])

    def log_likelihood(self, params, tokens):
        return dist.Normal(params["theta"], params["spread"]).log_prob(tokens[..., 0])


@dataclass(frozen=True)
class Shifted:
    """y = theta + e with e ~ Exponential(1), theta ~ N(0, 2): likelihood 0 above the least y."""

    observed = "y"
    fault: float = 0.0

    def __call__(self, tokens):
        theta = numpyro.sample("theta", dist.Normal(0, 2))
        numpyro.factor("y", self.log_likelihood({"theta": theta}, tokens).sum())

    def log_likelihood(self, params, tokens):
        above = tokens[..., 0] - params["theta"]
        return jnp.where(above > 0, -above, -jnp.inf) + self.fault


def test_it_is_exact_on_a_conjugate_model_and_its_error_is_honest():
    """Over 40 keys: errors average to 0; they are as large as is said; and 95 % intervals hold."""
    found = [evidence(Conjugate(), DATA, key=jax.random.key(seed), **SMALL) for seed in range(40)]
    errors = np.array([one.log_evidence for one in found]) - EXACT
    said = np.array([one.standard_error for one in found])
    assert abs(errors.mean()) < 4 * errors.std(ddof=1) / np.sqrt(40)
    # A variance of 40 errors beside the mean of 40 variances of 3 degrees of freedom each:
    # F(40, 120), of which 0.1 % are above 2 and below 0.45.
    assert 0.45 < (errors**2).mean() / (said**2).mean() < 2
    # With probability 0.001 fewer than 33 of 40 hold, each with probability 0.95.
    held = (abs(errors) < stats.t.ppf(0.975, 3) * said).sum()
    assert held >= stats.binom.ppf(0.001, 40, 0.95)
    # A drift of chance is twice its error with the probability of Student's t.
    doubted = sum(not one.verdict.converged for one in found)
    assert doubted <= stats.binom.ppf(0.999, 40, stats.t.sf(2, 3))


def test_it_is_that_of_quadrature_where_coordinates_are_curved():
    # Without the Jacobian of log s the prior of s would be another, whose evidence of DATA happens
    # to be the same; that of these data is 0.9 nats below.
    wide = 3 * DATA
    theta, spread = np.linspace(-10, 10, 1001)[:, None], np.linspace(1e-3, 40, 8001)[None]
    density = stats.norm.pdf(theta, 0, 2) * stats.lognorm.pdf(spread, 1)
    for (y,) in wide:
        density = density * stats.norm.pdf(y, theta, spread)
    exact = np.log(np.trapezoid(np.trapezoid(density, spread[0], axis=1), theta[:, 0]))
    found = evidence(Scaled(), wide, key=KEY, num_runs=16, progress=False)
    assert found.standard_error < 0.05
    assert abs(found.log_evidence - exact) < stats.t.ppf(0.999, 15) * found.standard_error
    # The draws are those of the posterior, and the information is its divergence.
    mean = found.log_likelihood.mean()
    grid = density / density.sum()
    rows = sum(stats.norm.logpdf(y, theta, spread) for (y,) in wide)
    expected = (grid * rows).sum()
    spread_of_mean = np.sqrt((grid * (rows - expected) ** 2).sum() / 200)
    assert abs(mean - expected) < 4 * spread_of_mean  # of 16,384 draws at least 200 count
    assert found.information == pytest.approx(mean - found.log_evidence)
    assert found.draws["spread"].shape == (16, 1024)


def test_where_the_likelihood_is_zero_particles_have_no_weight():
    """Exact: `e^(-sum y) integral of N(theta; 0, 4) e^(n theta)` below the least y."""
    n, least = len(DATA), DATA.min()
    exact = -DATA.sum() + n**2 * 2 + stats.norm.logcdf(least, 4 * n, 2)
    found = evidence(Shifted(), DATA, key=KEY, num_runs=16, progress=False)
    assert found.standard_error < 0.05
    assert abs(found.log_evidence - exact) < stats.t.ppf(0.999, 15) * found.standard_error
    mass = stats.norm.cdf(least, 0, 2)
    error = np.sqrt((1 - mass) / 1024 / 16)  # of the mean of 16 logs of counts
    assert abs(found.support.mean() - np.log(mass)) < 4 * error
    assert (found.draws["theta"] < least).all()


def test_draws_with_likelihood_are_counted_without_bias():
    """`(N - 1) / (n - 1)`, of which the mean is the mass; that of `N / n` is 0.11 above it."""
    settings = tempering.Settings(2, 2, 1)
    programs = tempering.programs_of(Shifted(), settings)
    data = jnp.asarray(DATA)
    found = [tempering.live_draws(programs, data, jax.random.key(s), 2)[2] for s in range(300)]
    masses = np.exp(found)
    error = masses.std() / np.sqrt(len(masses))
    assert abs(masses.mean() - stats.norm.cdf(DATA.min(), 0, 2)) < 4 * error


def test_it_agrees_with_bridge_sampling_from_our_own_sampler():
    """Between draws of the prior and of `sample_posterior`, by the iteration of Meng and Wong."""
    model = LanguageModel(3, 3, 1, barrier_weight=1.0, barrier="normalised")
    tokens = np.array([[1, 2, 0], [1, 0, 0], [2, 2, 2], [1, 2, 1], [1, 1, 0]])
    found = evidence(model, tokens, key=KEY, progress=False)
    fit = sample_posterior(
        model, tokens, key=KEY, num_warmup=200, num_samples=500, progress=False, start="random"
    )
    keys = jax.random.split(jax.random.key(1), (8000, len(model.priors())))
    prior = {
        name: jax.vmap(law.sample)(keys[:, at])
        for at, (name, law) in enumerate(model.priors().items())
    }
    total = jax.jit(
        lambda params: jax.lax.map(
            lambda one: model.log_likelihood(one, tokens).sum(), params, batch_size=100
        )
    )
    of_prior = np.exp(np.asarray(total(prior), float)).reshape(4, -1)
    flat = {name: value.reshape(-1, *value.shape[2:]) for name, value in fit.draws.items()}
    of_posterior = np.exp(np.asarray(total(flat), float)).reshape(4, -1)
    assert (of_prior == 0).any()
    # Each chain with a part of the prior's draws is an answer of its own.
    bridges = [np.log(_bridge(*pair)) for pair in zip(of_prior, of_posterior, strict=True)]
    error = np.std(bridges, ddof=1) / 2
    assert abs(found.support).max() > 0
    assert error < 0.1
    assert found.standard_error < 0.15
    together = np.hypot(error, found.standard_error)
    # Two variances of 3 degrees of freedom each: at least 3.
    assert abs(np.mean(bridges) - found.log_evidence) < stats.t.ppf(0.999, 3) * together


def _bridge(prior, posterior):
    ratio, (n, m) = prior.mean(), (len(prior), len(posterior))
    for _ in range(200):
        above = (prior / (m * prior + n * ratio)).mean()
        ratio = above / (1 / (m * posterior + n * ratio)).mean()
    return ratio


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (LanguageModel(3, 3, 1, barrier_weight=0.05), "generalised one and has no evidence"),
        (EmissionModel(3, 3, 1), "itself an estimate by particles"),
        (LatentAttention(1, 3, contraction=None), "restricted to its local domain"),
        (lambda data: None, "expected a Model"),
    ],
)
def test_what_has_no_evidence_is_refused(model, words):
    with pytest.raises(InputError, match=words):
        evidence(model, np.zeros((2, 3), int), key=KEY)


@pytest.mark.parametrize(
    "model",
    [
        LanguageModel(3, 3, 1, barrier_weight=0.0),
        LanguageModel(3, 3, 1, barrier="normalised"),
        LanguageModel(3, 3, 1, barrier="normalised", contraction=0.9),
        LatentAttention(1, 3),
    ],
)
def test_normalised_laws_are_not_refused(model):
    marginal_likelihood.refuse_unnormalised(model)


def test_a_hidden_factor_is_found():
    with pytest.raises(InputError, match=r"another term, such as a numpyro\.factor"):
        evidence(Barred(), DATA, key=KEY, **SMALL)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_particles": 102}, "a multiple of the chain length"),
        ({"num_particles": 4}, "at least twice 4"),
        ({"num_runs": 1}, "num_runs: expected"),
        ({"chain_length": 1}, "chain_length: expected"),
        ({"num_steps": 0}, "num_steps: expected"),
    ],
)
def test_sizes_out_of_range_are_refused(options, words):
    with pytest.raises(InputError, match=words):
        evidence(Conjugate(), DATA, key=KEY, **options)


def test_without_blackjax_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"probattn\[blackjax\]"):
        evidence(Conjugate(), DATA, key=KEY)


def test_failures_are_reported(monkeypatch):
    with pytest.raises(FitError, match="is NaN"):
        evidence(Shifted(float("nan")), DATA, key=KEY, **SMALL)
    monkeypatch.setattr(tempering, "MOST_BATCHES", 2)
    with pytest.raises(FitError, match="of 256 draws from the prior 0 have positive"):
        evidence(Shifted(), DATA - 40, key=KEY, **SMALL)


def test_the_verdict_names_spread_drift_and_acceptance():
    judge = marginal_likelihood._judge
    calm, none = np.array([-9.9, -10.0, -10.1, -10.0]), np.zeros(4)
    assert judge(calm, none, 0.7).converged
    assert "runs spread from -13.0 to -9.0" in str(
        judge(np.array([-9.0, -13, -10, -12]), none, 0.7)
    )
    assert "still rise" in str(judge(calm, np.array([3.0, 3.2, 2.9, 3.1]), 0.7))
    # Runs that agree and are all too low: a measured case, of dim 2 with two heads.
    low = judge(calm, np.array([1.55, 1.47, 0.54, 1.96]), 0.7)
    assert not low.converged
    assert "too low, by about 1.4 ± 0.3 nats" in str(low)
    assert judge(calm, np.array([9.0, -9, 8, -7]), 0.7).converged  # noise, and no drift
    assert "only 10% of the moves" in str(judge(calm, none, 0.1))


def test_chains_that_start_low_drift():
    """Particles that are not at rest: their chains rise, and more so than by chance."""
    settings = tempering.Settings(8, 4, 1)
    # Two starts, then the rest of the first chain and that of the second.
    values = jnp.array([0.0, 10.0, 1.0, 2.0, 3.0, 11.0, 12.0, 13.0])
    assert tempering._drift(values, settings) == 2


def test_a_bayes_factor_is_of_the_same_data():
    one, other = (evidence(m, DATA, key=KEY, **SMALL) for m in (Conjugate(), Scaled()))
    factor = log_bayes_factor(one, other)
    assert factor.value == one.log_evidence - other.log_evidence
    assert factor.error == np.hypot(one.standard_error, other.standard_error)
    with pytest.raises(InputError, match="the same data"):
        log_bayes_factor(one, evidence(Conjugate(), DATA[:3], key=KEY, **SMALL))
