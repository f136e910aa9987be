"""ProcessMixture: a law of its own, and not the average of per-token conditionals."""

import jax
import numpy as np
import pytest
from sequence_cases import cases, every_array, recurrent_logits, recurrent_params

from probattn import InputError, ProcessMixture, SequenceProcess

DRAWS = recurrent_params(1, 3, 4)


def base(length=4):
    return SequenceProcess(recurrent_logits, recurrent_params(0, 3), length=length, vocab_size=3)


def single(index):
    return SequenceProcess(
        recurrent_logits,
        {name: value[index] for name, value in DRAWS.items()},
        length=4,
        vocab_size=3,
    )


def test_its_laws_are_averages_of_the_draws_laws():
    """Every law that is linear in the process, each by a code path that knows nothing of
    mixtures."""
    mixture = ProcessMixture(base(), DRAWS)
    singles = [single(index) for index in range(4)]
    for law in (
        lambda process: process.marginal([2, 0]).value,
        lambda process: process.survival(3).value,
        lambda process: process.set_law().value,
        lambda process: process.containment([1]).value,
        lambda process: process.inclusion_probabilities().value,
    ):
        averaged = np.mean([law(process) for process in singles], axis=0)
        np.testing.assert_allclose(law(mixture), averaged, rtol=0, atol=1e-12)


def test_averaging_conditionals_over_draws_is_another_law():
    """The same mass, one, but not the same probabilities: only reweighted conditionals multiply to
    the mixture."""
    mixture = ProcessMixture(base(), DRAWS)
    tokens = every_array(mixture)
    rows = np.mean(
        [np.exp(single(index).next_token_log_probs(tokens)) for index in range(4)], axis=0
    )
    averaged = np.prod(np.take_along_axis(rows, tokens[..., None], axis=-1)[..., 0], axis=-1)
    reweighted = np.exp(mixture.next_token_log_probs(tokens))
    product = np.prod(np.take_along_axis(reweighted, tokens[..., None], axis=-1)[..., 0], axis=-1)
    law = np.exp(mixture.log_prob(tokens))
    np.testing.assert_allclose(averaged.sum(), 1, rtol=0, atol=1e-12)
    np.testing.assert_allclose(product, law, rtol=0, atol=1e-12)
    assert abs(averaged - law).sum() > 0.05
    np.testing.assert_allclose(
        rows[:, 0], reweighted[:, 0], rtol=0, atol=1e-12
    )  # nothing to reweight by yet


def test_one_draw_is_the_process_itself():
    mixture = ProcessMixture(base(), {name: value[:1] for name, value in DRAWS.items()})
    tokens = every_array(mixture)[::7]
    np.testing.assert_allclose(mixture.log_prob(tokens), single(0).log_prob(tokens), rtol=1e-5)
    key = jax.random.key(0)
    np.testing.assert_array_equal(mixture.sample(key, (20,)), single(0).sample(key, (20,)))


def test_a_prefix_that_no_draw_finds_possible_has_rows_all_the_same():
    mixture = ProcessMixture(base(), DRAWS)
    assert mixture.log_prob([0, 1, 1, 0]) == -np.inf
    rows = np.exp(mixture.next_token_log_probs([0, 1, 1, 0]))
    np.testing.assert_allclose(rows.sum(-1), 1, rtol=1e-5)


def test_it_is_a_pytree():
    mixture = cases()["mixture"].process
    leaves, structure = jax.tree.flatten(mixture)
    again = jax.tree.unflatten(structure, leaves)
    assert isinstance(again, ProcessMixture)
    assert again.num_draws == 4
    tokens = every_array(mixture)[::50]
    np.testing.assert_allclose(
        jax.jit(lambda law: law.log_prob(tokens))(again), mixture.log_prob(tokens), rtol=1e-5
    )


@pytest.mark.parametrize(
    ("draws", "message"),
    [
        (DRAWS["W"], "draws: expected the parameters of the process"),
        ({"W": DRAWS["W"]}, "draws: expected the parameters of the process"),
        (recurrent_params(1, 3), r"draws: expected leaves \(num_draws, \*shape\)"),
        (recurrent_params(1, 4, 2), "draws: expected leaves"),
        (DRAWS | {"O": DRAWS["O"][:2]}, "one number of draws"),
        (recurrent_params(1, 3, 0), "at least 1"),
    ],
)
def test_bad_draws_are_refused(draws, message):
    with pytest.raises(InputError, match=message):
        ProcessMixture(base(), draws)
