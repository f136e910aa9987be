"""R-hat and effective sample sizes of many quantities at once.

ArviZ computes them one quantity after the other, some milliseconds each, and a vocabulary has tens
of thousands. These are its formulas over all quantities together; the tests hold one to the other.

Source: Vehtari, Gelman, Simpson, Carpenter and Buerkner, Bayesian Analysis 16 (2021); Margossian
et al., Bayesian Analysis (2024), for nested R-hat.
"""

import math
from typing import NamedTuple

import numpy as np
from scipy.fft import irfft, next_fast_len, rfft
from scipy.special import ndtri
from scipy.stats import f, rankdata

TAILS = (0.05, 0.95)
AT_ONCE = 1000  # quantities, so that memory does not grow with their number


class Mixing(NamedTuple):
    """Statistics of each quantity, (quantities,) each; NaN where they are undefined.

    Args:
        rhat: rank-normalised R-hat.
        chance: probability that converged chains, with the effective sizes that are found within
            the chains, have this R-hat or a larger one.
        bulk, tail: effective sample sizes.
        nested: nested R-hat over groups of chains, None without groups.
    """

    rhat: np.ndarray
    chance: np.ndarray
    bulk: np.ndarray
    tail: np.ndarray
    nested: np.ndarray | None


def mixing(values: np.ndarray, groups: np.ndarray | None = None) -> Mixing:
    """Rank-normalised R-hat and effective sample sizes of the bulk and of the tails at 5 %.

    Args:
        values: (quantities, chains, draws), at least four draws.
        groups: for each chain the number of its group, groups of equal size, for nested R-hat.
    """
    parts = [
        _mixing(np.asarray(values[first : first + AT_ONCE], float), groups)
        for first in range(0, len(values), AT_ONCE)
    ]
    rhat, chance, bulk, tail = (np.concatenate([one[i] for one in parts]) for i in range(4))
    nested = [one.nested for one in parts if one.nested is not None]
    return Mixing(rhat, chance, bulk, tail, np.concatenate(nested) if nested else None)


def _mixing(values: np.ndarray, groups: np.ndarray | None) -> Mixing:
    with np.errstate(invalid="ignore", divide="ignore"):
        halves = _halves(values)
        scores = _normal_scores(halves)
        folded = _normal_scores(np.abs(halves - np.median(halves, (1, 2), keepdims=True)))
        rhat = _larger(_rhat(scores), _rhat(folded))
        # R-hat is the larger of two: either may be large by chance.
        chance = np.minimum(1, 2 * np.fmin(_chance(scores), _chance(folded)))
        limits = np.quantile(values, TAILS, axis=(1, 2))[..., None, None]
        low, high = (_effective_size(_halves((values <= limit).astype(float))) for limit in limits)
        bulk, tail = _effective_size(scores), np.where(high < low, high, low)
        nested = None
        if groups is not None:
            twice = np.concatenate([groups, groups])
            nested = _larger(_nested(scores, twice), _nested(folded, twice))
    unknown = np.isnan(values).any((1, 2))
    undefined = unknown | (values.shape[1] < 2)
    rhat[undefined] = chance[undefined] = bulk[unknown] = tail[unknown] = np.nan
    if nested is not None:
        nested[unknown] = np.nan
    return Mixing(rhat, chance, bulk, tail, nested)


def _larger(bulk: np.ndarray, tail: np.ndarray) -> np.ndarray:
    """The larger one; where `tail` is undefined, `bulk`."""
    return np.where(tail > bulk, tail, bulk)


def _halves(values: np.ndarray) -> np.ndarray:
    """Each chain in two, first halves first, (quantities, 2 chains, draws // 2)."""
    half = values.shape[2] // 2
    return np.concatenate([values[..., :half], values[..., -half:]], axis=1)


def _normal_scores(values: np.ndarray) -> np.ndarray:
    """Ranks over all chains of a quantity, as quantiles of the normal distribution (Blom)."""
    flat = values.reshape(len(values), -1)
    ranks = rankdata(flat, axis=1)
    return ndtri((ranks - 3 / 8) / (flat.shape[1] + 1 / 4)).reshape(values.shape)


def _rhat(chains: np.ndarray) -> np.ndarray:
    draws = chains.shape[2]
    between = draws * chains.mean(2).var(1, ddof=1)
    within = chains.var(2, ddof=1).mean(1)
    return np.sqrt((between / within + draws - 1) / draws)


def _chance(halves: np.ndarray) -> np.ndarray:
    """Probability that converged chains have at least this R-hat; halves are (q, m, t).

    The variance of the m means of the halves, in units of what their autocorrelations let expect,
    then follows the F distribution with m - 1 degrees of freedom and those of the expectation: the
    draws over the width of the window in which autocorrelations are summed.
    """
    number, draws = halves.shape[1], halves.shape[2]
    whole = np.concatenate(np.split(halves, 2, axis=1), axis=2)  # [q, m / 2, 2 t]
    covariances = _autocovariances(whole).mean(1)
    rho = covariances / covariances[:, :1]
    pairs = rho[:, : draws * 2].reshape(len(rho), -1, 2).sum(2)
    positive = np.logical_and.accumulate(pairs > 0, axis=1)
    tau = 2 * np.where(positive, np.minimum.accumulate(pairs, axis=1), 0).sum(1) - 1
    window = 4 * positive.sum(1) + 1  # lags on both sides of 0
    between = _rhat(halves) ** 2 - (draws - 1) / draws  # variance of the means over that within
    ratio = between * draws / np.maximum(tau, 1 / math.log10(number * draws))
    return f.sf(ratio, number - 1, np.maximum(number * draws / window, 1))


def _nested(chains: np.ndarray, groups: np.ndarray) -> np.ndarray:
    together = np.stack([chains[:, groups == one] for one in np.unique(groups)], 1)  # [q, g, c, t]
    means, variances = together.mean(3), together.var(3, ddof=1)
    within = (variances.mean(2) + means.var(2, ddof=1)).mean(1)
    return np.sqrt(1 + means.mean(2).var(1, ddof=1) / within)


def _effective_size(chains: np.ndarray) -> np.ndarray:
    """Number of independent draws whose mean has the same variance.

    By Geyer's monotone sequence of autocorrelations, in pairs of lags (2k, 2k + 1).
    """
    number, draws = chains.shape[1] * chains.shape[2], chains.shape[2]
    covariances = _autocovariances(chains).mean(1)  # [q, t]
    mean_variance = covariances[:, 0] * draws / (draws - 1)
    variance = mean_variance * (draws - 1) / draws
    if chains.shape[1] > 1:
        variance = variance + chains.mean(2).var(1, ddof=1)
    rho = 1 - (mean_variance[:, None] - covariances) / variance[:, None]
    rho[:, 0] = 1
    pairs = rho[:, : draws // 2 * 2].reshape(len(rho), -1, 2).sum(2)
    most = max((draws - 1) // 2 - 1, 0)  # pairs, without the last one
    positive = np.logical_and.accumulate(pairs[:, :most] > 0, axis=1)
    kept = positive.sum(1)
    decreasing = np.minimum.accumulate(pairs[:, :most], axis=1)
    each = np.arange(len(rho))
    after = rho[each, 2 * kept]
    after = np.where((after > 0) | (pairs[each, kept] >= 0), after, 0)
    tau = -1 + 2 * np.where(positive, decreasing, 0).sum(1) + after
    sizes = number / np.maximum(tau, 1 / math.log10(number))
    sizes = np.where(np.isnan(rho[:, 1]), np.nan, sizes)
    constant = np.ptp(chains, axis=(1, 2)) < np.finfo(float).resolution
    return np.where(constant, number, sizes)


def _autocovariances(chains: np.ndarray) -> np.ndarray:
    draws = chains.shape[2]
    size = next_fast_len(2 * draws, real=True)
    spectrum = rfft(chains - chains.mean(2, keepdims=True), size)
    return irfft(spectrum * spectrum.conj(), size)[..., :draws] / draws
