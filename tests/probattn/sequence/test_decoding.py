"""Decoded laws: by loops over every sequence, with the rule applied to a sorted list."""

import re
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sequence_cases import NAMES, bigram_logits, cases, every_array

from probattn import Decoding, InputError, ProcessMixture, SequenceProcess, decoded
from probattn.models import LanguageModel
from probattn.sequence.causality import check_causal

RULES = {
    "hot": Decoding(temperature=1.7),
    "cold": Decoding(temperature=0.4),
    "greedy": Decoding(top_k=1),
    "two": Decoding(top_k=2),
    "nucleus": Decoding(nucleus=0.7),
    "all": Decoding(temperature=0.8, top_k=2, nucleus=0.6),
}


@cache
def by_sorting(row, rule):
    """A row of probabilities decoded, from a sorted list of its tokens."""
    powers = [p ** (1 / rule.temperature) for p in row]
    ranked = sorted(range(len(row)), key=lambda token: (-powers[token], token))
    ranked = ranked[: rule.top_k]
    total, kept, mass = sum(powers[token] for token in ranked), [], 0.0
    for token in ranked:
        if mass >= rule.nucleus:
            break
        kept.append(token)
        mass += powers[token] / total
    whole = sum(powers[token] for token in kept)
    return [powers[token] / whole if token in kept else 0.0 for token in range(len(row))]


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
@pytest.mark.parametrize("name", [name for name in NAMES if name != "mixture"])
def test_the_law_is_a_product_of_decoded_conditionals_and_has_mass_one(name, rule):
    process = cases()[name].process
    arrays = every_array(process)
    every_row = np.exp(np.asarray(process.next_token_log_probs(arrays), float))
    expected = []
    for tokens, rows in zip(arrays, every_row, strict=True):
        probability, ended = 1.0, False
        for token, row in zip(tokens, rows, strict=True):
            after_end = float(token == process.end_token)
            probability *= after_end if ended else by_sorting(tuple(row), rule)[token]
            ended = ended or token == process.end_token
        expected.append(probability)
    found = jnp.exp(decoded(process, rule).log_prob(arrays))
    # Products of `length` rounded conditionals.
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=1e-12)
    np.testing.assert_allclose(found.sum(), 1, rtol=1e-5)


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_a_cached_step_gives_the_law_of_whole_passes(rule):
    model = LanguageModel(5, 6, 2)
    law = decoded(model.process(model_params(model)), rule)
    check_causal(law.next_token_logits, law.params, 6, 5, True, law.cached_step)
    tokens = law.sample(jax.random.key(0), (300,))
    assert np.isfinite(law.log_prob(tokens)).all()
    without = SequenceProcess(
        law.next_token_logits, law.params, length=6, vocab_size=5, batched=True, cached_step=None
    )
    np.testing.assert_allclose(law.log_prob(tokens), without.log_prob(tokens), rtol=1e-6)


def constant(params, tokens):
    return jnp.broadcast_to(params, (len(tokens), 4))


def end_probability(params):
    return jnp.exp(jax.nn.log_softmax(params)[0])


def model_params(model):
    names = model.priors()
    return {
        name: prior.sample(key)
        for key, (name, prior) in zip(
            jax.random.split(jax.random.key(1), len(names)), names.items(), strict=True
        )
    }


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
def test_the_bound_on_ending_follows_from_the_undecoded_one(temperature):
    """It holds for rows drawn at random, and is attained by the two extreme ones."""

    process = SequenceProcess(
        constant, jnp.zeros(4), length=2, vocab_size=4, end_probability_bound=end_probability
    )
    law, rng = decoded(process, Decoding(temperature=temperature)), np.random.default_rng(0)
    rows = [rng.normal(size=4) * 3 for _ in range(50)]
    for row in rows:
        ends = float(jnp.exp(law.at(row).next_token_log_probs(jnp.zeros(2, int)))[0, 0])
        assert float(law.at(row).end_bound()) <= ends * (1 + 1e-5)
    extreme = [0.1, 0.3, 0.3, 0.3] if temperature > 1 else [0.1, 0.9, 0.0, 0.0]
    law = law.at(jnp.log(jnp.array(extreme)))
    powers = np.array(extreme) ** (1 / temperature)
    np.testing.assert_allclose(float(law.end_bound()), powers[0] / powers.sum(), rtol=1e-5)
    assert float(decoded(process, Decoding(top_k=2)).end_bound()) == 0
    assert float(decoded(process, Decoding(nucleus=0.9)).end_bound()) == 0


def test_ties_keep_the_smaller_id_and_a_failure_is_no_token():
    tied = jnp.array([0.0, 1.0, 1.0, 1.0])
    np.testing.assert_array_equal(
        np.isfinite(Decoding(top_k=2).logits(tied)), [False, True, True, False]
    )
    failed = jnp.array([[0.0, jnp.nan, 1.0], [0.0, -jnp.inf, 1.0]])
    found = np.asarray(Decoding(top_k=1).logits(failed))
    assert np.isnan(found[0]).all()
    np.testing.assert_array_equal(found[1], [-np.inf, -np.inf, 0.0])  # from the largest


def test_the_most_extreme_rules_are_greedy_or_fair():
    logits = jnp.array([-3.0, 2.0, 300.0, -jnp.inf])
    for greedy in (Decoding(temperature=1e-6), Decoding(nucleus=1e-6), Decoding(1e6, top_k=1)):
        np.testing.assert_allclose(jax.nn.softmax(greedy.logits(logits)), [0, 0, 1, 0])
    fair = jax.nn.softmax(Decoding(temperature=1e6).logits(logits))
    np.testing.assert_allclose(fair, [1 / 3, 1 / 3, 1 / 3, 0], atol=1e-3)
    assert Decoding(temperature=np.float32(0.5)) == Decoding(temperature=0.5)


def test_equal_rules_share_programs_and_mixtures_are_decoded_draw_by_draw():
    process = SequenceProcess(bigram_logits, np.zeros((3, 3)), length=3, vocab_size=3)
    first, second = (decoded(process, Decoding(top_k=2)) for _ in range(2))
    assert first.next_token_logits is second.next_token_logits
    draws = np.random.default_rng(0).normal(size=(4, 3, 3))
    mixture = ProcessMixture(first, draws)
    expected = np.mean(
        [jnp.exp(first.at(draw).log_prob(every_array(process))) for draw in draws], axis=0
    )
    np.testing.assert_allclose(jnp.exp(mixture.log_prob(every_array(process))), expected, rtol=1e-5)
    for wrong in ({"top_k": 2}, None):
        with pytest.raises(InputError, match="rule: expected a Decoding, got"):
            decoded(process, wrong)
    with pytest.raises(InputError, match="got ProcessMixture; of a mixture decode the process"):
        decoded(mixture, Decoding(top_k=2))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"temperature": 0}, "temperature: expected a number from 1e-06 to 1e\\+06, got 0"),
        ({"temperature": float("nan")}, "temperature: expected a number from .* got nan"),
        (
            {"temperature": 10**400},
            "temperature: expected a number from 1e-06 to 1e.*, got 1000",
        ),
        ({"temperature": "1"}, "temperature: expected a number from 1e-06 to 1e\\+06, got '1'"),
        ({"top_k": 0}, "top_k: expected a whole number of at least 1, got 0"),
        ({"top_k": 1.5}, "top_k: expected a whole number of at least 1, got 1.5"),
        ({"nucleus": 1.2}, "nucleus: expected a number from 1e-06 to 1, got 1.2"),
        ({"nucleus": True}, "nucleus: expected a number from 1e-06 to 1, got True"),
    ],
)
def test_bad_rules_are_refused(fields, message):
    with pytest.raises(InputError, match=message) as refused:
        Decoding(**fields)
    assert re.search(message, str(refused.value))
