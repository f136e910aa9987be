"""Numbers with their standard errors across sequences, and when a difference is noise."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

SURE = 2  # a difference of at most so many standard errors is called noise
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)  # 90 % interval, 50 % interval and median
# Metadata of dataclass fields that a report's JSON leaves out.
INTERNAL: Mapping[str, Any] = {"internal": True}


@dataclass(frozen=True)
class Measured:
    """A number with its standard error."""

    value: float
    error: float

    @property
    def sure(self) -> bool:
        """Whether the value differs from 0 by more than two standard errors."""
        return abs(self.value) > SURE * self.error

    @property
    def signed(self) -> str:
        """The text of a difference, with a plus sign if it is positive."""
        return f"{'+' if self.value > 0 else ''}{self}"

    def __str__(self) -> str:
        digits = 4 if not self.error or self.error < 0.01 else 3
        return f"{self.value:.{digits}f} ± {self.error:.{digits}f}"


def ratio(sums: np.ndarray, counts: np.ndarray) -> Measured:
    """`sum sums / sum counts`, with the standard error of a ratio of two means across sequences.

    The error is across sequences and not tokens, because the tokens of one sequence are dependent
    and sequences are independent.

    Args: sums and counts, of each sequence, (num_sequences,).
    """
    value = sums.sum() / counts.sum()
    error = np.std(sums - value * counts, ddof=1) / (counts.mean() * math.sqrt(len(counts)))
    return Measured(float(value), float(error))


def resampled_weights(number: int, resamples: int, seed: int = 0) -> np.ndarray:
    """How often each sequence is drawn in each bootstrap resample, (resamples, number)."""
    return np.random.default_rng(seed).multinomial(
        number, np.full(number, 1 / number), size=resamples
    )
