"""The random set step by step, by loops over every sequence; times by looking for them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sequence_cases import NAMES, bigram_logits, cases, every_array

from probattn import InputError, SequenceProcess

ENDLESS = SequenceProcess(
    bigram_logits,
    np.random.default_rng(0).normal(size=(3, 3)),
    length=5,
    vocab_size=3,
    end_token=None,
)


def everything():
    """(process, arrays, their probabilities) of each case, one without an end token among them."""
    for name in NAMES:
        case = cases()[name]
        yield name, case.process, every_array(case.process), case.law.ravel()
    arrays = every_array(ENDLESS)
    yield "endless", ENDLESS, arrays, np.exp(np.asarray(ENDLESS.log_prob(arrays), float))


def sets(process, tokens):
    """S_n after each prefix."""
    found, ended = [frozenset()], False
    for token in tokens:
        ended = ended or token == process.end_token
        found.append(found[-1] if ended else found[-1] | {token})
    return found


EXACT = 1e-5  # sums of at most 4^6 terms in float32


def test_laws_step_by_step_are_those_of_a_loop():
    for name, process, arrays, law in everything():
        tokens = [token for token in range(process.vocab_size) if token != process.end_token]
        visited = np.zeros((process.length + 1, process.vocab_size))
        sizes = np.zeros((process.length + 1, len(tokens) + 1))
        whole = np.zeros((process.length + 1, 2**process.vocab_size))
        for one, probability in zip(arrays, law, strict=True):
            for n, found in enumerate(sets(process, one)):
                visited[n, list(found)] += probability
                sizes[n, len(found)] += probability
                whole[n, sum(2**token for token in found)] += probability
        for expected, estimate in (
            (visited, process.visited_by()),
            (sizes, process.set_size_law()),
            (whole, process.set_law_by()),
        ):
            assert estimate.exact
            np.testing.assert_allclose(estimate.value, expected, atol=EXACT, err_msg=name)


@pytest.mark.parametrize("kind", ["hitting_time", "coverage_time"])
def test_times_are_those_of_a_loop(kind):
    for name, process, arrays, law in everything():
        tokens = [token for token in range(process.vocab_size) if token != process.end_token]
        for subset in (tokens[:1], tokens):
            wanted = set(subset)
            expected = np.zeros(process.length + 1)
            for one, probability in zip(arrays, law, strict=True):
                done = [
                    wanted <= found if kind == "coverage_time" else bool(wanted & found)
                    for found in sets(process, one)
                ]
                expected[done.index(True) - 1 if any(done) else process.length] += probability
            found = getattr(process, kind)(subset)
            np.testing.assert_allclose(found.value, expected, atol=EXACT, err_msg=name)


def test_draws_agree_with_sums_within_their_errors():
    process = cases()["recurrent"].process
    for ask in (
        lambda **how: process.visited_by(**how),
        lambda **how: process.set_size_law(**how),
        lambda **how: process.set_law_by(**how),
        lambda **how: process.hitting_time([2], **how),
        lambda **how: process.coverage_time([1, 2], **how),
    ):
        exact = np.asarray(ask(method="exact"))
        drawn = ask(method="monte_carlo", num_samples=4000, key=jax.random.key(3))
        assert not drawn.exact
        # 4.5 standard errors for some 200 shares; rounding where a share is 0 or 1.
        off = np.abs(np.asarray(drawn) - exact) - 1e-6
        assert (off <= 4.5 * np.asarray(drawn.standard_error)).all()


def test_at_the_end_they_are_the_laws_of_the_set():
    process = cases()["language model"].process
    last = np.asarray(process.set_law_by().value)[-1]
    ended = np.asarray(process.set_law().value)
    assert (last >= ended - EXACT).all()
    np.testing.assert_allclose(
        last.sum() - ended.sum(), float(process.survival(process.length)), atol=EXACT
    )


def test_small_probabilities_of_times_do_not_cancel():
    """Independent tokens: 5e-8 is lost in the difference of two numbers near 1."""
    process = SequenceProcess(
        same_every_time, np.log([0.9999999, 5e-8, 5e-8]), length=3, vocab_size=3
    )
    np.testing.assert_allclose(process.hitting_time([1]).value[0], 5e-8, rtol=1e-5)
    assert process.coverage_time([1, 2]).value[0] == 0


def same_every_time(params, tokens):
    return jnp.broadcast_to(params, (len(tokens), 3))


def test_sets_without_meaning_are_refused():
    process = cases()["recurrent"].process
    for subset, message in (
        ([], "subset: expected at least one token, got none"),
        ([0], "got the end token 0"),
        ([9], "expected tokens 0 to 3, got 9"),
    ):
        with pytest.raises(InputError, match=message):
            process.hitting_time(subset)
    big = SequenceProcess(bigram_logits, np.zeros((50, 50)), length=12, vocab_size=50)
    with pytest.raises(InputError, match="set_law_by: expected a table of at most"):
        big.set_law_by()
    assert not big.hitting_time([3], num_samples=50).exact
