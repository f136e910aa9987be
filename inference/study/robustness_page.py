"""The report of a robustness study: a page, and its numbers as JSON."""

import math
from collections.abc import Callable, Sequence
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
from probattn.inference.report.style import DARK, STYLE
from probattn.inference.study.posterior_robustness import judge_averaging
from probattn.inference.study.robustness_arms import BARRIER_FAMILY, FIRST_PLACEMENTS
from probattn.inference.study.robustness_figures import (
    plot_course,
    plot_disturbed_fits,
    plot_fragility,
    plot_margin_counts,
    plot_tradeoff,
)
from probattn.inference.study.tradeoff import (
    CLAIMED_WEIGHTS,
    MAIN,
    STRESSES,
    Interval,
    at_equal_cost,
    change,
    fragility,
    interval,
    judge_claim,
    losses,
    surviving,
)

# In nats, the extent of the figure around the plain model. Barriers that training exploits lie far
# outside it.
NEAR_PLAIN = 0.3


def save_robustness(
    folder: Path,
    about: dict[str, Any],
    arms: Sequence[dict[str, Any]],
    missing: int,
    command: str,
    *,
    course: Sequence[dict[str, Any]],
    posterior: dict[str, Any],
) -> dict[str, Any]:
    """Write `report.html` and `report.json` about the arms trained so far.

    Args:
        folder: where the two files go.
        about: corpus, model and settings of the study.
        arms: the arms with their results; an arm that failed has none, and says why in `failed`.
        missing: how many arms have not been trained yet.
        command: the command line that made the study.
        course: the result of `margins_in_training`.
        posterior: the result of `compare_under_disturbance`.

    Returns: the `summary` of the arms.
    """
    found = summary(arms)
    plain = {
        **found,
        "claims": [
            {**claim, "clean": asdict(claim["clean"]), "noise": asdict(claim["noise"])}
            for claim in found["claims"]
        ],
    }
    write_json(
        folder / "report.json",
        {
            "about": about,
            "missing": missing,
            "versions": versions(),
            **plain,
            "course": list(course),
            "posterior": posterior,
        },
    )
    trained = [arm for arm in arms if arm["results"]]
    names = {claim["name"] for claim in found["claims"]}
    few = [arm for arm in trained if arm["family"] == "plain" or arm["name"] in names]
    page = render(
        "robustness.html",
        about=about,
        missing=missing,
        failed=[arm for arm in arms if arm["failed"]],
        command=command,
        in_short=found["in_short"],
        auxiliary=found["auxiliary"],
        claims=found["claims"],
        matched=found["at_equal_clean_loss"],
        margins=found["margins"],
        chosen=[row for row in found["support"] if row["name"] in {arm["name"] for arm in few}],
        figures={
            "near": _drawn(plot_tradeoff, trained, MAIN, NEAR_PLAIN),
            "tradeoff": _drawn(plot_tradeoff, trained),
            "chosen": _drawn(plot_fragility, few),
            "course": _drawn(plot_course, course),
            **{
                f"margins, {placement}": _drawn(plot_margin_counts, _of_placement(few, placement))
                for placement in FIRST_PLACEMENTS
            },
            **{
                disturbance: _drawn(plot_disturbed_fits, posterior["curves"], disturbance)
                for disturbance in posterior["curves"]
            },
        },
        placements=FIRST_PLACEMENTS,
        course=[{"steps": at["steps"], **_margins(at["results"])} for at in course],
        posterior=posterior,
        averaging=judge_averaging(posterior),
        stresses=["clean", *STRESSES],
        versions=versions(),
        table=[
            {"name": arm["name"], "cells": [_cell(arm, stress) for stress in ("clean", *STRESSES)]}
            for arm in trained
        ],
    )
    write_text(folder / "report.html", page)
    return found


def summary(arms: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Verdicts on the claim, comparisons at equal clean loss, margins and losses of all arms.

    Arms without results, which could not be trained, are left out.
    """
    trained = [arm for arm in arms if arm["results"]]
    plain = next((arm for arm in trained if arm["family"] == "plain"), None)
    barriers = [arm for arm in trained if arm["family"].startswith(BARRIER_FAMILY)]
    baselines = [arm for arm in trained if not arm["family"].startswith(BARRIER_FAMILY)]
    claims = []
    if plain:
        for arm in barriers:
            if arm["dose"] in CLAIMED_WEIGHTS:
                clean, noise = change(arm, plain, "clean"), change(arm, plain, MAIN)
                verdict = judge_claim(clean, noise)
                claims.append(
                    {"name": arm["name"], "clean": clean, "noise": noise, "verdict": verdict}
                )
    matched = []
    for arm in barriers:
        best = at_equal_cost(arm, baselines)
        matched.append(
            {
                "name": arm["name"],
                "clean": str(interval(losses(arm, "clean"))),
                "noise": str(interval(losses(arm, MAIN))),
                "baseline": best.baseline if best else "none as good",
                "difference": str(best.difference) if best else "",
                "against": best.word if best else "ahead",
                "p_value": best.p_value if best and math.isfinite(best.p_value) else None,
            }
        )
    chosen = [
        {"name": arm["name"], **{name: str(one) for name, one in fragility(arm).items()}}
        for arm in trained
    ]
    margins = [
        {"name": arm["name"], **_margins([result["margins"] for result in arm["results"]])}
        for arm in trained
    ]
    runaway = [
        {
            "name": arm["name"],
            "barrier": str(interval(result["auxiliary"]["barrier"] for result in arm["results"])),
            **_margins([result["auxiliary"] for result in arm["results"]]),
        }
        for arm in trained
        if "auxiliary" in arm["results"][0]
    ]
    return {
        "in_short": _in_short(claims, matched, fragility(plain) if plain else {}),
        "claims": claims,
        "at_equal_clean_loss": matched,
        "margins": margins,
        "auxiliary": runaway,
        "support": chosen,
        "losses": {
            arm["name"]: {stress: losses(arm, stress).tolist() for stress in ("clean", *STRESSES)}
            for arm in trained
        },
    }


def _margins(spreads: Sequence[dict[str, Any]]) -> dict[str, float]:
    """The smallest margin of all seeds, and means over seeds of the other numbers."""
    means = {
        name: sum(one[name] for one in spreads) / len(spreads)
        for name in ("one_percent", "median", "beyond")
    }
    return {"smallest": min(one["smallest"] for one in spreads), **means}


def _in_short(
    claims: Sequence[dict[str, Any]], matched: Sequence[dict[str, Any]], chosen: dict[str, Interval]
) -> list[str]:
    """The findings of the study, as sentences."""
    said = []
    if claims:
        counts = {
            word: sum(claim["verdict"] == word for claim in claims)
            for word in ("reproduced", "partly", "not")
        }
        said.append(
            f"Of {len(claims)} barriers at the claimed weights, {counts['reproduced']} "
            f"reproduce the claim, {counts['partly']} partly, {counts['not']} do not."
        )
    if matched:
        ahead, behind = (
            sum(row["against"] == word for row in matched) for word in ("ahead", "behind")
        )
        said.append(
            f"Under noise of 0.4, {ahead} of {len(matched)} barriers are surely ahead of the "
            "best baseline of no higher clean loss, which is chosen on the other seeds, "
            f"{behind} surely behind, one by one."
        )
        compared = [row for row in matched if row["p_value"] is not None]
        if compared:
            is_behind = np.array([row["against"] == "behind" for row in compared])
            kept = surviving([row["p_value"] for row in compared])
            left = ", ".join(f"{(is_behind & one).sum()} by {name}" for name, one in kept.items())
            said.append(f"Corrected for {len(compared)} comparisons, {left} stay surely behind.")
    if chosen:
        smallest = chosen["smallest margin"]
        word = (
            "more"
            if smallest.lower > 0
            else "less"
            if smallest.upper < 0
            else "no surely different"
        )
        said.append(
            f"Noise on the plain model's tokens of smallest margin does {word} harm than on "
            f"random ones ({smallest} nats per character)."
        )
    return said


def _cell(arm: dict[str, Any], stress: str) -> str:
    return f"{losses(arm, stress).mean():.3f}"


def _of_placement(arms: Sequence[dict[str, Any]], placement: str) -> list[dict[str, Any]]:
    """The plain model and the barriers of a placement at the largest claimed weight.

    With more lines the figure would be unreadable.
    """
    return [
        arm
        for arm in arms
        if arm["family"] == "plain"
        or (arm["family"].endswith(placement) and arm["dose"] == max(CLAIMED_WEIGHTS))
    ]


def _drawn(plot: Callable[..., Axes], *of: Any) -> dict[str, str]:
    """A figure for a light and for a dark page, each as a data URI."""
    drawn = {}
    for paper, style in (("light", STYLE), ("dark", DARK)):
        with mpl.rc_context(style):
            figure = plot(*of).get_figure(root=True)
            assert figure is not None
            drawn[paper] = data_uri(figure, style)
            plt.close(figure)
    return drawn
