"""Margins, support tokens, spectra and root counts under a mode and under draws, against hand
computations."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from probattn import InputError
from probattn.inference import (
    Fit,
    draw_scores,
    margins_of,
    plot_margins,
    plot_mode_against_draws,
    plot_spectrum,
    plot_support,
    singular_values,
    uniqueness,
)
from probattn.inference.evaluation.measured import QUANTILES
from probattn.inference.evaluation.support import (
    disagreement,
    example,
    rankings,
    support_probability,
)
from probattn.models import LanguageModel

TOLERANCE = 1e-10


def test_support_probability_counts_smallest_margins_only_where_there_are_any():
    margins = np.array(
        [
            [1.0, 0.5, 0.7, np.nan],
            [1.0, 0.8, 0.2, np.nan],
            [1.0, 0.9, 0.3, np.nan],
            [1.0, 0.1, 0.2, np.nan],
        ]
    )
    assert support_probability(margins).tolist() == [0, 0.5, 0.5, 0]


def test_rankings_by_hand():
    nan = np.nan
    margins = np.array([[[1, 1, 0.2, 0.5], [1, 1, 0.3, nan], [1, 1, nan, nan], [1, 1, 0.9, 0.8]]])
    log_dets = np.array([[[0, 0, -2, 1], [0, 0, 0.1, nan], [0, 0, nan, nan], [0, 0, -0.3, -0.2]]])
    # The first agrees, the last does not; the others have no choice but their first two positions.
    one = rankings("map", margins, log_dets)
    np.testing.assert_allclose([one.share.value, one.share.error], [1 / 2, np.sqrt(1 / 4 / 2)])
    assert one.repelled == 1 / 4  # 1 of -2, 1, -0.3, -0.2
    both = rankings("posterior", np.repeat(margins, 2, 0), np.concatenate([log_dets, -log_dets]))
    # Under the second draw it is the other way round: by sequence 1/2 and 1/2.
    np.testing.assert_allclose([both.share.value, both.share.error], [1 / 2, 0])
    assert both.repelled == 1 / 2
    assert rankings("map", margins[:, 1:3], log_dets[:, 1:3]) is None


def test_margins_of_another_kind(fits, corpus):
    fit, tokens = fits["map"], corpus.heldout[:3]
    for kind in ("log_det", "spectral"):
        expected = fit.model.margins(fit.params, tokens, kind)
        np.testing.assert_allclose(
            margins_of(fit, tokens, kind=kind)[0], expected, rtol=1e-5, atol=1e-6
        )
    with pytest.raises(InputError, match="kind: expected one of sigma_min, log_det, spectral"):
        margins_of(fit, tokens, kind="log-det")


def test_disagreement_by_hand():
    nan = np.nan
    point = np.array([[[1, 1, 0.2, 0.5], [1, 1, 0.3, nan], [1, 1, nan, nan], [1, 1, 0.9, 0.8]]])
    draws = np.array(
        [
            [[1, 1, 0.6, 0.5], [1, 1, 0.3, nan], [1, 1, nan, nan], [1, 0.5, 0.9, 0.8]],
            [[1, 1, 0.6, 0.4], [1, 1, 0.2, nan], [1, 1, nan, nan], [1, 1, 0.7, 0.9]],
            [[1, 1, 0.3, 0.4], [1, 1, 0.4, nan], [1, 1, nan, nan], [1, 1, 0.9, 0.8]],
        ]
    )
    tokens = np.array([[1, 2, 3, 0], [1, 1, 0, 0], [3, 0, 0, 0], [2, 2, 2, 0]])
    found = disagreement(
        "map",
        "posterior",
        {"map": point, "posterior": draws},
        tokens,
        ["<end>", "a", "b", "c"],
        True,
    )
    # The third sequence has no choice. The first is named differently (position 2 by the map, 3 by
    # 2 of 3 draws); in the last the draws are split between three positions.
    np.testing.assert_allclose([found.share.value, found.unsure.value], [2 / 3, 1 / 3])
    np.testing.assert_allclose(found.share.error, np.sqrt(2 / 9 / 3))
    assert found.sequences[0] == (
        "a b c",
        "b (2)",
        pytest.approx(1 / 3),
        "c (3)",
        pytest.approx(2 / 3),
    )
    assert found.sequences[1][1:4:2] == ("b (3)", "b (1)")
    alone = disagreement(
        "map",
        "posterior",
        {"map": point[:, 2:3], "posterior": draws[:, 2:3]},
        tokens[2:3],
        list("eabc"),
        True,
    )
    assert alone is None


def test_examples_agree_with_the_margins_of_the_model(fits, corpus):
    tokens = corpus.heldout[(corpus.heldout != 0).sum(1) >= 4][0]
    found = example(fits, tokens, corpus.symbols)
    assert found.labels == ("start", *(corpus.symbols[token] for token in tokens[:4]))
    margins = np.asarray(fits["map"].model.margins(fits["map"].params, tokens))[:5]
    np.testing.assert_allclose(found.margins["map"], np.tile(margins, (5, 1)), rtol=1e-5)
    assert found.probability["map"].argmax() == margins.argmin()
    draws = margins_of(fits["posterior"], tokens[None])[:, 0]
    np.testing.assert_allclose(
        found.margins["posterior"], np.quantile(draws, QUANTILES, axis=0), rtol=1e-5
    )
    for probability in found.probability.values():
        np.testing.assert_allclose(probability.sum(), 1)


def test_the_panel_of_margins_shows_quantiles(fits, corpus):
    ax = plot_margins(fits, corpus.heldout)
    lines = {line.get_label(): line for line in ax.lines if not line.get_label().startswith("_")}
    for name, fit in fits.items():
        margins = margins_of(fit, corpus.heldout)
        np.testing.assert_allclose(
            lines[name].get_ydata(), np.nanmedian(margins, axis=(0, 1)), rtol=1e-5
        )
        thin = next(
            lines
            for lines in ax.collections
            if np.isclose(
                lines.get_segments()[0][0][1], np.nanquantile(margins, 0.05, axis=(0, 1))[0]
            )
        )
        assert len(thin.get_segments()) == margins.shape[-1]
    assert lines["map"].get_marker() != lines["posterior"].get_marker()
    assert "no unit" in ax.get_ylabel()


def test_the_panel_of_support_shows_probabilities(fits, corpus):
    tokens = corpus.heldout[(corpus.heldout != 0).sum(1) >= 4][0]
    found = example(fits, tokens, corpus.symbols)
    ax = plot_support(fits, tokens, corpus.symbols)
    np.testing.assert_allclose(
        [bar.get_height() for bar in ax.patches], found.probability["posterior"]
    )
    (triangle,) = ax.lines
    np.testing.assert_array_equal(triangle.get_xdata(), np.flatnonzero(found.probability["map"]))
    assert [label.get_text() for label in ax.get_xticklabels()] == list(found.labels)
    with pytest.raises(InputError, match="expected one sequence"):
        plot_support(fits, corpus.heldout)


def test_singular_values_are_those_of_the_interaction(fits):
    fit = fits["posterior"]
    found = singular_values(fit)
    draws = fit.flat_draws()
    interaction = np.einsum("nhri,nhrj->nhij", draws["key"], draws["query"]) / np.sqrt(2)
    np.testing.assert_allclose(
        found, np.linalg.svd(interaction, compute_uv=False), atol=10 * TOLERANCE
    )
    ax = plot_spectrum(fits)
    lines = {line.get_label(): line for line in ax.lines}
    np.testing.assert_allclose(
        lines["posterior"].get_ydata(), np.median(found[:, 0], axis=0), atol=10 * TOLERANCE
    )


def path_of(embedding, gain, scale=0.5, contraction=None):
    """A fit whose path holds what the tokens embed to, in one dimension, with A = gain."""
    model = LanguageModel(3, 4, 1, scale=scale, contraction=contraction)
    params = {name: np.zeros(prior.shape()) for name, prior in model.priors().items()}
    params["embedding"] = np.array(embedding, float)[:, None]
    params["query"], params["key"] = np.full((1, 1, 1), gain), np.ones((1, 1, 1))
    return Fit(
        model,
        "map",
        np.zeros((1, 4), int),
        {name: value[None, None] for name, value in params.items()},
    )


def test_root_counts_are_those_of_the_theory():
    """Keys +1 and -1, sigma 0.5: 1.0000, 1.4360 and 2.2301 solutions at gains 1.0, 1.5 and 3.0
    (theory, section 4)."""
    # The path starts at the end's embedding, +1, then comes -1: position 2 sees both.
    tokens = np.array([[1, 1, 0, 0], [1, 1, 0, 0]])
    for gain, expected, size in ((1.5, 1.4360, "1.218"), (3.0, 2.2301, "1.615")):
        fit = path_of([1.0, -1.0, 0.0], gain)
        found = uniqueness(fit, tokens)
        assert not found.capped
        assert found.histories == 2
        np.testing.assert_allclose([found.roots, found.roots_largest], expected, atol=1e-3)

        assert f"integrates to {size}" in found.verdict()
        assert found.draws.value == 0  # no bound certifies the whole path


def test_what_is_certified_is_called_so():
    tokens = np.array([[1, 1, 0, 0], [2, 1, 0, 0]])
    small = uniqueness(path_of([1.0, -1.0, 0.0], 0.5), tokens)  # 0.5 * 2^2 / 4 < 1
    assert (small.positions.value, small.draws.value, small.histories) == (1, 1, 0)
    assert "at 100% of held-out positions" in small.verdict()
    assert "at most" not in small.verdict()
    # Of two draws, one certified and one not, one half of the mass is.
    both = path_of([1.0, -1.0, 0.0], 0.5)
    draws = {name: np.concatenate([value, value], axis=1) for name, value in both.draws.items()}
    draws["query"] = draws["query"] * np.array([1, 2.5])[None, :, None, None, None]
    half = uniqueness(dataclasses.replace(both, method="ensemble", draws=draws), tokens)
    assert (half.draws.value, half.draws.error) == (0.5, 0.5)
    assert half.num_draws == 2
    # Two chains that disagree: the error is between them, however many draws each has.
    split = {name: np.repeat(np.moveaxis(value, 1, 0), 30, axis=1) for name, value in draws.items()}
    apart = uniqueness(dataclasses.replace(both, method="posterior", draws=split), tokens)
    assert (apart.draws.value, apart.draws.error) == (0.5, 0.5)
    capped = uniqueness(path_of([1.0, -1.0, 0.0], 3.0, contraction=0.9), tokens)
    assert capped.capped
    assert "for every parameter and history" in capped.verdict()


def test_draws_are_scored_as_they_are(fits, corpus):
    fit = fits["posterior"]
    found = draw_scores(fit, corpus.heldout)
    params, model = (
        {name: jnp.asarray(value[0]) for name, value in fit.flat_draws().items()},
        fit.model,
    )
    prior = sum(prior.log_prob(params[name]) for name, prior in model.priors().items())
    path = model.barrier_weight * model.path_log_density(params, fit.data).sum()
    np.testing.assert_allclose(
        found.log_joint[0], prior + path + model.log_likelihood(params, fit.data).sum(), rtol=1e-5
    )
    counts = np.array(
        [1 + (row != 0).sum() if (row == 0).any() else len(row) for row in corpus.heldout]
    )
    np.testing.assert_allclose(
        found.mixture, fit.predictive_log_prob(corpus.heldout).sum() / counts.sum(), rtol=1e-5
    )
    assert found.mixture > np.median(found.per_token)
    mode = draw_scores(fits["map"], corpus.heldout)
    assert mode.log_joint[0] > found.log_joint.max()
    ax = plot_mode_against_draws(fits, corpus.heldout)
    points = {line.get_label(): line for line in ax.lines}
    np.testing.assert_allclose(points["posterior"].get_xdata(), found.log_joint)
    np.testing.assert_allclose(points["posterior"].get_ydata(), found.per_token)
    np.testing.assert_allclose(points["posterior, all draws together"].get_ydata(), found.mixture)
    assert "nats" in ax.get_xlabel()
    assert dataclasses.is_dataclass(found)
