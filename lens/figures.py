"""Figures of a measured text: margins by layer and token, over layers, and beside other things."""

import unicodedata
from collections.abc import Sequence
from functools import cache
from typing import Any

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font

from probattn.inference.report.style import COLOURS, DARK, STYLE, ink
from probattn.lens.layer_correlation import layer_correlations
from probattn.lens.summaries import by_layer

MOST_NAMED = 64  # tokens that a heat map has room to name
MOST_VECTORS = 2000  # marks that are drawn one by one; more are one picture
NOT_A_NUMBER = "#b0b0b0"
LOW, HIGH = COLOURS["posterior"], COLOURS["map"]  # of sigma_min and sigma_max


def draw_all(found: xr.Dataset, dark: bool = False) -> dict[str, Figure]:
    """Every figure of a dataset of `lens` by name, for a light or a dark page."""
    with mpl.rc_context(DARK if dark else STYLE):
        figures = {
            "blocks": _heat_map(found),
            "layers": _over_layers(found),
            "others": _beside_others(found),
        }
        return figures | ({"growth": _growth(found)} if "noise_size" in found else {})


def _heat_map(found: xr.Dataset) -> Figure:
    """sigma_min at each layer and position, with a mark where the determinant is negative."""
    margin = found["sigma_min"].transpose("layer", "position").values
    beyond = np.argwhere(found["sign"].transpose("layer", "position").values < 0)
    rows, columns = margin.shape
    figure = Figure(figsize=(8, min(1.9 + 0.13 * rows, 6.5)), layout="constrained")
    ax = figure.subplots()
    positive = margin[margin > 0]
    least, most = (positive.min(), positive.max()) if positive.size else (1.0, 1.0)
    image = ax.imshow(
        np.where(margin < least, least, margin),  # 0 has no logarithm; NaN stays
        norm=LogNorm(least, most if most > least else 2 * least),
        cmap=mpl.colormaps["cividis"].with_extremes(bad=NOT_A_NUMBER),
        aspect="auto",
        interpolation="none",
    )
    cell = 72 * min(6.5 / columns, (figure.get_figheight() - 1.2) / rows)  # points
    ax.plot(
        beyond[:, 1],
        beyond[:, 0],
        "o",
        markersize=float(np.clip(0.45 * cell, 0.8, 4)),
        markerfacecolor="white",
        markeredgecolor="black",
        markeredgewidth=min(0.6, cell / 10),
        rasterized=len(beyond) > MOST_VECTORS,
    )
    figure.colorbar(image, ax=ax, label=r"$\sigma_{\min}(J)$, no unit", aspect=30, pad=0.01)
    _name_axes(ax, found, 0)
    return figure


def _growth(found: xr.Dataset) -> Figure:
    """Noise in the stream that enters each layer, from the disturbed token on."""
    first = int(found.attrs["disturbed"])
    size = found["noise_size"].transpose("layer", "position").values[:, first:]
    figure = Figure(figsize=(8, min(1.9 + 0.13 * len(size), 6.5)), layout="constrained")
    ax = figure.subplots()
    span = float(np.clip(np.abs(np.log10(size[size > 0])).max(), 0.1, 4))
    image = ax.imshow(
        np.where(size > 0, size, np.nan),  # what it has not reached
        norm=LogNorm(10**-span, 10**span),  # 1 in the middle
        cmap=mpl.colormaps["PuOr_r"].with_extremes(bad=NOT_A_NUMBER),
        aspect="auto",
        interpolation="none",
    )
    figure.colorbar(image, ax=ax, label="relative noise, times that at the start", pad=0.01)
    _name_axes(ax, found, first)
    return figure


def _name_axes(ax: Axes, found: xr.Dataset, first: int) -> None:
    """Layers down, and tokens from the first one on to the right."""
    ax.set_ylabel("layer")
    _name_layers(ax.yaxis, found)
    ax.spines[:].set_visible(False)
    tokens = found["token"].values
    if len(tokens) - first <= MOST_NAMED:
        names = [f"{_drawn(str(tokens[at]))} {at}" for at in range(first, len(tokens))]
        ax.set_xticks(range(len(names)), names, rotation=90, fontsize=7, parse_math=False)
        ax.set_xlabel("token and position")
    else:
        ax.set_xlabel(f"position after {first}" if first else "position")


def _over_layers(found: xr.Dataset) -> Figure:
    """Singular values, log |det J| and the share beyond the boundary, by layer."""
    layers = by_layer(found)
    at = np.arange(len(layers))
    figure = Figure(figsize=(5.6, 6.4), layout="constrained")
    values, volume, share = figure.subplots(3, sharex=True, height_ratios=(3, 2, 2))
    for name, colour, marker in (("sigma_max", HIGH, "v"), ("sigma_min", LOW, "o")):
        label = rf"$\sigma_{{\{name[-3:]}}}$"
        _draw_bands(values, at, [getattr(one, name) for one in layers], colour, marker, label)
    values.set_yscale("log")
    values.set_ylabel("singular value")
    values.legend(ncols=2, loc="lower left", bbox_to_anchor=(0, 1))
    _draw_bands(volume, at, [one.log_det for one in layers], ink(), "s")
    volume.axhline(0, color=ink(), linestyle=":", linewidth=1)
    volume.set_ylabel(r"$\log|\det J|$, nats")
    share.bar(at, [100 * one.beyond for one in layers], color=COLOURS["baseline"])
    share.set_ylabel("det J < 0, %")
    share.set_ylim(0, None if any(one.beyond > 0 for one in layers) else 1)
    share.set_xlabel("layer")
    _name_layers(share.xaxis, found)
    return figure


def _draw_bands(
    ax: Axes, at: np.ndarray, bands: Sequence[Any], colour: str, marker: str, label: str = ""
) -> None:
    """Medians joined by a line, and bars from the 10 % to the 90 % quantile."""
    low, middle, high = np.array(bands).T
    ax.vlines(at, low, high, color=colour, alpha=0.45, linewidth=3)
    ax.plot(at, middle, color=colour, marker=marker, markersize=4, linewidth=1, label=label)


def _beside_others(found: xr.Dataset) -> Figure:
    """Rank correlations of sigma_min with other things: each layer, quartiles and median."""
    others = layer_correlations(found)
    figure = Figure(figsize=(5.6, 0.9 + 0.42 * len(others)), layout="constrained")
    ax = figure.subplots()
    ax.axvline(0, color=ink(), linestyle=":", linewidth=1)
    for row, one in enumerate(others):
        low, middle, high = one.quartiles
        ax.plot(one.known, np.full(len(one.known), row), "|", color=COLOURS["baseline"], alpha=0.7)
        ax.hlines(row, low, high, color=LOW, linewidth=5, alpha=0.6)
        ax.plot(middle, row, "o", color=LOW, markersize=7)
    ax.set_yticks(range(len(others)), [one.name for one in others])
    ax.set_ylim(len(others) - 0.5, -0.5)
    ax.set_xlim(-1.02, 1.02)
    ax.set_xlabel(r"rank correlation with $\sigma_{\min}$, within a layer")
    return figure


def _name_layers(axis: Any, found: xr.Dataset) -> None:
    """Ticks at some ten of the layers, with their numbers."""
    layers = found["layer"].values
    some = range(0, len(layers), max(1, -(-len(layers) // 10)))
    axis.set_ticks(list(some), [str(layers[row]) for row in some])


def _drawn(token: str) -> str:
    """A token as a label; nothing where a font or the order of its letters would betray it."""
    token = token.strip().replace(" ", "␣")
    right_to_left = any(unicodedata.bidirectional(one) in ("R", "AL") for one in token)
    shown = not right_to_left and all(_glyph(one) for one in token)
    return token[:12] if shown else ""


@cache
def _glyph(symbol: str) -> bool:
    """Whether the font that every installation has can draw a symbol."""
    return bool(get_font(findfont("DejaVu Sans")).get_char_index(ord(symbol)))
