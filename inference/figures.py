"""The figures of a comparison, in one style; colours are those of Okabe and Ito, told apart by colour-blind readers."""

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from probattn.inference.compare import Comparison, Example

COLOURS = {
    "map": "#D55E00",
    "posterior": "#0072B2",
    "laplace": "#009E73",
    "ensemble": "#CC79A7",
    "microcanonical": "#56B4E9",
    "baseline": "#666666",
}
MORE_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "legend.frameon": False,
    "svg.fonttype": "path",
    "svg.hashsalt": "probattn",
}
ALWAYS_ONE = 2  # positions 1 and 2 have nothing to attend over: their margin is 1 by construction


def figures(comparison: Comparison) -> dict[str, Figure]:
    """All figures by name: scores, margins, support_tokens and, with a posterior, traces."""
    with mpl.rc_context(STYLE):
        drawn = {
            "scores": _figure(plot_scores, comparison, 7.2, 0.9 + 0.38 * len(comparison.scores)),
            "margins": _figure(plot_margins, comparison, 7.2, 3.0),
            "support_tokens": _support_figure(comparison),
        }
        if comparison.traces:
            drawn["traces"] = _figure(plot_traces, comparison, 7.2, 3.0)
    return drawn


def plot_scores(comparison: Comparison, ax: Axes) -> Axes:
    """Held-out loss of each predictor with two standard errors."""
    ordered = sorted(comparison.scores, key=lambda score: score.log_prob_per_token)
    for row, score in enumerate(ordered):
        loss = -score.log_prob_per_token
        ax.errorbar(
            loss, row, xerr=2 * score.standard_error, fmt="o", color=COLOURS[score.kind], capsize=3, label=score.name
        )
        ax.annotate(f"{loss:.3f}", (loss, row), xytext=(0, 7), textcoords="offset points", ha="center", fontsize=9)
    ax.set_yticks(range(len(ordered)), [score.name for score in ordered])
    ax.set_ylim(-0.5, len(ordered) - 0.2)
    ax.set_xlabel("held-out loss, nats per token (left is better; bars: two standard errors)")
    ax.grid(axis="x", alpha=0.3)
    return ax


def plot_margins(comparison: Comparison, ax: Axes) -> Axes:
    """Histogram of stability margins over held-out positions that have a past to attend over."""
    values = {name: attending(margins) for name, margins in comparison.margins.items()}
    every = np.concatenate([*values.values(), [0.0, 1.0]])
    bins = np.linspace(0, every.max() * 1.001, 41).tolist()
    for (name, margins), colour in zip(values.items(), _colours(comparison, values), strict=True):
        weights = np.full(len(margins), 1 / max(len(margins), 1))
        ax.hist(margins, bins, weights=weights, histtype="stepfilled", alpha=0.2, color=colour)
        ax.hist(margins, bins, weights=weights, histtype="step", linewidth=1.5, color=colour, label=name)
    ax.axvline(0, color="black", linestyle=":", linewidth=1)
    ax.annotate(
        "boundary", (0, 1), xycoords=("data", "axes fraction"), xytext=(4, -10), textcoords="offset points", fontsize=9
    )
    ax.set_xlabel(r"stability margin $\sigma_{\min}(J_t)$, no unit")
    ax.set_ylabel("share of positions")
    ax.legend()
    return ax


def plot_traces(comparison: Comparison, ax: Axes) -> Axes:
    """Held-out log probability per token of single draws, chain by chain."""
    styles = ("-", "--", ":", "-.")
    for (name, traces), colour in zip(comparison.traces.items(), _colours(comparison, comparison.traces), strict=True):
        for chain, values in enumerate(traces):
            label = f"{name}, chain {chain + 1}"
            ax.plot(values, styles[chain % len(styles)], color=colour, linewidth=1, alpha=0.9, label=label)
    for score in comparison.scores:
        if score.kind != "baseline":
            ax.axhline(score.log_prob_per_token, color=COLOURS[score.kind], linewidth=1.2, alpha=0.6)
            ax.annotate(
                f"{score.name} (as a whole)", (1, score.log_prob_per_token), xycoords=("axes fraction", "data"),
                xytext=(0, 2), textcoords="offset points", ha="right", fontsize=9, color=COLOURS[score.kind],
            )  # fmt: skip
    ax.set_xlabel("draw")
    ax.set_ylabel("held-out log probability,\nnats per token")
    ax.legend(loc="lower left", ncols=2)
    return ax


def plot_support(example: Example, kinds: dict[str, str], ax: Axes) -> Axes:
    """Probability of each position to be the support token; a MAP puts all of it on one."""
    positions = np.arange(len(example.labels))
    points = [name for name in example.probability if kinds[name] == "map"]
    bars = [name for name in example.probability if name not in points]
    for number, name in enumerate(bars):
        width = 0.8 / len(bars)
        beside = positions + width * (number - (len(bars) - 1) / 2)
        ax.bar(beside, example.probability[name], width, color=COLOURS[kinds[name]], alpha=0.75, label=name)
    for name in points:
        where = np.flatnonzero(example.probability[name])
        ax.plot(where, np.full(len(where), 1.08), "v", color=COLOURS["map"], markersize=8, label=name, clip_on=False)
    ax.set_xticks(positions, example.labels, fontsize=8)
    ax.set_ylim(0, 1.15)
    ax.set_yticks([0, 0.5, 1])
    return ax


def _support_figure(comparison: Comparison) -> Figure:
    columns = 2
    rows = max(1, -(-len(comparison.examples) // columns))
    figure = Figure(figsize=(7.2, 0.6 + 1.35 * rows), layout="constrained")
    kinds = {score.name: score.kind for score in comparison.scores}
    axes = figure.subplots(rows, columns, sharey=True, squeeze=False)
    for ax in axes.flat[len(comparison.examples) :]:
        ax.remove()
    for ax, example in zip(axes.flat, comparison.examples, strict=False):
        plot_support(example, kinds, ax)
    if comparison.examples:
        handles, labels = axes.flat[0].get_legend_handles_labels()
        if len({tuple(example.probability) for example in comparison.examples}) > 1:
            # Fits of several densities: each panel says whose it is, and the legend tells the methods apart.
            for ax, example in zip(axes.flat, comparison.examples, strict=False):
                ax.set_title(", ".join(example.probability), fontsize=8)
            labels = [kinds[label] for label in labels]
        figure.legend(handles, labels, loc="outside upper left", ncols=4)
    figure.supylabel("probability of being\nthe support token", fontsize=9)
    return figure


def _figure(plot, comparison: Comparison, width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    plot(comparison, figure.subplots())
    return figure


def attending(margins: np.ndarray) -> np.ndarray:
    """The margins of positions that have a spread to attend over, in one row."""
    values = margins[..., ALWAYS_ONE:]
    return values[np.isfinite(values)]


def _colours(comparison: Comparison, names: Sequence[str] | dict) -> list[str]:
    """The colour of each fit's method; a palette when several fits share a method."""
    kinds = [score.kind for name in names for score in comparison.scores if score.name == name]
    return [COLOURS[kind] for kind in kinds] if len(set(kinds)) == len(kinds) else list(MORE_COLOURS[: len(kinds)])
