"""Microcanonical Langevin dynamics against NUTS, and its failures."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

from probattn import FitError, InputError
from probattn.inference import diagnose, sample_microcanonical, sample_posterior
from probattn.models import LanguageModel

pytest.importorskip("blackjax")
KEY = jax.random.key(0)


def test_it_agrees_with_nuts(corpus):
    """Means of identified quantities, within 4 Monte Carlo errors and a tenth of the posterior
    spread for its bias."""
    model = LanguageModel(4, 5, 1, contraction=0.9)
    nuts = sample_posterior(
        model,
        corpus.train,
        key=KEY,
        num_chains=2,
        num_warmup=300,
        num_samples=600,
        max_tree_depth=6,
        progress=False,
    )
    other = sample_microcanonical(
        model, corpus.train, key=KEY, num_chains=2, num_samples=600, progress=False
    )
    assert other.method == "microcanonical"
    assert other.start == "points on the way to independently trained modes"
    found = []
    for fit in (nuts, other):
        total = fit.draw_log_prob(corpus.train).sum(-1)
        size = diagnose(fit).ess_bulk
        assert size > 100
        found.append((total.mean(), total.std(), total.std() / np.sqrt(size)))
    (mean, spread, error), (mean_other, spread_other, error_other) = found
    assert abs(mean - mean_other) < 4 * np.hypot(error, error_other) + 0.1 * spread
    assert abs(spread_other / spread - 1) < 0.25


def test_its_gradients_are_those_that_were_computed(monkeypatch):
    """A twin that counts: a factor that is 0, whose derivative tells each time it is computed."""
    computed = []

    @jax.custom_vjp
    def told(x):
        return 0 * x.sum()

    def derivative(x, slope):
        jax.debug.callback(lambda: computed.append(1))
        return (0 * x,)

    told.defvjp(lambda x: (told(x), x), derivative)

    class Told:
        observed = "y"

        def __call__(self, data):
            numpyro.factor(
                "told", told(numpyro.sample("x", dist.Normal(0, 1).expand([3]).to_event(1)))
            )

    monkeypatch.setattr("probattn.inference.fitting.chain_starts.MODE_STEPS", 60)
    settings = dict(
        num_chains=1, num_warmup=150, num_samples=7, thinning=3, start="map", progress=False
    )
    fit = sample_microcanonical(Told(), np.zeros(1), key=KEY, **settings)
    jax.effects_barrier()
    # Four more: one finds the start to be of finite density, one looks at where each of the two
    # chunks of the descent ends, one begins the chain. Tuning may take an untold step.
    assert len(computed) - 4 - fit.gradients in (0, 2)


class Cliff:
    """A normal of two numbers whose density is not a number above 1."""

    observed = "y"

    def __call__(self, data):
        x = numpyro.sample("x", dist.Normal(0, 1).expand([2]).to_event(1))
        numpyro.factor("cliff", jnp.where(x[0] > 1, jnp.nan, 0.0))


def test_a_step_that_is_no_number_is_told():
    with pytest.raises(FitError, match="a step of chain 1 was not finite"):
        sample_microcanonical(
            Cliff(),
            np.zeros(1),
            key=KEY,
            num_chains=1,
            num_warmup=200,
            start="random",
            progress=False,
        )


def test_without_blackjax_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "blackjax", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install \"probattn\[blackjax\]\""):
        sample_microcanonical(Cliff(), np.zeros(1), key=KEY)


def test_a_model_with_a_boundary_is_refused_at_once():
    with pytest.raises(InputError, match=r"without a boundary.*contraction=0\.9"):
        sample_microcanonical(LanguageModel(4, 5, 1), np.zeros((3, 5), int), key=KEY)
