"""The figures of a comparison, for light and for dark pages."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from probattn.inference.evaluation.perturbations import EMBEDDING_NOISE
from probattn.inference.evaluation.predictive_check import PredictiveCheck
from probattn.inference.evaluation.scores import has_chains
from probattn.inference.report.check_figure import plot_check
from probattn.inference.report.comparison import Comparison
from probattn.inference.report.curve_figure import plot_learning_curve
from probattn.inference.report.margin_plots import plot_margins, plot_spectrum, plot_support
from probattn.inference.report.power_figure import plot_power_scaling
from probattn.inference.report.prediction_plots import (
    plot_calibration,
    plot_detection,
    plot_robustness,
    plot_uncertainty,
)
from probattn.inference.report.score_plots import plot_mode_against_draws, plot_scores, plot_traces
from probattn.inference.report.style import DARK, STYLE, save_figure

WIDTH = 7.0  # inches, the width of the text on a page
DOTS = 300  # per inch


def figures(comparison: Comparison, *, dark: bool = False) -> dict[str, Figure]:
    """All figures by name, in the order of the page; without those that have no numbers."""
    methods = comparison.methods

    def of_fits(values: dict) -> dict:
        return {name: (methods[name], values[name]) for name in values}

    def panel(plot: Callable, data: Any, height: float) -> Callable[[], Figure] | None:
        return partial(_grid, [partial(plot, data)], height, 1) if data else None

    def pair(plot: Callable, data: list, height: float) -> Callable[[], Figure] | None:
        return partial(_grid, [partial(plot, one) for one in data], height, 2) if data else None

    several = len(methods)
    typos = [
        by_name
        for disturbance, by_name in comparison.robustness.items()
        if disturbance != EMBEDDING_NOISE
    ]
    chains = [score for score in comparison.scores if has_chains(score)]
    panels = {
        "traces": panel(plot_traces, chains, 3.2),
        "prior_check": partial(_check_figure, comparison.prior, comparison.symbols),
        "posterior_check": partial(
            _check_figure, comparison.checks[comparison.checked], comparison.symbols
        ),
        "calibration": panel(plot_calibration, comparison.reliability, 4.4),
        "scores": panel(plot_scores, comparison.scores, 1.0 + 0.38 * len(comparison.scores)),
        "learning_curve": panel(plot_learning_curve, comparison.curve, 3.6),
        "mode_against_draws": panel(plot_mode_against_draws, comparison.draw_scores, 3.8),
        "uncertainty": panel(plot_uncertainty, comparison.uncertainty, 1.0 + 0.45 * several),
        "detection": pair(plot_detection, list(comparison.detection.values()), 3.6 + 0.5 * several),
        "noise": panel(plot_robustness, comparison.robustness.get(EMBEDDING_NOISE), 3.6),
        "typos": pair(plot_robustness, typos, 2.8),
        "power_scaling": _power_panel(comparison),
        "margins": panel(plot_margins, of_fits(comparison.margins), 3.6),
        "support_tokens": partial(_support_figure, comparison) if comparison.examples else None,
        "spectrum": panel(plot_spectrum, of_fits(comparison.spectra), 3.2),
    }
    with mpl.rc_context(DARK if dark else STYLE):
        return {name: draw() for name, draw in panels.items() if draw is not None}


def save_figures(comparison: Comparison, folder: Any) -> None:
    """Write each figure to a folder, made if needed, as PNG and SVG.

    Raises: OSError if it cannot be written.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, figure in figures(comparison).items():
        with mpl.rc_context(STYLE):
            save_figure(figure, folder / f"{name}.png", dpi=DOTS)
            save_figure(figure, folder / f"{name}.svg", metadata={"Date": None})


def _grid(plots: list[Callable], height: float, columns: int) -> Figure:
    """A figure with one panel for each plot, in rows of `columns` panels and `height` inches."""
    rows = -(-len(plots) // columns)
    figure = Figure(figsize=(WIDTH, height * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax, plot in zip(axes, plots, strict=False):
        plot(ax=ax)
    for ax in axes[len(plots) :]:
        ax.remove()
    return figure


def _check_figure(check: PredictiveCheck, symbols: tuple[str, ...]) -> Figure:
    return plot_check(check, symbols)[0].figure


def _power_panel(comparison: Comparison) -> Callable[[], Figure] | None:
    """One panel for each fit, of which all have one column."""
    found = comparison.power_scaling
    if not found:
        return None
    rows = max(len(one.sensitivity) for one in found.values())
    plots: list[Callable] = [partial(plot_power_scaling, one) for one in found.values()]

    def draw() -> Figure:
        figure = _grid(plots, 1.2 + 0.32 * rows, 1)
        if len(found) > 1:
            for ax, name in zip(figure.axes, found, strict=True):
                ax.set_title(name)
        return figure

    return draw


def _support_figure(comparison: Comparison) -> Figure:
    """The support tokens of each example, with one legend; titles if panels differ in fits."""
    figure = _grid([partial(plot_support, one) for one in comparison.examples], 1.5, 2)
    axes = figure.axes
    handles: dict[str, Any] = {}
    for ax in axes:  # panels of different laws show different fits
        handles |= dict(zip(*reversed(ax.get_legend_handles_labels()), strict=True))
    figure.legend(handles.values(), handles.keys(), loc="outside upper left", ncols=4)
    if len({tuple(one.probability) for one in comparison.examples}) > 1:
        for ax, one in zip(axes, comparison.examples, strict=False):
            ax.set_title(", ".join(one.probability), fontsize=8)
    figure.supylabel("probability of being\nthe support token", fontsize=9)
    return figure
