"""The page of the trial, and its numbers as JSON."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from probattn.inference.data.array_file import write_json, write_text
from probattn.inference.devices.environment import versions
from probattn.inference.report.html import data_uri, render
from probattn.inference.report.style import DARK, MARKERS, MORE_COLOURS, STYLE, ink, own_axes
from probattn.inference.study.trial_claims import (
    changed_geometry,
    claims,
    complete,
    fragile_tokens,
    judged,
    not_run,
    secondary,
    some_form_on_all_texts,
)
from probattn.inference.study.trial_families import PLAIN_FAMILY
from probattn.inference.study.trial_order import (
    FULL_TRIAL,
    Results,
    TrialSize,
    behind,
    chosen,
    in_order,
    steps_of,
)
from probattn.inference.study.trial_texts import TEXTS
from probattn.inference.study.trial_verdicts import relative_change


def save_trial(
    folder: Path,
    results: Results,
    plan: str,
    command: str,
    size: TrialSize = FULL_TRIAL,
    texts: Sequence[str] = TEXTS,
) -> dict[str, Any]:
    """Write `report.html` and `report.json` about the arms that are done.

    Args: plan, SHA-256 of the plan now; command, the command line that goes on.
    Returns: the numbers, as in `report.json`.
    """
    found = summary(results, plan, size, texts)
    write_json(folder / "report.json", found)
    whole = [text for text in texts if complete(text, results, size)]
    figures = {text: _drawn(text, results, size) for text in whole}
    page = render("trial.html", found=found, figures=figures, command=command)
    write_text(folder / "report.html", page)
    return found


def summary(
    results: Results, plan: str, size: TrialSize = FULL_TRIAL, texts: Sequence[str] = TEXTS
) -> dict[str, Any]:
    """All that the page says, as JSON values."""
    table = claims(results, size, texts)
    return {
        "plan": plan,
        "plans": sorted({result["plan SHA-256"] for result in results.values()}),
        "size": asdict(size),
        "texts": {text: _about(text, results, size) for text in texts},
        "arms": len(results),
        "failed": [
            {"name": name, "failed": result["failed"]}
            for name, result in results.items()
            if result["failed"]
        ],
        "not_run": not_run(results, size, texts),
        "some_form": some_form_on_all_texts(table),
        "claims": [
            asdict(claim)
            | {
                "clean_said": claim.clean.percent if claim.clean else "",
                "noise_said": claim.noise.percent if claim.noise else "",
                "rival_said": _said_of_rivals(claim.rivals),
                "ahead": bool(claim.rivals and claim.rivals.ahead),
            }
            for claim in table
        ],
        "geometry": [_row(one) for one in changed_geometry(results, size, texts)],
        "support": [_row(one) for one in fragile_tokens(results, size, texts)],
        "secondary": [_row(one) for one in secondary(results, size, texts)],
        "scaling": _scaling(results, size),
        "versions": versions(),
    }


def plot_pareto(
    text: str, results: Results, size: TrialSize = FULL_TRIAL, ax: Axes | None = None
) -> Axes:
    """Changes of loss under noise and of clean loss from plain, with simultaneous bands."""
    ax = own_axes(ax, 6.4, 4.6)
    plain = judged(text, PLAIN_FAMILY, results, size)
    with mpl.rc_context(STYLE):
        for number, name in enumerate(in_order(size)):
            arms = judged(text, name, results, size)
            if name == PLAIN_FAMILY or len(arms) != len(plain):
                continue
            x, y = (
                relative_change(
                    np.array([arm["losses"][of] for arm in arms]),
                    np.array([arm["losses"][of] for arm in plain]),
                )
                for of in ("clean", "noise 0.4")
            )
            bars: dict[str, Any] = {
                "xerr": 100 * (x.upper - x.mean),
                "yerr": 100 * (y.upper - y.mean),
            }
            ax.errorbar(
                [100 * x.mean],
                [100 * y.mean],
                **(bars if len(arms) > 2 else {}),
                label=name,
                markersize=5,
                linestyle="none",
                elinewidth=0.7,
                color=MORE_COLOURS[number % len(MORE_COLOURS)],
                marker=MARKERS[number % len(MARKERS)],
            )
        ax.plot(0, 0, "o", color=ink(), label=PLAIN_FAMILY, zorder=5)
        for line in (ax.axhline, ax.axvline):
            line(0, color=ink(), linewidth=0.5, alpha=0.5)
        ax.set_xlabel("change of clean loss from plain, per cent")
        ax.set_ylabel("change of loss under noise of 0.4, per cent")
        ax.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return ax


def _about(text: str, results: Results, size: TrialSize) -> dict[str, Any]:
    """What was found before judgement: steps, and each family's configuration and its losses."""
    rows = []
    for name in in_order(size):
        of = behind(text, name, results, size)
        number = None if of is None else chosen(text, of, results, size)
        arms = judged(text, name, results, size)
        configurations = [arm["configuration"] for arm in arms[:1]]
        rows.append(
            {
                "family": name,
                "of": of,
                "number": number,
                "configuration": configurations[0] if configurations else {},
                "seeds": len(arms),
                "not_at_rest": sum(not arm["at_rest"] for arm in arms),
                "losses": {
                    what: float(np.mean([arm["losses"][what] for arm in arms]))
                    for what in (arms[0]["losses"] if arms else ())
                },
                "seconds_a_step": _median([arm["seconds_a_step"] for arm in arms]),
            }
        )
    return {
        "steps": steps_of(text, results, size),
        "complete": complete(text, results, size),
        "families": rows,
    }


def _median(values: Sequence[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return float(np.median(there)) if there else None


def _row(one: Any) -> dict[str, Any]:
    digits = asdict(one) | {"said": one.effect.percent}
    if one.what in ("sigma_min", "median of the smallest margin", "share beyond"):
        e = one.effect
        digits["said"] = f"{e.mean:+.4f} [{e.lower:+.4f}, {e.upper:+.4f}]"
    return digits


def _said_of_rivals(beside: Any) -> str:
    if beside is None:
        return "no rival to compare with"
    return f"{beside.difference.percent} beside {', '.join(beside.rivals)}"


def _scaling(results: Results, size: TrialSize) -> list[dict[str, Any]]:
    """Mean losses by width and family, of the scaling arms that are done."""
    cells: dict[tuple[int, str, str], list[dict[str, float]]] = {}
    for result in results.values():
        if result["stage"] == "scaling" and not result["failed"]:
            where = (result["width"], result["family"], result["of"])
            cells.setdefault(where, []).append(result["losses"])
    return [
        {
            "width": width,
            "family": name,
            "of": of,
            "seeds": len(several),
            **{what: float(np.mean([one[what] for one in several])) for what in several[0]},
        }
        for (width, name, of), several in sorted(cells.items())
    ]


def _drawn(text: str, results: Results, size: TrialSize) -> dict[str, str]:
    """The Pareto figure for a light and for a dark page, each as a data URI."""
    drawn = {}
    for paper, style in (("light", STYLE), ("dark", DARK)):
        with mpl.rc_context(style):
            figure = plot_pareto(text, results, size).get_figure(root=True)
            assert figure is not None
            drawn[paper] = data_uri(figure, style)
            plt.close(figure)
    return drawn
