"""A posterior of the demo's length agrees with the reference posterior of its model."""

import json

import jax
import numpy as np
import pytest
from scipy import stats

from benchmarks import demo_reference
from probattn.cli.fitting import DEMO_DRAWS
from probattn.inference import sample_posterior

FOLDER = demo_reference.ROOT / "reference_posteriors" / "summary_statistics"


def reference(kind):
    path = FOLDER / kind / kind / f"{demo_reference.NAME}.json"
    return json.loads(path.read_text())


@pytest.fixture(scope="module")
def short():
    model, corpus = demo_reference.setup()
    num_warmup, num_samples, depth = DEMO_DRAWS[False]
    fit = sample_posterior(
        model,
        corpus.train,
        key=jax.random.key(1),
        num_warmup=num_warmup,
        num_samples=num_samples,
        max_tree_depth=depth,
        progress=False,
    )
    heldout = corpus.heldout[: demo_reference.HELDOUT]
    return demo_reference.statistics(demo_reference.described(fit, heldout))


def apart(found, known):
    """Differences from the reference in units of both Monte Carlo errors."""
    assert found["names"] == known["names"]
    value, error = (np.array(found[one]) for one in ("value", "mcse"))
    expected, its_error = (np.array(known[one]) for one in ("value", "mcse"))
    return (value - expected) / np.hypot(error, its_error)


def test_means_agree_with_the_long_run(short):
    """Errors of a run with effective sizes of a hundred are known to a tenth or so: a t law of 40
    degrees of freedom, Bonferroni over all quantities, at 1e-3 for the largest difference."""
    z = apart(short["mean"], reference("mean"))
    assert np.abs(z).max() < stats.t(40).ppf(1 - 1e-3 / 2 / len(z))
    # On average as large as errors are. Quantities share their slow directions: 0.7 to 1.7 for the
    # five seeds of the demo.
    assert 0.3 < (z**2).mean() < 3


def test_a_shift_of_half_a_standard_deviation_is_seen(short):
    shifted = dict(short["mean"])
    shifted["value"] = np.array(shifted["value"]) + 0.5 * np.array(short["sd"]["value"])
    z = apart(shifted, reference("mean"))
    assert (z**2).mean() > 5


def test_spreads_agree_with_the_long_run(short):
    """Of heavy tails a short run sees too little, and too little of the error: the typical one."""
    z = apart(short["sd"], reference("sd"))
    assert np.median(np.abs(z)) < 2 * stats.norm.ppf(0.75)
