"""The comparison in short: each figure of each fit, its paired difference from a reference, and what is noise."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from probattn.inference.baselines import token_counts
from probattn.inference.detection import Detection
from probattn.inference.estimates import Measured, ratio
from probattn.inference.robustness import NOISE

NOISE_SHOWN = 0.4  # root mean squares: the level of noise that stands in the table
TYPOS_SHOWN = 1


@dataclass(frozen=True)
class Answer:
    """One figure of several fits.

    Args:
        figure: what it is, in words; unit, of it.
        lower_is_better: or, if not, higher.
        reference: the fit that the others are compared with.
        values: by fit; differences: by fit, value minus that of the reference, paired over sequences.
        note: what a reader must know of it.
    """

    figure: str
    unit: str
    lower_is_better: bool
    reference: str
    values: Mapping[str, Measured]
    differences: Mapping[str, Measured]
    note: str = ""

    def word(self, name: str) -> str:
        """Whether a fit is better or worse than the reference, or the same within noise."""
        if name == self.reference or name not in self.differences:
            return ""
        difference = self.differences[name]
        if not difference.sure:
            return "within noise"
        return "better" if (difference.value < 0) == self.lower_is_better else "worse"


def reference_of(methods: Mapping[str, str]) -> str:
    """The fit that others are compared with: the first MAP, else the first fit."""
    return next((name for name, method in methods.items() if method == "map"), next(iter(methods)))


def answers(found: Any, heldout: np.ndarray) -> tuple[Answer, ...]:
    """The table of a comparison; what was left out of it is left out here."""
    scores = {score.name: score for score in found.scores if score.method != "baseline"}
    reference = reference_of({name: score.method for name, score in scores.items()})
    counts = token_counts(heldout)

    def answer(figure: str, unit: str, lower: bool, values: Mapping[str, Measured], minus: Callable, note: str = "") -> Answer:  # fmt: skip
        differences = {name: minus(name) for name in values if name != reference and reference in values}
        return Answer(figure, unit, lower, reference, values, differences, note)

    def loss(name: str) -> np.ndarray:
        return -scores[name].log_probs

    rows = []
    for unit, over in (("nats per token", counts), ("nats per sequence", np.ones(len(counts)))):
        rows.append(
            answer("held-out loss", unit, True, {name: ratio(loss(name), over) for name in scores},
                   lambda name, over=over: ratio(loss(name) - loss(reference), over))
        )  # fmt: skip
    by_fit = {name: one for name, one in found.reliability.items() if name in scores}
    if by_fit:
        rows.append(
            answer("Brier score of the next token", "0 to 2", True, {name: one.brier for name, one in by_fit.items()},
                   lambda name: ratio(by_fit[name].brier_sums - by_fit[reference].brier_sums, by_fit[reference].counts))
        )  # fmt: skip
        errors = {
            name: Measured(one.calibration_error, float(one.resampled.std(ddof=1))) for name, one in by_fit.items()
        }
        rows.append(
            answer("expected calibration error", "probability", True, errors,
                   lambda name: Measured(errors[name].value - errors[reference].value,
                                         float((by_fit[name].resampled - by_fit[reference].resampled).std(ddof=1))))
        )  # fmt: skip
    for elsewhere, by_name in found.detection.items():
        for title, pick in (("surprise", _surprise), ("uncertainty", _uncertainty)):
            picked = {name: pick(some) for name, some in by_name.items()}
            rows.append(
                answer(f"finds sequences that are {elsewhere}, by {title}", "area under the ROC curve", False,
                       {name: one.area for name, one in picked.items()},
                       lambda name, picked=picked: picked[name].minus(picked[reference]),
                       "mutual information; data uncertainty of a fit with one draw" if title == "uncertainty" else "")
            )  # fmt: skip
    for disturbance, robust in found.robustness.items():
        of_noise = disturbance == NOISE
        levels = next(iter(robust.values())).levels
        at = levels.index(NOISE_SHOWN if of_noise else TYPOS_SHOWN)
        figure = f"loss under noise of {NOISE_SHOWN} of the embeddings' size" if of_noise else f"loss of the other tokens after one typo ({disturbance})"  # fmt: skip
        values = {name: (one.averaged or one.loss)[at] for name, one in robust.items()}
        rows.append(
            answer(figure, "nats per token", True, values,
                   lambda name, robust=robust, at=at: robust[name].minus(robust[reference], at),
                   "all averaged over as many noises" if of_noise else "")
        )  # fmt: skip
    return tuple(rows)


def _surprise(some: tuple[Detection, ...]) -> Detection:
    return next(one for one in some if one.score == "surprise")


def _uncertainty(some: tuple[Detection, ...]) -> Detection:
    return next((one for one in some if one.score == "mutual information"), None) or next(
        one for one in some if one.score == "data uncertainty"
    )
