"""Figures of a robustness study: trade-off, margins, disturbed support tokens and averaging."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from probattn.errors import InputError
from probattn.inference.evaluation.perturbations import EMBEDDING_NOISE
from probattn.inference.report.style import LINES, MARKERS, MORE_COLOURS, STYLE, ink, own_axes
from probattn.inference.study.tradeoff import MAIN, Interval, fragility, interval, losses
from probattn.inference.study.under_stress import CHOICES, MARGIN_EDGES


def plot_tradeoff(
    arms: Sequence[dict[str, Any]],
    stress: str = MAIN,
    within: float | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Loss under a stress against clean loss, both minus the plain model's, one line per family.

    Each line connects the doses of one family, from the plain model at the origin. Differences are
    paired by seed, with 95 % intervals if there are at least three seeds.

    Args:
        arms: the plain model and the arms to compare with it.
        stress: one of STRESSES.
        within: if given, show only what lies within so many nats of the plain model, without
            intervals.
        ax: axes to draw on; new ones if None.

    Raises: InputError if the plain model is not among the arms.
    """
    plain = next((arm for arm in arms if arm["family"] == "plain"), None)
    if plain is None:
        raise InputError(
            "trade-off: expected the plain model among the arms, to compare the others with it"
        )
    ax = own_axes(ax, 6.4, 4.6)
    families = dict.fromkeys(arm["family"] for arm in arms if arm is not plain)
    with mpl.rc_context(STYLE):
        for number, family in enumerate(families):
            doses = sorted(
                (arm for arm in arms if arm["family"] == family), key=lambda arm: arm["dose"]
            )
            x, y = (
                [interval(losses(arm, what) - losses(plain, what)) for arm in doses]
                for what in ("clean", stress)
            )
            ax.errorbar(
                [0.0, *(one.mean for one in x)],
                [0.0, *(one.mean for one in y)],
                xerr=None if within else [0.0, *(_half(one) for one in x)],
                yerr=None if within else [0.0, *(_half(one) for one in y)],
                label=family,
                markersize=4,
                linewidth=1.2,
                elinewidth=0.6,
                color=MORE_COLOURS[number % len(MORE_COLOURS)],
                linestyle=LINES[number % len(LINES)],
                marker=MARKERS[number % len(MARKERS)],
            )
        ax.plot(0, 0, "o", color=ink(), label="plain", zorder=5)
        for line in (ax.axhline, ax.axvline):
            line(0, color=ink(), linewidth=0.5, alpha=0.5)
        if within:
            ax.set_xlim(-within / 4, within)
            ax.set_ylim(-within, within)
        ax.set_xlabel("clean loss minus the plain model's, nats per character")
        ax.set_ylabel(f"loss under {stress} minus the plain model's")
        ax.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return ax


def _half(of: Interval) -> float:
    """Half the width of an interval; 0 below three seeds, where bars would hide everything else."""
    return of.upper - of.mean if of.number > 2 else 0.0


def plot_margin_counts(arms: Sequence[dict[str, Any]], ax: Axes | None = None) -> Axes:
    """Histogram of the margins sigma_min(J_t) of the models' own heads, all seeds pooled."""
    ax = own_axes(ax, 6.4, 3.6)
    edges = MARGIN_EDGES[1:-1]
    middles = np.sqrt(edges[:-1] * edges[1:])
    with mpl.rc_context(STYLE):
        for number, arm in enumerate(arms):
            counts = np.sum([result["margins"]["counts"] for result in arm["results"]], axis=0)
            share = counts / counts.sum()
            colour = ink() if arm["family"] == "plain" else MORE_COLOURS[number % len(MORE_COLOURS)]
            ax.step(
                middles,
                share[1:-1],
                where="mid",
                linewidth=1.3,
                label=arm["name"],
                linestyle=LINES[number % len(LINES)],
                color=colour,
            )
        ax.set_xscale("log")
        ax.set_xlabel("stability margin, smallest singular value of $J_t$")
        ax.set_ylabel("share of positions")
        ax.legend(fontsize=7)
    return ax


def plot_course(course: Sequence[dict[str, Any]], ax: Axes | None = None) -> Axes:
    """Margins of the plain model in the course of training.

    The lines are the smallest margin of all seeds, and the means over seeds of the 1 % quantile and
    of the median.

    Args:
        course: the result of `margins_in_training`.
        ax: axes to draw on; new ones if None.
    """
    ax = own_axes(ax, 6.4, 3.4)
    steps = [max(1, at["steps"]) for at in course]  # the axis is logarithmic
    with mpl.rc_context(STYLE):
        lines: list[tuple[str, str, Callable[..., Any]]] = [
            ("median", "median", np.mean),
            ("1 % quantile", "one_percent", np.mean),
            ("smallest", "smallest", np.min),
        ]
        for number, (label, name, of) in enumerate(lines):
            values = [of([result[name] for result in at["results"]]) for at in course]
            ax.plot(
                steps,
                values,
                label=label,
                color=MORE_COLOURS[number],
                marker=MARKERS[number],
                linestyle=LINES[number],
                markersize=4,
                linewidth=1.3,
            )
        ax.set_xscale("log")
        ax.set_yscale("log")
        ax.set_xlabel("steps of training (the first point: before it)")
        ax.set_ylabel("stability margin of the heads")
        ax.legend(fontsize=8)
    return ax


def plot_disturbed_fits(
    curves: Mapping[str, Mapping[str, Any]], disturbance: str, ax: Axes | None = None
) -> Axes:
    """Held-out loss of each fit against the strength of a disturbance, with two standard errors.

    Args:
        curves: `curves` of the result of `compare_under_disturbance`; under noise all fits are
            averaged over as many noises.
        disturbance: which of them to plot.
        ax: axes to draw on; new ones if None.
    """
    ax = own_axes(ax, 4.8, 3.4)
    with mpl.rc_context(STYLE):
        for number, (name, curve) in enumerate(curves[disturbance].items()):
            values, errors = np.transpose(curve["averaged"])
            ax.errorbar(
                curve["levels"],
                values,
                yerr=2 * errors,
                label=name,
                capsize=2,
                color=MORE_COLOURS[number],
                marker=MARKERS[number],
                linestyle=LINES[number],
                markersize=4,
                linewidth=1.3,
            )
        if disturbance == EMBEDDING_NOISE:
            ax.set_xlabel(f"{disturbance}, in root mean squares")
        else:
            ax.set_xlabel(f"typos in each sequence: {disturbance}")
            ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.set_ylabel("held-out loss, nats per character")
        ax.legend(fontsize=8)
    return ax


def plot_fragility(arms: Sequence[dict[str, Any]], ax: Axes | None = None) -> Axes:
    """Loss added by noise on chosen tokens minus that on random ones, one row per arm.

    Tokens are chosen by margin, entropy or gradient (`fragility`). The bars are 95 % intervals.
    """
    ax = own_axes(ax, 6.4, 1.2 + 0.28 * len(arms))
    found = [fragility(arm) for arm in arms]
    with mpl.rc_context(STYLE):
        for number, choice in enumerate(choice for choice in CHOICES if choice != "random"):
            ax.errorbar(
                [of[choice].mean for of in found],
                np.arange(len(arms)) + 0.22 * (number - 1),
                xerr=[_half(of[choice]) for of in found],
                label=choice,
                linestyle="none",
                markersize=4,
                elinewidth=0.8,
                color=MORE_COLOURS[number],
                marker=MARKERS[number],
            )
        ax.axvline(0, color=ink(), linewidth=0.5, alpha=0.5)
        ax.set_yticks(np.arange(len(arms)), [arm["name"] for arm in arms], fontsize=7)
        ax.invert_yaxis()
        ax.set_xlabel("loss added, minus what noise on random tokens adds")
        ax.legend(fontsize=7, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3)
    return ax
