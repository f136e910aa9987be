"""The figure of a predictive check: what new data look like beside data that were seen."""

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from probattn.errors import InputError
from probattn.inference.evaluation.predictive_check import PredictiveCheck
from probattn.inference.report.style import COLOURS, MORE_COLOURS, STYLE, ink
from probattn.visible_text import visible_symbol

COLUMNS = 3
LEAST_WIDTH = 1e-4  # of a histogram, in units of its numbers
MOST_KINDS = 30  # symbols or pairs of a panel, the most frequent of the data that were seen


def plot_check(check: PredictiveCheck, symbols: Sequence[str]) -> np.ndarray:
    """One panel for each figure of a predictive check, and one row for each kind of shares.

    Histograms are of new data, one value for each draw. The line is at the data that were seen;
    where a figure depends on parameters, too, it has a histogram of its own, in outline. Of shares,
    bars and dots are those of the data that were seen, lines nine tenths of the new data.

    Args:
        check: from `prior_check` or `posterior_check`.
        symbols: the symbol of each token.

    Returns: the axes, those of the figures and then those of the shares.
    Raises: InputError for another number of symbols than tokens."""
    if len(symbols) != (number := len(check.shares["symbols"])):
        raise InputError(f"symbols: expected {number}, one for each token, got {len(symbols)}")
    p_values, adjusted = check.p_values(), check.adjusted()
    colour = COLOURS.get(check.source, MORE_COLOURS[0])  # the prior is no method
    rows = -(-len(check.figures) // COLUMNS)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.6, 2.0 * (rows + len(check.shares))), layout="constrained")
        grid = figure.add_gridspec(rows + len(check.shares), COLUMNS)
        axes = []
        for place, (name, (seen, new)) in enumerate(check.figures.items()):
            ax = figure.add_subplot(grid[place // COLUMNS, place % COLUMNS])
            _histogram(ax, seen, new, colour)
            ax.set_title(f"{name}\n{_p_text(p_values[name], adjusted[name])}", fontsize=9)
            axes.append(ax)
        for row, (name, seen) in enumerate(check.shares.items(), rows):
            ax = figure.add_subplot(grid[row, :])
            labels = _labels(name, seen, symbols)
            kinds = np.arange(len(seen)) if name == "lengths" else _most(seen)
            _shares(ax, seen[kinds], check.new_shares[name][:, kinds], colour)
            ax.set_xticks(np.arange(len(kinds)), [labels[kind] for kind in kinds], fontsize=8)
            if name == "pairs":
                ax.tick_params(axis="x", rotation=60)
            title = f"{name}, share of each: {_p_text(p_values[name], adjusted[name])}"
            ax.set_title(title, fontsize=9)
            axes.append(ax)
        handles, texts = axes[0].get_legend_handles_labels()
        figure.legend(handles, texts, loc="outside upper left", ncols=2, fontsize=9)
    return np.array(axes)


def _p_text(p: float, adjusted: float) -> str:
    return f"p = {p:.3f} (corrected {adjusted:.2f})"


def _histogram(ax: Axes, seen: np.ndarray, new: np.ndarray, colour: str) -> None:
    both = np.concatenate([seen, new]).astype(float)
    # Numbers that differ by rounding alone, such as margins of 1, have a bar of their own.
    width = max(np.ptp(both), LEAST_WIDTH * max(1.0, np.abs(both).max()))
    edges = np.linspace(both.min(), both.min() + width, 31).tolist()
    ax.hist(new, edges, color=colour, alpha=0.6, label="new data")
    if np.ptp(seen) == 0:
        ax.axvline(seen[0], color=ink(), label="data that were seen")
    else:
        ax.hist(seen, edges, color=ink(), histtype="step", label="data that were seen")
    ax.set_yticks([])


def _shares(ax: Axes, seen: np.ndarray, new: np.ndarray, colour: str) -> None:
    at = np.arange(len(seen))
    low, middle, high = np.quantile(new, [0.05, 0.5, 0.95], axis=0)
    ax.bar(at, seen, color=COLOURS["baseline"], alpha=0.35)
    ax.vlines(at, low, high, color=colour)
    ax.plot(at, middle, "o", color=colour, markersize=3)
    ax.set_xlim(-0.7, len(at) - 0.3)
    ax.set_ylim(0)


def _most(seen: np.ndarray) -> np.ndarray:
    """The kinds with the largest shares, those without any left out."""
    order = np.argsort(-seen, kind="stable")[:MOST_KINDS]
    return order[seen[order] > 0]


def _labels(name: str, seen: np.ndarray, symbols: Sequence[Any]) -> list[str]:
    shown = [visible_symbol(symbol) for symbol in symbols]
    if name == "lengths":
        return [str(length) for length in range(len(seen))]
    if name == "symbols":
        return shown
    starts = ["start", *shown[1:]]
    ends = ["end", *shown[1:]]
    return [f"{before} {after}" for before in starts for after in ends]
