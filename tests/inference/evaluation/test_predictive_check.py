"""Predictive checks: statistics from their definitions, p-values with known answers."""

from collections import Counter
from itertools import chain, pairwise

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import pytest

from probattn import FitError, InputError
from probattn.inference import (
    Fit,
    PredictiveCheck,
    plot_check,
    posterior_check,
    prior_check,
)
from probattn.inference.evaluation.many_comparisons import holm
from probattn.inference.evaluation.sequence_statistics import (
    figures_at,
    figures_of_tokens,
    shares_of_tokens,
)
from probattn.models import EmissionModel, LanguageModel, LatentAttention, TransformerLM

V, LENGTH = 5, 6


def some_tokens(number=40, seed=0):
    """Sequences of all lengths, padded with the end token; the last one is that before it."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(1, V, size=(number, LENGTH))
    lengths = rng.integers(0, LENGTH + 1, size=number)
    tokens[np.arange(LENGTH) >= lengths[:, None]] = 0
    tokens[-1] = tokens[-2]
    return tokens


def params_of(model, seed=0, size=1.0):
    return {
        name: size * prior.sample(jax.random.key(seed + i))
        for i, (name, prior) in enumerate(model.priors().items())
    }


def fit_at(model, params, tokens):
    draws = {name: np.asarray(value)[None, None] for name, value in params.items()}
    return Fit(model, "map", tokens, draws)


def test_figures_of_tokens_are_those_of_plain_python():
    tokens = some_tokens()
    words = [[token for token in row if token] for row in tokens.tolist()]
    lengths = np.array([len(word) for word in words])
    pairs = [pair for word in words for pair in pairwise(word)]
    expected = {
        "symbols per sequence": lengths.mean(),
        "their standard deviation": lengths.std(),
        "different symbols per sequence": np.mean([len(set(word)) for word in words]),
        "repeated symbols": np.mean([first == second for first, second in pairs]),
        "sequences without end": np.mean(lengths == LENGTH),
        "different sequences": len({tuple(word) for word in words}) / len(words),
    }
    found = figures_of_tokens(jnp.asarray(tokens))
    assert list(found) == list(expected)
    for name, value in expected.items():
        assert float(found[name]) == pytest.approx(value, rel=1e-6), name


def test_shares_are_counts_of_plain_python():
    tokens = some_tokens()
    words = [[token for token in row if token] for row in tokens.tolist()]
    pairs = Counter()
    for word in words:
        whole = [0, *word, *([0] if len(word) < LENGTH else [])]
        pairs.update(pairwise(whole))
    symbols, lengths = Counter(chain.from_iterable(words)), Counter(map(len, words))
    found = shares_of_tokens(jnp.asarray(tokens), V)
    for name, counts, kinds in (
        ("lengths", lengths, range(LENGTH + 1)),
        ("symbols", symbols, range(V)),
        ("pairs", pairs, [(a, b) for a in range(V) for b in range(V)]),
    ):
        expected = [counts[kind] / counts.total() for kind in kinds]
        assert np.asarray(found[name]) == pytest.approx(expected, rel=1e-6), name


def test_sequences_without_symbols_have_shares_of_zero():
    empty = jnp.zeros((3, LENGTH), int)
    assert float(figures_of_tokens(empty)["repeated symbols"]) == 0
    assert np.asarray(shares_of_tokens(empty, V)["symbols"]).tolist() == [0] * V


def test_pairs_of_a_large_vocabulary_are_left_out():
    assert "pairs" not in shares_of_tokens(jnp.ones((2, 3), int), 257)


def test_figures_that_depend_on_parameters_follow_their_definitions():
    model = LanguageModel(V, LENGTH, dim=2)
    params, tokens = params_of(model), some_tokens()
    found = figures_at(model, params, jnp.asarray(tokens))
    entropies, outside, dets = [], [], []
    interaction = np.asarray(model.attention(params).interaction)[0]
    u = np.asarray(model.path(params, tokens))
    log_prob = np.asarray(model.process(params).next_token_log_probs(tokens))
    for row, word in enumerate(tokens):
        length = min((word != 0).sum() + 1, LENGTH)
        for t in range(length):
            p = np.exp(log_prob[row, t])
            entropies.append(-(p * np.log(p)).sum())
            block = np.eye(2)
            if t:
                scores = u[row, :t] @ interaction @ u[row, t]
                weights = np.exp(scores - scores.max())
                weights /= weights.sum()
                mean = weights @ u[row, :t]
                spread = (u[row, :t] - mean).T @ (weights[:, None] * (u[row, :t] - mean))
                block -= spread @ interaction
            dets.append((row, np.log(abs(np.linalg.det(block)))))
            outside.append(np.linalg.det(block) <= 0)
    assert 0 < np.mean(outside) < 1  # else nothing is tested
    assert float(found["entropy of the next token"]) == pytest.approx(np.mean(entropies), rel=1e-5)
    assert float(found["positions outside the domain"]) == pytest.approx(np.mean(outside), rel=1e-6)
    total = sum(value for _, value in dets) / len(tokens)
    assert float(found["log determinant of a sequence"]) == pytest.approx(total, rel=1e-4)
    smallest = np.nanmin(np.asarray(model.margins(params, tokens)), axis=-1).mean()
    assert float(found["smallest margin"]) == pytest.approx(smallest, rel=1e-5)


def test_holm_multiplies_by_how_many_are_left():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.5]) == pytest.approx([1.0, 1.0])


def drawn_check(rng, draws, shift=0.0, tilt=0.0, kinds=8, number=50):
    """A check whose data sets all have one law, but for those that were seen."""
    p = np.full(kinds, 1 / kinds)
    away = p + tilt * np.linspace(-1, 1, kinds) / kinds
    shares = rng.multinomial(number, away) / number
    new = rng.multinomial(number, p, size=draws) / number
    seen, figures = shift + rng.normal(), rng.normal(size=draws)
    return PredictiveCheck(
        "posterior",
        number,
        {"figure": np.stack([np.full(draws, seen), figures])},
        {"kinds": shares},
        {"kinds": new},
        np.zeros((draws, 1), int),
    )


def test_p_values_of_data_of_the_same_law_are_uniform():
    """With 39 draws the p-values are multiples of 1/40: of 4,000 checks the share at or below 0.1
    has standard error 0.0047, and ties make that of shares smaller, never larger."""
    rng = np.random.default_rng(0)
    found = [drawn_check(rng, 39).p_values() for _ in range(4000)]
    figure = np.array([p["figure"] for p in found])
    kinds = np.array([p["kinds"] for p in found])
    for level in (0.1, 0.5):
        error = np.sqrt(level * (1 - level) / len(found))
        assert np.mean(figure <= level) == pytest.approx(level, abs=4 * error)
        # Ties of distances count against a finding; of 50 sequences in 8 kinds they are few.
        assert level - 0.05 - 4 * error < np.mean(kinds <= level) < level + 4 * error


def test_p_values_of_data_of_another_law_are_small():
    rng = np.random.default_rng(1)
    found = drawn_check(rng, 599, shift=6.0, tilt=0.9, number=1000).p_values()
    assert found == pytest.approx({"figure": 2 / 600, "kinds": 1 / 600})


def test_each_data_set_is_held_to_the_mean_of_the_others():
    check = PredictiveCheck(
        "prior",
        1,
        {},
        {"kinds": np.array([1.0, 0.0])},
        {"kinds": np.array([[0.0, 1.0], [0.0, 1.0]])},
        np.zeros((2, 1), int),
    )
    assert check.distances()["kinds"].tolist() == [1.0, 0.5, 0.5]


def test_a_fit_is_told_from_data_that_are_not_its_own():
    """Data of the fit's own parameters are like its new data, reversed words are not."""
    model = LanguageModel(V, LENGTH, dim=2)
    params = params_of(model, seed=5)
    own = np.asarray(model.process(params).sample(jax.random.key(8), (200,)))
    fit = fit_at(model, params, own)
    alike = posterior_check(fit, own, key=jax.random.key(1), num_draws=400)
    assert alike.number == 400
    assert min(alike.adjusted().values()) > 0.05
    foreign = own.copy()
    for row in foreign:
        length = (row != 0).sum()
        row[:length] = row[:length][::-1]
    apart = posterior_check(fit, foreign, key=jax.random.key(1), num_draws=400).adjusted()
    assert apart["pairs"] < 0.05
    assert apart["symbols"] > 0.05  # the same symbols, in another order
    assert apart["lengths"] > 0.05


MODELS = {
    "language": LanguageModel(V, LENGTH, dim=2),
    "normalised": LanguageModel(
        V, LENGTH, dim=2, barrier="normalised", barrier_weight=1.0, contraction=0.9
    ),
    "lag": LanguageModel(V, LENGTH, dim=2, position="lag"),
    "emission": EmissionModel(V, LENGTH, dim=1),
    "transformer": TransformerLM(V, LENGTH, dim=4, layers=1, heads=2),
}


@pytest.mark.parametrize("name", MODELS)
def test_every_model_of_tokens_has_a_prior_to_check(name):
    check = prior_check(MODELS[name], some_tokens(), key=jax.random.key(0), num_draws=5)
    assert check.source == "prior"
    assert check.examples.shape == (5, LENGTH)
    assert ("smallest margin" in check.figures) == (name in ("language", "normalised", "lag"))
    assert ("entropy of the next token" in check.figures) == (name != "emission")
    assert all(value.shape == (2, 5) for value in check.figures.values())
    assert set(check.p_values()) == {*check.figures, *check.shares}
    assert check.figures["symbols per sequence"][0].tolist() == pytest.approx(
        [(some_tokens() != 0).sum(-1).mean()] * 5
    )


def test_the_figure_has_a_panel_for_each_statistic():
    check = prior_check(MODELS["language"], some_tokens(), key=jax.random.key(0), num_draws=5)
    axes = plot_check(check, ["", *"abcd"])
    assert len(axes) == len(check.figures) + len(check.shares)
    labels = [tick.get_text() for tick in axes[-1].get_xticklabels()]
    assert any(label.startswith("start ") for label in labels)
    assert any(label.endswith(" end") for label in labels)
    with pytest.raises(InputError, match="symbols: expected 5, one for each token, got 2"):
        plot_check(check, ["", "a"])
    plt.close("all")


def test_bad_input_is_refused():
    model, tokens, key = MODELS["language"], some_tokens(), jax.random.key(0)
    with pytest.raises(InputError, match="prior_check: expected a TokenModel"):
        prior_check(LatentAttention(dim=2, length=4), tokens, key=key)
    with pytest.raises(InputError, match="num_draws: expected"):
        prior_check(model, tokens, key=key, num_draws=1)
    with pytest.raises(InputError, match="key: expected"):
        prior_check(model, tokens, key=jnp.zeros(3))
    with pytest.raises(InputError, match="expected ids 0 to 4, got 9"):
        prior_check(model, np.full((2, LENGTH), 9), key=key)
    with pytest.raises(InputError, match="num_draws: expected"):
        posterior_check(fit_at(model, params_of(model), tokens), tokens, key=key, num_draws=1)


def test_a_figure_that_is_not_finite_is_a_failure():
    model = MODELS["language"]
    params = params_of(model) | {"query": np.full((1, 2, 2), np.nan)}
    with pytest.raises(FitError, match="not finite at 3 of 3 draws"):
        posterior_check(
            fit_at(model, params, some_tokens()), some_tokens(), key=jax.random.key(0), num_draws=3
        )


def test_figures_that_differ_by_rounding_are_drawn():
    """Margins of positions that are nearly all 1, as short sequences have them."""
    rng = np.random.default_rng(0)
    nearly = (1 + 1e-7 * rng.normal(size=(2, 40))).astype(np.float32)
    check = PredictiveCheck(
        "prior",
        3,
        {"smallest margin": nearly, "constant": np.ones((2, 40))},
        {"symbols": np.array([0.0, 1.0])},
        {"symbols": np.tile([0.0, 1.0], (40, 1))},
        np.ones((40, 2), int),
    )
    axes = plot_check(check, ["", "a"])
    counts = [sum(bar.get_height() for bar in ax.patches[:30]) for ax in axes[:2]]
    assert counts == [40, 40]
    plt.close("all")
