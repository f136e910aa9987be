"""One fit on one device and on several: the same result, by work that is really divided."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from known import DATA, Conjugate, Line

from probattn import InputError
from probattn.inference import (
    fit_ensemble,
    fit_laplace,
    fit_map,
    resume_posterior,
    sample_microcanonical,
    sample_posterior,
)
from probattn.inference.devices.device_placement import Placement, place_chains, place_data
from probattn.inference.devices.sharding import (
    ON_ALL_DEVICES,
    WITHIN_A_CHAIN,
    replicate,
    split_model,
)
from probattn.inference.fitting.unconstrained import draw_start, potential
from probattn.models import EmissionModel, LanguageModel

KEY = jax.random.key(0)
MODEL = LanguageModel(4, 5, 2)
LONG_DATA = np.random.default_rng(0).normal(1, 1, (39, 1))
CHAINS = dict(
    key=KEY, num_warmup=6, num_samples=6, max_tree_depth=3, start="random", progress=False
)
# Sums of two halves round otherwise than the whole: by some eps of it, which 40 steps or a few
# trajectories magnify.
EPS = float(jnp.finfo(jnp.zeros(()).dtype).eps)


def assert_close(one, other, magnified=1e3):
    one, other = np.asarray(one), np.asarray(other)
    np.testing.assert_allclose(
        other, one, rtol=0, atol=magnified * EPS * max(1, abs(one).max()), strict=True
    )


@pytest.fixture
def tokens(corpus):
    """An odd number of sequences."""
    return corpus.train[:39]


# Log determinants of a number that does not divide are computed on both.
@pytest.mark.parametrize(("number", "share"), [(40, 0.6), (39, 0.8)], ids=["even", "odd"])
def test_a_gradient_on_two_devices_is_that_on_one_for_half_of_the_work(corpus, number, share):
    tokens = corpus.train[:number]
    z = jax.tree.map(lambda leaf: leaf[0], draw_start(MODEL, tokens, KEY[None]))
    gradient, flops = {}, {}
    for devices in (1, 2):
        placement = place_data(devices)
        model = split_model(MODEL, placement)
        program = jax.jit(
            lambda z, data, model=model: jax.value_and_grad(potential(model, data))(z)
        )
        compiled = program.lower(z, replicate(jnp.asarray(tokens), placement)).compile()
        gradient[devices], flops[devices] = (
            compiled(z, replicate(tokens, placement)),
            compiled.cost_analysis()["flops"],
        )
        assert ("all-reduce" in compiled.as_text()) == (devices == 2)
    jax.tree.map(assert_close, gradient[1], gradient[2])
    assert flops[2] < share * flops[1]


def test_a_minibatch_is_split_too(corpus):
    z = jax.tree.map(lambda leaf: leaf[0], draw_start(MODEL, corpus.train, KEY[None]))
    flops = []
    for model in (MODEL, split_model(MODEL, place_data(2))):

        def loss(z, data, model=model):
            from numpyro.handlers import seed
            from numpyro.infer.util import log_density

            return log_density(seed(model, 0), (data,), {"batch_size": 32}, z)[0]

        flops.append(
            jax.jit(jax.grad(loss)).lower(z, corpus.train).compile().cost_analysis()["flops"]
        )
    assert flops[1] < 0.7 * flops[0]


# The descent on all data of a model with attention is that of latent variables, below.
@pytest.mark.parametrize(
    ("model", "settings"),
    [(Line(), {}), (MODEL, {"batch_size": 16, "num_starts": 2})],
    ids=["whole", "minibatches"],
)
def test_a_map_is_the_same_on_two_devices(tokens, model, settings):
    data = tokens if model is MODEL else LONG_DATA
    one, two = (
        fit_map(model, data, key=KEY, num_steps=40, devices=devices, progress=False, **settings)
        for devices in (None, 2)
    )
    assert_close(one.stats["loss"], two.stats["loss"])
    for name, value in one.draws.items():
        assert_close(value, two.draws[name], 1e4)
    assert_close(one.verdict.numbers["gradient_norm"], two.verdict.numbers["gradient_norm"], 1e4)
    assert one.gradients == two.gradients


def test_latent_variables_are_split_with_their_sequences(corpus):
    # With the embeddings of so many sequences it has over 1000 numbers, of which no Hessian is
    # compiled.
    model, tokens = EmissionModel(4, 5, 1), np.tile(corpus.train, (6, 1))[:210]
    one, two = (
        fit_map(model, tokens, key=KEY, num_steps=10, devices=devices, progress=False)
        for devices in (1, 2)
    )
    assert_close(one.latents["embeddings"], two.latents["embeddings"], 1e4)
    assert_close(one.stats["loss"], two.stats["loss"])


@pytest.mark.parametrize("num_chains", [1, 2])
def test_a_short_posterior_is_the_same_on_two_devices(num_chains):
    """One chain on two shards, and two on one each. Long chains part, as trajectories magnify what
    rounding differs in.

    A model with attention would take no other path: its gradient on two devices is looked at above.
    """
    one, two = (
        sample_posterior(Line(), LONG_DATA, num_chains=num_chains, devices=devices, **CHAINS)
        for devices in (1, 2)
    )
    np.testing.assert_array_equal(one.stats["n_steps"][:, 0], two.stats["n_steps"][:, 0])
    # 12 iterations of up to 7 steps.
    assert_close(one.stats["potential_energy"], two.stats["potential_energy"], 1e8)
    assert_close(one.draws["slopes"], two.draws["slopes"], 1e8)


def test_chains_start_at_the_same_modes(monkeypatch):
    monkeypatch.setattr("probattn.inference.fitting.chain_starts.MODE_STEPS", 40)
    settings = CHAINS | {"start": "maps", "num_warmup": 1, "num_samples": 1}
    one, two = (
        sample_posterior(Line(), LONG_DATA, num_chains=1, devices=devices, **settings)
        for devices in (1, 2)
    )
    assert_close(one.stats["potential_energy"], two.stats["potential_energy"], 1e5)


def test_a_run_goes_on_bit_for_bit_on_its_devices_and_on_no_others(tmp_path, monkeypatch):
    for module in ("fitting.chain_program", "fitting.posterior"):
        monkeypatch.setattr(f"probattn.inference.{module}.CHUNK_ITERATIONS", 4)
    whole = sample_posterior(Line(), LONG_DATA, num_chains=1, devices=2, **CHAINS)
    sample_posterior(Line(), LONG_DATA, num_chains=1, devices=2, store=tmp_path / "run", **CHAINS)
    for path in sorted((tmp_path / "run" / "chunks").iterdir())[2:]:
        path.unlink()
    resumed = resume_posterior(Line(), LONG_DATA, store=tmp_path / "run", progress=False)
    np.testing.assert_array_equal(whole.draws["slopes"], resumed.draws["slopes"])
    with pytest.raises(
        InputError,
        match=r"num_devices: the run has 2, now 1; placement num_shards: the run has 2, now 1",
    ):
        sample_posterior(
            Line(), LONG_DATA, num_chains=1, devices=1, store=tmp_path / "run", **CHAINS
        )


@pytest.mark.parametrize("fit", [fit_ensemble, fit_laplace])
def test_what_is_made_of_modes_is_the_same_on_two_devices(fit):
    one, two = (
        fit(Conjugate(), DATA, key=KEY, devices=devices, progress=False) for devices in (1, 2)
    )
    assert_close(one.draws["theta"], two.draws["theta"], 1e5)


def test_microcanonical_chains_take_devices():
    settings = dict(num_warmup=100, num_samples=4, thinning=1, start="random", progress=False)
    fit = sample_microcanonical(Line(), LONG_DATA, key=KEY, num_chains=1, devices=2, **settings)
    assert fit.shape == (1, 4)


@pytest.mark.parametrize(
    ("placement", "words"),
    [
        (Placement("parallel", 2, 8, "gpu", 4), "2 chains x 4 shards of the data on 8 gpu devices"),
        (
            Placement("batches", 4, 4, "cpu", 2),
            "4 chains x 2 shards of the data on 4 cpu devices, 2 on every 2, one after the other",
        ),
        (
            Placement("vectorised", 4, 3, "gpu", 3, 3),
            "4 chains x 3 shards of the data on 3 gpu devices of 3 processes, vectorised",
        ),
    ],
)
def test_a_placement_says_what_is_where(placement, words):
    assert str(placement) == words


@pytest.mark.parametrize(
    ("num_chains", "devices", "groups", "shards"),
    [
        (4, 8, 4, 2),
        (2, 8, 2, 4),
        (8, 8, 8, 1),
        (8, 4, 4, 1),
        (4, 6, 2, 3),
        (3, 8, 1, 8),
        (1, 1, 1, 1),
    ],
)
def test_chains_come_first_and_the_data_have_the_rest(
    monkeypatch, num_chains, devices, groups, shards
):
    monkeypatch.setattr(jax, "device_count", lambda: 8)
    placement = place_chains(num_chains, devices=devices)
    assert (placement.num_groups, placement.num_shards, placement.num_devices) == (
        groups,
        shards,
        devices,
    )


def test_what_is_not_split_is_the_model_itself():
    assert split_model(MODEL, place_data()) is MODEL
    assert split_model(MODEL, place_chains(2, devices=2), WITHIN_A_CHAIN) is MODEL
    assert split_model(MODEL, place_chains(2, devices=2), ON_ALL_DEVICES) is not MODEL


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: fit_map(Conjugate(), DATA, key=KEY, devices=3),
            "devices: expected at most the 2 that there are",
        ),
        (
            lambda: fit_map(Conjugate(), DATA, key=KEY, devices=0),
            "devices: expected a whole number of at least 1, got 0",
        ),
        (
            lambda: fit_map(Conjugate(), DATA[:1], key=KEY, devices=2, progress=False),
            "devices: 2 shards of the data need as many sequences, got 1",
        ),
        (
            lambda: sample_posterior(
                Conjugate(), DATA, key=KEY, num_chains=3, devices=2, chain_method="parallel"
            ),
            (
                "chain_method: parallel needs a device for each of 3 chains, 2 devices make 1 "
                "equal groups"
            ),
        ),
    ],
)
def test_devices_that_are_not_there_are_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()
