"""Stacking: weights of known mixtures, scores on sequences that chose none of their weights."""

import numpy as np
import pytest
from scipy.stats import norm

from probattn import InputError
from probattn.inference import single_chains, stack, stacking_weights

SHARE, NUMBER = 0.3, 4000


def mixture_of_two(seed=0, number=NUMBER):
    """Log densities of N(-1, 1) and N(1, 1) at draws of their mixture, and of a third far away."""
    rng = np.random.default_rng(seed)
    x = np.where(rng.random(number) < SHARE, -1, 1) + rng.normal(size=number)
    return {name: norm.logpdf(x, mean) for name, mean in (("a", -1), ("b", 1), ("far", 7))}


def test_weights_are_those_of_the_mixture():
    """The error of the share, at most that of a known assignment over the information that is
    left: 1 / sqrt(n I) with I = E[((p_a - p_b) / p)^2] by the draws themselves."""
    log_probs = mixture_of_two()
    a, b = np.exp(log_probs["a"]), np.exp(log_probs["b"])
    information = np.mean(((a - b) / (SHARE * a + (1 - SHARE) * b)) ** 2)
    found = stacking_weights(log_probs)
    assert abs(found["a"] - SHARE) < 4 / np.sqrt(NUMBER * information)
    assert found["far"] < 1e-3
    assert sum(found.values()) == pytest.approx(1)
    # Long sequences, whose probabilities underflow.
    longer = stacking_weights({name: value - 2000 for name, value in log_probs.items()})
    assert longer == pytest.approx(found, abs=1e-3)


def test_weights_maximise_the_log_score():
    log_probs = mixture_of_two(number=200)
    found = stacking_weights(log_probs)["a"]

    def score(share):
        return np.logaddexp(np.log(share) + log_probs["a"], np.log1p(-share) + log_probs["b"]).sum()

    shares = np.linspace(0.001, 0.999, 999)
    best = shares[np.argmax([score(share) for share in shares])]
    assert found == pytest.approx(best, abs=0.003)


def test_a_stack_is_scored_on_sequences_that_chose_none_of_its_weights():
    """Fits of noise: weights chosen on the sequences that are scored would gain, others do not."""
    rng = np.random.default_rng(3)
    log_probs = {str(k): rng.normal(size=40) for k in range(12)}
    tokens = np.ones((40, 3), int)
    found = stack(log_probs, tokens)
    own = stacking_weights(log_probs)
    chosen_on_all = np.logaddexp.reduce(
        [np.log(max(own[k], 1e-300)) + log_probs[k] for k in log_probs], axis=0
    )
    assert found.log_probs.mean() < chosen_on_all.mean()
    half = np.arange(40) % 2 == 1
    weights = stacking_weights({k: value[half] for k, value in log_probs.items()})
    expected = np.logaddexp.reduce(
        [np.log(max(weights[k], 1e-300)) + log_probs[k][~half] for k in log_probs], axis=0
    )
    np.testing.assert_allclose(found.log_probs[~half], expected)
    np.testing.assert_allclose([found.of_parts[k][0] for k in log_probs], list(weights.values()))
    assert found.per_token.value == pytest.approx(found.log_probs.sum() / 120)
    gain = found.gains["0"].value
    assert gain == pytest.approx((found.log_probs - log_probs["0"]).sum() / 120)


def test_equal_fits_are_as_good_as_one():
    log_probs = mixture_of_two(number=50)["a"]
    found = stack({"one": log_probs, "same": log_probs}, np.ones((50, 2), int))
    assert found.gains["one"].value == pytest.approx(0, abs=1e-9)


def test_single_chains_are_parts_of_the_posterior(fits, corpus):
    posterior = fits["posterior"]
    found = single_chains(posterior)
    assert list(found) == ["chain 1", "chain 2"]
    whole = posterior.draw_log_prob(corpus.heldout)
    for number, one in enumerate(found.values()):
        assert one.shape == (1, posterior.shape[1])
        np.testing.assert_allclose(one.draw_log_prob(corpus.heldout)[0], whole[number], rtol=1e-5)
        assert np.shape(one.stats["diverging"]) == one.shape


def test_bad_input_is_told(fits):
    with pytest.raises(InputError, match="at least two fits, got shapes"):
        stacking_weights({"one": np.zeros(4)})
    with pytest.raises(InputError, match="same sequences"):
        stacking_weights({"one": np.zeros(4), "other": np.zeros(5)})
    with pytest.raises(InputError, match="at least 4 sequences, got 3"):
        stack({"one": np.zeros(3), "other": np.zeros(3)}, np.ones((3, 2), int))
    with pytest.raises(InputError, match="draws of Markov chains, got a fit by map"):
        single_chains(fits["map"])
