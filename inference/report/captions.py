"""What to look for in each figure of the page, and what it shows in words."""

from typing import Any

import numpy as np

from probattn.inference.evaluation.perturbations import NOISE
from probattn.inference.evaluation.support import ALWAYS_ONE
from probattn.inference.report.comparison import Comparison

SECTIONS = {
    "Prediction": ("scores", "learning_curve", "mode_against_draws"),
    "Calibration and uncertainty": ("calibration", "uncertainty", "detection"),
    "Robustness": ("noise", "typos"),
    "Geometry": ("margins", "support_tokens", "spectrum"),
    "Convergence": ("traces",),
}
CAPTIONS = {
    "scores": (
        "Held-out loss of each predictor, with two standard errors. Look at whether the fits beat "
        "the bigram that saw the same sequences. The bars of two predictors may overlap and still "
        "differ for sure: the paired difference in the table is the test."
    ),
    "learning_curve": (
        "Held-out loss against the number of training sequences, one training set of each size. "
        "Look at where the lines part. Hollow markers are fits that have not converged: there it "
        "is these fits that are compared."
    ),
    "mode_against_draws": (
        "Each point is one value of the parameters: how probable it is, together with the "
        "training data, and how well it predicts held-out sequences. A mode is where the density "
        "is highest, not where the mass is: look at how far it lies to the right of a posterior's "
        "draws. A dashed line is all draws of a fit together, a mixture: look at whether it is "
        "above them."
    ),
    "calibration": (
        "How often the likeliest next token was right, against the probability it was given. The "
        "bands are where the points of a calibrated predictor would lie in 95 of 100 cases. Below "
        "the diagonal a predictor is overconfident."
    ),
    "uncertainty": (
        "Uncertainty of the next token: solid what is in the data, hatched what the draws "
        "disagree about (their mutual information with the token). One draw cannot disagree with "
        "itself. Bars: two standard errors of the sum."
    ),
    "detection": (
        "Held-out sequences against others. The nearer a curve to the upper left corner, the "
        "better the score tells them apart; the diagonal is chance. Look at whether uncertainty "
        "sees what surprise (minus the log probability) sees."
    ),
    "noise": (
        "Held-out loss with Gaussian noise on the embeddings, in units of their own root mean "
        "square, so that larger embeddings are no protection. Each draw of a fit meets noise of "
        "its own, and averaging over noises helps anyone. A fit with fewer than 100 draws has a "
        "dotted line: averaged over as many noises. Compare these, and not the solid lines."
    ),
    "typos": (
        "Loss of the tokens that are still the writer's own, in sequences with typos; the same "
        "sequences at each number, but not the same tokens. So compare lines with each other at "
        "one number of typos, and not along a line. Bars: two standard errors."
    ),
    "margins": (
        "Stability margins along held-out sequences: median, and where half (thick) and nine "
        "tenths (thin) of them lie. Near 0 attention is ill-conditioned. Look at whether the MAP "
        "comes nearer to the boundary than the posterior does."
    ),
    "support_tokens": (
        "The support token is the position with the smallest margin. The MAP names one "
        "(triangle); the posterior gives each position a probability (bars). Look at where they "
        "disagree, and where no position is sure."
    ),
    "spectrum": (
        "Singular values of the interaction matrix, blind to how queries and keys are mixed. Look "
        "at whether the MAP's attention is sharper (a larger first value) than what the posterior "
        "believes."
    ),
    "traces": (
        "Held-out log probability of single draws, chain by chain. Chains that have converged "
        "overlap and show no trend. The posterior as a whole, a mixture of the draws, is better "
        "than most of its draws."
    ),
}


def alternative(comparison: Comparison, name: str) -> str:
    """What a figure shows, with its main numbers, for readers who do not see it."""
    if name == "scores":
        losses = {score.name: score.loss for score in comparison.scores}
        return f"Held-out loss in nats per token: {_list(losses)}."
    if name == "learning_curve" and comparison.curve is not None:
        sizes = ", ".join(f"{size:,}" for size in comparison.curve.sizes)
        last = {fit: comparison.curve.losses(fit)[0][-1] for fit in comparison.curve.methods}
        return f"Held-out loss at {sizes} training sequences; at the last of them {_list(last)}."
    if name == "mode_against_draws":
        joint = {
            fit: np.median(one.log_joint) for fit, one in comparison.draw_scores.items()
        }
        return f"Scatter of draws; median log joint density in nats: {_list(joint, 0)}."
    if name == "calibration":
        errors = {fit: one.calibration_error for fit, one in comparison.reliability.items()}
        return f"Reliability curves; expected calibration error: {_list(errors)}."
    if name == "uncertainty":
        parts = {fit: one.mutual_information.value for fit, one in comparison.uncertainty.items()}
        return f"Bars of uncertainty; mutual information in nats per token: {_list(parts)}."
    if name == "detection":
        areas = {
            where: {
                f"{fit} {one.score}": one.area.value
                for fit, some in by_name.items()
                for one in some
            }
            for where, by_name in comparison.detection.items()
        }
        listed = "; ".join(f"{where}: {_list(some, 2)}" for where, some in areas.items())
        return f"ROC curves; areas under them for sequences that are {listed}."
    if name == "noise":
        worst = {fit: one.loss[-1].value for fit, one in comparison.robustness[NOISE].items()}
        level = next(iter(comparison.robustness[NOISE].values())).levels[-1]
        return f"Loss against embedding noise; at {level} root mean squares: {_list(worst)}."
    if name == "typos":
        kinds = [kind for kind in comparison.robustness if kind != NOISE]
        worst = {
            f"{fit} {kind}": one.loss[-1].value
            for kind in kinds
            for fit, one in comparison.robustness[kind].items()
        }
        return f"Loss of the other tokens against the number of typos; at the most: {_list(worst)}."
    if name == "margins":
        medians = {fit: np.nanmedian(m[..., ALWAYS_ONE:]) for fit, m in comparison.margins.items()}
        return f"Stability margins at each position; medians over all: {_list(medians, 2)}."
    if name == "support_tokens":
        number = len(comparison.examples)
        return (
            f"Support-token probabilities of {number} sequences; "
            "the table below has the same numbers."
        )
    if name == "spectrum":
        first = {fit: np.median(values[..., 0]) for fit, values in comparison.spectra.items()}
        return f"Singular values of the interaction; median of the largest: {_list(first, 2)}."
    return "Held-out log probability of each draw, one line a chain."


def _list(values: dict[str, Any], digits: int = 3) -> str:
    return "; ".join(f"{name} {value:.{digits}f}" for name, value in values.items())
