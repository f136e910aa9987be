"""The barrier as a part of the law of tokens (theory, section 7), against a law by hand."""

import dataclasses
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from probattn import InputError, path_log_density
from probattn.inference.fitting.unconstrained import potential
from probattn.models import LanguageModel
from probattn.sequence.shared_prefixes import PrefixTree

ROUNDING = 1e4 * float(jnp.finfo(jnp.zeros(()).dtype).eps)
MODELS = {
    "small weight": LanguageModel(3, 4, 2, barrier_weight=0.05, barrier="normalised"),
    "two heads": LanguageModel(4, 4, 3, heads=2, barrier_weight=0.5, barrier="normalised"),
    "whole weight": LanguageModel(4, 4, 2, barrier_weight=1.0, barrier="normalised", scale=0.7),
    "cap": LanguageModel(4, 4, 3, barrier_weight=1.0, barrier="normalised", contraction=0.8),
    "one position": LanguageModel(3, 1, 2, barrier_weight=1.0, barrier="normalised"),
}
every_model = pytest.mark.parametrize("name", MODELS)


def drawn(model, stretch=1.0, seed=0):
    return {
        name: stretch * np.asarray(prior.sample(jax.random.key(seed + i)), float)
        for i, (name, prior) in enumerate(model.priors().items())
    }


def all_sequences(model):
    """All sequences with nothing but the end token after the first one."""
    rows = np.array(list(product(range(model.vocab_size), repeat=model.length)))
    ended = np.cumsum(rows == 0, 1) - (rows == 0) > 0
    return rows[~(ended & (rows != 0)).any(1)]


def by_hand(model, params, sequences):
    """log p of sequences (n, length), token by token and candidate by candidate."""
    plain = dataclasses.replace(model, barrier="factor", barrier_weight=0.0)
    rows = np.array(plain.next_token_logits(params, sequences), float)  # [n, t, v]
    for t, v in product(range(model.length - 1), range(model.vocab_size)):
        with_v = sequences.copy()
        with_v[:, t] = v
        # What follows position t + 1 has no part in its density.
        u = model.path(params, np.pad(with_v[:, : t + 1], ((0, 0), (0, model.length - t - 1))))
        density = path_log_density(model.attention(params), u, model.scale)[:, t + 1]
        rows[:, t, v] += model.barrier_weight * np.asarray(density, float)
    nowhere = np.isneginf(rows).all(-1)  # the sequence ends
    rows[nowhere] = np.where(np.arange(model.vocab_size) == 0, 0, -np.inf)
    rows -= np.logaddexp.reduce(rows, axis=-1, keepdims=True)
    chosen = np.take_along_axis(rows, sequences[..., None], -1)[..., 0]
    counts = np.cumsum(sequences == 0, 1) - (sequences == 0) == 0
    return np.where(counts, chosen, 0).sum(1)


@every_model
@pytest.mark.parametrize("stretch", [1.0, 2.5])
def test_it_is_the_law_by_hand_and_has_mass_one(name, stretch):
    model = MODELS[name]
    params, sequences = drawn(model, stretch, seed=40), all_sequences(MODELS[name])
    expected = by_hand(model, params, sequences)
    found = np.asarray(model.log_likelihood(params, sequences), float)
    np.testing.assert_array_equal(np.isneginf(found), np.isneginf(expected))
    np.testing.assert_allclose(np.exp(found).sum(), 1, rtol=ROUNDING)
    finite = np.isfinite(expected)
    np.testing.assert_allclose(found[finite], expected[finite], rtol=ROUNDING, atol=ROUNDING)


def test_some_tokens_have_probability_zero_and_not_under_the_cap():
    """The case that the test above is to have seen."""
    open_model = MODELS["two heads"]
    params = drawn(open_model, 2.5, seed=40)
    sequences = all_sequences(open_model)
    impossible = np.isneginf(open_model.log_likelihood(params, sequences))
    assert 0 < impossible.sum() < len(impossible)
    outside = open_model.outside_domain(params, sequences)
    np.testing.assert_array_equal(np.asarray(outside).any(1), impossible)
    capped = dataclasses.replace(open_model, contraction=0.8)
    assert np.isfinite(capped.log_likelihood(params, all_sequences(capped))).all()


def test_where_no_candidate_is_inside_the_sequence_ends():
    """One dimension: keys at -1 and 1 under a strong pull leave nothing between them."""
    model = LanguageModel(2, 4, 1, barrier_weight=1.0, barrier="normalised")
    zero = {name: np.zeros(prior.shape()) for name, prior in model.priors().items()}
    position = np.array([[-1.0], [1.0], [0.0], [0.0]])
    params = zero | {"position": position, "query": np.full((1, 1, 1), 3.0)}
    params |= {"key": np.full((1, 1, 1), 1.0)}
    rows = np.exp(model.process(params).conditionals(jnp.array([[1, 1, 1, 1]])))[0]
    np.testing.assert_allclose(rows[0], [0.5, 0.5])  # both have the same embedding
    np.testing.assert_allclose(rows[1], [1, 0])  # both are outside: position 2 is between the keys
    assert model.log_likelihood(params, np.array([1, 1, 1, 0])) == -np.inf


@every_model
def test_cached_decoding_is_that_of_whole_passes(name):
    model = MODELS[name]
    params, process = drawn(model, 2.0), model.process(drawn(model, 2.0))
    tokens = all_sequences(model)[-1]
    state, rows = process.cached_step.start(params), []
    for t in range(model.length):
        previous = jnp.asarray(tokens[t - 1] if t else 0)
        state, logits = process.cached_step.step(params, state, previous, jnp.asarray(t))
        rows.append(logits)
    expected = model.next_token_logits(params, tokens[None])[0]
    np.testing.assert_allclose(np.stack(rows), expected, rtol=ROUNDING, atol=ROUNDING)


@pytest.mark.parametrize("name", ["two heads", "whole weight"])
def test_each_prefix_once_is_the_same_density(name):
    model = MODELS[name]
    tokens = np.tile(all_sequences(model)[::5], (4, 1))
    tree = model.condensed(tokens)
    assert isinstance(tree, PrefixTree)
    z = drawn(model, 0.3)
    both = [jax.value_and_grad(potential(model, data))(z) for data in (tokens, tree)]
    np.testing.assert_allclose(both[1][0], both[0][0], rtol=ROUNDING)
    for parameter in z:
        largest = abs(np.asarray(both[0][1][parameter])).max()
        np.testing.assert_allclose(
            both[1][1][parameter], both[0][1][parameter], rtol=0, atol=ROUNDING * largest
        )


def test_gradients_are_those_of_finite_differences():
    model = MODELS["two heads"]
    tokens, params = all_sequences(model)[::7], drawn(model, 0.7)

    def total(params):
        return model.log_likelihood(params, tokens).sum()

    gradient = jax.grad(total)(params)
    direction = drawn(model, 1.0, seed=50)
    step = 1e-5
    ends = [
        float(total({name: params[name] + sign * step * direction[name] for name in params}))
        for sign in (1, -1)
    ]
    along = sum(float((gradient[name] * direction[name]).sum()) for name in params)
    # Central differences are exact to second order: some 1e-10 of the third derivative.
    np.testing.assert_allclose((ends[0] - ends[1]) / (2 * step), along, rtol=1e-6)


def test_draws_follow_the_law():
    model = MODELS["whole weight"]
    params, sequences = drawn(model, 2.0), all_sequences(model)
    number = 20_000
    draws = np.asarray(model.process(params).sample(jax.random.key(1), (number,)))
    code = model.vocab_size ** np.arange(model.length)
    counts = np.bincount(draws @ code, minlength=code[-1] * model.vocab_size)[sequences @ code]
    expected = np.exp(np.asarray(model.log_likelihood(params, sequences), float))
    assert counts.sum() == number
    assert (counts[expected == 0] == 0).all()
    error = np.sqrt(np.maximum(number * expected * (1 - expected), 1))
    assert (abs(counts - number * expected) < 5 * error).all()  # of 150: once in 10,000 runs


def test_it_has_no_factor_and_the_other_has():
    model = MODELS["two heads"]
    tokens, params = all_sequences(model)[:9], drawn(model)
    assert not model.has_factor
    assert (model.log_factors(params, tokens) == 0).all()
    factor = dataclasses.replace(model, barrier="factor")
    assert factor.has_factor
    assert (factor.log_factors(params, tokens) != 0).all()
    assert not dataclasses.replace(factor, barrier_weight=0.0).has_factor
    plain = dataclasses.replace(model, barrier_weight=0.0)
    for barrier in ("factor", "normalised"):
        found = dataclasses.replace(plain, barrier=barrier).log_likelihood(params, tokens)
        np.testing.assert_array_equal(found, plain.log_likelihood(params, tokens))
    with pytest.raises(InputError, match="barrier: expected one of factor, normalised, got 'both'"):
        LanguageModel(3, 4, 2, barrier="both")
