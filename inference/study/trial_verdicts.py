"""Verdicts of the trial by the rules of its plan: pure functions of losses by seed.

Losses are arrays of one number for each seed, the same seeds in each.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtr

from probattn.inference.study.tradeoff import Interval, interval, surviving

COMPARISONS = 14  # forms of the barrier times texts
SURE_LEVEL = 1 - 0.05 / COMPARISONS  # level of an interval
SMALLEST_EFFECT = 0.06  # of loss under noise, half of the claim
CLEAN_PRICE = 0.017  # of clean loss, as claimed
REPRODUCED = "reproduced"
PARTLY = "partly reproduced"
VERDICTS = (REPRODUCED, PARTLY, "at a price", "equivalent", "refuted", "open")


@dataclass(frozen=True)
class Effect(Interval):
    """An interval with the two-sided p-value that the mean is 0; NaN for a single seed."""

    p_value: float = math.nan


def effect(values: Sequence[float] | np.ndarray, level: float = SURE_LEVEL) -> Effect:
    """Mean of one value for each seed, its interval at a level, and the t test that it is 0."""
    x = np.asarray(values, float)
    mean, lower, upper, number = dataclasses.astuple(interval(x, level))
    if number < 2:
        return Effect(mean, lower, upper, number)
    error = float(x.std(ddof=1)) / math.sqrt(number)
    # Values without any spread, as two equal arms have: the limit of the test.
    p_value = 2 * float(stdtr(number - 1, -abs(mean) / error)) if error > 0 else float(mean == 0)
    return Effect(mean, lower, upper, number, p_value)


def relative_change(losses: np.ndarray, reference: np.ndarray, level: float = SURE_LEVEL) -> Effect:
    """Relative change of losses from those of a reference, paired by seed."""
    return effect(np.asarray(losses, float) / np.asarray(reference, float) - 1, level)


def verdict(noise: Effect, clean: Effect) -> str:
    """The verdict on the claim for one form and text: the first rule that applies, in this order.

        reproduced         noise surely below -6 %, clean surely below +1.7 %
        partly reproduced  noise surely below 0, clean surely below +1.7 %
        at a price         noise surely below 0
        equivalent         noise surely inside (-6 %, +6 %), clean inside (-1.7 %, +1.7 %)
        refuted            noise surely above -6 %
        open               none of these, as where bounds are NaN

    Args: noise and clean, relative changes of loss under noise and of clean loss from the tuned
    plain model's. Source: studies/robustness/PLAN.md, section 1.
    """
    cheap = clean.upper < CLEAN_PRICE
    if noise.upper < -SMALLEST_EFFECT and cheap:
        return REPRODUCED
    if noise.upper < 0:
        return PARTLY if cheap else "at a price"
    small = noise.lower > -SMALLEST_EFFECT and noise.upper < SMALLEST_EFFECT
    if small and clean.lower > -CLEAN_PRICE and cheap:
        return "equivalent"
    return "refuted" if noise.lower > -SMALLEST_EFFECT else "open"


@dataclass(frozen=True)
class BesideRivals:
    """A form of the barrier beside the best rival of no surely higher clean loss.

    Args:
        rivals: those that were chosen, by how often.
        difference: relative change of loss under noise from the rival's, paired by seed.
    """

    rivals: dict[str, int]
    difference: Effect

    @property
    def ahead(self) -> bool:
        """Whether the form has surely lower loss under noise."""
        return self.difference.upper < 0


def beside_rivals(
    form: Mapping[str, np.ndarray], rivals: Mapping[str, Mapping[str, np.ndarray]]
) -> BesideRivals | None:
    """Compare a form with the best rival, chosen for each seed on the other seeds.

    A rival qualifies where its clean loss is not surely higher than the form's; the best one has
    the lowest mean loss under noise.

    Args: form, and rivals by name, with "clean" and "noise" losses by seed.
    Returns: None where no rival qualifies on some seed, or for fewer than three seeds.
    """
    number = len(form["clean"])
    if number < 3:
        return None
    changes, names = [], []
    for seed in range(number):
        others = np.delete(np.arange(number), seed)
        means = {
            name: float(rival["noise"][others].mean())
            for name, rival in rivals.items()
            if not relative_change(rival["clean"][others], form["clean"][others]).lower > 0
        }
        if not means:
            return None
        names.append(min(means, key=lambda name: means[name]))
        changes.append(form["noise"][seed] / rivals[names[-1]]["noise"][seed] - 1)
    return BesideRivals({name: names.count(name) for name in names}, effect(changes))


def surely_by_holm(p_values: Sequence[float]) -> list[bool]:
    """Which of several p-values are findings by Holm's correction; a NaN is none, and counts."""
    return _surviving(p_values, "Holm")


def found_by_rate(p_values: Sequence[float]) -> list[bool]:
    """Which are findings by Benjamini and Hochberg's correction; a NaN is none, and counts."""
    return _surviving(p_values, "Benjamini and Hochberg")


def _surviving(p_values: Sequence[float], correction: str) -> list[bool]:
    p = np.nan_to_num(np.asarray(p_values, float), nan=1.0)
    return surviving(p.tolist())[correction].tolist() if len(p) else []
