"""The figure of a learning curve."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

from probattn.errors import InputError
from probattn.inference.evaluation.curve import LearningCurve
from probattn.inference.evaluation.learning_study import learning_curve
from probattn.inference.evaluation.measured import SURE
from probattn.inference.fitting.fit import Fit
from probattn.inference.report.style import STYLE, fit_styles, ink, own_axes


def plot_learning_curve(
    fits: LearningCurve | Mapping[str, Sequence[Fit]],
    heldout_tokens: Any = None,
    *,
    ax: Axes | None = None,
) -> Axes:
    """Held-out loss against the number of training sequences, with one line for each method.

    Bars are two standard errors, in nats per token. Markers are hollow where a fit has not
    converged or is unfinished. The bars of two methods may overlap though their difference is not
    noise: `LearningCurve.verdicts` judges the paired differences.

    Args:
        fits: a curve, or fits as `learning_curve` takes them.
        heldout_tokens: shape (num_sequences, length), needed for fits.
        ax: axes to draw on; those of a new figure by default.

    Returns: the axes.
    Raises: InputError for fits without held-out tokens or that `learning_curve` refuses, or a curve
    of other held-out tokens.
    """
    if isinstance(fits, LearningCurve):
        curve = fits
        if heldout_tokens is not None:
            curve.refuse_other(heldout_tokens)
    elif heldout_tokens is None:
        raise InputError(
            "held-out tokens: expected those to score the fits on, got none; give them, or a "
            "LearningCurve"
        )
    else:
        curve = learning_curve(fits, heldout_tokens)
    ax = own_axes(ax)
    with mpl.rc_context(STYLE):
        for name, style in fit_styles(curve.methods).items():
            _draw(curve, name, style, ax)
        _label(curve, ax)
    return ax


def _draw(curve: LearningCurve, name: str, style: Mapping[str, Any], ax: Axes) -> None:
    loss, error = curve.losses(name)
    trusted = curve.trusted(name)
    bars = SURE * error
    ax.errorbar(
        curve.sizes,
        loss,
        yerr=bars,
        capsize=3,
        label=name,
        markevery=np.flatnonzero(trusted).tolist(),
        **style,
    )
    hollow = {
        "marker": style["marker"],
        "color": style["color"],
        "fillstyle": "none",
        "linestyle": "none",
    }
    if not trusted.all():
        ax.plot(curve.sizes[~trusted], loss[~trusted], **hollow)


def _label(curve: LearningCurve, ax: Axes) -> None:
    ax.set_xscale("log")
    ax.set_xticks(curve.sizes, [f"{size:,}" for size in curve.sizes])
    ax.xaxis.set_minor_locator(NullLocator())  # the scale would add ticks between the sizes
    ax.set_xlabel("training sequences (logarithmic scale)")
    ax.set_ylabel("held-out loss, nats per token\n(bars: two standard errors)")
    handles, labels = ax.get_legend_handles_labels()
    if meaning := _what_is_hollow(curve):
        handles.append(Line2D([], [], marker="o", color=ink(), fillstyle="none", linestyle="none"))
        labels.append(meaning)
    ax.legend(handles, labels)


def _what_is_hollow(curve: LearningCurve) -> str:
    """The legend's text on hollow markers; empty if the figure has none."""
    apart = any(value is False for values in curve.converged.values() for value in values)
    short = any(value for values in curve.unfinished.values() for value in values)
    kinds = [word for word, there in (("not converged", apart), ("unfinished", short)) if there]
    return f"hollow: {' or '.join(kinds)}" if kinds else ""
