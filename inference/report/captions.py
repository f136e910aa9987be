"""Captions of the page's figures, and alternative texts for readers who cannot see them."""

from typing import Any

import numpy as np

from probattn.inference.evaluation.perturbations import EMBEDDING_NOISE
from probattn.inference.evaluation.support import ALWAYS_ONE
from probattn.inference.report.comparison import Comparison
from probattn.inference.report.power_figure import said_of

# Parts of the page, each with its figures, in the order in which one judges a model.
SECTIONS = {
    "convergence": ("traces",),
    "prior": ("prior_check",),
    "checks": ("posterior_check", "calibration"),
    "gain": (
        "scores",
        "learning_curve",
        "mode_against_draws",
        "uncertainty",
        "detection",
        "noise",
        "typos",
    ),
    "dependence": ("power_scaling", "margins", "support_tokens", "spectrum"),
}
CAPTIONS = {
    "prior_check": (
        "New data of the prior, one data set for each draw of the parameters, beside held-out "
        "sequences. Look at whether the prior holds such data for possible: it need not expect "
        "them. Of the shares, bars are those of the held-out sequences, dots and lines the medians "
        "and nine tenths of new data."
    ),
    "posterior_check": (
        "New data of the fit beside held-out sequences. Look at which features of the data the "
        "model misses: its p-value is the probability of new data as extreme as the held-out ones, "
        "corrected for the number of statistics in brackets."
    ),
    "power_scaling": (
        "How far quantities of the posterior move when the power of its prior, of the density of "
        "the embedding path (the barrier) or of the likelihood doubles, to first order. Full "
        "markers are surely above what chance gives with so many draws. Look at what the barrier "
        "decides, and what the data decide."
    ),
    "scores": (
        "Held-out loss of each predictor, with two standard errors. Look at whether the fits beat "
        "the bigram of the same training sequences. The bars of two predictors may overlap though "
        "their difference is not noise: the paired difference in the table decides."
    ),
    "learning_curve": (
        "Held-out loss against the number of training sequences, with one training set of each "
        "size. Look at where the lines part. Hollow markers are fits that have not converged or "
        "are unfinished: there the figure compares these fits, not the methods."
    ),
    "mode_against_draws": (
        "Each point is one set of parameters: its joint density with the training data, and how "
        "well it predicts held-out sequences. A mode is where the density is highest, not where "
        "the mass is: look at how far the mode lies to the right of a posterior's draws. A dashed "
        "line is the mixture of all draws of one fit: look at whether it is above the draws."
    ),
    "calibration": (
        "How often the likeliest next token occurred, against the probability that it was given. "
        "The bands are where the points of a calibrated predictor would lie in 95 of 100 cases. "
        "Below the diagonal a predictor is overconfident."
    ),
    "uncertainty": (
        "Uncertainty of the next token: the solid part is in the data, the hatched part is what "
        "the draws disagree about (their mutual information with the token). One draw cannot "
        "disagree with itself. Bars: two standard errors of the sum."
    ),
    "detection": (
        "How well each score tells sequences of another kind from held-out ones. The nearer a "
        "curve is to the upper left corner, the better; the diagonal is chance. Look at whether "
        "uncertainty detects what surprise (minus the log probability) detects."
    ),
    "noise": (
        "Held-out loss with Gaussian noise on the embeddings, in units of their root mean square, "
        "so that larger embeddings are no protection. Each draw of a fit gets its own noise, and "
        "averaging over noises lowers the loss of any fit. A fit with fewer than 100 draws "
        "therefore has a dotted line as well, the loss of its probabilities averaged over at "
        "least 100 noises. Compare its dotted line, not its solid one, with other fits."
    ),
    "typos": (
        "Loss of the tokens that are still the writer's own, in sequences with typos. The "
        "sequences are the same at each number of typos, but these tokens are not: compare lines "
        "at one number of typos, not along a line. Bars: two standard errors."
    ),
    "margins": (
        "Stability margins along held-out sequences: the median, and the intervals in which half "
        "(thick) and nine tenths (thin) of them lie. Near 0 attention is ill-conditioned. Look at "
        "whether the MAP comes nearer to the boundary than the posterior does."
    ),
    "support_tokens": (
        "The support token is the position with the smallest margin sigma_min(J_t), which depends "
        "on the coordinates of the embeddings. The MAP has one (triangle); "
        "under the posterior each position has a probability of being it (bars). Look at where "
        "the two disagree, and where no position is certain."
    ),
    "spectrum": (
        "Singular values of the interaction matrix, which are the same however queries and keys "
        "are mixed. Look at whether attention is sharper (a larger first value) under the MAP "
        "than under the posterior."
    ),
    "traces": (
        "Held-out log probability of single draws, chain by chain. Chains that have converged "
        "overlap and show no trend. The posterior as a whole, the mixture of its draws, predicts "
        "better than most of its draws."
    ),
}


def alternative(comparison: Comparison, name: str) -> str:
    """The alternative text of a figure: what it shows, with its main numbers."""
    if name == "scores":
        losses = {score.name: score.loss for score in comparison.scores}
        return f"Held-out loss in nats per token: {_list(losses)}."
    if name == "learning_curve" and comparison.curve is not None:
        sizes = ", ".join(f"{size:,}" for size in comparison.curve.sizes)
        last = {fit: comparison.curve.losses(fit)[0][-1] for fit in comparison.curve.methods}
        return f"Held-out loss at {sizes} training sequences; at the last of them {_list(last)}."
    if name in ("prior_check", "posterior_check"):
        check = comparison.prior if name == "prior_check" else comparison.checks[comparison.checked]
        whose = "the prior" if name == "prior_check" else comparison.checked
        return (
            f"New data of {whose} beside held-out sequences; p-values: {_list(check.p_values())}."
        )
    if name == "power_scaling":
        said = (
            f"{fit}: {'; '.join(said_of(one))}" for fit, one in comparison.power_scaling.items()
        )
        return f"Sensitivities of quantities to parts of the density. {'. '.join(said)}."
    if name == "mode_against_draws":
        joint = {fit: np.median(one.log_joint) for fit, one in comparison.draw_scores.items()}
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
        worst = {
            fit: one.loss[-1].value for fit, one in comparison.robustness[EMBEDDING_NOISE].items()
        }
        level = next(iter(comparison.robustness[EMBEDDING_NOISE].values())).levels[-1]
        return f"Loss against embedding noise; at {level} root mean squares: {_list(worst)}."
    if name == "typos":
        kinds = [kind for kind in comparison.robustness if kind != EMBEDDING_NOISE]
        worst = {
            f"{fit} {kind}": one.loss[-1].value
            for kind in kinds
            for fit, one in comparison.robustness[kind].items()
        }
        return f"Loss of unchanged tokens against the number of typos; at the most: {_list(worst)}."
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
    return "Held-out log probability of each draw, one line for each chain."


def _list(values: dict[str, Any], digits: int = 3) -> str:
    return "; ".join(f"{name} {value:.{digits}f}" for name, value in values.items())
