"""The figure of all candidates while one sequence is generated: which would press on the margin."""

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import CenteredNorm
from matplotlib.figure import Figure

from probattn.errors import InputError
from probattn.inference.evaluation.support import path_labels
from probattn.inference.report.style import STYLE

MOST_CANDIDATES = 60  # tokens drawn: those most probable at some step
LARGEST_DOT = 120  # area, in square points, of a token of probability 1


def plot_candidates(candidates: Any, tokens: Any, symbols: Sequence[str]) -> Axes:
    """Log det J that every token would have at each step of one sequence, and its probability.

    Each column is a step and each row a token. The colour is log |det J| of the path position that
    the token would take: 0 as without attention, above where attention repels, below where it
    contracts and the boundary is near. A cross marks tokens that would leave the local domain, the
    area of a dot is a token's probability, and a square is the token that was drawn. The last step
    has no colours, since no embedding follows it. Of more than 60 tokens those are shown that are
    most probable at some step.

    Args:
        candidates: of one sequence, arrays (length, vocab_size), as `candidates` of a model returns
            them.
        tokens: of the sequence, (length,).
        symbols: the symbol of each token.

    Raises: InputError if a token has no symbol, or candidates are of several sequences.
    """
    log_prob, log_det, outside = (
        np.asarray(values)
        for values in (candidates.log_prob, candidates.log_det, candidates.outside)
    )
    tokens = np.asarray(tokens)
    if log_prob.ndim != 2 or len(tokens) != len(log_prob):
        raise InputError(
            f"candidates: expected those of one sequence of {tokens.shape} tokens, got "
            f"{log_prob.shape}"
        )
    if len(symbols) < log_prob.shape[1]:
        raise InputError(
            f"symbols: expected {log_prob.shape[1]}, one for each token, got {len(symbols)}"
        )
    steps = int(np.isfinite(log_prob).any(1).sum())  # NaN after the end
    largest = np.where(np.isfinite(log_prob), log_prob, -np.inf).max(0)
    largest[tokens[:steps]] = np.inf  # those of the sequence are always shown
    kept = np.sort(np.argsort(-largest, kind="stable")[:MOST_CANDIDATES])
    log_prob, log_det, outside = (part[:steps, kept] for part in (log_prob, log_det, outside))
    with mpl.rc_context(STYLE):
        size = (2.2 + 0.55 * steps, 1.6 + 0.19 * log_prob.shape[1])
        figure = Figure(figsize=size, layout="constrained")
        ax = figure.subplots()
        shown = ax.imshow(
            log_det.T,
            aspect="auto",
            cmap="RdBu",
            norm=CenteredNorm(halfrange=_halfrange(log_det)),
            interpolation="none",
        )
        columns, rows = np.nonzero(np.isfinite(log_prob))
        area = LARGEST_DOT * np.exp(log_prob[columns, rows])
        ax.scatter(columns, rows, s=area, color="black", linewidths=0)
        columns, rows = np.nonzero(outside)
        ax.scatter(columns, rows, marker="x", color="black", s=22, linewidths=1)
        ax.scatter(
            np.arange(steps),
            np.searchsorted(kept, tokens[:steps]),
            marker="s",
            s=130,
            facecolors="none",
            edgecolors="black",
            linewidths=1.4,
        )
        ax.set_yticks(np.arange(len(kept)), [symbols[token] for token in kept], fontsize=7)
        ax.set_xticks(np.arange(steps), path_labels(tokens, symbols, steps, False), fontsize=8)
        ax.set_xlabel("token drawn at each step")
        ax.set_ylabel("candidate")
        ax.set_title("log det J that each candidate would have; crosses are outside")
        bar = figure.colorbar(shown, ax=ax, shrink=0.7)
        bar.set_label("log |det J|, no unit")
    return ax


def _halfrange(log_det: np.ndarray) -> float:
    """Half the range of the colours: what 98 % of the candidates have, and not 0."""
    finite = np.abs(log_det[np.isfinite(log_det)])
    return max(float(np.quantile(finite, 0.98)), 1e-3) if len(finite) else 1.0
