"""Marginals and conditionals: sums of the whole law, and Monte Carlo within its own error of
them."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sequence_cases import NAMES, bigram_logits, cases

from probattn import InputError, SequenceProcess

BIG = SequenceProcess(bigram_logits, np.zeros((50, 50)), length=12, vocab_size=50)


def summed(law, positions):
    """Marginal of a whole law, its axes in the order of the positions."""
    left = law.sum(tuple(axis for axis in range(law.ndim) if axis not in positions))
    return np.moveaxis(left, np.argsort(np.argsort(positions)), range(len(positions)))


# Each table of positions is a program; how it is summed does not depend on whose law it is.
@pytest.mark.parametrize(
    ("name", "positions"),
    [("recurrent", places) for places in ((0,), (2,), (0, 2), (3, 1))]
    + [(name, (2, 0, 3)) for name in NAMES],
)
def test_marginals_are_sums_of_the_law(name, positions):
    case = cases()[name]
    found = case.process.marginal(positions)
    assert found.exact
    np.testing.assert_allclose(found.value, summed(case.law, positions), rtol=0, atol=1e-12)


def test_marginals_of_marginals_agree_in_either_order():
    process = cases()["mixture"].process
    three, back = process.marginal([0, 1, 3]).value, process.marginal([3, 1, 0]).value
    np.testing.assert_allclose(three, np.transpose(back), rtol=0, atol=1e-12)
    np.testing.assert_allclose(three.sum(0).sum(0), process.marginal([3]).value, rtol=0, atol=1e-12)
    np.testing.assert_allclose(three.sum(1).sum(0), three.sum(0).sum(0), rtol=0, atol=1e-12)
    np.testing.assert_allclose(three.sum(2), process.marginal([0, 1]).value, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "positions", "given_tokens"),
    [("recurrent", (0,), {2: 1}), ("recurrent", (2,), {1: 1, 3: 1})]
    + [(name, (3, 1), {0: 1}) for name in NAMES],
)
def test_conditionals_are_ratios_of_sums(name, positions, given_tokens):
    case = cases()[name]
    index = tuple(given_tokens.get(axis, slice(None)) for axis in range(case.law.ndim))
    kept = [axis for axis in range(case.law.ndim) if axis not in given_tokens]
    joint = summed(case.law[index], [kept.index(place) for place in positions])
    found = case.process.conditional(positions, given_tokens)
    np.testing.assert_allclose(found.value, joint / joint.sum(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["recurrent", "language model", "mixture"])
def test_monte_carlo_is_within_its_standard_error_of_the_sum(name):
    """Cells are compared in one chi-square-like mean of squared z-scores, over 8 seeds: its mean is
    1."""
    process = cases()[name].process
    for ask in (
        lambda **how: process.marginal([1, 3], **how),
        lambda **how: process.conditional([1], {3: 2}, **how),
    ):
        exact = np.asarray(ask().value)
        wide = (
            exact > 0.01
        )  # a cell with hundreds of draws, so that its frequency is close to normal
        squares = []
        for seed in range(8):
            found = ask(method="monte_carlo", key=jax.random.key(seed), num_samples=20_000)
            assert not found.exact
            squares.append(((found.value - exact) / found.standard_error)[wide] ** 2)
            np.testing.assert_allclose(found.value.sum(), 1, rtol=1e-4)
        number = np.size(squares)
        # Means of squared normals; cells of one table depend on each other, at most all on one: 8
        # independent seeds.
        assert abs(np.mean(squares) - 1) < 4 * np.sqrt(2 / 8), (np.mean(squares), number)
        biased = [(np.sqrt(square) + 6) ** 2 for square in squares]
        assert abs(np.mean(biased) - 1) > 4 * np.sqrt(2 / 8)


def test_weights_make_up_for_what_was_given():
    """Unweighted, draws that were led through a later token follow another law: the error must
    notice."""
    process = cases()["recurrent"].process
    exact = np.asarray(process.conditional([0], {1: 2}).value)
    found = process.conditional([0], {1: 2}, method="monte_carlo", num_samples=20_000)
    unweighted = process.marginal([0], method="monte_carlo", num_samples=20_000)
    assert (abs(found.value - exact) < 4 * found.standard_error).all()
    assert not (abs(unweighted.value - exact) < 4 * unweighted.standard_error).all()
    assert 1 < found.effective_sample_size < 20_000


@settings(max_examples=6, deadline=None)
@given(st.permutations(range(4)), st.integers(1, 3))
def test_a_table_has_an_axis_for_each_position_in_the_order_asked(order, number):
    process = cases()["another end token"].process
    positions = order[:number]
    np.testing.assert_allclose(
        process.marginal(positions).value,
        summed(cases()["another end token"].law, positions),
        atol=1e-6,
    )


def test_the_choice_is_made_by_size_and_announced():
    small, large = BIG.marginal([1]), BIG.marginal([9], num_samples=500)
    assert small.method == "exact: 50 sequences"
    assert "exact" in str(small)
    assert large.method == "Monte Carlo: 500 draws"
    assert large.effective_sample_size == pytest.approx(500)
    assert (np.asarray(large.standard_error) > 0).all()
    infilled = BIG.conditional([4], {place: 1 for place in range(12) if place != 4})
    assert infilled.method == "exact: 50 sequences"
    np.testing.assert_allclose(infilled.value[1:], 1 / 49, rtol=1e-4)


@pytest.mark.parametrize(
    ("positions", "given_tokens", "how", "message"),
    [
        ([12], {}, {}, "positions: expected positions 0 to 11, got 12"),
        ([-1], {}, {}, "positions: expected positions 0 to 11, got -1"),
        ([1, 1], {}, {}, r"positions: expected at least one, each once, got \[1, 1\]"),
        ([], {}, {}, "positions: expected at least one"),
        ([1.5], {}, {}, "positions: expected positions 0 to 11, got 1.5"),
        ([1], {1: 2}, {}, r"positions: expected none of those given, got \[1\] in both"),
        ([1], {12: 2}, {}, "given: expected positions 0 to 11, got 12"),
        ([1], {2: 50}, {}, "given: expected tokens 0 to 49, got 50"),
        ([2], {0: 0, 1: 3}, {}, "which have probability 0"),
        ([2], {0: 0, 1: 3}, {"method": "monte_carlo"}, "which have probability 0"),
        (
            [9],
            {},
            {"method": "exact"},
            r'at most 4,194,304 sequences to enumerate, got 1.95e\+15 .* method="monte_carlo"',
        ),
        ([0, 1, 2, 3, 4], {}, {}, "a table of at most 16,777,216 cells, got 312,500,000"),
        (
            [1],
            {},
            {"method": "guess"},
            "method: expected one of auto, exact, monte_carlo, got 'guess'",
        ),
        ([9], {}, {"num_samples": 0}, "num_samples: expected a whole number of at least 2, got 0"),
    ],
)
def test_bad_questions_are_refused(positions, given_tokens, how, message):
    ask = BIG.conditional if given_tokens else BIG.marginal
    with pytest.raises(InputError, match=message):
        ask(positions, *([given_tokens] if given_tokens else []), **how)
