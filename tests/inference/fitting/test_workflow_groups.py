"""Groups of a DataTree by which ArviZ criticises a model: terms of the density, and draws of data.

Each check of ArviZ that the documentation names is called on a small fit of each model.
"""

import functools

import arviz as az
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import pytest
from numpyro.infer.util import log_density

from probattn import InputError
from probattn.inference import Fit
from probattn.models import EmissionModel, LanguageModel, LatentAttention, TransformerLM

KEY = jax.random.key(0)


def lengths(tokens):
    return (tokens != 0).sum(-1)


def first_entry(embeddings):
    return embeddings[..., 0, 0]


MODELS = {
    "factor": LanguageModel(4, 5, 2),
    "normalised": LanguageModel(4, 5, 2, barrier="normalised", contraction=0.9),
    "transformer": TransformerLM(4, 5, dim=4, layers=1, heads=2),
    "emission": EmissionModel(4, 5, 1),
    "embeddings": LatentAttention(2, 4),
}


def drawn(model, chains, number, shrink=1.0):
    """Parameters from the prior, drawn together towards 0."""
    return {
        name: np.asarray(shrink * prior.sample(jax.random.fold_in(KEY, i), (chains, number)))
        for i, (name, prior) in enumerate(model.priors().items())
    }


@functools.cache
def fitted(name, number=30):
    """Draws that no sampler has made, so that nothing of one is compiled, and their tree."""
    tokens = np.asarray([[1, 2, 0, 0, 0], [3, 0, 0, 0, 0], [2, 2, 1, 0, 0], [1, 3, 3, 2, 1]] * 5)
    data = np.random.default_rng(0).normal(size=(20, 4, 2)).astype(np.float32)
    data = data if name == "embeddings" else tokens.astype(np.int32)
    model = MODELS[name]
    # So that all draws are inside the domain.
    draws = drawn(model, 2, number, 0.3)
    energy = np.random.default_rng(1).normal(size=(2, number))
    fit = Fit(model, "posterior", data, draws, {"energy": energy})
    statistic = first_entry if name == "embeddings" else lengths
    return fit, fit.to_datatree(key=KEY, statistic=statistic)


@pytest.mark.parametrize("name", ["factor", "normalised", "transformer", "embeddings"])
def test_the_terms_add_up_to_the_log_density_that_was_fitted(name):
    fit, tree = fitted(name)
    total = sum(
        tree[group].to_dataset().to_array().sum(("variable", *axes))
        for group, axes in (("log_prior", ()), ("log_likelihood", ["sequence"]))
    )
    if "log_path" in tree.children:
        total = total + tree["log_path"]["path"].sum("sequence")
    for chain, draw in ((0, 3), (1, 20)):
        params = {site: jnp.asarray(value[chain, draw]) for site, value in fit.draws.items()}
        wanted = float(log_density(fit.model, (fit.data,), {}, params)[0])
        assert float(total[chain, draw]) == pytest.approx(wanted, rel=1e-4)
    assert ("log_path" in tree.children) == (name == "factor")


@pytest.mark.filterwarnings("ignore")  # ArviZ warns of poor draws and of discrete data
@pytest.mark.parametrize("name", MODELS)
def test_arviz_criticises_every_model(name):
    fit, tree = fitted(name)
    some = list(fit.draws)[:1]
    assert np.isfinite(az.psense(tree, var_names=some)[some[0]]).all()
    for plot in (az.plot_ppc_dist, az.plot_ppc_tstat, az.plot_energy):
        plot(tree, backend="matplotlib")
    az.plot_ppc_dist(tree, group="prior_predictive", backend="matplotlib")
    az.plot_rank(tree, var_names=some, backend="matplotlib")
    az.plot_prior_posterior(tree, var_names=some, backend="matplotlib")
    if name != "embeddings":
        az.plot_ppc_rootogram(tree, backend="matplotlib")
    if not fit.estimated:
        assert np.isfinite(az.psense(tree, group="likelihood", var_names=some)[some[0]]).all()
        assert np.isfinite(az.loo(tree).elpd)
        assert len(az.compare({"one": tree, "other": tree})) == 2
        az.plot_loo_pit(tree, backend="matplotlib")
    plt.close("all")


def test_the_power_of_the_path_is_scaled_by_its_own_group():
    tree = fitted("factor")[1]
    of_path = az.psense(tree.assign(log_prior=tree["log_path"]), var_names=["bias"])
    of_prior = az.psense(tree, var_names=["bias"])
    assert not np.allclose(of_path["bias"], of_prior["bias"])


def repeated(model, number, data):
    """A fit whose draws are all one draw from the prior."""
    one = drawn(model, 1, 1)
    draws = {name: np.repeat(value, number, 1) for name, value in one.items()}
    return {name: value[0, 0] for name, value in one.items()}, Fit(model, "posterior", data, draws)


@pytest.mark.parametrize("name", ["factor", "normalised", "transformer"])
def test_new_data_follow_the_law_of_the_draw(corpus, name):
    """First tokens of 100 times 40 sequences; the largest of four deviations, 4.5 errors."""
    model = MODELS[name]
    params, fit = repeated(model, 100, corpus.train)
    tokens = fit.to_datatree(key=KEY)["posterior_predictive"]["tokens"].values
    assert tokens.shape == (1, 100, *corpus.train.shape)
    p = np.exp(model.process(params).next_token_log_probs(corpus.train[:1])[0, 0])
    share = np.bincount(tokens[..., 0].ravel(), minlength=4) / tokens[..., 0].size
    np.testing.assert_array_less(abs(share - p), 4.5 * np.sqrt(p * (1 - p) / 4000) + 1 / 4000)


def test_prior_draws_are_of_the_prior_and_make_their_own_data(corpus):
    model = MODELS["factor"]
    tree = repeated(model, 200, corpus.train)[1].to_datatree(key=KEY)
    prior, tokens = tree["prior"], tree["prior_predictive"]["tokens"].values[0]
    bias = prior["bias"].values.ravel()  # 800 of N(0, 1): mean and sd within 4.5 errors
    assert abs(bias.mean()) < 4.5 / np.sqrt(bias.size)
    assert abs(bias.std() - 1) < 4.5 / np.sqrt(2 * bias.size)
    params = {name: prior[name].values[0] for name in model.priors()}
    own = [
        float(model.log_likelihood({name: value[i] for name, value in params.items()}, one).mean())
        for i, one in enumerate(tokens)
    ]
    other = [
        float(model.log_likelihood({name: value[i] for name, value in params.items()}, one).mean())
        for i, one in enumerate(np.roll(tokens, 1, axis=0))
    ]
    assert np.mean(own) > np.mean(other)  # data go with the parameters that made them


def test_symbols_label_the_axes_of_the_vocabulary(fits, corpus):
    tree = fits["posterior"].to_datatree(symbols=corpus.symbols)
    assert tree["posterior"]["bias"].dims == ("chain", "draw", "token")
    row = tree["posterior"]["embedding"].sel(token="b")
    np.testing.assert_array_equal(row, fits["posterior"].draws["embedding"][:, :, 2])


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"key": 0}, "key: expected a random key"),
        ({"symbols": ["a"]}, "symbols: expected 4, one for each token"),
        ({"symbols": 3}, "symbols: expected 4, one for each token"),
        ({"statistic": lambda tokens: tokens}, "statistic: expected one number of each sequence"),
    ],
)
def test_bad_input_is_one_line(fits, how, message):
    with pytest.raises(InputError, match=message):
        fits["posterior"].to_datatree(**how)


@pytest.mark.parametrize("name", ["factor", "normalised", "transformer"])
def test_predictions_have_the_probability_of_every_next_token_by_symbol(name):
    fit, _ = fitted(name)
    tokens = np.array([[1, 2, 0, 0, 0], [3, 3, 1, 2, 1]])
    tree = fit.to_datatree(symbols=["end", "a", "b", "c"], predict=tokens)
    found = tree["predictions"]["next_token"]
    assert found.dims == ("chain", "draw", "sequence", "time", "token")
    assert tree["predictions_constant_data"]["tokens"].values.tolist() == tokens.tolist()
    np.testing.assert_allclose(found.sum("token"), 1, rtol=1e-5)
    params = {site: jnp.asarray(value[1, 7]) for site, value in fit.draws.items()}
    for number, (row, length) in enumerate(zip(tokens, (3, 5), strict=True)):
        labels = [["end", "a", "b", "c"][token] for token in row]
        each = [
            float(found.sel(chain=1, draw=7, sequence=number, time=t, token=labels[t]))
            for t in range(length)
        ]
        wanted = float(fit.model.process(params).log_prob(row))
        assert np.log(each).sum() == pytest.approx(wanted, rel=1e-4)


def test_predictions_of_what_cannot_be_predicted_are_refused():
    tokens = np.zeros((1, 5), int)
    with pytest.raises(InputError, match="predict: expected a TokenModel"):
        fitted("embeddings")[0].to_datatree(predict=tokens)
    with pytest.raises(InputError, match="the probabilities of this model are estimates"):
        fitted("emission")[0].to_datatree(predict=tokens)
    with pytest.raises(InputError, match="expected ids 0 to 3, got 7"):
        fitted("factor")[0].to_datatree(predict=tokens + 7)
