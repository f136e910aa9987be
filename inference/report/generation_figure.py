"""The figure of generated sequences: margins along the path, and the surprise of each token."""

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
    """Stability margins along the path of each generated sequence, and surprise of its tokens.

    Each sequence has a row of two panels. Surprise is minus the log probability, in nats. A
    triangle marks the support token of the whole path; rings mark positions that were the support
    token while the sequence was shorter.

    Args:
        generation: as the `generate` of a model returns it.
        symbols: the symbol of each token.

    Returns: the axes, (num_sequences, 2).
    Raises: InputError if a token has no symbol.
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
        for row, (margin_ax, surprise_ax) in enumerate(axes):
            n = int(np.isfinite(margin[row]).sum())  # margins are NaN after the end
            plot_growing_margin(
                margin[row, :n],
                support[row, :n],
                path_labels(tokens[row], symbols, n, start),
                margin_ax,
            )
            plot_surprise(
                log_prob[row, :n], [symbols[token] for token in tokens[row, :n]], surprise_ax
            )
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
    """Margins of one path, with the support tokens it has and had while it was shorter.

    Args:
        margin: of each position, (positions,).
        support: the support token of each prefix of the path, (positions,).
        labels: of the positions.
        ax: axes to draw on.
    """
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
    """Surprise of each token of one sequence: minus its log probability (length,), in nats."""
    positions = np.arange(len(log_prob))
    ax.bar(positions, -log_prob, color=COLOURS["baseline"], alpha=0.75)
    ax.set_xticks(positions, labels, fontsize=8)
    return ax
