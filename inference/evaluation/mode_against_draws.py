"""Scores of single draws, to compare a mode with the draws of a posterior.

A mode is where the density is highest, which need not be where the posterior's mass is.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpyro.infer.util import log_density

from probattn.inference.contract import NumPyroModel
from probattn.inference.data.ngram import token_counts
from probattn.inference.evaluation.predictive import MOST_DRAWS, affordable
from probattn.inference.fitting.fit import Fit, mixture_log_prob, over_draws


@dataclass(frozen=True, eq=False)
class DrawScores:
    """Joint density and predictions of single draws of a fit.

    Args:
        method: of the fit.
        log_joint: log density of parameters, latent variables and training data at each draw, in
            nats.
        per_token: held-out log probability per token under each draw, in nats.
        mixture: held-out log probability per token under the mixture of these draws, in nats.
    """

    method: str
    log_joint: np.ndarray
    per_token: np.ndarray
    mixture: float

    def __repr__(self) -> str:
        return (
            f"DrawScores({self.method}, {len(self.log_joint)} draws, together {self.mixture:.4f} "
            "nats per token)"
        )


def draw_scores(fit: Fit, tokens: Any) -> DrawScores:
    """Score evenly spaced draws, some 200 at most, on held-out tokens (num_sequences, length)."""
    fit = affordable(fit).thinned(MOST_DRAWS)
    values = {**fit.flat_draws(), **fit.flat_latents()}
    joint = over_draws(_log_joint, fit.model, values, fit.data)
    log_prob = fit.draw_log_prob(tokens)
    total = token_counts(np.asarray(tokens)).sum()
    return DrawScores(
        fit.method,
        joint,
        log_prob.sum(-1).ravel() / total,
        float(mixture_log_prob(log_prob).sum() / total),
    )


def _log_joint(model: NumPyroModel, values: Any, data: Any) -> Any:
    """`log p(parameters, latents, data)`."""
    return log_density(model, (data,), {}, values)[0]
