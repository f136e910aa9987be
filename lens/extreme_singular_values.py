"""The smallest and largest singular value of a block and its log determinant, on the host.

One LU factorisation gives the determinant and solves with the block; Lanczos' method (ARPACK, which
reorthogonalises) on the inverse of J^T J finds its largest eigenvalue 1 / sigma_min^2 in about
a dozen solves. The eigenvalues of J^T J itself would be of no use for it: in float32 its small ones
are rounding error. Where Lanczos does not converge, and where the block is singular, all singular
values are computed.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.linalg import get_lapack_funcs, lu_solve, svd
from scipy.sparse.linalg import ArpackError, LinearOperator, eigsh

BASIS = 12  # vectors that Lanczos keeps; with 8 some blocks of SmolLM2 took several restarts
TOLERANCE = 1e-4  # of an eigenvalue, relative; a singular value has half of it


class Extremes(NamedTuple):
    """What is read off one block J."""

    sigma_min: float
    sigma_max: float
    log_det: float  # log |det J|; -inf if J is singular
    sign: float  # of det J
    v_min: np.ndarray  # unit vector with |J v| = sigma_min
    v_max: np.ndarray  # unit vector with |J v| = sigma_max


def extremes(block: np.ndarray) -> Extremes:
    """Extreme singular values, their right vectors and the determinant of a square block.

    A block with a NaN or an infinity gives NaN in everything.
    """
    size = len(block)
    if not np.isfinite(block).all():
        nothing = np.full(size, np.nan, block.dtype)
        return Extremes(np.nan, np.nan, np.nan, np.nan, nothing, nothing)
    # LAPACK's own function: SciPy's warns of singular blocks, which are an outcome here.
    (factorise,) = get_lapack_funcs(("getrf",), (block,))
    factor, pivots, _ = factorise(block)
    diagonal = np.diag(factor)
    exchanges = (pivots != np.arange(size)).sum()
    sign = float(np.prod(np.sign(diagonal)) * (-1) ** exchanges)
    log_det = float(np.log(np.abs(diagonal)).sum()) if sign else -np.inf

    def inverse(x: np.ndarray) -> np.ndarray:
        """(J^T J)^-1 x."""
        other = lu_solve((factor, pivots), x, trans=1, check_finite=False)
        return lu_solve((factor, pivots), other, check_finite=False)

    try:
        if not sign or size <= BASIS:
            raise ArpackError(0)
        least, v_min = _largest(inverse, block)
        most, v_max = _largest(lambda x: block.T @ (block @ x), block)
        return Extremes(least**-0.5, most**0.5, log_det, sign, v_min, v_max)
    except ArpackError:
        _, values, right = svd(block, check_finite=False)
        return Extremes(float(values[-1]), float(values[0]), log_det, sign, right[-1], right[0])


def _largest(
    operator: Callable[[np.ndarray], np.ndarray], block: np.ndarray
) -> tuple[float, np.ndarray]:
    """Largest eigenvalue and its vector, of a symmetric operator on vectors as long as a block."""
    start = np.random.default_rng(0).normal(size=len(block)).astype(block.dtype)
    values, vectors = eigsh(
        LinearOperator(block.shape, operator, dtype=block.dtype),
        k=1,
        which="LA",
        ncv=BASIS,
        tol=TOLERANCE,
        v0=start,
    )
    return float(values[0]), vectors[:, 0]
