"""Fits of an emission model: latent embeddings, scores by particles, comparison with another
density, storage."""

import dataclasses
import json

import arviz as az
import jax
import numpy as np
import pytest

from probattn import InputError, ProcessMixture
from probattn.inference import (
    compare,
    fit_map,
    load_run,
    particle_log_prob,
    sample_posterior,
    save_run,
)
from probattn.inference.fitting.density import density_of
from probattn.inference.fitting.fit import mixture_error, mixture_log_prob
from probattn.inference.report.panels import figures
from probattn.inference.report.sentences import findings
from probattn.models import EmissionModel, LanguageModel

MODEL = EmissionModel(4, 5, 1, num_particles=20)
KEY = jax.random.key(0)
NUM_PARTICLES = 400  # and as many draws and sequences in all tests, so that one filter is compiled


@pytest.fixture(scope="module")
def emission_fits(corpus):
    mode = fit_map(MODEL, corpus.train, key=KEY, num_steps=60, progress=False)
    posterior = sample_posterior(
        MODEL,
        corpus.train,
        key=KEY,
        num_chains=2,
        num_warmup=60,
        num_samples=30,
        max_tree_depth=4,
        start=mode,
        progress=False,
    )
    return {"emission map": mode, "emission posterior": posterior}


@pytest.fixture(scope="module")
def filtered(emission_fits, corpus):
    return particle_log_prob(
        MODEL,
        emission_fits["emission posterior"].draws,
        corpus.heldout,
        num_particles=NUM_PARTICLES,
        key=KEY,
    )


@pytest.fixture(scope="module")
def comparison(fits, emission_fits, corpus):
    both = {"map": fits["map"], "emission posterior": emission_fits["emission posterior"]}
    return compare(both, corpus.heldout, symbols=corpus.symbols, mix_densities=True)


def test_embeddings_are_kept_apart_from_parameters(emission_fits):
    posterior = emission_fits["emission posterior"]
    assert set(posterior.draws) == set(MODEL.priors())
    assert posterior.latents["embeddings"].shape == (2, 30, 40, 5, 1)
    assert emission_fits["emission map"].latents["embeddings"].shape == (1, 1, 40, 5, 1)
    tree = posterior.to_datatree()
    assert tree["posterior"]["embeddings"].shape == (2, 30, 40, 5, 1)
    assert "log_likelihood" not in tree.children
    mixture = posterior.process()
    assert isinstance(mixture, ProcessMixture)
    assert mixture.num_draws == 60


def test_noise_coordinates_keep_noise_and_embeddings(corpus):
    noise = dataclasses.replace(MODEL, coordinates="noise")
    # With the embeddings of so many sequences it has over 1000 numbers, of which no Hessian is
    # compiled.
    fit = fit_map(noise, np.tile(corpus.train, (5, 1)), key=KEY, num_steps=20, progress=False)
    assert set(fit.latents) == {"noise", "embeddings"}
    solved = noise.embedding_process(fit.params).transform(fit.latents["noise"][0, 0])
    eps = np.finfo(solved.dtype).eps
    np.testing.assert_allclose(
        fit.latents["embeddings"][0, 0], solved, rtol=100 * eps, atol=100 * eps
    )


def test_particle_log_prob_over_draws_and_sequences(filtered, emission_fits, corpus):
    assert filtered.log_prob.shape == filtered.standard_error.shape == (2, 30, 20)
    assert filtered.effective_sample_size.shape == (2, 30, 20, 5)
    one = {name: value[1, 2] for name, value in emission_fits["emission posterior"].draws.items()}

    def of_one(params):
        return particle_log_prob(
            MODEL, params, corpus.heldout[1], num_particles=NUM_PARTICLES, key=jax.random.key(1)
        )

    alone = of_one(one)
    assert alone.log_prob.shape == ()
    error = np.hypot(alone.standard_error, filtered.standard_error[1, 2, 1])
    assert 0 < error < 0.1
    assert abs(alone.log_prob - filtered.log_prob[1, 2, 1]) < 4 * error
    # As under jit, it is traced; what it traces to is run a step at a time, whose filter is
    # compiled already.
    traced = jax.make_jaxpr(of_one)(one)
    again, *_ = jax.core.eval_jaxpr(traced.jaxpr, traced.consts, *jax.tree.leaves(one))
    np.testing.assert_allclose(again, alone.log_prob, rtol=1e-3)


def drawn_from_the_prior(**changed):
    """One draw of the parameters for each of a posterior of 2 chains of 30, all the same."""
    keys = jax.random.split(KEY, len(MODEL.priors()))
    one = {
        name: prior.sample(key)
        for key, (name, prior) in zip(keys, MODEL.priors().items(), strict=True)
    } | changed
    return jax.tree.map(lambda leaf: np.broadcast_to(leaf, (2, 30, *leaf.shape)), one)


def test_the_same_draw_given_twice_is_estimated_twice(corpus):
    found = particle_log_prob(
        MODEL, drawn_from_the_prior(), corpus.heldout, num_particles=NUM_PARTICLES, key=KEY
    ).log_prob[0, :6]
    assert all(len(np.unique(of_sequence)) == 6 for of_sequence in found.T)


def test_too_few_particles_are_told_with_the_step(corpus):
    """Readouts as steep as 60 leave the prior of an embedding hardly a place."""
    params = drawn_from_the_prior(readout=np.array([[-60.0], [60.0], [0.0], [-60.0]]))
    with pytest.warns(
        UserWarning, match=rf"of {NUM_PARTICLES} particles at position \d .*Raise `num_particles`"
    ) as caught:
        found = particle_log_prob(
            MODEL, params, corpus.heldout, num_particles=NUM_PARTICLES, key=KEY
        )
    worst = int(np.nanmin(found.effective_sample_size, axis=(0, 1, 2)).argmin())
    assert f"at position {worst} (counted from 0)" in str(caught[0].message)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda p, t: particle_log_prob(MODEL, p, t, num_particles=1, key=KEY),
            "num_particles: expected a whole number of at least 2",
        ),
        (
            lambda p, t: particle_log_prob(MODEL, p, t * 9, num_particles=10, key=KEY),
            "tokens: expected ids 0 to 3",
        ),
        (
            lambda p, t: particle_log_prob(MODEL, p, t[:, :3], num_particles=10, key=KEY),
            "to length 5, got length 3",
        ),
        (
            lambda p, t: particle_log_prob(LanguageModel(4, 5, 1), p, t, num_particles=10, key=KEY),
            "particle_log_prob: expected a ParticleModel",
        ),
        (
            lambda p, t: particle_log_prob(
                MODEL, {"bias": p["bias"]}, t, num_particles=10, key=KEY
            ),
            "params: expected query, .* got none for key, lag_bias",
        ),
        (
            lambda p, t: particle_log_prob(
                MODEL, p | {"bias": p["bias"][0]}, t, num_particles=10, key=KEY
            ),
            "params: expected the same leading axes",
        ),
    ],
)
def test_bad_input_is_refused(emission_fits, corpus, call, message):
    with pytest.raises(InputError, match=message):
        call(emission_fits["emission posterior"].draws, corpus.heldout)


def test_scores_are_those_of_the_particle_filter(comparison, filtered, corpus):
    score = next(score for score in comparison.scores if score.name == "emission posterior")
    counts = np.array(
        [1 + (row != 0).sum() if (row == 0).any() else len(row) for row in corpus.heldout]
    )
    expected = mixture_log_prob(np.asarray(filtered.log_prob)).sum() / counts.sum()
    # 32 of the 60 draws, with 5 particles each, against all of them with 400.
    assert abs(score.per_token.value - expected) < 4 * score.monte_carlo_error + 0.02
    assert 0 < score.monte_carlo_error < 0.05
    assert score.parameters == 4 + 4 + 1 + 1 + 1 + 1 + 4
    errors = mixture_error(np.asarray(filtered.log_prob), np.asarray(filtered.standard_error))
    assert (errors < np.asarray(filtered.standard_error).max((0, 1))).all()


def test_another_density_is_marked_wherever_it_stands(comparison, tmp_path):
    densities = {score.name: score.density for score in comparison.scores}
    assert densities["map"] == "LanguageModel"
    assert densities["emission posterior"] == "EmissionModel"
    assert densities["bigram"] == ""
    sentences = [finding.text for finding in findings(comparison)]
    assert sum("They are different densities" in sentence for sentence in sentences) == 1
    assert sum("estimated by particles" in sentence for sentence in sentences) == 1
    comparison.save_html(tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "<td>EmissionModel</td>" in page
    assert "of it from particles" in page
    # Noise on embeddings that are latent is part of the model, and PSIS-LOO takes no estimates.
    assert list(comparison.left_out)[:2] == ["PSIS-LOO of emission posterior", "embedding noise"]
    assert comparison.uniqueness["emission posterior"].capped
    comparison.save_json(tmp_path / "report.json")
    found = json.loads((tmp_path / "report.json").read_text())
    assert {score["density"] for score in found["scores"]} == {"LanguageModel", "EmissionModel", ""}
    titles = [ax.get_title(loc="left") for ax in figures(comparison)["support_tokens"].axes]
    assert {"map", "emission posterior"} <= set(titles)
    # Paths of the two models hold different things: examples are labelled for each.
    assert any(
        example.labels[0] == "start" and "map" in example.margins for example in comparison.examples
    )
    assert any(
        example.labels[0] != "start" and "emission posterior" in example.margins
        for example in comparison.examples
    )


def test_convergence_is_that_of_an_exact_quantity_of_all_draws(comparison, emission_fits, corpus):
    fit, diagnostic = emission_fits["emission posterior"], comparison.diagnostics[0]
    assert (diagnostic.chains, diagnostic.draws) == (2, 30)
    assert diagnostic.quantity.startswith("log probability of the training tokens given")
    u, one = (
        fit.latents["embeddings"][1, 3],
        {name: value[1, 3] for name, value in fit.draws.items()},
    )
    rows = np.asarray(jax.nn.log_softmax(u @ one["readout"].T + one["bias"]))
    before_end = np.cumprod(corpus.train != 0, axis=1)
    scored = np.concatenate([np.ones((40, 1)), before_end[:, :-1]], axis=1)
    expected = (np.take_along_axis(rows, corpus.train[..., None], -1)[..., 0] * scored).sum()
    emitted = MODEL.emitted(one | {"embeddings": u}, corpus.train)
    np.testing.assert_allclose(emitted, expected, rtol=1e-5)
    values = {**fit.draws, **fit.latents}
    of_all = [
        [MODEL.emitted({k: v[i, j] for k, v in values.items()}, corpus.train) for j in range(30)]
        for i in (0, 1)
    ]
    np.testing.assert_allclose(diagnostic.rhat, az.rhat(np.array(of_all)), rtol=1e-3)


def test_coordinates_make_another_density_and_particles_do_not(emission_fits, corpus):
    assert dataclasses.replace(MODEL, coordinates="noise", num_particles=30).law == MODEL.law
    density = emission_fits["emission map"].density
    assert density_of(dataclasses.replace(MODEL, num_particles=30), corpus.train) == density
    noise = density_of(dataclasses.replace(MODEL, coordinates="noise"), corpus.train)
    assert density.differences(noise) == ["coordinates: embedding, noise"]
    fit = emission_fits["emission map"]
    other = dataclasses.replace(fit, model=dataclasses.replace(MODEL, contraction=0.5))
    with pytest.raises(InputError, match="different densities"):
        compare({"u": fit, "other": other}, corpus.heldout)


def test_a_run_directory_keeps_the_embeddings(emission_fits, corpus, tmp_path):
    fit = emission_fits["emission posterior"]
    save_run(tmp_path / "run", fit, corpus, {})
    again, _, _ = load_run(tmp_path / "run")
    assert again.model == MODEL
    for name, value in {**fit.draws, **fit.latents}.items():
        np.testing.assert_array_equal({**again.draws, **again.latents}[name], value)


def test_expectations_agree_in_both_coordinates():
    tokens = np.array([[1, 2, 1, 2], [1, 2, 0, 0], [2, 1, 2, 1], [1, 1, 2, 0]])
    found = []
    for coordinates in ("embedding", "noise"):
        model = EmissionModel(3, 4, 1, coordinates=coordinates)
        fit = sample_posterior(
            model,
            tokens,
            key=KEY,
            num_chains=2,
            num_warmup=200,
            num_samples=400,
            max_tree_depth=5,
            progress=False,
        )
        values = {**fit.draws, **fit.latents}
        quantities = jax.jit(
            jax.vmap(jax.vmap(lambda values, m=model: m.quantities(values, tokens)))
        )(values)
        # Norms and signless forms: O and V are known up to a reflection of u.
        quantities = {
            "interaction": quantities["interaction"][..., 0, 1, 1],
            "value": quantities["value"][..., 0, 1, 2],
            "emitted": quantities["emitted"],
            "log_det": quantities["log_det"],
            "first": (values["embeddings"][:, :, 0, 0, 0] * values["readout"][:, :, 1, 0]),
        }
        found.append({name: np.asarray(value, float) for name, value in quantities.items()})
    for name in found[0]:
        means = [values[name].mean() for values in found]
        sizes = [float(az.ess(values[name])) for values in found]
        assert min(sizes) > 40, name
        error = np.sqrt(
            sum(values[name].var() / size for values, size in zip(found, sizes, strict=True))
        )
        assert abs(means[0] - means[1]) < 4 * error, name
        assert error < 0.35 * found[0][name].std(), name
