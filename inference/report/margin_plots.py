"""Figures of margins, support tokens and the spectra of interactions."""

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes

from probattn.errors import InputError
from probattn.inference.contract import TokenModel, require
from probattn.inference.evaluation.geometry import singular_values
from probattn.inference.evaluation.measured import QUANTILES
from probattn.inference.evaluation.support import Example, example, margins_of
from probattn.inference.report.plot_arguments import fits_by_name, results_by_name
from probattn.inference.report.style import (
    STYLE,
    draw_intervals,
    fit_styles,
    ink,
    own_axes,
    side_by_side,
)


def plot_margins(fits: Any, tokens: Any = None, *, ax: Axes | None = None) -> Axes:
    """Median and intervals of the stability margins at each position of the path.

    The intervals hold half and nine tenths of the margins of all sequences and draws; 0 is the
    boundary.

    Args:
        fits: one fit, several by name, or a mapping to (method, margins (draws, num_sequences,
            positions)).
        tokens: held-out sequences (num_sequences, length), needed for fits.
        ax: axes to draw on; those of a new figure by default.

    Returns: the axes.
    Raises: InputError for tokens that the model refuses.
    """
    found = results_by_name(fits, tuple, lambda fit: (fit.method, margins_of(fit, tokens)))
    ax = own_axes(ax, 6.8, 3.4)
    shown = fit_styles({name: method for name, (method, _) in found.items()})
    with mpl.rc_context(STYLE):
        for (name, (_, margins)), beside in zip(
            found.items(), side_by_side(len(found)), strict=True
        ):
            positions = np.flatnonzero(np.isfinite(margins).any((0, 1)))
            quantiles = np.nanquantile(margins[..., positions], QUANTILES, axis=(0, 1))
            draw_intervals(ax, positions + 1 + beside, quantiles, name, shown[name])
        ax.axhline(0, color=ink(), linestyle=":", linewidth=1)
        ax.annotate(
            "boundary",
            (0, 0),
            xycoords=("axes fraction", "data"),
            xytext=(4, 3),
            textcoords="offset points",
            fontsize=9,
        )
        ax.set_ylim(bottom=0)
        ax.set_xlabel("position on the path (1 and 2 have nothing to attend over)")
        ax.set_ylabel(r"stability margin $\sigma_{\min}(J_t)$, no unit")
        ax.legend(loc="lower right", ncols=3, fontsize=9)
    return ax


def plot_support(
    fits: Any, tokens: Any = None, symbols: Sequence[str] | None = None, *, ax: Axes | None = None
) -> Axes:
    """Probability that each position of one sequence is its support token.

    A triangle marks the support token under a MAP, bars the share of draws under other fits.

    Args:
        fits: one fit, several of one density by name, or an `Example`.
        tokens: one sequence (length,), needed for fits.
        symbols: the symbol of each token; its id by default.
        ax: axes to draw on; those of a new figure by default.

    Returns: the axes.
    Raises: InputError for more than one sequence.
    """
    if isinstance(fits, Example):
        shown = fits
    else:
        given, tokens = fits_by_name(fits), np.asarray(tokens)
        if tokens.ndim != 1:
            raise InputError(f"tokens: expected one sequence, shape (length,), got {tokens.shape}")
        model = require("plot_support", next(iter(given.values())).model, TokenModel)
        vocab_size = model.vocab_size
        shown = example(given, tokens, symbols or [str(token) for token in range(vocab_size)])
    ax = own_axes(ax, 4.2, 2.2)
    style, positions = fit_styles(shown.methods), np.arange(len(shown.labels))
    points = [
        name
        for name, values in shown.probability.items()
        if np.isin(values, (0, 1)).all() and shown.methods[name] == "map"
    ]
    bars = [name for name in shown.probability if name not in points]
    with mpl.rc_context(STYLE):
        for number, name in enumerate(bars):
            width = 0.8 / len(bars)
            beside = positions + width * (number - (len(bars) - 1) / 2)
            ax.bar(
                beside,
                shown.probability[name],
                width,
                color=style[name]["color"],
                alpha=0.75,
                label=name,
            )
        for number, name in enumerate(points):
            where = np.flatnonzero(shown.probability[name])
            height = np.full(len(where), 1.1 + 0.16 * number)
            ax.plot(
                where,
                height,
                "v",
                color=style[name]["color"],
                markersize=8,
                label=name,
                clip_on=False,
            )
        ax.set_xticks(positions, shown.labels, fontsize=8)
        ax.set_ylim(0, 1.18 + 0.16 * max(len(points) - 1, 0))
        ax.set_yticks([0, 0.5, 1])
    return ax


def plot_spectrum(fits: Any, *, ax: Axes | None = None) -> Axes:
    """Median and intervals of the singular values of each head's interaction.

    The intervals hold half and nine tenths of the draws.

    Args:
        fits: one fit, several by name, or a mapping to (method, singular values (draws, heads,
            dim)).
        ax: axes to draw on; those of a new figure by default.

    Returns: the axes.
    """
    found = results_by_name(fits, tuple, lambda fit: (fit.method, singular_values(fit)))
    ax = own_axes(ax, 5.0, 3.2)
    shown = fit_styles({name: method for name, (method, _) in found.items()})
    with mpl.rc_context(STYLE):
        for (name, (_, values)), beside in zip(
            found.items(), side_by_side(len(found)), strict=True
        ):
            flat = values.reshape(len(values), -1)  # [draws, heads * dim]
            quantiles = np.quantile(flat, QUANTILES, axis=0)
            draw_intervals(ax, np.arange(flat.shape[1]) + beside, quantiles, name, shown[name])
        heads, dim = next(iter(found.values()))[1].shape[1:]
        names = [
            f"{i + 1}" if heads == 1 else f"{h + 1}:{i + 1}"
            for h in range(heads)
            for i in range(dim)
        ]
        ax.set_xticks(range(heads * dim), names)
        ax.set_ylim(bottom=0)
        ax.set_xlabel(
            "number, the largest first" if heads == 1 else "head : number, the largest first"
        )
        ax.set_ylabel("singular values of the\ninteraction A, no unit")
        ax.legend(fontsize=9)
    return ax
