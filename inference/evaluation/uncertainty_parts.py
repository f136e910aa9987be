"""Uncertainty of the next token, split into what is in the data and what the draws disagree about."""

from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes

from probattn.inference.evaluation.measured import Measured, ratio
from probattn.inference.evaluation.predictive import Prediction, each, predict
from probattn.inference.report.style import STYLE, looks, own_axes


@dataclass(frozen=True, eq=False)
class Uncertainty:
    """Mean uncertainty of the next token of one fit, in nats per token.

        total = data + mutual information
        H[p(x_t | x_<t)] = E_theta H[p_theta(x_t | x_<t)] + I(x_t; theta | x_<t)

    Expectations are over the posterior given the prefix. A single draw has no mutual information.

    Args:
        method: of the fit.
        total, data, mutual_information: means over all tokens that count, with standard errors across sequences.
        by_position: shape (2, length), data uncertainty and mutual information at each position; NaN where none counts.
    """

    method: str
    total: Measured
    data: Measured
    mutual_information: Measured
    by_position: np.ndarray


def uncertainty(prediction: Prediction, *, method: str) -> Uncertainty:
    """The uncertainty in predictions of some sequences. Source: Houlsby et al., arXiv:1112.5745."""
    at, counts = prediction.counted, prediction.counted.sum(1)
    parts = [
        np.where(at, part, 0) for part in (prediction.entropy, prediction.data_entropy, prediction.mutual_information)
    ]
    with np.errstate(invalid="ignore"):
        by_position = np.stack([part.sum(0) / at.sum(0) for part in parts[1:]])
    total, data, shared = (ratio(part.sum(1), counts) for part in parts)
    return Uncertainty(method, total, data, shared, by_position)


def plot_uncertainty(fits: Any, tokens: Any = None, *, ax: Axes | None = None) -> Axes:
    """Bars of data uncertainty with mutual information on top of it, one for each fit.

    Args: fits, one, several by name, or a mapping to `Uncertainty`; tokens, held-out sequences (num_sequences, length).
    Raises: InputError as `predict`.
    """
    found = each(fits, Uncertainty, lambda fit: uncertainty(predict(fit, tokens), method=fit.method))
    ax = own_axes(ax, 6.4, 1.2 + 0.45 * len(found))
    shown = looks({name: one.method for name, one in found.items()})
    with mpl.rc_context(STYLE):
        for row, (name, one) in enumerate(found.items()):
            colour = shown[name]["color"]
            ax.barh(row, one.data.value, 0.6, color=colour, alpha=0.75, label=name)
            ax.barh(row, one.mutual_information.value, 0.6, left=one.data.value, xerr=2 * one.total.error, color="none", edgecolor=colour, hatch="////", linewidth=0, capsize=3)  # fmt: skip
            text = f"{one.data.value:.3f} + {one.mutual_information.value:.3f}"
            ax.annotate(text, (0, row), xytext=(5, 0), textcoords="offset points", va="center", fontsize=9)
        ax.set_yticks(range(len(found)), list(found))
        ax.set_ylim(len(found) - 0.5, -0.5)
        ax.set_xlabel("uncertainty of the next token, nats: of the data (solid) + mutual information (hatched)")
    return ax
