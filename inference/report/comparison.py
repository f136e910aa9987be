"""What a comparison of fits holds."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from probattn.inference.evaluation.convergence import Diagnosis, LeaveOneOut
from probattn.inference.evaluation.geometry import Uniqueness
from probattn.inference.evaluation.learning_study import LearningCurve
from probattn.inference.evaluation.mode_against_draws import DrawScores
from probattn.inference.evaluation.out_of_distribution import Detection
from probattn.inference.evaluation.perturbations import Robustness
from probattn.inference.evaluation.scores import Difference, Score
from probattn.inference.evaluation.support import Disagreement, Example
from probattn.inference.evaluation.token_calibration import Reliability
from probattn.inference.evaluation.uncertainty_parts import Uncertainty
from probattn.inference.fitting.verdict import Verdict
from probattn.inference.report.summary_table import Answer, answers


@dataclass(frozen=True, eq=False)
class Comparison:
    """What `compare` found; `save_html`, `save_json`, `figures` and `save_figures` show it.

    Args:
        scores, differences: held-out log probabilities.
        leave_one_out: PSIS-LOO of posteriors.
        reliability: calibration of next-token probabilities, of fits and of the bigram.
        uncertainty: of the next token, split.
        detection: by where the other sequences are from, by fit.
        robustness: by disturbance, by fit.
        margins: stability margins (draws, num_sequences, positions) of held-out sequences.
        spectra: singular values of the interaction, (draws, heads, dim).
        uniqueness: whether the path's density is one.
        disagreements: of support tokens.
        examples: sequences with their margins and support tokens.
        draw_scores: joint density and predictions of single draws.
        curve: a learning curve, if one was given.
        diagnostics: of fits by Markov chains; modes, the verdicts of others.
        methods: of each fit.
        unfinished: draws a chain has and is to have, of posteriors that are not finished.
        mixed: in which the densities differ, where they were mixed knowingly.
        left_out: what was not computed, and why.
        notes: what a reader must know beside that, in sentences.
        heldout_counts: tokens that count in each held-out sequence.
        about: how it was made.
    """

    scores: tuple[Score, ...]
    differences: tuple[Difference, ...]
    leave_one_out: dict[str, LeaveOneOut]
    reliability: dict[str, Reliability]
    uncertainty: dict[str, Uncertainty]
    detection: dict[str, dict[str, tuple[Detection, ...]]]
    robustness: dict[str, dict[str, Robustness]]
    margins: dict[str, np.ndarray]
    spectra: dict[str, np.ndarray]
    uniqueness: dict[str, Uniqueness]
    disagreements: tuple[Disagreement, ...]
    examples: tuple[Example, ...]
    draw_scores: dict[str, DrawScores]
    curve: LearningCurve | None
    diagnostics: tuple[Diagnosis, ...]
    modes: dict[str, Verdict]
    methods: dict[str, str]
    unfinished: dict[str, tuple[int, int]]
    mixed: tuple[str, ...]
    left_out: dict[str, str]
    notes: tuple[str, ...]
    heldout_counts: np.ndarray
    about: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def answers(self) -> tuple[Answer, ...]:
        """The table in short: each figure of each fit, and its paired difference from a
        reference."""
        return answers(self)

    def __repr__(self) -> str:
        losses = ", ".join(f"{score.name} {score.loss:.4f}" for score in self.scores)
        return (
            f"Comparison(loss of {len(self.heldout_counts):,} held-out sequences, nats per token: "
            f"{losses})"
        )

    def to_json(self) -> dict[str, Any]:
        """Every number of the comparison as JSON values; NaN as null. The schema is
        `report.schema.json` in the package."""
        from probattn.inference.report.json_file import comparison_json

        return comparison_json(self)

    def save_json(self, path: Any) -> None:
        """Write `to_json` to a file, whole or not at all."""
        from probattn.inference.report.json_file import save_json

        save_json(self, path)

    def save_html(self, path: Any) -> None:
        """Write a self-contained page: figures inline, no script, opens from disk."""
        from probattn.inference.report.html import save_html

        save_html(self, path)

    def figures(self, *, dark: bool = False) -> dict[str, Any]:
        """Matplotlib figures by name."""
        from probattn.inference.report.panels import figures

        return figures(self, dark=dark)

    def save_figures(self, folder: Any) -> None:
        """Write each figure as PNG (300 dots an inch) and SVG to a folder, which is made."""
        from probattn.inference.report.panels import save_figures

        save_figures(self, folder)
