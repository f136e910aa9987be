"""Laplace's approximation and ensembles, against what is known of them."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from known import DATA, Barred, Conjugate, Exponential, Impossible, Many

from probattn import FitError, InputError
from probattn.inference import fit_ensemble, fit_laplace
from probattn.inference.fitting.hessian import curvature
from probattn.inference.fitting.unconstrained import potential, unconstrain
from probattn.models import LanguageModel

KEY = jax.random.key(0)


def test_it_is_exact_where_the_posterior_is_normal():
    fit = fit_laplace(Conjugate(), DATA, key=KEY, num_samples=4000, num_starts=2, progress=False)
    theta = fit.draws["theta"]
    assert theta.shape == (1, 4000)
    assert abs(theta.mean() - Conjugate.mean) < 4 * Conjugate.spread / np.sqrt(4000) + 0.02
    assert abs(theta.std() / Conjugate.spread - 1) < 4 / np.sqrt(8000)
    assert fit.stats["outside"] == 0
    assert fit.gradients == 2 * len(fit.stats["loss"])


def test_it_is_around_the_unconstrained_mode():
    """Exponential(1) in z = log x is exp(z - e^z): mode z = 0 and curvature 1, so that log x ~ N(0,
    1)."""
    log_x = np.log(
        fit_laplace(Exponential(), np.zeros(1), key=KEY, num_samples=4000, progress=False).draws[
            "x"
        ]
    )
    assert abs(log_x.mean()) < 4 / np.sqrt(4000) + 0.03
    assert abs(log_x.std() - 1) < 0.05


def test_draws_outside_the_domain_are_drawn_again_and_counted():
    fit = fit_laplace(Barred(), DATA, key=KEY, num_samples=1000, progress=False)
    assert (fit.draws["theta"] < 0.8).all()
    assert 0.01 < fit.stats["outside"] < 0.5


def test_rotations_have_no_spread(corpus):
    """d (d - 1) / 2 rotations of the embeddings, and r (r - 1) / 2 of query and key unless both are
    0 at the mode."""
    model = LanguageModel(4, 5, 2)
    fit = fit_laplace(model, corpus.train, key=KEY, num_samples=50, progress=False)
    assert fit.verdict.numbers["flat_directions"] in (1, 2)
    assert np.isfinite(fit.draw_log_prob(corpus.train)).all()


def test_curvature_is_that_of_automatic_differentiation(corpus):
    model = LanguageModel(4, 5, 1)
    keys = jax.random.split(KEY, len(model.priors()))
    params = {
        name: 0.3 * prior.sample(key)
        for key, (name, prior) in zip(keys, model.priors().items(), strict=True)
    }
    z = unconstrain(model, corpus.train, params)
    found = curvature(model, corpus.train, z, "unconstrained")
    flat, unravel = jax.flatten_util.ravel_pytree(z)
    hessian = np.asarray(
        jax.jit(jax.hessian(lambda x: potential(model, corpus.train)(unravel(x))))(flat), float
    )
    eps = np.finfo(flat.dtype).eps
    np.testing.assert_allclose(
        found.eigenvalues, np.linalg.eigvalsh(hessian), atol=1e3 * eps * abs(hessian).max()
    )


@jax.custom_jvp
def itself(x):
    return x


@itself.defjvp
def nowhere_differentiable(primals, tangents):
    return primals[0], jnp.nan * tangents[0]


@jax.custom_jvp
def half_square(x):
    return x**2 / 2


@half_square.defjvp
def without_second_derivative(primals, tangents):
    return half_square(primals[0]), itself(primals[0]) * tangents[0]


@dataclass(frozen=True)
class WithoutHessian:
    """Standard normal, with a gradient but no second derivative."""

    def __call__(self, data):
        flat = dist.ImproperUniform(dist.constraints.real, (), ())
        numpyro.factor("energy", -half_square(numpyro.sample("x", flat)))


def test_a_hessian_that_is_not_finite_is_said_to_be_so():
    with pytest.raises(FitError, match="Laplace: no mode") as found:
        fit_laplace(WithoutHessian(), np.zeros(1), key=KEY, progress=False)
    assert "Curvature was not looked at: the Hessian is not finite." in str(found.value)


def test_members_of_an_ensemble_are_independent_modes(corpus):
    model = LanguageModel(4, 5, 2)
    fit = fit_ensemble(model, corpus.train, key=KEY, num_members=3, progress=False)
    assert fit.shape == (1, 3)
    assert len({float(bias) for bias in fit.draws["bias"][0, :, 0]}) == 3
    assert fit.verdict.converged
    members = fit.draw_log_prob(corpus.heldout)[0]
    np.testing.assert_allclose(
        fit.predictive_log_prob(corpus.heldout), np.log(np.exp(members).mean(0)), rtol=1e-4
    )


def test_members_of_an_ensemble_cost_their_steps():
    settings = dict(key=KEY, num_members=3, num_steps=60, progress=False)
    assert fit_ensemble(Conjugate(), DATA, **settings).gradients == 180
    assert fit_ensemble(Conjugate(), DATA, batch_size=1, **settings).gradients == 45


def test_bad_input_is_refused():
    with pytest.raises(
        InputError, match="num_members: expected a whole number of at least 2, got 1"
    ):
        fit_ensemble(Conjugate(), DATA, key=KEY, num_members=1)
    with pytest.raises(InputError, match=r"Laplace: 1001 numbers to be approximated, at most 1000"):
        fit_laplace(Many(), DATA, key=KEY)
    with pytest.raises(FitError, match="no start point"):
        fit_laplace(Impossible(), DATA, key=KEY)
