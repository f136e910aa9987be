"""Which figures of a token go together, over texts: rank correlations with intervals."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from scipy.stats import rankdata, t

from probattn.errors import InputError
from probattn.lens.support import as_measured


def rank_correlations(
    found: Any,
    of: str,
    others: Sequence[str],
    given: Sequence[str] = (),
    level: float = 0.95,
) -> xr.Dataset:
    """Rank correlations of one figure with others, within each layer of each text.

        rho = correlation of the ranks, each less its regression on the ranks of what is given

    A text's correlation is the mean over its layers, since layers of one text share its tokens; the
    interval is Student's over the texts, and as wide as Bonferroni's correction for the number of
    `others` demands.

    Args:
        found: a dataset for each text, with dimensions layer and position; two or more.
        of, others, given: names of figures (layer, position) or (position); the position itself is
            "position".
        level: at which the intervals hold, all together.

    Returns: `rho`, `low`, `high` (other), and `texts` (text, other).

    Raises: InputError for fewer than two texts, a name that is not there, or a level outside (0,
        1).
    """
    if not isinstance(found, (list, tuple)) or len(found) < 2:
        raise InputError("found: expected a list of two datasets of `lens` or more")
    if not 0 < level < 1:
        raise InputError(f"level: expected a number between 0 and 1, got {level!r}")
    for one in found:
        as_measured(one)
        missing = [name for name in (of, *others, *given) if name not in one.variables]
        if missing:
            raise InputError(f"{missing[0]}: expected one of {', '.join(map(str, one.variables))}")
    texts = np.array([[_of_text(one, of, other, given) for other in others] for one in found])
    mean, number = texts.mean(0), len(found)
    error = texts.std(0, ddof=1) / np.sqrt(number)
    wide = t.ppf(1 - (1 - level) / (2 * len(others)), number - 1) * error
    return xr.Dataset(
        {
            "rho": ("other", mean),
            "low": ("other", np.maximum(mean - wide, -1)),
            "high": ("other", np.minimum(mean + wide, 1)),
            "texts": (("text", "other"), texts),
        },
        coords={"other": list(others)},
        attrs={"of": of, "given": ", ".join(given), "level": level},
    )


def _of_text(found: xr.Dataset, of: str, other: str, given: Sequence[str]) -> float:
    """The mean correlation of ranks over layers, but for those where a figure is constant."""
    layers = []
    for layer in range(found.sizes["layer"]):
        one, two, *rest = (_row(found, name, layer) for name in (of, other, *given))
        there = np.all(np.isfinite([one, two, *rest]), axis=0)
        layers.append(partial_spearman(*(row[there] for row in (one, two, *rest))))
    known = np.array(layers)[~np.isnan(layers)]
    return float(known.mean()) if known.size else np.nan


def partial_spearman(one: np.ndarray, two: np.ndarray, *given: np.ndarray) -> float:
    """Correlation of the ranks of two rows, each less its regression on the ranks of what is given.

    NaN where nothing is left of one of the two, such as of a constant row.
    """
    controls = np.stack([np.ones(len(one)), *map(rankdata, given)], axis=1)
    ranks = [rankdata(one), rankdata(two)]
    left = [row - controls @ np.linalg.lstsq(controls, row)[0] for row in ranks]
    lengths = [np.linalg.norm(row) for row in left]
    if not min(lengths) > 1e-9 * len(one):
        return float("nan")
    return float(left[0] @ left[1] / (lengths[0] * lengths[1]))


def _row(found: xr.Dataset, name: str, layer: int) -> Any:
    figure = found[name]
    return np.asarray(figure.isel(layer=layer) if "layer" in figure.dims else figure, float)
