"""A run that was fitted in one precision is read and used in the other, and resumed in its own."""

import jax
import numpy as np
import pytest

from probattn import InputError
from probattn.inference import (
    Corpus,
    compare,
    diagnose,
    fit_map,
    load_posterior,
    load_run,
    predict,
    resume_posterior,
    sample_posterior,
    save_run,
)
from probattn.inference.fitting.chain_starts import start_points
from probattn.inference.fitting.run_directory import begin_run
from probattn.inference.fitting.unconstrained import potential
from probattn.models import LanguageModel, LatentAttention

KEY = jax.random.key(0)
ROWS = np.array([[1, 2, 0], [2, 1, 1], [1, 1, 0], [2, 0, 0], [1, 2, 2], [2, 2, 0]])
CORPUS = Corpus("toy", ("<end>", "a", "b"), "", ROWS[:4], ROWS[4:])
MODEL, LATENT = LanguageModel(3, 3, 2), LatentAttention(1, 3)
PATHS = np.random.default_rng(0).normal(size=(4, 3, 1))  # no number of float32 among them
ABOUT = {"seed": 0, "command": ""}
SHORT = dict(
    key=KEY, num_warmup=60, num_samples=20, max_tree_depth=4, start="random", progress=False
)


def fit_all(folder):
    """A MAP and a posterior in run directories."""
    mode = fit_map(MODEL, CORPUS.train, key=KEY, num_steps=20, progress=False)
    save_run(folder / "map", mode, CORPUS, ABOUT)
    store = begin_run(folder / "posterior", MODEL, CORPUS, ABOUT)
    sample_posterior(MODEL, CORPUS.train, **SHORT, num_chains=2, store=store)


@pytest.fixture(scope="module", params=[False, True], ids=["float32", "float64"])
def fitted(request, tmp_path_factory):
    """A folder of fits in one precision, and whether that is float64."""
    folder = tmp_path_factory.mktemp("fits")
    with jax.enable_x64(request.param):
        fit_all(folder)
        held = {name: load_run(folder / name)[0] for name in ("map", "posterior")}
        scores = {name: fit.predictive_log_prob(CORPUS.heldout) for name, fit in held.items()}
    return folder, request.param, scores


def test_it_is_read_scored_generated_from_predicted_with_and_compared(fitted):
    folder, double, scores = fitted
    with jax.enable_x64(not double):
        fits = {name: load_run(folder / name)[0] for name in ("map", "posterior")}
        for name, fit in fits.items():
            own = np.float64 if double else np.float32  # draws are kept as they were written
            assert {value.dtype for value in fit.draws.values()} == {np.dtype(own)}
            found = fit.predictive_log_prob(CORPUS.heldout)
            np.testing.assert_allclose(found, scores[name], rtol=1e-5)
            process = fit.process()
            np.testing.assert_allclose(process.log_prob(CORPUS.heldout), found, rtol=1e-5)
            assert process.sample(KEY, (2,)).shape == (2, 3)
            assert np.isfinite(predict(fit, CORPUS.heldout).entropy).all()
        diagnose(fits["posterior"])
        drawn = MODEL.generate(fits["map"].params, 2, key=KEY)
        assert drawn.log_prob.dtype == jax.numpy.result_type(float)
        tree = fits["map"].to_datatree()
        assert tree["map"].attrs["precision"] == ("float64" if double else "float32")
        if not double:  # once: a page compiles for long
            return
        here = fit_map(MODEL, CORPUS.train, key=KEY, num_steps=20, progress=False)
        compared = compare({**fits, "here": here}, CORPUS.heldout, symbols=CORPUS.symbols)
        assert compared


def test_a_mode_starts_chains(fitted):
    folder, double, _ = fitted
    with jax.enable_x64(not double):
        mode = load_run(folder / "map")[0]
        data = jax.numpy.asarray(CORPUS.train)
        start = start_points(MODEL, data, KEY, mode, 1, False)[0]
        assert {value.dtype for value in start.values()} == {jax.numpy.result_type(float)}
        assert np.isfinite(potential(MODEL, data)({k: v[0] for k, v in start.items()}))


def test_data_that_float32_rounds_are_known_again(tmp_path):
    settings = SHORT | {"num_warmup": 1, "num_samples": 1}
    with jax.enable_x64(False):
        sample_posterior(LATENT, PATHS, **settings, num_chains=1, store=tmp_path / "latent")
    for double in (False, True):
        with jax.enable_x64(double):
            fit = load_posterior(LATENT, PATHS, store=tmp_path / "latent")
            assert np.isfinite(fit.predictive_log_prob(PATHS)).all()


def test_it_is_resumed_in_its_own_precision_alone(fitted):
    folder, double, _ = fitted
    store = folder / "posterior" / "store"
    was, now = ("float64", "float32") if double else ("float32", "float64")
    message = f"precision: the run has {was}, now {now}: set JAX_ENABLE_X64={int(double)}"
    before = (store / "store.json").read_bytes()
    with jax.enable_x64(not double), pytest.raises(InputError, match=message) as refused:
        resume_posterior(MODEL, CORPUS.train, store=store, num_samples=21, progress=False)
    assert str(refused.value).count("the run has") == 1  # nothing else differs
    assert (store / "store.json").read_bytes() == before
    with jax.enable_x64(double):
        fit = resume_posterior(MODEL, CORPUS.train, store=store, num_samples=21, progress=False)
    assert fit.shape[1] == 21
