"""Uncertainty of the next token, split into data uncertainty and mutual information."""

from dataclasses import dataclass

import numpy as np

from probattn.inference.evaluation.measured import Measured, ratio
from probattn.inference.evaluation.predictive import Prediction


@dataclass(frozen=True, eq=False)
class Uncertainty:
    """Mean uncertainty of the next token of one fit, in nats per token.

        total = data + mutual information
        H[p(x_t | x_<t)] = E_theta H[p_theta(x_t | x_<t)] + I(x_t; theta | x_<t)

    Expectations are over the posterior given the prefix. Mutual information is what the draws
    disagree about; with a single draw it is 0.

    Args:
        method: of the fit.
        total, data, mutual_information: means over all tokens that count, with standard errors
            across sequences.
        by_position: shape (2, length), data uncertainty and mutual information at each position;
            NaN where none counts.
    """

    method: str
    total: Measured
    data: Measured
    mutual_information: Measured
    by_position: np.ndarray


def uncertainty(prediction: Prediction) -> Uncertainty:
    """Mean uncertainty of next-token predictions. Source: Houlsby et al., arXiv:1112.5745."""
    at, counts = prediction.counted, prediction.counted.sum(1)
    parts = [
        np.where(at, part, 0)
        for part in (prediction.entropy, prediction.data_entropy, prediction.mutual_information)
    ]
    with np.errstate(invalid="ignore"):
        by_position = np.stack([part.sum(0) / at.sum(0) for part in parts[1:]])
    total, data, shared = (ratio(part.sum(1), counts) for part in parts)
    return Uncertainty(prediction.method, total, data, shared, by_position)
