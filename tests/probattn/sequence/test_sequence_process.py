"""SequenceProcess: its law against loops over every sequence, its samples, its causality, and its
habits in NumPyro."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import pytest
from numpyro.infer import Predictive
from scipy.stats import chi2
from sequence_cases import (
    NAMES,
    RECURRENT_STEP,
    bigram_logits,
    cases,
    every_array,
    recurrent_logits,
    recurrent_params,
)

from probattn import CachedStep, InputError, SequenceProcess

TABLE = np.random.default_rng(5).standard_normal((3, 3))


@pytest.mark.parametrize("name", NAMES)
def test_total_mass_is_one_and_every_sequence_has_its_probability(name):
    case = cases()[name]
    probability = np.exp(case.process.log_prob(every_array(case.process)))
    np.testing.assert_allclose(probability.reshape(case.law.shape), case.law, rtol=0, atol=1e-12)
    np.testing.assert_allclose(probability.sum(), 1, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_prefix_laws_sum_to_one_at_every_length_and_are_consistent(name):
    process, law = cases()[name].process, cases()[name].law
    prefixes = np.unique(every_array(process)[:, :3], axis=0)
    probability = np.exp(process.log_prob(prefixes))
    np.testing.assert_allclose(
        probability, law.sum(tuple(range(3, law.ndim))).ravel(), rtol=0, atol=1e-12
    )
    shorter = np.exp(process.log_prob(np.unique(prefixes[:, :2], axis=0)))
    np.testing.assert_allclose(
        probability.reshape(-1, process.vocab_size).sum(1), shorter, rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("name", NAMES)
def test_next_token_laws_are_ratios_of_prefix_laws(name):
    """Of a mixture too: its conditionals reweight the draws."""
    process, law = cases()[name].process, cases()[name].law
    tokens = every_array(process)[:: max(1, law.size // 50)]
    rows = np.exp(process.next_token_log_probs(tokens))
    for sequence, found in zip(tokens, rows, strict=True):
        for position in range(process.length):
            prefix = law[tuple(sequence[:position])]
            if prefix.sum() > 0:
                joint = prefix.sum(tuple(range(1, prefix.ndim)))
                np.testing.assert_allclose(
                    found[position], joint / prefix.sum(), rtol=0, atol=1e-12
                )


@pytest.mark.parametrize("name", ["recurrent", "language model", "mixture"])
def test_samples_follow_the_law_and_a_swapped_logit_is_noticed(name):
    case = cases()[name]
    number = 20_000
    expected = number * case.law.ravel()
    rare = expected < 5  # pooled into one cell

    def statistic(tokens):
        counts = np.bincount(
            np.ravel_multi_index(np.asarray(tokens).T, case.law.shape), minlength=case.law.size
        ).astype(float)
        cells = np.append(counts[~rare], counts[rare].sum())
        wanted = np.append(expected[~rare], expected[rare].sum())
        return ((cells - wanted) ** 2 / wanted).sum(), chi2.isf(1e-3, len(cells) - 1)

    value, limit = statistic(case.process.sample(jax.random.key(1), (number,)))
    assert value < limit
    wrong = swapped(case.process)
    value, limit = statistic(wrong.sample(jax.random.key(1), (number,)))
    assert value > limit


def swapped(process):
    """The process with the logits of the last two tokens exchanged."""
    order = np.arange(process.vocab_size)
    order[-2:] = order[-2:][::-1]
    wrong = jax.tree.unflatten(*reversed(jax.tree.flatten(process)))
    logits, step = process.next_token_logits, process.cached_step
    wrong.next_token_logits = lambda params, tokens: logits(params, tokens)[..., order]
    if step is not None:

        def wrong_step(*arguments):
            cache, rows = step.step(*arguments)
            return cache, rows[order]

        wrong.cached_step = CachedStep(step.start, wrong_step)
    return wrong


def test_whole_passes_and_cached_steps_draw_the_same_tokens():
    cached = cases()["recurrent"].process
    plain = SequenceProcess(recurrent_logits, cached.params, length=6, vocab_size=4)
    key = jax.random.key(0)
    np.testing.assert_array_equal(cached.sample(key, (50,)), plain.sample(key, (50,)))
    assert "a cached step per position" in repr(cached)
    assert "a whole pass per position" in repr(plain)


def test_a_symbol_after_the_end_is_outside_the_support():
    process = cases()["recurrent"].process
    assert process.log_prob([1, 0, 2, 0, 0, 0]) == -jnp.inf
    assert np.isfinite(process.log_prob([[1, 0, 0, 0, 0, 0], [1, 2, 3, 1, 2, 3]])).all()
    assert jax.jit(process.log_prob)(jnp.array([1, 7, 2])) == -jnp.inf


def test_without_an_end_token_it_is_a_law_on_infinite_sequences_and_says_so():
    process = SequenceProcess(bigram_logits, TABLE, length=4, vocab_size=3, end_token=None)
    probability = np.exp(process.log_prob(every_array(process)))
    np.testing.assert_allclose(probability.sum(), 1, rtol=0, atol=1e-12)
    assert (probability > 0).all()
    assert "infinite sequences" in repr(process)
    assert "infinite sequences" in process.tightness().reason
    assert not process.tightness().tight
    assert float(process.survival(4)) == 1
    assert (np.asarray(process.sample(jax.random.key(0), (2, 100)))[..., 1:] == 0).any()
    with pytest.raises(InputError, match="end_token: expected one, got None"):
        process.set_law()


def test_it_is_a_pytree_and_goes_through_jit_vmap_grad_and_plates():
    params = recurrent_params(3, 4)
    tokens = np.array([[1, 2, 0, 0], [3, 1, 2, 2]])

    def make(params):
        return SequenceProcess(
            recurrent_logits, params, length=4, vocab_size=4, cached_step=RECURRENT_STEP
        )

    expected = make(params).log_prob(tokens)
    leaves, structure = jax.tree.flatten(make(params))
    again = jax.tree.unflatten(structure, leaves)
    assert (again.length, again.vocab_size, again.end_token) == (4, 4, 0)
    np.testing.assert_allclose(again.log_prob(tokens), expected, rtol=1e-6)
    np.testing.assert_allclose(
        jax.jit(lambda params: make(params).log_prob(tokens))(params), expected, rtol=1e-5
    )
    many = recurrent_params(4, 4, 3)
    batch = jax.vmap(make)(many)
    scored = jax.vmap(lambda process: process.log_prob(tokens))(batch)
    for index in range(3):
        one = {name: value[index] for name, value in many.items()}
        np.testing.assert_allclose(scored[index], make(one).log_prob(tokens), rtol=1e-5)
    slope = jax.grad(lambda params: make(params).log_prob(tokens).sum())(params)
    step = 1e-3
    moved = [
        make(params | {"O": params["O"] + sign * step * slope["O"]}).log_prob(tokens).sum()
        for sign in (1, -1)
    ]
    # The scores' rounding over the step, and the step's square, both far below 2 percent.
    np.testing.assert_allclose(
        (moved[0] - moved[1]) / (2 * step), (slope["O"] ** 2).sum(), rtol=0.02
    )
    assert make(params).sample(jax.random.key(0), (2, 3)).shape == (2, 3, 4)
    assert make(params).log_prob(np.ones((2, 5, 4), int)).shape == (2, 5)

    def model(tokens=None):
        loc = numpyro.sample("loc", numpyro.distributions.Normal(0, 1))
        with numpyro.plate("sequences", 2):
            return numpyro.sample("tokens", make(params | {"O": params["O"] + loc}), obs=tokens)

    drawn = Predictive(model, num_samples=5)(jax.random.key(0))["tokens"]
    assert drawn.shape == (5, 2, 4)
    joint = numpyro.infer.util.log_density(model, (tokens,), {}, {"loc": 0.0})[0]
    np.testing.assert_allclose(joint, expected.sum() - 0.5 * np.log(2 * np.pi), rtol=1e-5)


def test_numerical_failure_is_neither_a_token_nor_minus_infinity():
    process = cases()["recurrent"].process
    params = process.params | {"O": process.params["O"] * np.nan}
    broken = jax.tree.unflatten(jax.tree.structure(process), jax.tree.leaves(params))
    assert (broken.sample(jax.random.key(0), (3,)) == -1).all()
    assert np.isnan(broken.log_prob([1, 2, 3, 1, 2, 3]))
    assert np.isnan(np.asarray(broken.containment([1, 2], method="monte_carlo").value))
    assert np.isnan(np.asarray(broken.marginal([0, 1]).value)).all()
    assert np.isnan(np.asarray(broken.marginal([0, 1], method="monte_carlo").value)).all()


def sees_itself(params, tokens):
    return params[tokens]


def sees_the_last(params, tokens):
    return bigram_logits(params, tokens).at[0].add(0.01 * params[tokens[-1]])


def sees_the_sum(params, tokens):
    return bigram_logits(params, tokens) + 1e-2 * (tokens == 1).mean()


@pytest.mark.parametrize("function", [sees_itself, sees_the_last, sees_the_sum])
@pytest.mark.parametrize("traced", [False, True])
def test_a_function_that_sees_its_own_token_or_a_later_one_is_refused(function, traced):
    def make(params):
        return SequenceProcess(function, params, length=5, vocab_size=3).log_prob(jnp.ones(5, int))

    with pytest.raises(
        InputError, match="expected row t to depend on the tokens before t only, but row"
    ):
        (jax.jit(make) if traced else make)(TABLE)


def mixes_the_batch(params, tokens):
    before = jnp.concatenate([jnp.zeros(1, int), tokens.ravel()[:-1]])
    return params[before.reshape(tokens.shape)]


def drops_the_batch(params, tokens):
    return bigram_logits(params, tokens.reshape(-1, 5)[0])


def wrong_step(params, cache, previous, position):
    return cache, params[previous]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"length": 0}, "length: expected a whole number of at least 1, got 0"),
        ({"vocab_size": 1}, "vocab_size: expected a whole number of at least 2"),
        (
            {"vocab_size": 4},
            r"expected real logits of shape \(5, 4\) for tokens of shape \(5,\), got .*\(5,\s*3\)",
        ),
        ({"end_token": 3}, "end_token: expected an id 0 to 2 or None, got 3"),
        ({"next_token_logits": mixes_the_batch, "batched": True}, "but row 0 moved"),
        (
            {"next_token_logits": drops_the_batch, "batched": True},
            r"expected real logits of shape \(2, 5, 3\)",
        ),
        ({"params": np.full((3, 3), np.nan)}, "got logits that are not numbers"),
        (
            {"cached_step": CachedStep(lambda params: (), wrong_step)},
            "cached_step: expected the rows",
        ),
    ],
)
def test_bad_construction_is_refused(arguments, message):
    stated = {
        "next_token_logits": bigram_logits,
        "params": TABLE,
        "length": 5,
        "vocab_size": 3,
    } | arguments
    with pytest.raises(InputError, match=message):
        SequenceProcess(**stated)


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ([1, 4], "expected ids 0 to 3, got 4"),
        ([-1, 2], "expected ids 0 to 3, got -1"),
        ([0.5], "expected integers"),
        (np.ones(7, int), "expected at most 6 positions"),
        ([], "at least one sequence"),
        (3, r"expected shape \(..., length\)"),
    ],
)
def test_bad_tokens_are_refused(tokens, message):
    with pytest.raises(InputError, match=message):
        cases()["recurrent"].process.log_prob(tokens)
