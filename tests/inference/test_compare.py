"""The comparison: its numbers against hand computations, its page and JSON against its numbers."""

import base64
import dataclasses
import json
import re

import numpy as np
import pytest

from probattn import InputError
from probattn.inference import compare
from probattn.inference.baselines import fit_ngram, token_counts
from probattn.inference.compare import per_token, support_probability
from probattn.inference.figures import figures
from probattn.inference.report import verdicts


@pytest.fixture(scope="module")
def comparison(fits, corpus):
    return compare(
        fits, corpus.heldout, symbols=corpus.symbols, reference_tokens=corpus.train, about={"command": "<b>x</b>"}
    )


def score(comparison, name):
    return next(score for score in comparison.scores if score.name == name)


def test_scores_are_totals_over_totals(comparison, fits, corpus):
    counts = np.array([1 + (row != 0).sum() if (row == 0).any() else len(row) for row in corpus.heldout])
    for name, fit in fits.items():
        log_prob = fit.predictive_log_prob(corpus.heldout)
        np.testing.assert_allclose(score(comparison, name).log_prob_per_token, log_prob.sum() / counts.sum(), rtol=1e-6)
    difference = fits["posterior"].predictive_log_prob(corpus.heldout) - fits["map"].predictive_log_prob(corpus.heldout)
    assert (comparison.differences[0].first, comparison.differences[0].second) == ("posterior", "map")
    np.testing.assert_allclose(comparison.differences[0].log_prob_per_token, difference.sum() / counts.sum(), rtol=1e-5)


def test_standard_error_matches_the_spread_over_repetitions():
    rng = np.random.default_rng(0)
    repeated = []
    for _ in range(2000):
        counts = rng.integers(1, 9, 100)
        log_prob = -2.0 * counts + rng.normal(0, 1, 100) * np.sqrt(counts)
        repeated.append(per_token(log_prob, counts))
    ratios, errors = np.array(repeated).T
    np.testing.assert_allclose(ratios.mean(), -2, atol=4 * ratios.std() / np.sqrt(2000))
    np.testing.assert_allclose(errors.mean(), ratios.std(), rtol=0.1)  # 2,000 repetitions know it to 1.6 %


def test_ngrams_by_hand():
    tokens = np.array([[1, 2, 0], [1, 1, 2], [2, 0, 0], [0, 0, 0], [1, 2, 0]])
    assert token_counts(tokens).tolist() == [3, 3, 2, 1, 3]
    bigram = fit_ngram(tokens, 3, "bigram")
    k = bigram.k
    # Five starts: three go to 1, one to 2, one to the end.
    np.testing.assert_allclose(np.exp(bigram.log_table[0]), np.array([1 + k, 3 + k, 1 + k]) / (5 + 3 * k))
    expected = bigram.log_table[0, 1] + bigram.log_table[1, 2] + bigram.log_table[2, 0]
    np.testing.assert_allclose(bigram.log_prob(tokens)[0], expected)
    unigram = fit_ngram(tokens, 3, "unigram")
    np.testing.assert_allclose(
        np.exp(unigram.log_table[1]), np.array([4 + unigram.k, 4 + unigram.k, 4 + unigram.k]) / (12 + 3 * unigram.k)
    )
    np.testing.assert_allclose(np.exp(bigram.log_table).sum(1), 1)


def test_smoothing_follows_the_data():
    rng = np.random.default_rng(0)
    cycle = np.tile([1, 2, 3, 4], (50, 2))
    noise = rng.integers(1, 20, (20, 8))  # each pair of symbols is seen about once in 300 draws: smooth heavily
    assert fit_ngram(cycle, 5, "bigram").k < 0.1 < 1 < fit_ngram(noise, 20, "bigram").k


def test_support_probability_counts_smallest_margins_only_where_there_are_any():
    margins = np.array(
        [[1.0, 0.5, 0.7, np.nan], [1.0, 0.8, 0.2, np.nan], [1.0, 0.9, 0.3, np.nan], [1.0, 0.1, 0.2, np.nan]]
    )
    assert support_probability(margins).tolist() == [0, 0.5, 0.5, 0]


def test_examples_agree_with_the_margins_of_the_model(comparison, fits, corpus):
    example = comparison.examples[0]
    tokens = corpus.heldout[(corpus.heldout != 0).sum(1) >= 4][0]
    assert example.labels == ("start", *(corpus.symbols[token] for token in tokens[:4]))
    margins = np.asarray(fits["map"].model.margins(fits["map"].params, tokens))[:5]
    np.testing.assert_allclose(example.margins["map"], margins, rtol=1e-5)
    assert example.probability["map"].argmax() == margins.argmin()
    for probability in example.probability.values():
        np.testing.assert_allclose(probability.sum(), 1)


def test_json_holds_every_number_and_is_strict(comparison, tmp_path):
    comparison.save_json(tmp_path / "report.json")
    found = json.loads((tmp_path / "report.json").read_text(), parse_constant=pytest.fail)
    assert [entry["name"] for entry in found["scores"]] == [
        "map",
        "posterior",
        "unigram",
        "bigram",
        "bigram, 40 sequences",
    ]
    assert found["scores"][0]["log_prob_per_token"] == score(comparison, "map").log_prob_per_token
    assert found["diagnostics"][0]["rhat"] == comparison.diagnostics[0].rhat
    assert np.shape(found["traces"]["posterior"]) == (2, 40)


def test_page_is_self_contained_and_says_what_the_numbers_say(comparison, tmp_path):
    comparison.save_html(tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "<script" not in page
    assert not re.findall(r'(?:src|href)="(?!data:)', page)
    assert "<b>x</b>" not in page  # escaped
    assert f"{-score(comparison, 'posterior').log_prob_per_token:.4f}" in page
    images = re.findall(r'<img src="data:image/svg\+xml;base64,([^"]+)" alt="([^"]+)"', page)
    assert len(images) == 4
    assert all(b"<svg" in base64.b64decode(image) and len(alt) > 20 for image, alt in images)
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_figures_show_the_numbers(comparison):
    drawn = figures(comparison)
    assert set(drawn) == {"scores", "margins", "support_tokens", "traces"}
    labels = {text.get_text() for text in drawn["scores"].axes[0].get_yticklabels()}
    assert labels == {"map", "posterior", "unigram", "bigram", "bigram, 40 sequences"}
    annotated = {text.get_text() for text in drawn["scores"].axes[0].texts}
    assert annotated == {f"{-score.log_prob_per_token:.3f}" for score in comparison.scores}
    bars = drawn["support_tokens"].axes[0].patches
    np.testing.assert_allclose([bar.get_height() for bar in bars], comparison.examples[0].probability["posterior"])
    traces = [line.get_ydata() for line in drawn["traces"].axes[0].lines[:2]]
    np.testing.assert_allclose(traces, comparison.traces["posterior"])


def test_verdicts_call_noise_noise(comparison):
    def verdict(size, error):
        changed = dataclasses.replace(comparison.differences[0], log_prob_per_token=size, standard_error=error)
        return verdicts(dataclasses.replace(comparison, differences=(changed,)))[0]

    assert "within noise" in verdict(0.01, 0.006)
    assert verdict(0.02, 0.006).startswith("posterior predicts held-out sequences better than map")
    assert verdict(-0.02, 0.006).startswith("map predicts held-out sequences better than posterior")
    sentences = verdicts(comparison)
    assert f"posterior: {comparison.diagnostics[0].verdict}" in sentences
    assert f"map: {comparison.modes['map']}" in sentences


def test_what_is_not_comparable_is_refused(fits, corpus):
    with pytest.raises(InputError, match="at least one fit"):
        compare({}, corpus.heldout)
    other_data = dataclasses.replace(fits["map"], data=fits["map"].data[:5])
    with pytest.raises(InputError, match="fitted to other training sequences"):
        compare(fits | {"other": other_data}, corpus.heldout)
    other_density = dataclasses.replace(fits["map"], model=dataclasses.replace(fits["map"].model, barrier_weight=0.5))
    with pytest.raises(InputError, match=r"different densities \(map and other differ in barrier_weight: 0.05, 0.5\)"):
        compare(fits | {"other": other_density}, corpus.heldout)
    mixed = compare(fits | {"other": other_density}, corpus.heldout, mix_densities=True)
    assert verdicts(mixed)[0] == (
        "Fits of different densities were mixed knowingly: map and other differ in barrier_weight: 0.05, 0.5."
    )
    assert mixed.to_json()["mixed_densities"] == ["map and other differ in barrier_weight: 0.05, 0.5"]
    with pytest.raises(InputError, match="expected ids 0 to 3, got 7"):
        compare(fits, np.full((3, 5), 7))
    with pytest.raises(InputError, match="symbols: expected 4, one for each token of the model, got 2"):
        compare(fits, corpus.heldout, symbols=("a", "b"))
    with pytest.raises(InputError, match="'bigram' is the name of a baseline"):
        compare({"bigram": fits["map"]}, corpus.heldout)
    with pytest.raises(InputError, match="at least two sequences"):
        compare(fits, corpus.heldout[:1])
