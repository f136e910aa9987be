"""The figure of generated sequences: margins along the path as it grows, and what each token was
worth."""

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from probattn.errors import InputError
from probattn.inference.evaluation.support import path_labels
from probattn.inference.report.style import COLOURS, STYLE


def plot_generation(generation: Any, symbols: Sequence[str]) -> np.ndarray:
    """A row for each sequence: stability margin of each path position, and surprise of the token it
    predicts.

    A triangle marks the position that is the support token of the whole path, rings those that were
    it while the sequence was shorter.

    Args: generation, as the `generate` of a model returns it; symbols, the text of each token.
    Returns: the axes, (sequences, 2).
    Raises: InputError on fewer symbols than tokens.
    """
    tokens = np.asarray(generation.tokens)
    if tokens.max() >= len(symbols):
        raise InputError(
            f"symbols: expected at least {tokens.max() + 1}, one for each token, got {len(symbols)}"
        )
    margin, log_prob, support = (
        np.asarray(array) for array in (generation.margin, generation.log_prob, generation.support)
    )
    start = generation.path_has_start
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.0, 0.7 + 1.6 * len(tokens)), layout="constrained")
        axes = figure.subplots(len(tokens), 2, squeeze=False, sharey="col")
        for row, (margins, worths) in enumerate(axes):
            n = int(np.isfinite(margin[row]).sum())
            plot_growing_margin(
                margin[row, :n],
                support[row, :n],
                path_labels(tokens[row], symbols, n, start),
                margins,
            )
            plot_surprise(log_prob[row, :n], [symbols[token] for token in tokens[row, :n]], worths)
        axes[0, 0].set_title("stability margin of each path position, no unit")
        axes[0, 1].set_title("surprise of each token, nats")
        axes[0, 0].set_ylim(0, 1.15 * max(1.0, np.nanmax(margin)))
        axes[-1, 0].set_xlabel(
            "path position (start, then the tokens)" if start else "latent embedding of each token"
        )
        axes[-1, 1].set_xlabel("token generated")
        handles, labels = axes[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper left", ncols=3, fontsize=9)
    return axes


def plot_growing_margin(
    margin: np.ndarray, support: np.ndarray, labels: Sequence[str], ax: Axes
) -> Axes:
    """Margins of one path with its support token, and those it had while it was shorter."""
    positions = np.arange(len(margin))
    ax.plot(positions, margin, "o-", color=COLOURS["posterior"], markersize=4, linewidth=1.2)
    once = np.setdiff1d(support, support[-1:])
    ax.plot(
        once,
        margin[once],
        "o",
        color=COLOURS["map"],
        markersize=10,
        fillstyle="none",
        label="was support token",
    )
    ax.plot(
        support[-1:],
        margin[support[-1:]],
        "v",
        color=COLOURS["map"],
        markersize=9,
        label="support token",
    )
    ax.set_xticks(positions, labels, fontsize=8)
    return ax


def plot_surprise(log_prob: np.ndarray, labels: Sequence[str], ax: Axes) -> Axes:
    """Minus the log probability of each token of one sequence."""
    positions = np.arange(len(log_prob))
    ax.bar(positions, -log_prob, color=COLOURS["baseline"], alpha=0.75)
    ax.set_xticks(positions, labels, fontsize=8)
    return ax
