"""ArviZ's cross-validation by refits, against the exact answers of a conjugate model."""

import arviz as az
import jax
import numpy as np
import numpyro.distributions as dist
import pytest
from known import Conjugate

from probattn import InputError
from probattn.inference import Fit, Refits
from probattn.models import EmissionModel

KEY = jax.random.key(0)
DATA = np.append(np.random.default_rng(1).normal(0, 0.1, 7), 6.0)[:, None]
SETTINGS = dict(num_warmup=100, num_samples=400, start="random")


@pytest.fixture(scope="module")
def fit():
    precision = 1 / 4 + len(DATA)
    theta = np.random.default_rng(0).normal(DATA.sum() / precision, precision**-0.5, (4, 400))
    return Fit(Conjugate(), "posterior", DATA, {"theta": theta})


def exact(out):
    """Log density of each row of `out` given all others."""
    stay = np.delete(DATA[:, 0], out)
    precision = 1 / 4 + len(stay)
    mean, sd = stay.sum() / precision, (1 + 1 / precision) ** 0.5
    return np.asarray(dist.Normal(mean, sd).log_prob(DATA[out, 0]))


def test_a_sequence_whose_weights_fail_is_left_out_by_a_refit(fit):
    """The refit has a Monte Carlo error of 0.13 by six keys; the whole posterior is 3 off."""
    with pytest.warns(UserWarning, match="Pareto"):
        once = az.loo(fit.to_datatree(), pointwise=True)
    assert once.pareto_k.values[-1] > 0.7
    found = az.reloo(Refits(fit, key=KEY, **SETTINGS), loo_orig=once, pointwise=True)
    assert found.elpd_i.values[-1] == pytest.approx(exact([7])[0], abs=0.6)
    whole = fit.predictive_log_prob(DATA[7:])[0]
    assert whole > exact([7])[0] + 3
    np.testing.assert_array_equal(found.elpd_i.values[:7], once.elpd_i.values[:7])


def test_folds_are_left_out_together(fit):
    folds = np.array([1, 1, 1, 1, 2, 2, 2, 2])
    found = az.loo_kfold(
        fit.to_datatree(), Refits(fit, key=KEY, **SETTINGS), folds=folds, k=2, pointwise=True
    )
    for fold in (1, 2):
        out = np.flatnonzero(folds == fold)
        np.testing.assert_allclose(found.elpd_i.values[out], exact(out), atol=0.4)


def test_a_refit_that_has_not_converged_is_a_warning(fit):
    few = SETTINGS | {"num_samples": 5, "num_warmup": 5}
    refits = Refits(fit, key=KEY, **few)
    with pytest.warns(UserWarning, match="the refit without sequence 3: not converged"):
        refits.sample(refits.sel_observations(3)[0])


def test_other_fits_are_refused(fit):
    with pytest.raises(InputError, match="expected a fit by posterior, got one by map"):
        Refits(Fit(Conjugate(), "map", DATA, {"theta": np.zeros((1, 1))}), key=KEY)
    with pytest.raises(InputError, match="key: expected a random key"):
        Refits(fit, key=jax.numpy.zeros(2))
    model = EmissionModel(4, 5, 1)
    draws = {name: np.asarray(prior.sample(KEY, (1, 2))) for name, prior in model.priors().items()}
    with pytest.raises(InputError, match="the likelihood of this model is an estimate"):
        Refits(Fit(model, "posterior", np.zeros((2, 5), int), draws), key=KEY)
