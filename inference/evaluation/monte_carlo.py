"""What other draws, or other members, would change in the score of a mixture."""

import math

import numpy as np
from arviz_stats.base import array_stats

from probattn.inference.fitting.fit import CHAINS, mixture_log_prob

LEAST_DRAWS = 4  # in each chain: R-hat and effective sample sizes split each chain in two


def error_of_draws(log_prob: np.ndarray, method: str) -> float:
    """Standard error of `sum_i log mean_d p_di` due to the finite number of draws, in nats.

    Of chains, to first order, a draw moves the sum by `sum_i (p_di / mean_d p_di - 1)`, whose mean
    has the error of an average of autocorrelated draws. Draws that are independent, such as the
    members of an ensemble, are left out one by one (the jackknife).

    Args: log_prob (chains, draws, num_sequences); method, of the fit.
    Returns: NaN where there is but one draw, or where chains are too short.
    """
    if method in CHAINS:
        if log_prob.shape[1] < LEAST_DRAWS:
            return math.nan
        moves = (np.exp(log_prob - mixture_log_prob(log_prob)) - 1).sum(-1)  # [chains, draws]
        return float(array_stats.mcse(moves, method="mean", chain_axis=0, draw_axis=1))
    flat = log_prob.reshape(-1, log_prob.shape[-1]).astype(float)  # [draws, n]
    number = len(flat)
    if number == 1:
        return math.nan
    without = [
        np.logaddexp.reduce(np.delete(flat, one, axis=0), axis=0).sum() for one in range(number)
    ]
    return float(np.sqrt((number - 1) * np.var(without)))
