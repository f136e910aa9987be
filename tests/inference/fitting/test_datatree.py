"""ArviZ's DataTree: what is in it, and that NetCDF and zarr give it back."""

import copy
import json
import pickle

import arviz as az
import jax
import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr
from known import Conjugate

from probattn import InputError
from probattn.inference import Fit, fit_ensemble, fit_laplace, leave_one_out


@pytest.mark.parametrize("kind", ["netcdf", "zarr"])
def test_files_give_back_what_was_written(fits, tmp_path, kind):
    tree = fits["posterior"].to_datatree()
    path = tmp_path / f"fit.{kind}"
    if kind == "netcdf":
        tree.to_netcdf(path)
        again = az.from_netcdf(path)
    else:
        tree.to_zarr(path, consolidated=False)
        again = az.from_zarr(path, consolidated=False)
    assert set(again.children) == {
        "posterior",
        "sample_stats",
        "log_prior",
        "log_likelihood",
        "log_path",
        "observed_data",
    }
    for group in again.children:
        xr.testing.assert_equal(again[group].to_dataset().load(), tree[group].to_dataset())
    assert again["posterior"].attrs["density"] == tree["posterior"].attrs["density"]
    np.testing.assert_array_equal(az.rhat(again)["bias"], az.rhat(tree)["bias"])


def test_it_says_of_which_density_it_is_and_what_the_sampler_did(fits):
    fit = fits["posterior"]
    tree = fit.to_datatree()
    density = json.loads(tree["posterior"].attrs["density"])
    assert density == fit.density.to_json()
    assert density["fields"]["barrier_weight"] == 0.05
    assert tree["posterior"].attrs["start"] == "random points near the origin"
    stats = tree["sample_stats"]
    assert {
        "energy",
        "n_steps",
        "tree_depth",
        "acceptance_rate",
        "step_size",
        "diverging",
        "lp",
    } <= set(stats.data_vars)
    steps, depth = stats["n_steps"].values, stats["tree_depth"].values
    assert ((2 ** (depth - 1) <= steps) & (steps < 2**depth)).all()
    np.testing.assert_array_equal(stats["lp"], -fit.stats["potential_energy"])


def test_an_approximation_has_no_posterior_group(fits, corpus):
    fit = fit_laplace(
        fits["map"].model, corpus.train, key=jax.random.key(0), num_samples=8, progress=False
    )
    tree = fit.to_datatree()
    terms = {"log_prior", "log_likelihood", "log_path"}
    assert set(tree.children) == terms | {"approximation", "observed_data"}
    assert tree["approximation"]["bias"].shape == (1, 8, 4)


@pytest.fixture(scope="module")
def trees(fits, corpus):
    """The trees of fits that are no sample, with the group of their parameters."""
    settings = dict(key=jax.random.key(0), progress=False)
    model, data = fits["map"].model, corpus.train
    return {
        "map": fits["map"].to_datatree(),
        "approximation": fit_laplace(model, data, num_samples=8, **settings).to_datatree(),
        "ensemble": fit_ensemble(
            model, data, num_members=2, num_steps=40, **settings
        ).to_datatree(),
    }


@pytest.mark.parametrize("name", ["map", "approximation", "ensemble"])
def test_arviz_summarises_and_draws_a_fit_that_is_no_sample(trees, name):
    tree = trees[name]
    group = "map" if name == "map" else "approximation"
    table = az.summary(tree, group=group, kind="stats", var_names=["bias"], round_to="none")
    expected = tree[group]["bias"].mean(("chain", "draw"))
    np.testing.assert_allclose(table["mean"].astype(float), expected, rtol=1e-5)
    if name != "map":  # ArviZ draws no density of one value
        az.plot_forest(tree, group=group, var_names=["bias"])
        plt.close("all")


@pytest.mark.parametrize("name", ["map", "approximation", "ensemble"])
@pytest.mark.parametrize("ask", [az.loo, az.summary, az.plot_trace, az.plot_energy])
def test_what_needs_a_sample_is_refused_in_one_sentence(trees, name, ask):
    group = "map" if name == "map" else "approximation"
    with pytest.raises(InputError, match=f'draws of Markov chains, got the group "{group}"'):
        ask(trees[name])


def test_a_tree_without_a_sample_is_a_tree(trees, tmp_path):
    tree = trees["map"]
    assert "posterior" not in tree
    assert not hasattr(tree, "posterior_predictive")
    assert not hasattr(tree["map"], "posterior")
    for again in (tree.copy(), copy.deepcopy(tree), pickle.loads(pickle.dumps(tree))):
        xr.testing.assert_identical(again, tree)
    tree.to_netcdf(tmp_path / "fit.nc")
    xr.testing.assert_equal(
        az.from_netcdf(tmp_path / "fit.nc")["map"].to_dataset().load(), tree["map"].to_dataset()
    )


def test_leave_one_out_of_a_model_without_factors_is_that_of_arviz():
    """One weighs the tail by its effective size for each sequence, the other for the parameters;
    here draws are independent, so that the two agree up to that."""
    data = np.random.default_rng(1).normal(1, 1, (20, 1))
    spread = (1 / 4 + 20) ** -0.5
    theta = np.random.default_rng(0).normal(data.sum() * spread**2, spread, (4, 500))
    fit = Fit(Conjugate(), "posterior", data, {"theta": theta})
    theirs, ours = az.loo(fit.to_datatree(), pointwise=True), leave_one_out(fit)
    np.testing.assert_allclose(theirs.elpd, ours.log_prob, atol=2e-3)
    np.testing.assert_allclose(theirs.elpd_i, ours.per_sequence, atol=1e-3)
    np.testing.assert_allclose(theirs.p, ours.effective_parameters, atol=2e-3)
