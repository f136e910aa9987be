"""Next-token predictions and their uncertainty, against laws that are known."""

import jax
import numpy as np
import pytest
from predictors import TRUTH, fit_of, sequences, sharpened

from probattn import InputError
from probattn.inference import fit_laplace, plot_uncertainty, predict, uncertainty
from probattn.inference.data.ngram import fit_ngram
from probattn.inference.evaluation.measured import ratio
from probattn.inference.evaluation.predictive import (
    mixture_conditionals,
    predict_ngram,
    token_log_probs,
)
from probattn.models import LanguageModel

TOLERANCE = 1e-12


def test_predictions_are_those_of_the_mixture_process(fits, corpus):
    prediction = predict(fits["posterior"], corpus.heldout)
    at = prediction.counted
    expected = np.asarray(fits["posterior"].process().next_token_log_probs(corpus.heldout))
    np.testing.assert_allclose(prediction.log_probs[at], expected[at], atol=100 * TOLERANCE)
    np.testing.assert_allclose(
        prediction.token_log_probs.sum(1),
        fits["posterior"].predictive_log_prob(corpus.heldout),
        atol=100 * TOLERANCE,
    )


def test_token_log_probs_make_the_same_conditionals(fits, corpus):
    per_draw = token_log_probs(fits["posterior"], corpus.heldout)
    assert per_draw.shape == (80, *corpus.heldout.shape)
    prediction = predict(fits["posterior"], corpus.heldout)
    np.testing.assert_allclose(
        mixture_conditionals(per_draw), prediction.token_log_probs, atol=100 * TOLERANCE
    )


def test_draws_that_disagree_on_the_first_token_agree_once_they_have_seen_it():
    # Two draws, each sure of another first symbol, that go on alike: all is mutual information, and
    # at the first token only.
    tables = np.full((2, 4, 4), 1e-30)
    tables[0, 0, 1] = tables[1, 0, 2] = 1
    tables[:, 1:, 3] = 1  # after a symbol comes c, and so on
    found = predict(fit_of(tables, length=3), np.array([[1, 3, 3], [2, 3, 3]]))
    np.testing.assert_allclose(found.entropy[:, 0], np.log(2), atol=1e-6)
    np.testing.assert_allclose(found.data_entropy[:, 0], 0, atol=1e-6)
    np.testing.assert_allclose(found.mutual_information[:, 0], np.log(2), atol=1e-6)
    np.testing.assert_allclose(found.mutual_information[:, 1:], 0, atol=1e-6)


def test_mutual_information_reweights_draws_by_the_prefix():
    # By hand: p(first = a) is 0.9 under one draw and 0.2 under the other; after an a the second
    # token is b with certainty under the one and c under the other.
    tables = np.full((2, 4, 4), 1e-30)
    tables[0, 0, 1:3], tables[1, 0, 1:3] = [0.9, 0.1], [0.2, 0.8]
    tables[0, 1:, 2] = tables[1, 1:, 3] = 1
    found = predict(fit_of(tables, length=2), np.array([[1, 2]]))
    weight = 0.9 / 1.1
    expected = -(weight * np.log(weight) + (1 - weight) * np.log(1 - weight))  # and not log 2
    np.testing.assert_allclose(found.mutual_information[0, 1], expected, atol=1e-6)
    np.testing.assert_allclose(np.exp(found.log_probs[0, 1, 2:]), [weight, 1 - weight], atol=1e-6)


def test_uncertainty_of_the_truth_is_its_entropy_rate():
    tokens = sequences(4000)
    prediction = predict(fit_of([TRUTH]), tokens)
    entropy = -(TRUTH * np.log(TRUTH)).sum(1)  # after each token
    before = np.concatenate([np.zeros_like(tokens[:, :1]), tokens[:, :-1]], axis=1)
    at = prediction.counted
    found = uncertainty(prediction)
    np.testing.assert_allclose(found.total.value, entropy[before[at]].mean(), atol=TOLERANCE)
    np.testing.assert_allclose(found.mutual_information.value, 0, atol=10 * TOLERANCE)
    # What the truth is uncertain of is what it loses, on average.
    loss = ratio(-prediction.token_log_probs.sum(1), at.sum(1))
    assert abs(loss.value - found.total.value) < 4 * loss.error


def test_uncertainty_adds_up_and_is_drawn_as_it_is():
    tokens = sequences(200)
    fits = {
        "one": fit_of([TRUTH]),
        "several": fit_of([TRUTH, sharpened(TRUTH, 3), sharpened(TRUTH, 0.3)]),
    }
    found = {name: uncertainty(predict(fit, tokens)) for name, fit in fits.items()}
    assert {name: one.method for name, one in found.items()} == {
        name: fit.method for name, fit in fits.items()
    }
    for one in found.values():
        np.testing.assert_allclose(
            one.total.value, one.data.value + one.mutual_information.value, atol=100 * TOLERANCE
        )
    assert found["several"].mutual_information.value > 0.02 > found["one"].mutual_information.value
    ax = plot_uncertainty(fits, tokens)
    widths = [patch.get_width() for patch in ax.patches]
    expected = [part.value for one in found.values() for part in (one.data, one.mutual_information)]
    np.testing.assert_allclose(widths, expected, atol=TOLERANCE)
    assert [label.get_text() for label in ax.get_yticklabels()] == ["one", "several"]
    assert "nats" in ax.get_xlabel()


def test_ngrams_predict_their_table():
    tokens = sequences(50)
    ngram = fit_ngram(tokens, 4, "bigram")
    prediction = predict_ngram(ngram, tokens)
    np.testing.assert_allclose(prediction.token_log_probs.sum(1), ngram.log_prob(tokens))
    np.testing.assert_allclose(prediction.data_entropy, prediction.entropy)
    assert prediction.method == prediction.first(3).method == "baseline"


def test_tokens_that_no_model_takes_are_refused(fits):
    with pytest.raises(InputError, match="tokens: expected held-out sequences"):
        plot_uncertainty(fits)
    with pytest.raises(InputError, match="expected ids 0 to 3"):
        predict(fits["map"], np.full((2, 5), 9))


def test_laplace_predicts_like_any_mixture(corpus):
    fit = fit_laplace(
        LanguageModel(4, 5, 1, barrier_weight=0.0),
        corpus.train,
        key=jax.random.key(0),
        num_samples=20,
        progress=False,
    )
    prediction = predict(fit, corpus.heldout)
    np.testing.assert_allclose(
        np.exp(prediction.log_probs[prediction.counted]).sum(-1), 1, atol=1e-4
    )
    assert prediction.mutual_information[prediction.counted].mean() > 0
