"""The figure of a simulation-based calibration."""

import math

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from probattn.inference.evaluation.simulation_calibration import Calibration
from probattn.inference.report.style import COLOURS, STYLE, ink

ACROSS = 4  # panels in a row


def plot_ranks(calibration: Calibration) -> np.ndarray:
    """Rank ECDF of each quantity minus the diagonal, with its simultaneous band.

    A curve that leaves its band is marked. A hump above zero means that the true quantity ranks low
    among the draws, which are too large; a hump below zero means the reverse. An S shape means that
    the posterior is too narrow or too wide.

    Args: calibration, the result of `simulation_based_calibration`.
    Returns: the axes, one for each quantity.
    """
    names = list(calibration.ranks)
    rows = math.ceil(len(names) / ACROSS)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(2.6 * ACROSS, 0.6 + 2.1 * rows), layout="constrained")
        axes = figure.subplots(rows, ACROSS, sharex=True, squeeze=False).ravel()
        for ax, name in zip(axes, names, strict=False):
            curve = calibration.ecdf(name)
            ax.fill_between(
                curve.points,
                curve.lower - curve.points,
                curve.upper - curve.points,
                step="mid",
                color=COLOURS["baseline"],
                alpha=0.25,
                linewidth=0,
            )
            colour = COLOURS["posterior"] if curve.inside else COLOURS["map"]
            ax.plot(curve.points, curve.values - curve.points, color=colour, linewidth=1.5)
            ax.axhline(0, color=ink(), linewidth=0.6, linestyle=":")
            ax.set_title(name + ("" if curve.inside else ": outside"))
        for ax in axes[len(names) :]:
            ax.set_visible(False)
        count = len(next(iter(calibration.ranks.values())))
        figure.supxlabel(
            f"rank of the truth, as a share of the {calibration.num_samples} draws ({count} "
            "simulations)"
        )
        figure.supylabel("ECDF minus diagonal")
    return axes[: len(names)]
