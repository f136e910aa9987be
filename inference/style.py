"""One look for every figure; colours are those of Okabe and Ito, told apart by colour-blind readers."""

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
MORE_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
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
    """Colour, line and marker of each fit by name: the colour of its method, or of a palette where two share a method."""
    own = [method for method in methods.values() if method != "baseline"]
    palette = iter(MORE_COLOURS * len(methods)) if len(set(own)) < len(own) else None
    found = {}
    for number, (name, method) in enumerate(methods.items()):
        shared = palette is not None and method != "baseline"
        colour = next(palette) if shared and palette is not None else COLOURS[method]
        line, marker = LINES[number % len(LINES)], MARKERS[number % len(MARKERS)]
        found[name] = {"color": colour, "linestyle": line, "marker": marker}
    return found


def own_axes(ax: Axes | None, width: float = 6.4, height: float = 3.6) -> Axes:
    """`ax`, or that of a new figure of this size in inches, which a notebook shows."""
    if ax is not None:
        return ax
    with mpl.rc_context(STYLE):
        return plt.subplots(figsize=(width, height), layout="constrained")[1]
