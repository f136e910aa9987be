"""Figures of reliability, uncertainty, detection and robustness."""

from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes

from probattn.inference.evaluation.out_of_distribution import (
    CURVE,
    SCORES,
    Detection,
    detection,
    shuffled,
)
from probattn.inference.evaluation.perturbations import (
    DISTURBED_SEQUENCES,
    EMBEDDING_NOISE,
    Robustness,
    robustness,
)
from probattn.inference.evaluation.predictive import predict
from probattn.inference.evaluation.token_calibration import Reliability, reliability
from probattn.inference.evaluation.uncertainty_parts import Uncertainty, uncertainty
from probattn.inference.fitting.fit import Fit
from probattn.inference.report.plot_arguments import results_by_name
from probattn.inference.report.style import STYLE, fit_styles, ink, own_axes


def plot_calibration(fits: Any, tokens: Any = None, *, ax: Axes | None = None) -> Axes:
    """Accuracy against confidence of next-token predictions.

    In each bin the accuracy of a calibrated predictor would lie in the band with probability 0.95.

    Args:
        fits: one fit, several by name, or a mapping to `Reliability`.
        tokens: held-out sequences (num_sequences, length), needed for fits.
        ax: axes to draw on; those of a new figure by default.

    Returns: the axes.
    Raises: InputError as `predict`.
    """
    found = results_by_name(fits, Reliability, lambda fit: reliability(predict(fit, tokens)))
    ax = own_axes(ax, 5.0, 4.2)
    shown = fit_styles({name: one.method for name, one in found.items()})
    with mpl.rc_context(STYLE):
        top = max(
            max(one.confidence.max(), one.high.max(), one.accuracy.max()) for one in found.values()
        )
        ax.plot([0, top], [0, top], color=ink(), linewidth=0.8, linestyle=":", label="calibrated")
        for name, one in found.items():
            ax.fill_between(
                one.confidence,
                one.low,
                one.high,
                color=shown[name]["color"],
                alpha=0.12,
                linewidth=0,
            )
            ax.plot(
                one.confidence,
                one.accuracy,
                **shown[name],
                markersize=4,
                linewidth=1.4,
                label=f"{name}, ECE {one.calibration_error:.3f}",
            )
        ax.set_xlabel("confidence: probability of the likeliest next token")
        ax.set_ylabel("accuracy: share of likeliest tokens that occurred")
        ax.legend(loc="upper left", fontsize=9)
    return ax


def plot_uncertainty(fits: Any, tokens: Any = None, *, ax: Axes | None = None) -> Axes:
    """Uncertainty of the next token under each fit: data uncertainty plus mutual information.

    Each fit has one bar, in nats; its error bar is two standard errors of the total.

    Args:
        fits: one fit, several by name, or a mapping to `Uncertainty`.
        tokens: held-out sequences (num_sequences, length), needed for fits.
        ax: axes to draw on; those of a new figure by default.

    Returns: the axes.
    Raises: InputError as `predict`.
    """
    found = results_by_name(fits, Uncertainty, lambda fit: uncertainty(predict(fit, tokens)))
    ax = own_axes(ax, 6.4, 1.2 + 0.45 * len(found))
    shown = fit_styles({name: one.method for name, one in found.items()})
    with mpl.rc_context(STYLE):
        for row, (name, one) in enumerate(found.items()):
            colour = shown[name]["color"]
            ax.barh(row, one.data.value, 0.6, color=colour, alpha=0.75, label=name)
            ax.barh(
                row,
                one.mutual_information.value,
                0.6,
                left=one.data.value,
                xerr=2 * one.total.error,
                color="none",
                edgecolor=colour,
                hatch="////",
                linewidth=0,
                capsize=3,
            )
            text = f"{one.data.value:.3f} + {one.mutual_information.value:.3f}"
            ax.annotate(
                text, (0, row), xytext=(5, 0), textcoords="offset points", va="center", fontsize=9
            )
        ax.set_yticks(range(len(found)), list(found))
        ax.set_ylim(len(found) - 0.5, -0.5)
        ax.set_xlabel(
            "uncertainty of the next token, nats: of the data (solid) + mutual information "
            "(hatched)"
        )
    return ax


def plot_detection(
    fits: Any,
    tokens: Any = None,
    elsewhere: Any = None,
    *,
    name: str = "shuffled",
    ax: Axes | None = None,
) -> Axes:
    """ROC curve of the detection of other sequences by each fit and score.

    Args:
        fits: one fit, several by name, or a mapping to the result of `detection`.
        tokens: held-out sequences (num_sequences, length), needed for fits.
        elsewhere: the other sequences (n, length); by default the second half of `tokens`,
            shuffled, against its first half.
        name: what the title calls the other sequences.
        ax: axes to draw on; those of a new figure by default.

    Returns: the axes.
    Raises: InputError as `predict`.
    """

    def find(fit: Fit) -> tuple[Detection, ...]:
        half = len(tokens) // 2
        others = shuffled(tokens[half:]) if elsewhere is None else elsewhere
        ours = tokens[:half] if elsewhere is None else tokens
        return detection(predict(fit, ours), predict(fit, others), elsewhere=name)

    found = results_by_name(fits, tuple, find)
    ax = own_axes(ax, 4.4, 4.2)
    shown = fit_styles({label: some[0].method for label, some in found.items()})
    lines = dict(zip(SCORES, ("-", "--", ":"), strict=True))
    with mpl.rc_context(STYLE):
        ax.plot([0, 1], [0, 1], color=ink(), linewidth=0.8, linestyle=":")
        for label, some in found.items():
            for one in some:
                text = f"{label}, {one.score}: {one.area.value:.2f}"
                ax.plot(
                    CURVE,
                    one.hits,
                    color=shown[label]["color"],
                    linestyle=lines[one.score],
                    linewidth=1.5,
                    label=text,
                )
        ax.set_xlabel("false alarms: share of held-out sequences")
        ax.set_ylabel("detected: share of the others")
        ax.set_title(f"the others are {next(iter(found.values()))[0].elsewhere}")
        below = (0.5, -0.16)  # below the axes, since curves may be anywhere in them
        title = "area under the curve"
        ax.legend(
            loc="upper center", bbox_to_anchor=below, fontsize=8, title=title, title_fontsize=8
        )
    return ax


def plot_robustness(
    fits: Any, tokens: Any = None, *, disturbance: str = EMBEDDING_NOISE, ax: Axes | None = None
) -> Axes:
    """Held-out loss against the size of a disturbance, with two standard errors.

    A dotted line is the loss of a fit with few draws when its probability is averaged over noises.

    Args:
        fits: one fit, several by name, or a mapping to `Robustness`.
        tokens: held-out sequences (num_sequences, length), needed for fits; the first 500 are used.
        disturbance: "embedding noise", "swap", "drop", "insert" or "substitute".
        ax: axes to draw on; those of a new figure by default.

    Returns: the axes.
    Raises: InputError as `robustness`.
    """
    found = results_by_name(
        fits, Robustness, lambda fit: robustness(fit, tokens[:DISTURBED_SEQUENCES], disturbance)
    )
    ax = own_axes(ax, 4.8, 3.6)
    shown = fit_styles({name: one.method for name, one in found.items()})
    with mpl.rc_context(STYLE):
        for name, one in found.items():
            losses, errors = (
                [loss.value for loss in one.loss],
                [2 * loss.error for loss in one.loss],
            )
            ax.errorbar(
                one.levels,
                losses,
                yerr=errors,
                **shown[name],
                capsize=3,
                markersize=4,
                linewidth=1.4,
                label=name,
            )
            if one.averaged:
                label = f"{name}, averaged over noises"
                ax.plot(
                    one.levels,
                    [loss.value for loss in one.averaged],
                    color=shown[name]["color"],
                    linestyle=":",
                    linewidth=1.4,
                    label=label,
                )
        first = next(iter(found.values()))
        of_noise = first.disturbance == EMBEDDING_NOISE
        ax.set_xlabel(
            "noise, in root mean squares of the embeddings"
            if of_noise
            else f"typos in each sequence: {first.disturbance}"
        )
        ax.set_ylabel(
            "held-out loss, nats per token"
            if of_noise
            else "loss of the unchanged tokens,\nnats per token"
        )
        if not of_noise:
            ax.set_xticks(first.levels)
        ax.legend(fontsize=9)
    return ax
