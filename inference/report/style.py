"""The style of all figures.

Most colours are those of Okabe and Ito, which colour-blind readers can distinguish.
"""

import itertools
import warnings
from collections.abc import Mapping
from functools import cache
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import fontManager

COLOURS = {
    "map": "#D55E00",
    "posterior": "#0072B2",
    "laplace": "#009E73",
    "ensemble": "#CC79A7",
    "microcanonical": "#56B4E9",
    "baseline": "#767676",
}
MORE_COLOURS = ("#E69F00", "#8C6D31", *COLOURS.values())  # the first two belong to no method
LINES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (1, 1)))
MARKERS = ("o", "v", "s", "D", "^", "P")
# Fonts of scripts that the first one lacks; those that are installed stand in for its glyphs.
OTHER_SCRIPTS = (
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "WenQuanYi Zen Hei",
    "Source Han Sans SC",
    "PingFang SC",
    "Microsoft YaHei",
    "Malgun Gothic",
    "Noto Sans Devanagari",
    "Noto Sans Thai",
    "Noto Naskh Arabic",
    "Arial Unicode MS",
)
INSTALLED = {font.name for font in fontManager.ttflist}
STYLE: dict[Any, Any] = {
    "font.family": ["DejaVu Sans", *(name for name in OTHER_SCRIPTS if name in INSTALLED)],
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "legend.frameon": False,
    "svg.fonttype": "path",
    "svg.hashsalt": "probattn",
}
INK, PAPER = "#e8e8e8", "none"  # colours of text and of the background in dark figures
DARK: dict[Any, Any] = STYLE | {
    **dict.fromkeys(
        ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK
    ),
    **dict.fromkeys(("axes.facecolor", "figure.facecolor", "savefig.facecolor"), PAPER),
}


def save_figure(figure: Figure, file: Any, **settings: Any) -> None:
    """`figure.savefig(file)`; characters that no installed font has are one warning, not one each.

    Args: figure; file, a path or a buffer; settings of `savefig`."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        figure.savefig(file, **settings)
    missing = [one for one in caught if "missing from font" in str(one.message)]
    for one in caught:
        if one not in missing:
            warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)
    if missing:
        _warn_of_missing_symbols()


@cache
def _warn_of_missing_symbols() -> None:
    """Warn once, however many figures lack a symbol."""
    warnings.warn(
        "figures: the installed fonts lack some of the symbols, which are drawn as boxes; install "
        "a font of their script, such as one of Noto Sans",
        stacklevel=3,
    )


def ink() -> str:
    """The colour of text and of lines that belong to no fit, in the light or dark style in use."""
    return mpl.rcParams["text.color"]


def fit_styles(methods: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Colour, line style and marker of each fit.

    A fit has the colour of its method, or a spare one if an earlier fit has taken it. Baselines
    share their colour.

    Args: methods, by fit, its method.
    """
    given = {*methods.values(), "baseline"}
    spare = itertools.cycle(
        [colour for colour in MORE_COLOURS if colour not in {COLOURS[method] for method in given}]
    )
    found: dict[str, dict[str, Any]] = {}
    for number, (name, method) in enumerate(methods.items()):
        taken = method != "baseline" and any(
            style["color"] == COLOURS[method] for style in found.values()
        )
        line, marker = LINES[number % len(LINES)], MARKERS[number % len(MARKERS)]
        found[name] = {
            "color": next(spare) if taken else COLOURS[method],
            "linestyle": line,
            "marker": marker,
        }
    return found


def own_axes(ax: Axes | None, width: float = 6.4, height: float = 3.6) -> Axes:
    """`ax`, or the axes of a new figure of this size in inches.

    The new figure is made by pyplot, so that a notebook shows it.
    """
    if ax is not None:
        return ax
    with mpl.rc_context(STYLE):
        return plt.subplots(figsize=(width, height), layout="constrained")[1]


def side_by_side(number: int) -> np.ndarray:
    """Offsets that separate the marks of several fits at one position, (number,)."""
    return (np.arange(number) - (number - 1) / 2) * min(0.16, 0.7 / number)


def draw_intervals(
    ax: Axes, at: np.ndarray, quantiles: np.ndarray, name: str, style: Mapping[str, Any]
) -> None:
    """Draw medians, with thick lines over half of the values and thin ones over nine tenths.

    Args:
        ax: axes to draw on.
        at: where on the x-axis, (places,).
        quantiles: at the levels `measured.QUANTILES`, (5, places).
        name: of the fit, for the legend.
        style: of the fit, from `fit_styles`.
    """
    low, lower, middle, upper, high = quantiles
    ax.vlines(at, low, high, color=style["color"], linewidth=1)
    ax.vlines(at, lower, upper, color=style["color"], linewidth=4, alpha=0.6)
    ax.plot(
        at,
        middle,
        color=style["color"],
        marker=style["marker"],
        linestyle="none",
        markersize=5,
        label=name,
    )
