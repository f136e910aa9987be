"""Figures with their standard errors across sequences, and what is called noise."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

SURE = 2  # standard errors beyond which a difference is not called noise
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)  # what an interval shows: nine tenths, a half, the median
INTERNAL: Mapping[str, Any] = {
    "internal": True
}  # metadata of fields that a report's JSON leaves out


@dataclass(frozen=True)
class Measured:
    """A figure with its standard error."""

    value: float
    error: float

    @property
    def sure(self) -> bool:
        """Whether it differs from 0 by more than two standard errors."""
        return abs(self.value) > SURE * self.error

    @property
    def signed(self) -> str:
        """With a plus where it is positive, as differences are written."""
        return f"{'+' if self.value > 0 else ''}{self}"

    def __str__(self) -> str:
        digits = 4 if not self.error or self.error < 0.01 else 3
        return f"{self.value:.{digits}f} ± {self.error:.{digits}f}"


def ratio(sums: np.ndarray, counts: np.ndarray) -> Measured:
    """`sum sums / sum counts`, with the standard error of a ratio of two means across sequences.

    Tokens of a sequence depend on each other, sequences do not: so these are what an error is
    counted over."""
    value = sums.sum() / counts.sum()
    error = np.std(sums - value * counts, ddof=1) / (counts.mean() * math.sqrt(len(counts)))
    return Measured(float(value), float(error))


def resampled_weights(number: int, resamples: int, seed: int = 0) -> np.ndarray:
    """How often each of `number` sequences is drawn in each bootstrap resample, (resamples,
    number)."""
    return np.random.default_rng(seed).multinomial(
        number, np.full(number, 1 / number), size=resamples
    )
