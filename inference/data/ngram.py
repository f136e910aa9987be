"""Unigram and bigram baselines with add-k smoothing, for the same token sequences as the models."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from probattn.sequence.tokens import counted

SMOOTHING = np.geomspace(0.01, 10, 31)  # candidates for k
FOLDS = 5  # of the cross-validation that chooses k


@dataclass(frozen=True, eq=False)
class Ngram:
    """A unigram or bigram model with add-k smoothing.

    `P(next | previous) = (count + k) / sum (count + k)`, with the sum over next; at the start,
    previous is the end token.

    Args:
        log_table: the log probabilities, (vocab, vocab): row previous, column next. All rows of a
            unigram are equal.
        k: the smoothing.
    """

    log_table: np.ndarray
    k: float

    def log_prob(self, tokens: np.ndarray) -> np.ndarray:
        """Log probability of each sequence, shape (num_sequences,).

        The end token counts, the padding after it does not.
        """
        before, is_counted = _before(tokens)
        return np.where(is_counted, self.log_table[before, tokens], 0).sum(-1)

    def next_token_log_probs(self, tokens: np.ndarray) -> np.ndarray:
        """`log P(x_t | x_{t-1})` for every x_t, shape (num_sequences, length, vocab)."""
        return self.log_table[_before(tokens)[0]]


def fit_ngram(tokens: np.ndarray, vocab_size: int, order: Literal["unigram", "bigram"]) -> Ngram:
    """Fit an n-gram with add-k smoothing to tokens, with k chosen by five-fold cross-validation.

    Args: tokens, (num_sequences, length). A single sequence cannot be cross-validated and takes the
        smallest k.
    """
    # Shapes: f folds; p previous tokens, vocab_size for a bigram and 1 for a unigram; v next ones.
    tokens = np.asarray(tokens)
    folds = [tokens[i::FOLDS] for i in range(min(FOLDS, len(tokens)))]
    per_fold = np.stack([_counts(fold, vocab_size, order) for fold in folds])  # [f, p, v]
    total = per_fold.sum(0)  # [p, v]

    def left_out_log_prob(k: float) -> float:
        if len(folds) == 1:
            return 0.0
        return sum((counts * _log_table(total - counts, k)).sum() for counts in per_fold)

    best = max(SMOOTHING, key=left_out_log_prob)
    return Ngram(np.broadcast_to(_log_table(total, best), (vocab_size, vocab_size)), float(best))


def token_counts(tokens: np.ndarray) -> np.ndarray:
    """Number of counted tokens in each sequence: its symbols and, if it has one, its end token."""
    return _before(np.asarray(tokens))[1].sum(-1)


def _before(tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The token before each token, and whether each token counts; both (num_sequences, length)."""
    before = np.concatenate([np.zeros_like(tokens[:, :1]), tokens[:, :-1]], axis=1)
    return before, np.asarray(counted(tokens))


def _counts(tokens: np.ndarray, vocab_size: int, order: str) -> np.ndarray:
    """Counts of (previous, next), (vocab, vocab); of a unigram summed over previous, (1, vocab)."""
    before, is_counted = _before(tokens)
    counts = np.zeros((vocab_size, vocab_size))
    np.add.at(counts, (before[is_counted], tokens[is_counted]), 1)
    return counts if order == "bigram" else counts.sum(0, keepdims=True)


def _log_table(counts: np.ndarray, k: float) -> np.ndarray:
    smoothed = counts + k
    return np.log(smoothed / smoothed.sum(1, keepdims=True))
