"""One look for every figure; colours are those of Okabe and Ito, told apart by colour-blind readers."""

import itertools
from collections.abc import Mapping
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

COLOURS = {
    "map": "#D55E00",
    "posterior": "#0072B2",
    "laplace": "#009E73",
    "ensemble": "#CC79A7",
    "microcanonical": "#56B4E9",
    "baseline": "#767676",
}
MORE_COLOURS = ("#E69F00", "#8C6D31", *COLOURS.values())  # the first two are no method's
LINES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (1, 1)))
MARKERS = ("o", "v", "s", "D", "^", "P")
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
INK, PAPER = "#e8e8e8", "none"
DARK: dict[Any, Any] = STYLE | {
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK),
    **dict.fromkeys(("axes.facecolor", "figure.facecolor", "savefig.facecolor"), PAPER),
}


def ink() -> str:
    """The colour of text and of lines that are no fit's, on light or on dark paper."""
    return mpl.rcParams["text.color"]


def looks(methods: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Colour, line and marker of each fit by name: the colour of its method, and another one where that is taken."""
    given = {*methods.values(), "baseline"}
    spare = itertools.cycle([colour for colour in MORE_COLOURS if colour not in {COLOURS[method] for method in given}])
    found: dict[str, dict[str, Any]] = {}
    for number, (name, method) in enumerate(methods.items()):
        taken = method != "baseline" and any(look["color"] == COLOURS[method] for look in found.values())
        line, marker = LINES[number % len(LINES)], MARKERS[number % len(MARKERS)]
        found[name] = {"color": next(spare) if taken else COLOURS[method], "linestyle": line, "marker": marker}
    return found


def own_axes(ax: Axes | None, width: float = 6.4, height: float = 3.6) -> Axes:
    """`ax`, or that of a new figure of this size in inches, which a notebook shows."""
    if ax is not None:
        return ax
    with mpl.rc_context(STYLE):
        return plt.subplots(figsize=(width, height), layout="constrained")[1]
