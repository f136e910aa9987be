"""Disturbances: what they do to sequences, and what they cost, against hand computations."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from predictors import TRUTH, fit_of, sequences

from probattn import InputError
from probattn.inference import plot_robustness, robustness, with_typos
from probattn.inference.data.ngram import token_counts
from probattn.inference.data.typos import TYPO_KINDS, room_for_typos
from probattn.inference.evaluation.perturbations import (
    EMBEDDING_NOISE,
    LEVELS,
    noise_robustness,
    typo_robustness,
)

TOLERANCE = 1e-10


@pytest.fixture(scope="module")
def words():
    tokens = sequences(400, length=8)
    return tokens[room_for_typos(tokens, 2) & (tokens == 0).any(1)]


def lengths(tokens):
    return (tokens != 0).sum(1)


@pytest.mark.parametrize("kind", TYPO_KINDS)
def test_typos_change_what_they_say_and_nothing_else(words, kind):
    for number in (0, 1, 2):
        changed, own = with_typos(words, kind, number, vocab_size=4)
        assert changed.shape == own.shape == words.shape
        assert (
            (changed[:, :-1] == 0) <= (changed[:, 1:] == 0)
        ).all()  # only the end follows the end
        gained = {"swap": 0, "drop": -number, "insert": number, "substitute": 0}[kind]
        np.testing.assert_array_equal(lengths(changed), lengths(words) + gained)
        if kind != "swap":  # the end and all letters but those that were dropped or replaced
            lost = 0 if kind == "insert" else number
            np.testing.assert_array_equal(own.sum(1), lengths(words) + 1 - lost)
        for row, mask, word in zip(changed, own, words, strict=True):
            kept = row[mask]
            assert kept[-1] == 0  # the end is the writer's own
            if kind == "substitute":
                assert (row != word).sum() == number == (~mask[: lengths(word[None])[0]]).sum()
            if kind == "swap":
                assert sorted(row) == sorted(word)
                assert (row != word).sum() in (0, 2 * number, 2)
            if kind in ("drop", "insert"):  # what is the writer's own is in the writer's order
                word = list(word[: lengths(word[None])[0]])
                letters = iter(word) if kind == "drop" else iter(kept[:-1])
                assert all(
                    any(letter == other for other in letters)
                    for letter in (kept[:-1] if kind == "drop" else word)
                )
        again, _ = with_typos(words, kind, number, vocab_size=4)
        np.testing.assert_array_equal(changed, again)


def test_room_is_kept_for_typos():
    tokens = np.array(
        [
            [1, 2, 3, 0, 0, 0],
            [1, 2, 0, 0, 0, 0],
            [1, 2, 3, 1, 2, 0],
            [1, 2, 3, 1, 0, 0],
            [1, 2, 3, 1, 2, 3],
        ]
    )
    assert room_for_typos(tokens, 1).tolist() == [True, False, False, True, True]


def test_loss_of_what_is_own_by_hand():
    """A bigram looks one token back: after `a c` (typed for `a b`) the end costs what it costs
    after c."""
    tokens = np.array([[1, 2, 1, 0, 0, 0]] * 2)
    fit = fit_of([TRUTH])
    found = typo_robustness(fit, tokens, "substitute", most=1)
    typed, own = with_typos(tokens, "substitute", 1, vocab_size=4)
    before = np.concatenate([np.zeros((2, 1), int), typed[:, :-1]], axis=1)
    expected = np.where(own, np.log(TRUTH)[before, typed], 0).sum(1)
    np.testing.assert_allclose(found.sums[1], expected, atol=TOLERANCE)
    np.testing.assert_allclose(found.loss[1].value, -expected.sum() / own.sum(), atol=TOLERANCE)
    clean = np.log([TRUTH[0, 1], TRUTH[1, 2], TRUTH[2, 1], TRUTH[1, 0]]).mean()
    np.testing.assert_allclose(found.loss[0].value, -clean, atol=TOLERANCE)


def test_no_typos_are_the_clean_loss(fits, corpus):
    for fit in fits.values():
        for kind in TYPO_KINDS:
            found = typo_robustness(fit, corpus.heldout, kind, most=1)
            tokens = corpus.heldout[room_for_typos(corpus.heldout, 1)]
            np.testing.assert_allclose(
                found.sums[0], fit.predictive_log_prob(tokens), atol=TOLERANCE
            )
            assert found.levels == (0, 1)


def test_no_noise_is_the_clean_loss_and_more_costs_more(fits, corpus):
    for fit in fits.values():
        found = noise_robustness(fit, corpus.heldout, num_noises=30)
        np.testing.assert_allclose(
            found.sums[0], fit.predictive_log_prob(corpus.heldout), atol=TOLERANCE
        )
        assert found.loss[-1].value > found.loss[0].value
        assert found.levels == LEVELS


def test_averaging_over_noises_only_helps(fits, corpus):
    """`log mean exp >= mean log`, by Jensen; a posterior is averaged already."""
    found = noise_robustness(fits["map"], corpus.heldout, num_noises=30)
    gaps = [one.value - other.value for one, other in zip(found.loss, found.averaged, strict=True)]
    assert min(gaps) > -TOLERANCE
    assert gaps[-1] > 0.01
    posterior = noise_robustness(
        fits["posterior"], corpus.heldout, num_noises=80
    )  # one for each of its draws
    assert posterior.averaged == ()
    np.testing.assert_array_equal(posterior.sums, posterior.averaged_sums)
    # A few draws meet noise several times: together as many as a posterior's, and no more than it
    # has any one at a time.
    few = dataclasses.replace(fits["posterior"].thinned(4), method="ensemble")
    found = noise_robustness(few, corpus.heldout, num_noises=80)
    assert found.averaged[-1].value < found.loss[-1].value - 0.01
    np.testing.assert_allclose(found.loss[0].value, found.averaged[0].value, atol=TOLERANCE)


def test_noise_is_in_units_of_the_embeddings_own_size(fits, corpus):
    """The path, disturbed by hand; and twice the embeddings get twice the noise."""
    model, params = fits["map"].model, fits["map"].params
    tokens = corpus.heldout[:3]
    u = np.asarray(model.path(params, tokens))
    counted = np.array([[True, *(row[:-1] != 0)] for row in tokens])
    counted = np.cumprod(counted, axis=1).astype(bool)
    rms = np.sqrt((u[counted] ** 2).mean())
    np.testing.assert_allclose(model.root_mean_square(params, tokens), rms, rtol=1e-5)
    noise = np.random.default_rng(0).normal(size=u.shape)
    shifted = dict(params)
    for i in range(len(tokens)):  # noise of one sequence as a change of the positions' embeddings
        shifted["position"] = params["position"] + rms * noise[i]
        np.testing.assert_allclose(
            model.noisy_log_likelihood(params, tokens, noise)[i],
            model.log_likelihood(shifted, tokens)[i],
            atol=TOLERANCE,
        )
    double = params | {name: 2 * params[name] for name in ("embedding", "position")}
    np.testing.assert_allclose(model.root_mean_square(double, tokens), 2 * rms, rtol=1e-5)
    assert jnp.isfinite(model.noisy_log_likelihood(double, tokens, noise)).all()


def test_paired_difference_is_of_the_same_sequences(fits, corpus):
    found = {name: robustness(fit, corpus.heldout, EMBEDDING_NOISE) for name, fit in fits.items()}
    gap = found["map"].minus(found["posterior"], 2)
    expected = found["map"].averaged[2].value - found["posterior"].averaged[2].value
    np.testing.assert_allclose(gap.value, expected, atol=TOLERANCE)
    assert gap.error < np.hypot(
        found["map"].averaged[2].error, found["posterior"].averaged[2].error
    )


def test_the_panel_shows_losses_errors_and_the_control(fits, corpus):
    ax = plot_robustness(fits, corpus.heldout)
    found = {name: robustness(fit, corpus.heldout, EMBEDDING_NOISE) for name, fit in fits.items()}
    _, labels = ax.get_legend_handles_labels()
    assert set(labels) == {
        "map",
        "posterior",
        "map, averaged over noises",
        "posterior, averaged over noises",
    }
    lines = {bar.get_label(): bar[0] for bar in ax.containers}
    for name, one in found.items():
        np.testing.assert_array_equal(lines[name].get_xdata(), LEVELS)
        losses = [loss.value for loss in one.loss]
        np.testing.assert_allclose(np.array(lines[name].get_ydata(), float), losses, atol=TOLERANCE)
    assert "root mean squares" in ax.get_xlabel()
    assert "nats per token" in ax.get_ylabel()
    typos = plot_robustness(
        {"truth": fit_of([TRUTH], length=8)}, sequences(100, length=8), disturbance="swap"
    )
    assert typos.get_xlabel() == "typos in each sequence: swap"
    assert typos.get_xticks().tolist() == [0, 1, 2]


def test_bad_disturbances_are_refused(fits, corpus):
    with pytest.raises(
        InputError, match="kind: expected swap, drop, insert, substitute, got 'smudge'"
    ):
        typo_robustness(fits["map"], corpus.heldout, "smudge")
    with pytest.raises(
        InputError,
        match="disturbance: expected embedding noise, swap, drop, insert, substitute, got 'foo'",
    ):
        robustness(fits["map"], corpus.heldout, "foo")
    with pytest.raises(InputError, match="two sequences with room for 2 typos, got 0"):
        typo_robustness(fits["map"], corpus.heldout[:1], "swap")
    with pytest.raises(InputError, match=r"expected a PathModel.* got Bigrams, which lacks"):
        noise_robustness(fit_of([TRUTH]), sequences(5))
    one_symbol = dataclasses.replace(fits["map"].model, vocab_size=2)
    with pytest.raises(InputError, match="at least two symbols"):
        typo_robustness(dataclasses.replace(fits["map"], model=one_symbol), corpus.heldout, "swap")


def test_counts_are_the_tokens_that_count(fits, corpus):
    found = noise_robustness(fits["posterior"], corpus.heldout)
    np.testing.assert_array_equal(found.counts[0], token_counts(corpus.heldout))
