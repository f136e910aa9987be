"""The random set of visited tokens: its law by loops over every sequence, and by Moebius inversion
of containment."""

from itertools import chain, combinations

import jax
import numpy as np
import pytest
from sequence_cases import NAMES, bigram_logits, cases, every_array, visited_before_end

from probattn import InputError, SequenceProcess

BIG = SequenceProcess(bigram_logits, np.zeros((50, 50)), length=12, vocab_size=50)


def subsets(tokens):
    tokens = sorted(tokens)
    return [frozenset(found) for n in range(len(tokens) + 1) for found in combinations(tokens, n)]


def alphabet(process):
    return frozenset(range(process.vocab_size)) - {process.end_token}


def looped(case):
    """Probability of each visited set, by a loop over all sequences."""
    law = dict.fromkeys(subsets(alphabet(case.process)), 0.0)
    for tokens, probability in zip(every_array(case.process), case.law.ravel(), strict=True):
        visited = visited_before_end(case.process, tokens)
        if visited is not None and probability > 0:
            law[visited] += probability
    return law


def index(subset):
    return sum(2**token for token in subset)


@pytest.mark.parametrize("name", NAMES)
def test_set_law_is_the_law_of_the_visited_set(name):
    case = cases()[name]
    found = np.asarray(case.process.set_law().value)
    expected = np.zeros_like(found)
    for subset, probability in looped(case).items():
        expected[index(subset)] = probability
    assert (found >= 0).all()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)
    np.testing.assert_allclose(
        found.sum(), 1 - float(case.process.survival(case.process.length)), rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("name", NAMES)
def test_containment_is_totally_monotone_and_its_moebius_inverse_is_the_set_law(name):
    process = cases()[name].process
    law = np.asarray(process.set_law().value)
    contained = {
        subset: float(process.containment(subset)) for subset in subsets(alphabet(process))
    }
    everything = contained[alphabet(process)]
    np.testing.assert_allclose(
        everything, 1 - float(process.survival(process.length)), rtol=0, atol=1e-12
    )
    for subset in contained:
        inverse = sum(
            (-1) ** len(subset - inside) * contained[inside] for inside in subsets(subset)
        )
        assert (
            inverse >= -1e-12
        )  # total monotonicity of a functional on subsets: its Moebius inverse is no measure else
        np.testing.assert_allclose(inverse, law[index(subset)], rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_capacity_and_inclusion_follow_from_the_set_law(name):
    case = cases()[name]
    process, law = case.process, looped(case)
    for subset in subsets(alphabet(process)):
        hit = sum(probability for visited, probability in law.items() if visited & subset)
        np.testing.assert_allclose(float(process.capacity(subset)), hit, rtol=0, atol=1e-12)
    inclusion = np.asarray(process.inclusion_probabilities().value)
    for token in range(process.vocab_size):
        inside = sum(probability for visited, probability in law.items() if token in visited)
        np.testing.assert_allclose(inclusion[token], inside, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["recurrent", "mixture"])
def test_monte_carlo_is_within_its_standard_error_of_the_sum(name):
    process = cases()[name].process
    asked = {
        "containment": lambda **how: process.containment([1, 2], **how),
        "capacity": lambda **how: process.capacity([2], **how),
        "set_law": lambda **how: process.set_law(**how),
        "inclusion": lambda **how: process.inclusion_probabilities(**how),
    }
    for what, ask in asked.items():
        exact = np.asarray(ask().value)
        squares = []
        for seed in range(8):
            found = ask(method="monte_carlo", key=jax.random.key(seed))
            z = (np.asarray(found.value) - exact) / np.asarray(found.standard_error)
            squares.append(np.mean(z[exact > 0.01] ** 2))
        # A mean of 8 squared z-scores, at worst of one cell each: mean 1, standard deviation 1/2.
        assert np.mean(squares) < 1 + 4 * 0.5, what
        assert np.mean([(np.sqrt(square) + 4) ** 2 for square in squares]) > 1 + 4 * 0.5, what


def test_forbidding_estimates_small_probabilities_that_counting_misses():
    found = BIG.containment([3], method="monte_carlo")
    exact = float(BIG.containment([3], method="exact"))
    assert exact == pytest.approx(sum(50.0 ** -(n + 1) for n in range(12)), rel=1e-4)
    assert float(BIG.containment([3, 4], method="monte_carlo")) == pytest.approx(
        float(BIG.containment([3, 4], method="exact")), rel=0.01
    )
    assert abs(float(found) - exact) <= 4 * found.standard_error + 1e-6


def test_sampled_sets_follow_the_set_law():
    case = cases()["recurrent"]
    drawn = np.asarray(case.process.sample_set(jax.random.key(0), (20_000,)))
    ended = drawn[:, 0]
    expected = np.asarray(case.process.set_law().value)
    index_of = (drawn[:, 1:] * 2 ** np.arange(1, 4)).sum(1)
    counts = np.bincount(index_of[ended], minlength=16)
    error = np.sqrt(20_000 * expected * (1 - expected)) + 1
    assert (abs(counts - 20_000 * expected) < 4.5 * error).all()
    # Sets of sequences that have not ended would be counted too, were the end's column not looked
    # at.
    every = np.bincount(index_of, minlength=16)
    assert not (abs(every - 20_000 * expected) < 4.5 * error).all()


def test_the_empty_set_is_the_empty_sequence():
    process = cases()["recurrent"].process
    first = float(process.marginal([0]).value[0])
    assert float(process.containment([])) == pytest.approx(first, rel=1e-5)
    assert float(process.capacity([])) == 0
    assert float(process.containment([], method="monte_carlo")) == pytest.approx(first, rel=1e-5)


@pytest.mark.parametrize(
    ("subset", "message"),
    [
        ([0, 1], "subset: expected tokens that come before the end, got the end token 0"),
        ([1, 4], "subset: expected tokens 0 to 3, got 4"),
        ([-1], "subset: expected tokens 0 to 3, got -1"),
        ([1, 1], "subset: expected each token once"),
        (["a"], "subset: expected tokens 0 to 3, got 'a'"),
        (3, "subset: expected tokens, got 3"),
    ],
)
def test_subsets_without_meaning_are_refused(subset, message):
    process = cases()["recurrent"].process
    for ask in (process.containment, process.capacity):
        with pytest.raises(InputError, match=message):
            ask(subset)


def test_what_is_too_large_says_how_large():
    with pytest.raises(
        InputError, match=r"set_law: expected a table of at most 16,777,216 cells, got 1.13e\+15"
    ):
        BIG.set_law()
    with pytest.raises(InputError, match=r"containment: .* got 4.8e\+07|48,828,125 .*monte_carlo"):
        BIG.containment(range(1, 6), method="exact")
    assert not BIG.inclusion_probabilities(num_samples=100).exact


def test_powers_of_the_vocabulary_are_all_there():
    """The sets of a law are the power set: each subset's containment is the sum over what it
    contains."""
    process = cases()["language model"].process
    law = np.asarray(process.set_law().value)
    for subset in subsets(alphabet(process)):
        inside = [index(found) for found in chain(subsets(subset))]
        np.testing.assert_allclose(
            float(process.containment(subset)), law[inside].sum(), rtol=1e-4, atol=1e-6
        )
