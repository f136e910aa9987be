"""Survival and tightness, with a law that is not tight."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sequence_cases import (
    NAMES,
    bigram_logits,
    cases,
    every_array,
    recurrent_logits,
    recurrent_params,
)

from probattn import InputError, SequenceProcess
from probattn.models import LanguageModel


@pytest.mark.parametrize("name", NAMES)
def test_survival_is_the_mass_that_has_not_ended(name):
    case = cases()[name]
    process = case.process
    tokens = every_array(process)
    assert float(process.survival(0)) == 1
    # Each n is a program: all of them of one law, of the others the first, one with histories, and
    # the whole length.
    for n in range(1, process.length + 1) if name == "recurrent" else (1, 3, process.length):
        alive = (tokens[:, :n] != process.end_token).all(1)
        found = process.survival(n)
        assert found.exact
        np.testing.assert_allclose(float(found), case.law.ravel()[alive].sum(), rtol=0, atol=1e-12)


def test_sequences_in_chunks_are_each_counted_once(monkeypatch):
    process = SequenceProcess(recurrent_logits, recurrent_params(7, 4), length=5, vocab_size=4)
    alive = (every_array(process)[:, :5] != 0).all(1)
    expected = np.exp(process.log_prob(every_array(process)))[alive].sum()
    monkeypatch.setattr(
        "probattn.sequence.enumeration.CHUNK_LOGITS", 10 * 5 * 4
    )  # 81 sequences in chunks of 10: the last has one
    np.testing.assert_allclose(float(process.survival(5)), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["recurrent", "mixture"])
def test_survival_by_monte_carlo_is_within_its_error_which_beats_counting(name):
    process = cases()[name].process
    exact = float(process.survival(5))
    errors = []
    for seed in range(8):
        found = process.survival(5, method="monte_carlo", key=jax.random.key(seed))
        errors.append((float(found) - exact) / found.standard_error)
        assert found.standard_error < np.sqrt(exact * (1 - exact) / 10_000)
    # The mean of 8 squared z-scores has mean 1 and standard deviation 1/2.
    assert np.mean(np.square(errors)) < 1 + 4 * 0.5
    assert np.mean(np.square(np.array(errors) + 4)) > 1 + 4 * 0.5


def test_a_starved_bigram_is_not_tight():
    """The counter-example: after token 1 comes token 1 for ever, so half of all sequences never
    end."""
    process = cases()["starved"].process
    np.testing.assert_allclose(
        [float(process.survival(n)) for n in range(1, 6)], 0.5, rtol=0, atol=1e-12
    )
    found = process.tightness()
    assert not found.tight
    assert found.delta == 0
    assert found.survival_bound(100) == 1
    assert "after some history the end has probability 0" in found.reason


def slowly_starving_logits(params, tokens):
    """p(end at step t) = 2^-(t + 1): positive at every step, but its sum is finite."""
    end = 0.5 ** (jnp.arange(len(tokens)) + 2.0)
    return jnp.log(jnp.stack([end, 1 - end], axis=-1))


def test_a_positive_probability_at_each_step_is_no_proof():
    process = SequenceProcess(slowly_starving_logits, (), length=20, vocab_size=2)
    assert float(process.survival(20)) > 0.57  # the infinite product is 0.5775...
    found = process.tightness()
    assert not found.tight
    assert found.horizon == 20
    assert found.delta == pytest.approx(0.5**21)
    assert "20 positions only" in found.reason
    assert float(process.survival(20)) <= found.survival_bound(20)
    assert found.survival_bound(10**6) == found.survival_bound(20)


@pytest.mark.parametrize("name", ["recurrent", "language model", "mixture"])
def test_the_bound_holds_at_every_history(name):
    process = cases()[name].process
    found = process.tightness()
    rows = np.exp(process.next_token_log_probs(every_array(process)))
    ends = rows[..., process.end_token]
    assert ends.min() >= found.delta * (1 - 1e-9)
    assert not found.tight  # of finitely many positions, or of a model that has no more
    if name == "language model":
        assert found.horizon == process.length
        assert "says nothing beyond" in found.reason
        assert found.survival_bound(1000) == found.survival_bound(process.length)
    for n in (0, 1, 3, process.length):
        assert float(process.survival(n)) <= found.survival_bound(n) + 1e-12
    if name != "language model":
        assert ends.min() == pytest.approx(found.delta)


def test_a_mixture_is_as_tight_as_its_loosest_draw():
    from probattn import ProcessMixture

    model = LanguageModel(3, 4, 2)
    draws = {
        name: jax.random.normal(jax.random.key(1), (5, *prior.shape()))
        for name, prior in model.priors().items()
    }
    first = {name: value[0] for name, value in draws.items()}
    mixture = ProcessMixture(model.process(first), draws)
    single = [
        mixture.template.at({name: value[i] for name, value in draws.items()}).tightness()
        for i in range(5)
    ]
    assert mixture.tightness().horizon == 4
    assert mixture.tightness().delta == pytest.approx(min(one.delta for one in single), rel=1e-5)


def test_a_history_that_cannot_occur_does_not_lower_the_bound():
    table = np.log(np.array([[0.5, 0.5, 1e-300], [0.5, 0.5, 1e-300], [1e-300, 1e-300, 1.0]]))
    table = np.where(table < -100, -np.inf, table)
    process = SequenceProcess(bigram_logits, table, length=4, vocab_size=3)
    assert process.tightness().delta == pytest.approx(0.5)


def test_the_models_bound_is_attained_where_all_embeddings_are_one():
    model = LanguageModel(3, 4, 2, heads=2)
    draw = np.random.default_rng(3).standard_normal
    params = {name: 0.3 * draw(prior.shape()) for name, prior in model.priors().items()}
    params["embedding"][:] = params["embedding"][0]
    params["position"][:] = 0
    process = model.process(params)
    assert process.tightness().delta < 0.9
    np.testing.assert_allclose(process.tightness().delta, process.marginal([0]).value[0], rtol=1e-5)


def test_a_bound_of_zero_proves_nothing():
    process = SequenceProcess(
        slowly_starving_logits, (), length=3, vocab_size=2, end_probability_bound=lambda params: 0.0
    )
    assert not process.tightness().tight
    assert "not above 0" in process.tightness().reason


@pytest.mark.parametrize("n", [-1, 7, 2.0, True])
def test_bad_numbers_are_refused(n):
    with pytest.raises(InputError, match="n: expected"):
        cases()["recurrent"].process.survival(n)
