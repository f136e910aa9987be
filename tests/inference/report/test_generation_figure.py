"""The figure of generated sequences shows the numbers it was given."""

from types import SimpleNamespace

import numpy as np
import pytest

from probattn import InputError
from probattn.inference import plot_candidates, plot_generation

GENERATION = SimpleNamespace(
    tokens=np.array([[1, 2, 0, 0], [2, 2, 1, 1]]),
    log_prob=np.array([[-1.0, -2.0, -0.5, np.nan], [-1.0, -1.0, -3.0, -0.1]]),
    margin=np.array([[1.0, 1.0, 0.6, np.nan], [1.0, 1.0, 1.4, 0.2]]),
    support=np.array([[0, 0, 2, -1], [0, 0, 0, 3]]),
    path_has_start=True,
)


def test_margins_support_and_surprise_are_those_given():
    axes = plot_generation(GENERATION, ["end", "a", "b"])
    line, once, last = axes[0, 0].get_lines()
    assert line.get_ydata().tolist() == [1.0, 1.0, 0.6]
    assert once.get_xdata().tolist() == [0]
    assert last.get_xdata().tolist() == [2]
    assert [text.get_text() for text in axes[0, 0].get_xticklabels()] == ["start", "a", "b"]
    assert axes[1, 0].get_lines()[2].get_xdata().tolist() == [3]
    assert [bar.get_height() for bar in axes[0, 1].patches] == [1.0, 2.0, 0.5]
    assert [text.get_text() for text in axes[0, 1].get_xticklabels()] == ["a", "b", "end"]
    assert axes[0, 0].get_ylim()[1] > 1.4
    assert [text.get_text() for text in axes[0, 0].figure.legends[0].get_texts()] == [
        "was support token",
        "support token",
    ]


def test_a_path_without_a_start_is_labelled_by_its_tokens():
    axes = plot_generation(
        SimpleNamespace(**(vars(GENERATION) | {"path_has_start": False})), ["end", "a", "b"]
    )
    assert [text.get_text() for text in axes[0, 0].get_xticklabels()] == ["a", "b", "end"]
    assert axes[1, 0].get_xlabel() == "latent embedding of each token"


def test_too_few_symbols_are_refused():
    with pytest.raises(InputError, match="symbols: expected at least 3, one for each token, got 2"):
        plot_generation(GENERATION, ["end", "a"])


CANDIDATES = SimpleNamespace(
    log_prob=np.log([[0.5, 0.3, 0.2], [0.1, 0.9, 1e-9], [0.2, 0.2, 0.6], [np.nan] * 3]),
    log_det=np.array([[0.0, 0.5, -1.0], [0.1, np.inf, 0.3], [np.nan] * 3, [np.nan] * 3]),
    outside=np.array([[0, 0, 1], [0, 1, 0], [0, 0, 0], [0, 0, 0]], bool),
)


def test_candidates_are_those_given_up_to_the_end():
    tokens = np.array([1, 1, 0, 0])
    ax = plot_candidates(CANDIDATES, tokens, ["end", "a", "b"])
    np.testing.assert_array_equal(ax.images[0].get_array()[2, :2], [-1.0, 0.3])
    dots, crosses, squares = (part.get_offsets().tolist() for part in ax.collections)
    assert len(dots) == 9
    assert crosses == [[0, 2], [1, 1]]
    assert squares == [[0, 1], [1, 1], [2, 0]]
    areas = ax.collections[0].get_sizes()
    np.testing.assert_allclose(areas[:3] / areas[:3].sum(), [0.5, 0.3, 0.2])
    assert [text.get_text() for text in ax.get_xticklabels()] == ["a", "a", "end"]
    with pytest.raises(InputError, match="symbols: expected 3, one for each token, got 2"):
        plot_candidates(CANDIDATES, tokens, ["end", "a"])
    with pytest.raises(InputError, match="expected those of one sequence of \\(3,\\) tokens"):
        plot_candidates(CANDIDATES, tokens[:3], ["end", "a", "b"])
