"""Margins of every candidate, against whole paths that end with it."""

from itertools import product

import jax
import numpy as np
import pytest

from probattn import Decoding, InputError, stability_margin
from probattn.models import LanguageModel

MODELS = {
    "one head": LanguageModel(4, 5, 2),
    "two heads of low rank": LanguageModel(3, 4, 3, heads=2, rank=1),
    "cap": LanguageModel(3, 4, 2, contraction=0.8),
    "normalised": LanguageModel(4, 4, 2, barrier_weight=1.0, barrier="normalised"),
    "one position": LanguageModel(3, 1, 2),
}


def drawn(model, stretch, seed=0):
    return {
        name: stretch * np.asarray(prior.sample(jax.random.key(seed + i)), float)
        for i, (name, prior) in enumerate(model.priors().items())
    }


@pytest.mark.parametrize("name", MODELS)
def test_they_are_the_margins_of_the_paths_that_end_with_them(name):
    model = MODELS[name]
    params, rng = drawn(model, 1.6), np.random.default_rng(0)
    tokens = rng.integers(model.vocab_size, size=(2, 3, model.length))
    tokens = np.where(counts(tokens), tokens[..., None], 0)[..., 0]
    found = model.candidates(params, tokens)
    np.testing.assert_allclose(
        found.log_prob, np.where(counts(tokens), model_rows(model, params, tokens), np.nan)
    )
    attention, seen = model.attention(params), 0
    for t, v in product(range(model.length), range(model.vocab_size)):
        with_v = tokens.copy()
        with_v[..., t] = v
        u = model.path(params, with_v)  # what follows position t + 1 has no part in its block
        for kind, values in (("sigma_min", found.margin), ("log_det", found.log_det)):
            if t + 1 == model.length:
                assert np.isnan(np.asarray(values)[..., t, v]).all()
                continue
            expected = np.asarray(stability_margin(attention, u, kind))[..., t + 1]
            expected = np.where(counts(tokens)[..., t, 0], expected, np.nan)
            # Rounding of J is a thousand times smaller than its entries in float32.
            np.testing.assert_allclose(
                np.asarray(values)[..., t, v], expected, rtol=1e-3, atol=1e-4, err_msg=kind
            )
            seen += np.isfinite(expected).sum()
    assert seen > 0 or model.length == 1


def model_rows(model, params, tokens):
    return np.asarray(model.process(params).next_token_log_probs(tokens))


def counts(tokens):
    return (np.cumsum(tokens == 0, -1) - (tokens == 0) == 0)[..., None]


def test_those_outside_are_those_of_probability_zero_under_the_normalised_barrier():
    model = MODELS["normalised"]
    tokens = np.array([[1, 2, 3, 1], [3, 3, 1, 2], [2, 0, 0, 0]])
    met = 0
    for seed, stretch in product(range(0, 60, 10), (1.5, 2.5, 4.0)):
        found = model.candidates(drawn(model, stretch, seed), tokens)
        outside, log_prob = np.asarray(found.outside), np.asarray(found.log_prob)
        np.testing.assert_array_equal(outside, np.isneginf(log_prob))
        met += outside.sum()
        assert not outside[2, 2:].any()  # after the end
    assert met > 0


def test_generated_tokens_follow_the_rule_and_its_probabilities():
    model = MODELS["one head"]
    params = drawn(model, 1.0)
    found = model.generate(params, 5, key=jax.random.key(0), decoding=Decoding(top_k=1))
    tokens, log_prob = np.asarray(found.tokens), np.asarray(found.log_prob)
    assert (tokens == tokens[0]).all()  # greedy
    np.testing.assert_array_equal(log_prob[np.isfinite(log_prob)], 0)
    best = np.nan_to_num(np.asarray(model.candidates(params, tokens).log_prob), nan=-9).argmax(-1)
    before_end = counts(tokens)[..., 0]
    np.testing.assert_array_equal(tokens[before_end], best[before_end])
    same, plain = (
        model.generate(params, 5, key=jax.random.key(0), **rule)
        for rule in ({"decoding": Decoding()}, {})
    )
    np.testing.assert_array_equal(same.tokens, plain.tokens)


def test_bad_tokens_are_refused():
    with pytest.raises(InputError, match="tokens"):
        MODELS["cap"].candidates(drawn(MODELS["cap"], 1.0), np.zeros((2, 9), int))
