"""Estimates of probabilities with standard errors, by exact sums or by Monte Carlo."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from probattn.errors import InputError

MOST_ENUMERATED = 2**22  # most sequences to enumerate: seconds to minutes for a small model
MOST_CELLS = 2**24  # most cells of a table: 128 MiB in float64
SUM_METHODS = ("auto", "exact", "monte_carlo")


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["value", "standard_error", "effective_sample_size"],
    meta_fields=["method"],
)
@dataclass(frozen=True, eq=False)
class Estimate:
    """A probability or a table of probabilities, with standard errors and how it was computed.

    Args:
        value: the probabilities.
        standard_error: standard error of each probability; 0 for an exact sum. For a share of draws
            that is 0 or 1 it is 1 / effective_sample_size, since the event need not be impossible
            or certain.
        method: in words, "exact: 64 sequences" or "Monte Carlo: 10,000 draws".
        effective_sample_size: `(sum w)^2 / sum w^2` of the weights w of draws; None for an exact
            sum.
    """

    value: Any
    standard_error: Any
    method: str
    effective_sample_size: Any = None

    @property
    def exact(self) -> bool:
        """Whether the value is an exact sum."""
        return self.effective_sample_size is None

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self.value, dtype)

    def __float__(self) -> float:
        return float(self.value)

    def __str__(self) -> str:
        if jnp.ndim(self.value):
            numbers = (
                f"table of shape {jnp.shape(self.value)}, largest standard error "
                f"{self.standard_error.max():.2g}"
            )
        else:
            numbers = f"{self.value:.6g}" + ("" if self.exact else f" ± {self.standard_error:.2g}")
        size = "" if self.exact else f", effective sample size {self.effective_sample_size:,.0f}"
        return f"{numbers} ({self.method}{size})"


def exact_estimate(value: Array, number: int) -> Estimate:
    """The Estimate for `value`, an exact sum over this number of sequences."""
    return Estimate(
        value, jnp.zeros_like(value), f"exact: {number:,} sequence{'' if number == 1 else 's'}"
    )


def choose_exact(process: Any, method: str, number: int, what: str, cells: int = 1) -> bool:
    """Whether to sum over `number` sequences, and not to draw.

    Args:
        process: the sequence process.
        method: "exact", "monte_carlo" or "auto", which sums where there are at most
            MOST_ENUMERATED.
        number: of token sequences in the sum.
        what: the quantity asked for, named in messages.
        cells: number of entries of the result.

    Raises: InputError on an unknown method; on a table of too many cells; on "exact" where there
        are too many sequences, or where the process itself only estimates its probabilities.
    """
    if method not in SUM_METHODS:
        raise InputError(f"method: expected one of {', '.join(SUM_METHODS)}, got {method!r}")
    if cells > MOST_CELLS:
        raise InputError(
            f"{what}: expected a table of at most {MOST_CELLS:,} cells, got {_large(cells)} "
            f"({_memory(cells)}); ask for fewer positions or tokens at a time"
        )
    if not process.enumerable:
        if method == "exact":
            raise InputError(
                f'{what}: expected method="monte_carlo", got "exact"; the conditionals of '
                f"{process} are estimates themselves"
            )
        return False
    if method == "exact" and number > MOST_ENUMERATED:
        raise InputError(
            f"{what}: expected at most {MOST_ENUMERATED:,} sequences to enumerate, got "
            f"{_large(number)} ({_memory(number)} for their probabilities alone); "
            'method="monte_carlo" draws instead, with a standard error'
        )
    return method == "exact" or (method == "auto" and number <= MOST_ENUMERATED)


def mean_weight(log_weight: Float[Array, " draws"]) -> Estimate:
    """Estimate of a probability by the mean of importance weights, with its standard error."""
    weight = jnp.exp(log_weight)
    number = len(weight)
    size = weight.sum() ** 2 / jnp.maximum((weight**2).sum(), jnp.finfo(weight.dtype).tiny)
    return Estimate(weight.mean(), weight.std(ddof=1) / number**0.5, _draws(number), size)


def frequencies(cell: Array, cells: int, log_weight: Float[Array, " draws"]) -> Estimate:
    """Share of weighted draws in each of `cells` cells, with standard errors.

    Self-normalised: with the weights w divided by their sum, the share is `p = sum w 1[in cell]`
    and its standard error `sqrt(sum w^2 (1[in cell] - p)^2)`.

    Args:
        cell: the cells of each draw, (draws,) or (draws, ...) where a draw may be in several
            different ones; numbers outside 0 ... cells - 1 are ignored.
        cells: number of cells.
        log_weight: log importance weights.
    """
    # Draws without restrictions have weight exactly 1, so that sums of weights are exact counts.
    weight = jnp.exp(log_weight - log_weight.max())
    cell = cell.reshape(len(weight), -1)  # [draws, cells of a draw]
    cell = jnp.where((cell >= 0) & (cell < cells), cell, cells)

    def per_cell(values: Array) -> Array:  # sums, [draws] -> [cells]
        everywhere = jnp.broadcast_to(values[:, None], cell.shape)
        return jnp.zeros(cells, values.dtype).at[cell].add(everywhere, mode="drop")

    total = weight.sum()
    squares = (weight**2).sum() / total**2
    # A draw that failed has weight NaN and is in no cell: make every share NaN.
    probability = jnp.where(jnp.isnan(total), jnp.nan, per_cell(weight) / total)
    variance = per_cell(weight**2) / total**2 * (1 - 2 * probability) + probability**2 * squares
    # With no draw inside, or none outside, the variance is 0 up to rounding.
    certain = variance < jnp.finfo(variance.dtype).eps * squares
    error = jnp.sqrt(jnp.where(certain, squares**2, variance))
    return Estimate(probability, error, _draws(len(weight)), 1 / squares)


def _draws(number: int) -> str:
    return f"Monte Carlo: {number:,} draws"


def _large(number: int) -> str:
    """The number as text, however large; floats end near 1e308."""
    return (
        f"{number:,}"
        if number < 10**12
        else f"{float(number):.3g}"
        if number < 10**300
        else "more than 1e300"
    )


def _memory(numbers: int) -> str:
    """Memory that so many numbers of 8 bytes take, as text."""
    size, units = 8 * numbers, ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"]
    while size >= 1024 and len(units) > 1:
        size, units = size // 1024, units[1:]
    return f"{_large(size)} {units[0]}"
