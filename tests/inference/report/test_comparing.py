"""The comparison: its numbers against hand computations, its verdicts against its numbers."""

import dataclasses

import numpy as np
import pytest

from probattn import InputError
from probattn.inference import compare, learning_curve, stack
from probattn.inference.data.ngram import fit_ngram, token_counts
from probattn.inference.evaluation.measured import Measured
from probattn.inference.report.sentences import findings, warnings_of
from probattn.inference.report.summary_table import Answer, reference_of


@pytest.fixture(scope="module")
def comparison(fits, corpus):
    return compare(fits, corpus.heldout, symbols=corpus.symbols, reference_tokens=corpus.train)


def score(comparison, name):
    return next(score for score in comparison.scores if score.name == name)


def texts(found):
    return [finding.text for finding in found]


def test_a_difference_has_one_sign_in_tables_and_sentences(comparison, tmp_path):
    rows = {row.figure: row.differences["posterior"] for row in comparison.answers}
    comparison.save_html(tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    loss = comparison.answers[0].differences["posterior"]
    assert f'<td>posterior \N{MINUS SIGN} map</td><td class="n">{loss.value:+.4f} ±' in page
    noise = next(value for name, value in rows.items() if name.startswith("loss under noise"))
    said = [one.text for one in findings(comparison) if one.topic == "robustness"]
    assert f", {noise.signed}" in said[0]
    assert "minus that of map" in said[0]
    word = next(row for row in comparison.answers if row.differences["posterior"] is noise)
    assert f"posterior {word.word('posterior').replace('within', 'the same within')}" in said[0]


def test_scores_are_totals_over_totals(comparison, fits, corpus):
    counts = np.array(
        [1 + (row != 0).sum() if (row == 0).any() else len(row) for row in corpus.heldout]
    )
    for name, fit in fits.items():
        log_prob = fit.predictive_log_prob(corpus.heldout)
        found = score(comparison, name)
        np.testing.assert_allclose(found.per_token.value, log_prob.sum() / counts.sum(), rtol=1e-6)
        np.testing.assert_allclose(found.per_sequence.value, log_prob.mean(), rtol=1e-6)
        across = log_prob.std(ddof=1) / np.sqrt(len(counts))
        of_draws = np.nan_to_num(found.draws_error) / len(counts)
        assert (of_draws > 0) == (name == "posterior")
        error = np.hypot(across, of_draws)
        np.testing.assert_allclose(found.per_sequence.error, error, rtol=1e-5)
        assert (found.gradients, found.seconds) == (fit.gradients, fit.seconds)
    difference = fits["posterior"].predictive_log_prob(corpus.heldout) - fits[
        "map"
    ].predictive_log_prob(corpus.heldout)
    found = comparison.differences[0]
    assert (found.first, found.second) == ("posterior", "map")
    np.testing.assert_allclose(found.per_token.value, difference.sum() / counts.sum(), rtol=1e-5)
    of_draws = score(comparison, "posterior").draws_error / len(counts)
    across = difference.std(ddof=1) / np.sqrt(len(counts))
    np.testing.assert_allclose(found.per_sequence.error, np.hypot(across, of_draws), rtol=1e-5)


def test_ngrams_by_hand():
    tokens = np.array([[1, 2, 0], [1, 1, 2], [2, 0, 0], [0, 0, 0], [1, 2, 0]])
    assert token_counts(tokens).tolist() == [3, 3, 2, 1, 3]
    bigram = fit_ngram(tokens, 3, "bigram")
    k = bigram.k
    # Five starts: three go to 1, one to 2, one to the end.
    np.testing.assert_allclose(
        np.exp(bigram.log_table[0]), np.array([1 + k, 3 + k, 1 + k]) / (5 + 3 * k)
    )
    expected = bigram.log_table[0, 1] + bigram.log_table[1, 2] + bigram.log_table[2, 0]
    np.testing.assert_allclose(bigram.log_prob(tokens)[0], expected)
    unigram = fit_ngram(tokens, 3, "unigram")
    np.testing.assert_allclose(
        np.exp(unigram.log_table[1]),
        np.array([4 + unigram.k, 4 + unigram.k, 4 + unigram.k]) / (12 + 3 * unigram.k),
    )
    np.testing.assert_allclose(np.exp(bigram.log_table).sum(1), 1)


def test_smoothing_follows_the_data():
    rng = np.random.default_rng(0)
    cycle = np.tile([1, 2, 3, 4], (50, 2))
    noise = rng.integers(
        1, 20, (20, 8)
    )  # each pair of symbols is seen about once in 300 draws: smooth heavily
    assert fit_ngram(cycle, 5, "bigram").k < 0.1 < 1 < fit_ngram(noise, 20, "bigram").k


def test_the_table_in_short_pairs_each_figure_with_the_reference(comparison):
    answers = {(answer.figure, answer.unit): answer for answer in comparison.answers}
    loss = answers["held-out loss", "nats per token"]
    assert loss.reference == "map"
    np.testing.assert_allclose(
        loss.differences["posterior"].value, -comparison.differences[0].per_token.value, rtol=1e-6
    )
    np.testing.assert_allclose(
        loss.differences["posterior"].error, comparison.differences[0].per_token.error, rtol=1e-6
    )
    for answer in comparison.answers:
        values = {name: value.value for name, value in answer.values.items()}
        assert set(values) == {"map", "posterior"}
        np.testing.assert_allclose(
            answer.differences["posterior"].value,
            values["posterior"] - values["map"],
            atol=2e-6,
            err_msg=answer.figure,
        )
    figures = " ".join(answer.figure for answer in comparison.answers)
    for part in (
        "Brier",
        "calibration error",
        "shuffled, by surprise",
        "reversed, by uncertainty",
        "noise of 0.4",
    ):
        assert part in figures
    assert comparison.left_out == {
        f"typos ({kind})": "tokens: expected two sequences with room for 2 typos, got 0"
        for kind in ("swap", "drop", "insert", "substitute")
    }  # words of five tokens have no room for two typos and an end


def test_words_follow_the_numbers():
    def word(value, error, lower=True):
        values = {"a": Measured(1.0, 0.1), "b": Measured(1 + value, 0.1)}
        return Answer("loss", "nats", lower, "a", values, {"b": Measured(value, error)}).word("b")

    assert word(-0.1, 0.06) == word(0.1, 0.06) == "within noise"
    assert word(-0.1, 0.04) == word(0.1, 0.04, lower=False) == "better"
    assert word(0.1, 0.04) == word(-0.1, 0.04, lower=False) == "worse"
    assert reference_of({"p": "posterior", "m": "map"}) == "m"
    assert reference_of({"p": "posterior", "l": "laplace"}) == "p"


def test_findings_call_noise_noise(comparison):
    def finding(size, error):
        changed = dataclasses.replace(comparison.differences[0], per_token=Measured(size, error))
        return findings(dataclasses.replace(comparison, differences=(changed,)))[0].text

    assert "within noise" in finding(0.01, 0.006)
    assert finding(0.02, 0.006).startswith(
        "posterior predicts held-out sequences better than map, by 0.0200 ± 0.0060"
    )
    assert finding(-0.02, 0.006).startswith(
        "map predicts held-out sequences better than posterior, by 0.0200 ± 0.0060"
    )


def test_every_verdict_has_an_interval(comparison):
    for finding in findings(comparison):
        without = ("density", "left out", "leave-one-out", "checks", "what decides what")
        if finding.topic not in without:
            assert any(word in finding.text for word in ("±", "in 95 of 100 cases")), finding
    topics = [finding.topic for finding in findings(comparison)]
    assert topics[0] == "prediction"
    assert {
        "baseline",
        "calibration",
        "detection",
        "robustness",
        "support tokens",
        "density",
    } <= set(topics)


def test_the_page_has_a_stack_of_its_fits_and_checks_of_all(comparison, fits, corpus):
    log_probs = {name: fit.predictive_log_prob(corpus.heldout) for name, fit in fits.items()}
    found = comparison.stack
    expected = stack(log_probs, corpus.heldout)
    assert found.weights == pytest.approx(expected.weights)
    assert f"weights map {found.weights['map']:.2f}" in " ".join(texts(findings(comparison)))
    assert list(comparison.checks) == ["map", "posterior"]
    assert comparison.prior.source == "prior"
    assert list(comparison.power_scaling) == ["posterior"]
    said = [one.text for one in findings(comparison) if one.topic == "what decides what"]
    assert said[0].startswith("In posterior the prior ")
    alone = compare({"map": fits["map"]}, corpus.heldout)
    assert alone.stack is None
    assert "needs two fits" in alone.left_out["the stack of the fits"]


def test_the_gain_over_the_baseline_is_paired(comparison, fits, corpus):
    counts = token_counts(corpus.heldout)
    for name, fit in fits.items():
        gains = {
            order: fit.predictive_log_prob(corpus.heldout)
            - fit_ngram(corpus.train, 4, order).log_prob(corpus.heldout)
            for order in ("unigram", "bigram")
        }
        best = min(gains, key=lambda order: gains[order].sum())
        said = next(t for t in texts(findings(comparison)) if "of the same sequences" in t)
        assert said.startswith(f"Loss minus that of the {best} of the same sequences")
        assert f", {-gains[best].sum() / counts.sum():+.3f}" in said.split(f"{name} ")[1]


def test_unfinished_and_unconverged_runs_are_said_first(comparison, fits, corpus):
    unfinished = dataclasses.replace(fits["posterior"], planned=100)
    found = warnings_of(compare({"map": fits["map"], "posterior": unfinished}, corpus.heldout))
    assert found[0].topic == "unfinished"
    assert found[0].text.startswith("posterior is unfinished: 40 of 100 draws a chain.")
    assert found[0].fit == "posterior"
    verdict = comparison.diagnostics[0].verdict
    assert not verdict.converged
    assert f"posterior has not converged: {' '.join(verdict.findings)}" in texts(
        warnings_of(comparison)
    )


def test_sequences_from_elsewhere_and_a_learning_curve_are_taken_along(fits, corpus):
    other = np.array([[3, 3, 3, 3, 0]] * 6, np.int32)
    curve = learning_curve({"map": [fits["map"]]}, corpus.heldout)
    found = compare(
        {"map": fits["map"]}, corpus.heldout, elsewhere={"c.txt": other}, learning_curve=curve
    )
    assert list(found.detection) == ["shuffled", "reversed", "from c.txt"]
    assert any("from c.txt" in text for text in texts(findings(found)))
    assert any(finding.topic == "training size" for finding in findings(found))
    assert found.answers[0].differences == {}  # one fit is compared with nothing
    assert found.notes == ()
    of_other = dataclasses.replace(curve, model="LanguageModel(dim=7)")
    noted = compare({"map": fits["map"]}, corpus.heldout, learning_curve=of_other)
    assert (
        "The learning curve is of another model, LanguageModel(dim=7)"
        in texts(warnings_of(noted))[-1]
    )
    with pytest.raises(InputError, match="other held-out sequences"):
        compare(fits, corpus.heldout[:-1], learning_curve=curve)


def test_the_best_fit_is_compared_with_all_and_a_better_mode_is_named(comparison, fits, corpus):
    posterior = fits["posterior"]
    best = dataclasses.replace(
        posterior, method="ensemble", draws={n: v[:, -3:] for n, v in posterior.draws.items()}
    )
    found = compare({**fits, "best": best}, corpus.heldout)
    order = sorted(
        (score.loss, score.name) for score in found.scores if score.name in found.methods
    )
    said = texts(findings(found))
    pairs = [text for text in said if "(paired)" in text]
    assert len(pairs) == (
        3 if order[0][1] != "map" else 2
    )  # with the reference, and of the best with the other
    assert not any("not the best mode" in text for text in said)
    # A "MAP" that is a draw of the posterior is no mode when the MAP is among the others.
    worse = dataclasses.replace(
        fits["map"], draws={n: v[:1, :1] for n, v in posterior.draws.items()}
    )
    better = dataclasses.replace(fits["map"], method="ensemble")
    said = texts(findings(compare({"map": worse, "ensemble": better}, corpus.heldout)))
    gap = (
        comparison.draw_scores["map"].log_joint[0]
        - comparison.draw_scores["posterior"].log_joint[0]
    )
    assert (
        "map is not the best mode here: the log joint density of a draw of ensemble is "
        f"{gap:.1f} nats higher." in said
    )


def test_what_is_not_comparable_is_refused(fits, corpus):
    with pytest.raises(InputError, match="at least one fit"):
        compare({}, corpus.heldout)
    other_data = dataclasses.replace(fits["map"], data=fits["map"].data[:5])
    with pytest.raises(InputError, match="fitted to other training sequences"):
        compare(fits | {"other": other_data}, corpus.heldout)
    other_density = dataclasses.replace(
        fits["map"], model=dataclasses.replace(fits["map"].model, barrier_weight=0.5)
    )
    with pytest.raises(
        InputError,
        match=r"different densities \(map and other differ in barrier_weight: 0.05, 0.5\)",
    ):
        compare(fits | {"other": other_density}, corpus.heldout)
    mixed = compare(fits | {"other": other_density}, corpus.heldout, mix_densities=True)
    said = (
        "Fits of different densities were mixed knowingly: map and other differ in barrier_weight: "
        "0.05, 0.5."
    )
    assert said in texts(warnings_of(mixed))
    assert mixed.to_json()["mixed"] == ["map and other differ in barrier_weight: 0.05, 0.5"]
    with pytest.raises(InputError, match="expected ids 0 to 3, got 7"):
        compare(fits, np.full((3, 5), 7))
    with pytest.raises(
        InputError, match="symbols: expected 4, one for each token of the model, got 2"
    ):
        compare(fits, corpus.heldout, symbols=("a", "b"))
    with pytest.raises(InputError, match="'bigram' is the name of a baseline"):
        compare({"bigram": fits["map"]}, corpus.heldout)
    with pytest.raises(InputError, match="at least two sequences"):
        compare(fits, corpus.heldout[:1])
