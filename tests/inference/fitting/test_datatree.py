"""ArviZ's DataTree: what is in it, and that NetCDF and zarr give it back."""

import json

import arviz as az
import numpy as np
import pytest
import xarray as xr

from probattn.inference import fit_laplace


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
    assert set(again.children) == {"posterior", "sample_stats", "log_likelihood", "observed_data"}
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
    import jax

    fit = fit_laplace(
        fits["map"].model, corpus.train, key=jax.random.key(0), num_samples=8, progress=False
    )
    tree = fit.to_datatree()
    assert set(tree.children) == {"approximation", "log_likelihood", "observed_data"}
    assert tree["approximation"]["bias"].shape == (1, 8, 4)
    with pytest.raises(AttributeError):
        az.loo(fits["map"].to_datatree())
