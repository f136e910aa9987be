"""The result of a comparison of fits."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from probattn.inference.evaluation.convergence import Diagnosis
from probattn.inference.evaluation.cross_validation import LeaveOneOut
from probattn.inference.evaluation.geometry import Uniqueness
from probattn.inference.evaluation.learning_study import LearningCurve
from probattn.inference.evaluation.mode_against_draws import DrawScores
from probattn.inference.evaluation.out_of_distribution import Detection
from probattn.inference.evaluation.perturbations import Robustness
from probattn.inference.evaluation.power_sensitivity import PowerScaling
from probattn.inference.evaluation.predictive_check import PredictiveCheck
from probattn.inference.evaluation.scores import Difference, Score
from probattn.inference.evaluation.stacking import Stack
from probattn.inference.evaluation.support import Disagreement, Example, Rankings
from probattn.inference.evaluation.token_calibration import Reliability
from probattn.inference.evaluation.uncertainty_parts import Uncertainty
from probattn.inference.fitting.fit import CHAINS
from probattn.inference.fitting.verdict import Verdict
from probattn.inference.report.summary_table import Answer, answers


@dataclass(frozen=True, eq=False)
class Comparison:
    """The result of `compare`: the numbers behind the page, the JSON and the figures.

    Args:
        scores: held-out log probability of each fit and baseline.
        differences: paired differences of the log probabilities of each two fits.
        leave_one_out: by fit, PSIS-LOO of the fits by Markov chains with enough draws.
        stack: the mixture of the fits with weights for prediction; None with a single fit.
        prior: new data of the prior of the first fit beside held-out ones.
        checks: by fit, its new data beside held-out ones.
        power_scaling: by fit, what its prior, path and data decide, of the fits by Markov chains.
        reliability: by name, reliability of the next-token probabilities of fits and the bigram.
        uncertainty: by fit, uncertainty of the next token, split into its two parts.
        detection: by kind of the other sequences and by fit, one detection for each score.
        robustness: by disturbance and by fit.
        margins: by fit, stability margins of held-out sequences, (draws, num_sequences, positions).
        spectra: by fit, singular values of the interaction, (draws, heads, dim).
        uniqueness: by fit, whether the density of the path integrates to 1.
        generalised: names of the fits whose posterior is a generalised one.
        rankings: how often support tokens by sigma_min and by log det are different.
        disagreements: how often a MAP and a fit with several draws differ in their support tokens.
        examples: margins and support tokens of single sequences.
        draw_scores: by fit, joint density and predictions of single draws.
        curve: a learning curve, if one was given.
        diagnostics: convergence of the fits by Markov chains.
        modes: by fit, the verdict on each other fit that has one.
        methods: by fit, its method.
        draws: by fit, its number of chains and of draws in each.
        symbols: of each token.
        unfinished: by fit, the draws that each chain has and those planned; unfinished fits only.
        mixed: how the densities differ, where `compare` was asked to mix them.
        left_out: by name of what was not computed, the reason.
        notes: further sentences that a reader must know first.
        heldout_counts: number of tokens that count in each held-out sequence, (num_sequences,).
        about: how the comparison was made.
    """

    scores: tuple[Score, ...]
    differences: tuple[Difference, ...]
    leave_one_out: dict[str, LeaveOneOut]
    stack: Stack | None
    prior: PredictiveCheck
    checks: dict[str, PredictiveCheck]
    power_scaling: dict[str, PowerScaling]
    reliability: dict[str, Reliability]
    uncertainty: dict[str, Uncertainty]
    detection: dict[str, dict[str, tuple[Detection, ...]]]
    robustness: dict[str, dict[str, Robustness]]
    margins: dict[str, np.ndarray]
    spectra: dict[str, np.ndarray]
    uniqueness: dict[str, Uniqueness]
    generalised: tuple[str, ...]
    rankings: tuple[Rankings, ...]
    disagreements: tuple[Disagreement, ...]
    examples: tuple[Example, ...]
    draw_scores: dict[str, DrawScores]
    curve: LearningCurve | None
    diagnostics: tuple[Diagnosis, ...]
    modes: dict[str, Verdict]
    methods: dict[str, str]
    draws: dict[str, tuple[int, int]]
    symbols: tuple[str, ...]
    unfinished: dict[str, tuple[int, int]]
    mixed: tuple[str, ...]
    left_out: dict[str, str]
    notes: tuple[str, ...]
    heldout_counts: np.ndarray
    about: dict[str, Any] = field(default_factory=dict)

    @property
    def checked(self) -> str:
        """The fit whose new data are shown: the first by Markov chains, else the first."""
        by_chains = (name for name, method in self.methods.items() if method in CHAINS)
        return next(by_chains, next(iter(self.methods)))

    @cached_property
    def answers(self) -> tuple[Answer, ...]:
        """The summary table: each figure of each fit, and its difference from the reference."""
        return answers(self)

    def __repr__(self) -> str:
        losses = ", ".join(f"{score.name} {score.loss:.4f}" for score in self.scores)
        return (
            f"Comparison(loss of {len(self.heldout_counts):,} held-out sequences, nats per token: "
            f"{losses})"
        )

    def to_json(self) -> dict[str, Any]:
        """The comparison as JSON values, with NaN as null and quantiles of margins and spectra.

        The schema is `templates/report.schema.json` beside this module.
        """
        from probattn.inference.report.json_file import comparison_json

        return comparison_json(self)

    def save_json(self, path: Any) -> None:
        """Write `to_json` to a file; the file is never partial."""
        from probattn.inference.report.json_file import save_json

        save_json(self, path)

    def save_html(self, path: Any) -> None:
        """Write a self-contained HTML page, with its figures inline and without scripts.

        The file is never partial.
        """
        from probattn.inference.report.html import save_html

        save_html(self, path)

    def figures(self, *, dark: bool = False) -> dict[str, Any]:
        """Matplotlib figures by name."""
        from probattn.inference.report.panels import figures

        return figures(self, dark=dark)

    def save_figures(self, folder: Any) -> None:
        """Write each figure to a folder, made if needed, as PNG (300 dots per inch) and SVG."""
        from probattn.inference.report.panels import save_figures

        save_figures(self, folder)
