"""Posteriors that are known: by quadrature, and from a long run."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from benchmarks.reference_posterior import MODEL, TOKENS, summary
from probattn.inference import fit_laplace, sample_posterior
from probattn.inference.fitting.unconstrained import potential, unconstrain
from probattn.models import LatentAttention

REFERENCE = json.loads((Path(__file__).parent / "reference_posterior.json").read_text())
KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def short():
    return sample_posterior(
        MODEL,
        TOKENS,
        key=KEY,
        num_chains=2,
        num_warmup=300,
        num_samples=1000,
        max_tree_depth=6,
        progress=False,
    )


def test_a_short_run_agrees_with_the_long_one(short):
    found = summary(short)
    assert set(found) == set(REFERENCE["quantities"])
    relative = []
    for name, expected in REFERENCE["quantities"].items():
        for level, (value, error) in expected.items():
            here, error_here = found[name][level]
            relative.append(error_here / (expected["0.9"][0] - expected["0.1"][0]))
            assert abs(here - value) <= 4.5 * np.hypot(error_here, error), (name, level)
    assert np.mean(relative) < 0.1  # it is long enough to tell something


def test_the_long_run_is_long_enough():
    assert REFERENCE["about"]["verdict"].startswith("converged")
    for expected in REFERENCE["quantities"].values():
        assert all(
            error <= 0.03 * (expected["0.9"][0] - expected["0.1"][0])
            for _, error in expected.values()
        )


MODEL_2D = LatentAttention(1, 4, values=False)  # two numbers: interaction and scale
U = np.array(
    [[[0.5], [-0.2], [1.0], [0.3]], [[-0.8], [-0.5], [0.1], [-0.9]], [[1.2], [0.7], [1.1], [0.2]]]
)


@pytest.fixture(scope="module")
def by_quadrature():
    """Means and spreads of log scale and interaction over a grid of the unconstrained plane, and
    the log evidence."""
    z = unconstrain(
        MODEL_2D,
        jnp.asarray(U, float),
        {"interaction": jnp.zeros((1, 1, 1)), "scale": jnp.ones(())},
    )
    flat, unravel = ravel_pytree(z)
    a, s = np.meshgrid(np.linspace(-25, 25, 401), np.linspace(-2.5, 2.5, 401), indexing="ij")
    grid = jnp.asarray(np.stack([a.ravel(), s.ravel()], axis=1), flat.dtype)
    energy = np.asarray(
        jax.jit(
            lambda x: jax.lax.map(
                lambda one: potential(MODEL_2D, U)(unravel(one)), x, batch_size=512
            )
        )(grid)
    )
    weight = np.exp(energy.min() - energy.astype(float))
    assert weight.reshape(401, 401)[[0, -1]].max() < 1e-5  # nothing is left out
    assert weight.reshape(401, 401)[:, [0, -1]].max() < 1e-5
    weight /= weight.sum()
    columns = np.asarray(grid, float)
    mean = weight @ columns
    return mean, np.sqrt(weight @ (columns - mean) ** 2)


def test_nuts_agrees_with_quadrature(by_quadrature):
    mean, spread = by_quadrature
    fit = sample_posterior(
        MODEL_2D,
        U,
        key=KEY,
        num_chains=2,
        num_warmup=300,
        num_samples=2000,
        max_tree_depth=5,
        progress=False,
    )
    # The interaction's unconstrained coordinate is in units of a quarter of its prior's standard
    # deviation.
    draws = np.stack(
        [4 * fit.draws["interaction"][..., 0, 0, 0], np.log(fit.draws["scale"])], axis=-1
    )
    import arviz as az

    for axis in (0, 1):
        size = float(az.ess(draws[..., axis]))
        assert size > 400
        assert abs(draws[..., axis].mean() - mean[axis]) < 4 * spread[axis] / np.sqrt(size)
        assert abs(draws[..., axis].std() / spread[axis] - 1) < 4 / np.sqrt(2 * size) + 0.05


def test_laplace_is_told_from_the_posterior(by_quadrature):
    """It is an approximation: its spread of the scale is near, and its mean is the mode's and not
    the posterior's."""
    mean, spread = by_quadrature
    log_scale = np.log(
        fit_laplace(MODEL_2D, U, key=KEY, num_samples=4000, progress=False).draws["scale"]
    )
    assert abs(log_scale.std() / spread[1] - 1) < 0.2
    assert 0.05 < abs(log_scale.mean() - mean[1]) / spread[1] < 1
