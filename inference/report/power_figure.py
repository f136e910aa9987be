"""The figure of what decides what: sensitivities to the power of each part of the density."""

import matplotlib as mpl
from matplotlib.axes import Axes

from probattn.inference.evaluation.power_sensitivity import PowerScaling
from probattn.inference.report.style import (
    MARKERS,
    MORE_COLOURS,
    STYLE,
    ink,
    own_axes,
    side_by_side,
)

SAID = {
    "prior": "the prior",
    "path": "the density of the path (the barrier)",
    "likelihood": "the data",
}


def plot_power_scaling(found: PowerScaling, *, ax: Axes | None = None) -> Axes:
    """How far each quantity of a posterior moves with its prior, its path and its data.

    A full marker is a sensitivity that is surely above what chance gives, a hollow one is not.

    Args: found, from `power_scaling`; ax, axes to draw on, those of a new figure by default.
    Returns: the axes."""
    names = list(found.sensitivity)[::-1]  # the first on top
    ax = own_axes(ax, 6.8, 1.2 + 0.32 * len(names))
    colours = dict(zip(SAID, (*MORE_COLOURS[:2], ink()), strict=True))
    offsets = side_by_side(len(found.parts))[::-1]
    with mpl.rc_context(STYLE):
        for marker, part, offset in zip(MARKERS, found.parts, offsets, strict=False):
            sure = set(found.decided_by(part))
            for row, name in enumerate(names):
                ax.plot(
                    found.sensitivity[name][part],
                    row + offset,
                    marker,
                    color=colours[part],
                    markerfacecolor=colours[part] if name in sure else "none",
                )
            ax.plot([], [], marker, color=colours[part], label=SAID[part])
        ax.set_yticks(range(len(names)), names)
        ax.set_xlim(0)
        ax.set_xlabel("sensitivity: how far its law moves as the power of a part doubles")
        ax.grid(axis="x", alpha=0.3)
        ax.legend(fontsize=9, loc="lower left", bbox_to_anchor=(0, 1), ncols=len(found.parts))
    return ax


def said_of(found: PowerScaling) -> list[str]:
    """A sentence for each part of the density: what it surely decides."""
    sentences = []
    for part in found.parts:
        names = found.decided_by(part)
        what = f"moves {', '.join(names)}" if names else "surely moves nothing"
        sentences.append(f"{SAID[part]} {what}")
    return sentences
