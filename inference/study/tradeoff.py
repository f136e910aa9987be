"""Arms of a robustness study compared: clean loss against loss under stress.

An arm is a dictionary with its `name` and, for each seed, a result of `stress` in `results`.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import false_discovery_control, ttest_1samp
from scipy.stats import t as student

from probattn.inference.data.typos import TYPO_KINDS
from probattn.inference.evaluation.many_comparisons import holm
from probattn.inference.study.under_stress import ATTACK, CHOICES, NOISE_LEVELS

CONFIDENCE = 0.95
STRESSES = (
    *(f"noise {level}" for level in NOISE_LEVELS),
    *(f"attack {level}" for level in ATTACK),
    *(f"typos: {kind}" for kind in TYPO_KINDS),
)
# The stress at which the paper's claim is judged. Under weaker noise the plain model loses too
# little for a reduction of its loss by the claimed 12 %.
MAIN = "noise 0.4"


@dataclass(frozen=True)
class Interval:
    """A mean over `number` seeds with its interval (Student's t); NaN bounds for one seed."""

    mean: float
    lower: float
    upper: float
    number: int = 0

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.lower:.3f}, {self.upper:.3f}]"

    @property
    def percent(self) -> str:
        """The interval of a relative change, as text in per cent."""
        return f"{100 * self.mean:+.1f} % [{100 * self.lower:+.1f}, {100 * self.upper:+.1f}]"


def interval(values: Iterable[float], level: float = CONFIDENCE) -> Interval:
    """Mean of values, one for each seed, and its interval at a level, by default 95 %."""
    found = np.asarray(list(values), float)
    if len(found) < 2:
        return Interval(float(found.mean()), math.nan, math.nan, len(found))
    half = student.ppf((1 + level) / 2, len(found) - 1) * found.std(ddof=1) / math.sqrt(len(found))
    return Interval(
        float(found.mean()), float(found.mean() - half), float(found.mean() + half), len(found)
    )


def losses(arm: dict[str, Any], stress: str) -> np.ndarray:
    """Loss of each seed in nats per token, (seeds,); `stress` is one of STRESSES or "clean"."""

    def one(result: dict[str, Any]) -> float:
        if stress == "clean":
            return result["clean"]
        kind, level = stress.split(maxsplit=1)
        return result["typos" if kind == "typos:" else kind][level]

    return np.array([one(result) for result in arm["results"]])


def change(arm: dict[str, Any], plain: dict[str, Any], stress: str) -> Interval:
    """Relative change of an arm's loss from the plain model's, paired by seed."""
    return interval(losses(arm, stress) / losses(plain, stress) - 1)


@dataclass(frozen=True)
class AtEqualCost:
    """An arm beside the best baseline of no higher clean loss.

    Args:
        baseline: names of the baselines that were chosen.
        difference: loss of the arm under a stress minus that of the baseline, paired by seed.
        p_value: of the t test that the difference is 0; NaN for one seed.
    """

    baseline: str
    difference: Interval
    p_value: float

    @property
    def word(self) -> str:
        """ "ahead" or "behind" if the interval excludes 0, else "neither"."""
        return (
            "ahead"
            if self.difference.upper < 0
            else "behind"
            if self.difference.lower > 0
            else "neither"
        )


def at_equal_cost(
    arm: dict[str, Any], baselines: Sequence[dict[str, Any]], stress: str = MAIN
) -> AtEqualCost | None:
    """Compare an arm with the best baseline at no higher clean loss; None if there is none.

    For each seed the baseline is chosen on the other seeds, so that it is not tested on what it was
    chosen for. These choices share seeds: of arms without a difference some 7 % (three seeds) to
    10 % (five) come out as ahead or behind, and not 5 %.

    A baseline qualifies if its clean loss exceeds the arm's by at most the standard error of their
    difference over these seeds. The best one has the lowest mean loss under `stress`.
    """
    number = len(arm["results"])
    apart, names = [], []
    for seed in range(number):
        others = np.delete(np.arange(number), seed) if number > 1 else np.arange(1)
        candidates = [other for other in baselines if _affordable(other, arm, others)]
        if not candidates:
            return None
        means = [losses(other, stress)[others].mean() for other in candidates]
        best = candidates[int(np.argmin(means))]
        apart.append(losses(arm, stress)[seed] - losses(best, stress)[seed])
        names.append(best["name"])
    p_value = float(ttest_1samp(apart, 0).pvalue) if number > 1 else math.nan
    return AtEqualCost(", ".join(sorted(set(names))), interval(apart), p_value)


def _affordable(baseline: dict[str, Any], arm: dict[str, Any], seeds: np.ndarray) -> bool:
    dearer = (losses(baseline, "clean") - losses(arm, "clean"))[seeds]
    error = dearer.std(ddof=1) / math.sqrt(len(dearer)) if len(dearer) > 1 else 0.0
    return bool(dearer.mean() <= error)


def surviving(p_values: Sequence[float], level: float = 1 - CONFIDENCE) -> dict[str, np.ndarray]:
    """Which of many comparisons stay significant, by two corrections.

    Holm's keeps the probability of any false finding below `level`, that of Benjamini and Hochberg
    the expected share of false ones among the findings.
    """
    p = np.asarray(p_values, float)
    return {
        "Holm": holm(p) < level,
        "Benjamini and Hochberg": false_discovery_control(p) < level,
    }


def fragility(arm: dict[str, Any]) -> dict[str, Interval]:
    """Loss added by noise on chosen tokens minus that by the same noise on random ones.

    Returns: by choice of CHOICES, "random" excepted, the difference, paired by seed.
    """
    added = {
        choice: np.array([result["support"][choice] for result in arm["results"]])
        for choice in CHOICES
    }
    return {
        choice: interval(found - added["random"])
        for choice, found in added.items()
        if choice != "random"
    }


# The paper's claim for barrier weights 0.02 to 0.05, as quoted second-hand: clean loss rises by at
# most 1.7 %, loss under noise falls by 12 %.
CLAIMED_CLEAN, CLAIMED_NOISE, CLAIMED_WEIGHTS = 0.017, -0.12, (0.02, 0.05)


def judge_claim(clean: Interval, noise: Interval) -> str:
    """Whether measured changes reproduce the paper's claim: "reproduced", "partly" or "not".

    "partly" means that the interval of the change under noise lies below 0; "reproduced", that in
    addition each interval reaches the claimed figure or a better one.

    Args: clean and noise, relative changes of the clean loss and of the loss under noise.
    """
    if not noise.upper < 0:  # "not" also for a single seed, whose bounds are NaN
        return "not"
    return (
        "reproduced" if noise.lower <= CLAIMED_NOISE and clean.lower <= CLAIMED_CLEAN else "partly"
    )
