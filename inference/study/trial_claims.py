"""The table of the trial: each claim with its effect and verdict, and what was not run."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from probattn.inference.study.trial_families import PLAIN_FAMILY
from probattn.inference.study.trial_order import (
    FULL_TRIAL,
    Results,
    TrialSize,
    in_order,
    untrainable,
)
from probattn.inference.study.trial_texts import TEXTS
from probattn.inference.study.trial_verdicts import (
    PARTLY,
    REPRODUCED,
    BesideRivals,
    Effect,
    beside_rivals,
    effect,
    found_by_rate,
    relative_change,
    surely_by_holm,
    verdict,
)

PRIMARY = {"clean": "clean", "noise": "noise 0.4"}
UNTRAINABLE = "could not be trained"
GEOMETRY = {"smallest_median": "median of the smallest margin", "beyond": "share beyond"}
LATER = "section 8 of the plan (models whose density has the barrier)"


@dataclass(frozen=True)
class Claim:
    """One form of the barrier on one text.

    Args:
        text, family: which.
        clean, noise: relative changes from plain; None where it could not be trained.
        verdict: H1, by the plan's rules, or that it could not be trained.
        rivals: H2; None where there is no such rival, or too few seeds.
        not_at_rest: how many of its arms were not at rest.
    """

    text: str
    family: str
    clean: Effect | None
    noise: Effect | None
    verdict: str
    rivals: BesideRivals | None
    not_at_rest: int


@dataclass(frozen=True)
class Finding:
    """An effect with whether a correction for many comparisons leaves it."""

    text: str
    what: str
    family: str
    effect: Effect
    found: bool


def judged(
    text: str, name: str, results: Results, size: TrialSize = FULL_TRIAL
) -> list[dict[str, Any]]:
    """The results of a family by seed, those of judgement that did not fail; fewer while it runs.

    A text is judged whole or not at all: `complete` says whether it is.
    """
    of_seed = {
        result["seed"]: result
        for result in results.values()
        if (result["text"], result["stage"], result["family"]) == (text, "judgement", name)
        and not result["failed"]
    }
    return [dict(of_seed[seed]) for seed in size.seeds if seed in of_seed]


def complete(text: str, results: Results, size: TrialSize = FULL_TRIAL) -> bool:
    """Whether every family of a text is judged on every seed, or cannot be trained."""
    found = {
        (result["family"], result["seed"])
        for result in results.values()
        if (result["text"], result["stage"]) == (text, "judgement")
    }
    return all(
        untrainable(text, name, results, size) or all((name, seed) in found for seed in size.seeds)
        for name in size.families
    )


def claims(
    results: Results, size: TrialSize = FULL_TRIAL, texts: Sequence[str] = TEXTS
) -> list[Claim]:
    """H1 and H2 of every form of the barrier on every text whose judgement is complete."""
    found = []
    for text in texts:
        if not complete(text, results, size):
            continue
        rivals = {
            name: _losses(judged(text, name, results, size))
            for name in size.of_group("rival")
            if len(judged(text, name, results, size)) == len(size.seeds)
        }
        for name in size.of_group("barrier"):
            arms = judged(text, name, results, size)
            # An arm of judgement without a finite loss counts as no training, too.
            if len(arms) < len(size.seeds) or PLAIN_FAMILY not in rivals:
                found.append(Claim(text, name, None, None, UNTRAINABLE, None, 0))
                continue
            form = _losses(arms)
            clean, noise = (relative_change(form[of], rivals[PLAIN_FAMILY][of]) for of in PRIMARY)
            resting = sum(not arm["at_rest"] for arm in arms)
            beside = beside_rivals(form, rivals)
            found.append(Claim(text, name, clean, noise, verdict(noise, clean), beside, resting))
    return found


def some_form_on_all_texts(found: Sequence[Claim], texts: Sequence[str] = TEXTS) -> bool | None:
    """H1: whether some form is at least partly reproduced on every text; None while it is open."""
    if {claim.text for claim in found} != set(texts):
        return None
    forms = {claim.family for claim in found}
    good = {(c.family, c.text) for c in found if c.verdict in (REPRODUCED, PARTLY)}
    return any(all((form, text) in good for text in texts) for form in forms)


def changed_geometry(
    results: Results, size: TrialSize = FULL_TRIAL, texts: Sequence[str] = TEXTS
) -> list[Finding]:
    """H3: differences of margins from the plain model's, corrected by Holm over all of them."""
    rows = []
    for text in _whole(results, size, texts):
        plain = judged(text, PLAIN_FAMILY, results, size)
        for name in size.of_group("barrier"):
            arms = judged(text, name, results, size)
            if len(arms) == len(plain):
                for key, what in GEOMETRY.items():
                    apart = [
                        arm["margins"][key] - one["margins"][key]
                        for arm, one in zip(arms, plain, strict=True)
                    ]
                    rows.append((text, what, name, effect(apart)))
    return _corrected(rows)


def fragile_tokens(
    results: Results, size: TrialSize = FULL_TRIAL, texts: Sequence[str] = TEXTS
) -> list[Finding]:
    """H4: harm of noise on the plain model's tokens of smallest margin minus that on random ones.

    Corrected by Holm; beside them the other ways to choose, which no claim rests on.
    """
    rows = []
    for text in _whole(results, size, texts):
        plain = judged(text, PLAIN_FAMILY, results, size)
        apart = [arm["support"]["sigma_min"] - arm["support"]["random"] for arm in plain]
        rows.append((text, "sigma_min", PLAIN_FAMILY, effect(apart)))
    return _corrected(rows)


def secondary(
    results: Results, size: TrialSize = FULL_TRIAL, texts: Sequence[str] = TEXTS
) -> list[Finding]:
    """Relative changes of all secondary measures from plain, with intervals at 95 %.

    Corrected by Benjamini and Hochberg within a measure.
    """
    rows: dict[str, list[tuple[str, str, str, Effect]]] = {}
    for text in _whole(results, size, texts):
        plain = judged(text, PLAIN_FAMILY, results, size)
        for name in in_order(size):
            arms = judged(text, name, results, size)
            if name == PLAIN_FAMILY or len(arms) != len(plain):
                continue
            for what in plain[0]["losses"]:
                if what not in PRIMARY.values():
                    one, other = (_of(several, what) for several in (arms, plain))
                    row = (text, what, name, relative_change(one, other, level=0.95))
                    rows.setdefault(what, []).append(row)
    return [
        Finding(*row, found)
        for several in rows.values()
        for row, found in zip(
            several, found_by_rate([row[-1].p_value for row in several]), strict=True
        )
    ]


def not_run(
    results: Results, size: TrialSize = FULL_TRIAL, texts: Sequence[str] = TEXTS
) -> list[str]:
    """What is left undone, as sentences."""
    said = []
    for text in TEXTS:
        if text not in texts:
            said.append(f"{text}: left out of this run.")
        elif not complete(text, results, size):
            done = sum(
                result["text"] == text and result["stage"] == "judgement"
                for result in results.values()
            )
            planned = len(size.families) * len(size.seeds)
            said.append(
                f"{text}: judgement is incomplete, {done} of {planned} arms are there, and there "
                "is no verdict."
            )
    scaling = sum(result["stage"] == "scaling" for result in results.values())
    planned = 3 * len(size.widths) * len(size.seeds)
    if scaling < planned:
        said.append(f"Scaling: {scaling} of {planned} arms are there.")
    return [*said, f"{LATER}: this command does not run it."]


def _whole(results: Results, size: TrialSize, texts: Sequence[str]) -> list[str]:
    return [
        text
        for text in texts
        if complete(text, results, size) and judged(text, PLAIN_FAMILY, results, size)
    ]


def _losses(arms: Sequence[dict[str, Any]]) -> dict[str, np.ndarray]:
    return {name: _of(arms, measure) for name, measure in PRIMARY.items()}


def _of(arms: Sequence[dict[str, Any]], measure: str) -> np.ndarray:
    return np.array([arm["losses"][measure] for arm in arms], float)


def _corrected(rows: Sequence[tuple[str, str, str, Effect]]) -> list[Finding]:
    kept = surely_by_holm([row[-1].p_value for row in rows])
    return [Finding(*row, found) for row, found in zip(rows, kept, strict=True)]
