"""Arms of a robustness study compared: what each costs on clean data, what it buys under stress,
and against what at equal cost."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import t as student

from probattn.inference.data.typos import KINDS
from probattn.inference.study.under_stress import ATTACK, CHOICES, NOISE

CONFIDENCE = 0.95
STRESSES = (
    *(f"noise {level}" for level in NOISE),
    *(f"attack {level}" for level in ATTACK),
    *(f"typos: {kind}" for kind in KINDS),
)
# at which a plain model has a quarter to lose: less leaves no room for the claimed 12 %
MAIN = "noise 0.4"


@dataclass(frozen=True)
class Interval:
    """A mean over `number` seeds with its 95 % interval (Student's t); NaN bounds of a single
    seed."""

    mean: float
    lower: float
    upper: float
    number: int = 0

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.lower:.3f}, {self.upper:.3f}]"

    @property
    def percent(self) -> str:
        """Of a relative change."""
        return f"{100 * self.mean:+.1f} % [{100 * self.lower:+.1f}, {100 * self.upper:+.1f}]"


def interval(values: Iterable[float]) -> Interval:
    """Mean and interval of one value for each seed."""
    found = np.asarray(list(values), float)
    if len(found) < 2:
        return Interval(float(found.mean()), math.nan, math.nan, len(found))
    half = (
        student.ppf((1 + CONFIDENCE) / 2, len(found) - 1)
        * found.std(ddof=1)
        / math.sqrt(len(found))
    )
    return Interval(
        float(found.mean()), float(found.mean() - half), float(found.mean() + half), len(found)
    )


def losses(arm: dict[str, Any], stress: str) -> np.ndarray:
    """Loss of each seed under a stress of STRESSES, or "clean", nats per token."""

    def one(result: dict[str, Any]) -> float:
        if stress == "clean":
            return result["clean"]
        kind, level = stress.split(maxsplit=1)
        return result["typos" if kind == "typos:" else kind][level]

    return np.array([one(result) for result in arm["results"]])


def change(arm: dict[str, Any], plain: dict[str, Any], stress: str) -> Interval:
    """Relative change of a loss from the plain model's, paired by seed."""
    return interval(losses(arm, stress) / losses(plain, stress) - 1)


@dataclass(frozen=True)
class AtEqualCost:
    """The best baseline whose clean loss is no higher than an arm's, and the loss of the arm minus
    its, paired by seed."""

    baseline: str
    difference: Interval

    @property
    def word(self) -> str:
        """ "ahead" or "behind" where the interval says so, else "neither"."""
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
    """What else one would have had for the same clean loss, within the standard error of the
    difference; None if nothing."""

    def affordable(other: dict[str, Any]) -> bool:
        dearer = losses(other, "clean") - losses(arm, "clean")
        error = dearer.std(ddof=1) / math.sqrt(len(dearer)) if len(dearer) > 1 else 0.0
        return bool(dearer.mean() <= error)

    candidates = [other for other in baselines if affordable(other)]
    if not candidates:
        return None
    best = min(candidates, key=lambda other: losses(other, stress).mean())
    return AtEqualCost(best["name"], interval(losses(arm, stress) - losses(best, stress)))


def fragility(arm: dict[str, Any]) -> dict[str, Interval]:
    """How much more loss noise on the tokens of each choice adds than the same noise on random
    ones, paired by seed."""
    added = {
        choice: np.array([result["support"][choice] for result in arm["results"]])
        for choice in CHOICES
    }
    return {
        choice: interval(found - added["random"])
        for choice, found in added.items()
        if choice != "random"
    }


# Second-hand figures of the paper for barrier weights 0.02 to 0.05: what clean loss costs at most,
# what noise does less.
CLAIMED_CLEAN, CLAIMED_NOISE, CLAIMED_WEIGHTS = 0.017, -0.12, (0.02, 0.05)


def judge_claim(clean: Interval, noise: Interval) -> str:
    """ "reproduced" if both figures lie within the intervals or are bettered, "partly" if noise
    surely does less, else "not"."""
    if not noise.upper < 0:  # NaN of a single seed too
        return "not"
    return (
        "reproduced" if noise.lower <= CLAIMED_NOISE and clean.lower <= CLAIMED_CLEAN else "partly"
    )
