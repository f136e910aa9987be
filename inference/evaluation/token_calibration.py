"""Reliability: whether tokens predicted with probability 30 % occur in 30 % of the cases."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from probattn.errors import InputError
from probattn.inference.evaluation.measured import INTERNAL, Measured, ratio, resampled_weights
from probattn.inference.evaluation.predictive import Prediction

BINS = 15  # at most
LEAST_IN_BIN = 20  # tokens
ROUNDED = 4  # decimals of a confidence when bins are chosen: float32 rounding must not split ties
RESAMPLES = 1000
RESAMPLES_AT_ONCE = 50  # resamples that are in memory together
LEVEL = 0.95


@dataclass(frozen=True, eq=False)
class Reliability:
    """Reliability and proper scores of one predictor's next-token probabilities.

    Confidence is the probability of the most probable token, accuracy the share of cases in which
    that token occurs. Bins by confidence hold about equally many tokens, as far as ties allow.

        ECE = sum over bins of (share of tokens) |accuracy - confidence|

    Args:
        method: of the fit, or "baseline".
        confidence: mean confidence of each bin, (bins,).
        accuracy: share of correct predictions in each bin, (bins,).
        share: share of the tokens in each bin, (bins,).
        low, high: interval of each bin, (bins,), in which its accuracy would lie with probability
            0.95 if the predictor were calibrated.
        calibration_error: the expected calibration error (ECE). Noise alone makes it positive, and
            how much is not known, so that it has no interval; what is known is its law if the
            predictor is calibrated.
        calibrated_limit: the ECE of a calibrated predictor is below this with probability 0.95.
        overconfidence: mean confidence minus accuracy.
        log_score: minus the log probability of the token, in nats; a proper score, lower is better.
        brier: sum over v of (p_v - [v came])^2, from 0 to 2; a proper score, lower is better.
        log_sums, brier_sums: the two scores of each sequence, summed over its tokens,
            (num_sequences,).
        counts: number of tokens that count in each sequence, (num_sequences,).
        resampled: ECE in each bootstrap resample, (resamples,). The resamples are the same for all
            predictors of the same sequences.
    """

    method: str
    confidence: np.ndarray
    accuracy: np.ndarray
    share: np.ndarray
    low: np.ndarray
    high: np.ndarray
    calibration_error: float
    calibrated_limit: float
    overconfidence: Measured
    log_score: Measured
    brier: Measured
    log_sums: np.ndarray = field(metadata=INTERNAL)
    brier_sums: np.ndarray = field(metadata=INTERNAL)
    counts: np.ndarray = field(metadata=INTERNAL)
    resampled: np.ndarray = field(metadata=INTERNAL)

    def __repr__(self) -> str:
        return (
            f"Reliability({self.verdict()} log score {self.log_score} nats, Brier score "
            f"{self.brier})"
        )

    def verdict(self) -> str:
        """Whether the predictor is calibrated, over- or underconfident, as a sentence."""
        figure = (
            f"expected calibration error {self.calibration_error:.4f}, where a calibrated "
            f"predictor stays under {self.calibrated_limit:.4f} in 95 of 100 cases"
        )
        if self.calibration_error <= self.calibrated_limit:
            return f"calibrated within noise: {figure}."
        signed = self.overconfidence
        if not signed.sure:
            return f"miscalibrated, neither over- nor underconfident on the whole: {figure}."
        word = "overconfident" if signed.value > 0 else "underconfident"
        return f"{word} by {abs(signed.value):.4f} ± {signed.error:.4f}: {figure}."


def reliability(prediction: Prediction, *, seed: int = 0) -> Reliability:
    """Reliability of next-token predictions of sequences.

    The band `low`, `high` and `calibrated_limit` come from simulating, for each token, a correct
    prediction with probability equal to its confidence.

    Args:
        prediction: of at least two sequences.
        seed: of the bootstrap and of the simulation.

    Raises: InputError on fewer than two sequences. Source of the expected calibration error: Guo et
    al., arXiv:1706.04599.
    """
    if len(prediction.tokens) < 2:
        raise InputError(f"tokens: expected at least two sequences, got {len(prediction.tokens)}")
    # n sequences, t positions, v tokens of the vocabulary, b bins, r resamples.
    at = prediction.counted  # [n, t]
    probability = np.exp(prediction.log_probs.astype(float))  # [n, t, v]
    came = prediction.tokens[..., None] == np.arange(probability.shape[-1])
    brier = np.where(at, ((probability - came) ** 2).sum(-1), 0)  # [n, t]
    confidence, right = probability.max(-1), prediction.log_probs.argmax(-1) == prediction.tokens
    counts = at.sum(1)

    number = max(1, min(BINS, int(at.sum()) // LEAST_IN_BIN))
    rounded = np.round(confidence, ROUNDED)
    edges = _edges(np.sort(rounded[at]), number)
    bins = np.searchsorted(edges, rounded, side="right")
    number = len(edges) + 1
    member = (bins[..., None] == np.arange(number)) & at[..., None]  # [n, t, b]
    said, hits, tokens = (  # sums in each bin of each sequence, [n, b] each
        np.where(member, values[..., None], 0).sum(1)
        for values in (confidence, right, np.ones_like(confidence))
    )

    if_calibrated = _hits_if_calibrated(confidence[at], bins[at], number, seed)  # [r, b]
    total = tokens.sum(0)  # [b]
    band = np.quantile(
        if_calibrated / np.maximum(total, 1), [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0
    )
    error = float(_calibration_error(said.sum(0), hits.sum(0), total))
    weights = resampled_weights(len(counts), RESAMPLES, seed)  # [r, n]
    resampled = _calibration_error(weights @ said, weights @ hits, weights @ tokens)
    log_sums, brier_sums = -prediction.token_log_probs.astype(float).sum(1), brier.sum(1)
    return Reliability(
        method=prediction.method,
        confidence=said.sum(0) / np.maximum(total, 1),
        accuracy=hits.sum(0) / np.maximum(total, 1),
        share=total / total.sum(),
        low=band[0],
        high=band[1],
        calibration_error=error,
        calibrated_limit=float(
            np.quantile(_calibration_error(said.sum(0), if_calibrated, total), LEVEL)
        ),
        overconfidence=ratio((said - hits).sum(1), counts),
        log_score=ratio(log_sums, counts),
        brier=ratio(brier_sums, counts),
        log_sums=log_sums,
        brier_sums=brier_sums,
        counts=counts,
        resampled=resampled,
    )


def _edges(values: np.ndarray, number: int) -> np.ndarray:
    """Lower edges of all bins but the first, for bins of about equally many of the sorted values.

    A bin holds at least half as many values as an equal share. Tokens of the same confidence, such
    as the first tokens of all sequences, share a bin; so there may be fewer than `number` bins.
    """
    kept, before, least = [], 0, len(values) / (2 * number)
    for edge in np.unique(
        np.quantile(values, np.linspace(0, 1, number + 1)[1:-1], method="nearest")
    ):
        below = int(np.searchsorted(values, edge))
        if below - before >= least and len(values) - below >= least:
            kept.append(edge)
            before = below
    return np.array(kept)


def _hits_if_calibrated(
    confidence: np.ndarray, bins: np.ndarray, number: int, seed: int
) -> np.ndarray:
    """Simulated hits of a calibrated predictor in each bin, (RESAMPLES, number).

    Each token is right with probability equal to its confidence.
    """
    rng, order = np.random.default_rng(seed), np.argsort(bins, kind="stable")
    starts = np.searchsorted(bins[order], np.arange(number))
    parts = []
    for _ in range(RESAMPLES // RESAMPLES_AT_ONCE):
        right = rng.random((RESAMPLES_AT_ONCE, len(order))) < confidence[order]
        parts.append(np.add.reduceat(right, starts, axis=1, dtype=int))
    return np.concatenate(parts)


def _calibration_error(said: np.ndarray, hits: np.ndarray, tokens: np.ndarray) -> Any:
    """ECE from the sums of confidences, hits and tokens in each bin, (..., bins)."""
    return np.abs(hits - said).sum(-1) / tokens.sum(-1)
