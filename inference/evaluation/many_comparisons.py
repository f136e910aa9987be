"""Corrections of p-values where many comparisons are made."""

from collections.abc import Sequence
from typing import Any

import numpy as np


def holm(p_values: Sequence[float] | Any) -> np.ndarray:
    """Holm's adjusted p-values.

    Those below a level are findings. The probability that any of them is false is below that level,
    whatever the p-values have to do with one another."""
    p = np.asarray(p_values, float)
    order = np.argsort(p)
    adjusted = np.empty_like(p)
    adjusted[order] = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    return np.minimum(adjusted, 1)
