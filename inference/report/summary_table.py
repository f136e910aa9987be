"""The summary table: each figure of each fit, and its paired difference from a reference."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from probattn.inference.evaluation.measured import Measured, ratio
from probattn.inference.evaluation.out_of_distribution import Detection
from probattn.inference.evaluation.perturbations import EMBEDDING_NOISE, Robustness
from probattn.inference.evaluation.scores import gain, measured

NOISE_SHOWN = 0.4  # level of the noise in the table, in root mean squares of the embeddings
TYPOS_SHOWN = 1  # typos in each sequence in the table


@dataclass(frozen=True)
class Answer:
    """One row of the summary table: one figure of several fits.

    Args:
        figure: the name of the figure.
        unit: its unit.
        lower_is_better: whether lower values are better; otherwise higher ones are.
        reference: name of the fit that the others are compared with.
        values: by fit, the value of the figure.
        differences: by fit other than the reference, its value minus that of the reference, paired
            over sequences.
        note: what a reader must know about the figure.
    """

    figure: str
    unit: str
    lower_is_better: bool
    reference: str
    values: Mapping[str, Measured]
    differences: Mapping[str, Measured]
    note: str = ""

    def word(self, name: str) -> str:
        """The word for the difference of a fit: "better", "worse" or "within noise".

        Empty for the reference itself and for a fit without a difference.
        """
        if name == self.reference or name not in self.differences:
            return ""
        difference = self.differences[name]
        if not difference.sure:
            return "within noise"
        return "better" if (difference.value < 0) == self.lower_is_better else "worse"


def reference_of(methods: Mapping[str, str]) -> str:
    """Name of the fit that others are compared with: the first MAP, else the first fit.

    Args: methods, by fit, its method.
    """
    return next((name for name, method in methods.items() if method == "map"), next(iter(methods)))


def answers(found: Any) -> tuple[Answer, ...]:
    """The rows of a comparison's summary table; what the comparison lacks has no row."""
    parts = (_loss_answer, _calibration_answer, _detection_answer, _robustness_answer)
    return tuple(answer for part in parts for answer in part(found, reference_of(found.methods)))


def _answer(
    figure: str,
    unit: str,
    reference: str,
    values: Mapping[str, Measured],
    minus: Callable[[str], Measured],
    *,
    lower: bool = True,
    note: str = "",
) -> Answer:
    """A row; `minus(name)` is the difference of a fit from the reference."""
    differences = {name: minus(name) for name in values if name != reference}
    return Answer(figure, unit, lower, reference, values, differences, note)


def _loss_answer(found: Any, reference: str) -> Iterator[Answer]:
    scores = {score.name: score for score in found.scores if score.name in found.methods}
    for unit, over in (
        ("token", found.heldout_counts),
        ("sequence", np.ones(len(found.heldout_counts))),
    ):

        def minus(name: str, over: np.ndarray = over) -> Measured:
            return gain(scores[reference], scores[name], over)

        values = {
            name: measured(-score.log_probs, over, score.draws_error)
            for name, score in scores.items()
        }
        yield _answer("held-out loss", f"nats per {unit}", reference, values, minus)


def _calibration_answer(found: Any, reference: str) -> Iterator[Answer]:
    of = {name: found.reliability[name] for name in found.methods}

    def brier(name: str) -> Measured:
        return ratio(of[name].brier_sums - of[reference].brier_sums, of[name].counts)

    def error(name: str) -> Measured:
        # Paired, since both are over the same resamples.
        resampled = of[name].resampled - of[reference].resampled
        return Measured(
            of[name].calibration_error - of[reference].calibration_error,
            float(resampled.std(ddof=1)),
        )

    yield _answer(
        "Brier score of the next token",
        "0 to 2",
        reference,
        {n: one.brier for n, one in of.items()},
        brier,
    )
    errors = {
        name: Measured(one.calibration_error, float(one.resampled.std(ddof=1)))
        for name, one in of.items()
    }
    yield _answer("expected calibration error", "probability", reference, errors, error)


def _detection_answer(found: Any, reference: str) -> Iterator[Answer]:
    for elsewhere, by_name in found.detection.items():
        for title, pick in (("surprise", _surprise), ("uncertainty", _uncertainty)):
            picked = {name: pick(some) for name, some in by_name.items()}

            def minus(name: str, picked: Mapping[str, Detection] = picked) -> Measured:
                return picked[name].minus(picked[reference])

            one = picked[reference]
            note = f"{len(one.ours):,} held-out sequences against {len(one.theirs):,} others"
            if title == "uncertainty":
                note += "; by mutual information, or data uncertainty of a fit with one draw"
            yield _answer(
                f"detection of sequences that are {elsewhere}, by {title}",
                "area under the ROC curve",
                reference,
                {name: one.area for name, one in picked.items()},
                minus,
                lower=False,
                note=note,
            )


def _robustness_answer(found: Any, reference: str) -> Iterator[Answer]:
    for disturbance, by_name in found.robustness.items():
        of_noise = disturbance == EMBEDDING_NOISE
        at = by_name[reference].levels.index(NOISE_SHOWN if of_noise else TYPOS_SHOWN)

        def minus(name: str, by_name: Mapping[str, Robustness] = by_name, at: int = at) -> Measured:
            return by_name[name].minus(by_name[reference], at)

        yield _answer(
            f"loss under noise of {NOISE_SHOWN} of the embeddings' size"
            if of_noise
            else f"loss of the unchanged tokens after one typo ({disturbance})",
            "nats per token",
            reference,
            {name: (one.averaged or one.loss)[at] for name, one in by_name.items()},
            minus,
            note=(
                f"{by_name[reference].counts.shape[1]:,} "
                f"sequences{', all fits averaged over as many noises' if of_noise else ''}"
            ),
        )


def _surprise(some: tuple[Detection, ...]) -> Detection:
    return next(one for one in some if one.score == "surprise")


def _uncertainty(some: tuple[Detection, ...]) -> Detection:
    return next((one for one in some if one.score == "mutual information"), None) or next(
        one for one in some if one.score == "data uncertainty"
    )
