"""Support tokens of a text in each layer: the positions with the smallest margins."""

from typing import Any

import numpy as np
import xarray as xr

from probattn.errors import InputError

MARGINS = ("sigma_min", "log_det")


def as_measured(found: Any) -> xr.Dataset:
    """`found`. Raises: InputError if it is no dataset with layers and positions."""
    if not isinstance(found, xr.Dataset) or not {"layer", "position"} <= {*found.dims}:
        raise InputError(f"found: expected a dataset of `lens`, got {type(found).__name__}")
    return found


def support_tokens(found: Any, k: int = 5, kind: str = "sigma_min") -> xr.Dataset:
    """The k positions of each layer with the smallest margins, the smallest first.

    Args:
        found: of `lens`.
        k: from 1 to the number of positions.
        kind: "sigma_min", or "log_det", which ranks by log |det J|.

    Returns: `position`, `token` and `margin`, each (layer, rank). Of equal margins the earlier
    position comes first.

    Raises: InputError for another k or kind, or for margins that are NaN.
    """
    if kind not in MARGINS:
        raise InputError(f"kind: expected one of {', '.join(MARGINS)}, got {kind!r}")
    length = as_measured(found).sizes["position"]
    if isinstance(k, bool) or not isinstance(k, (int, np.integer)) or not 1 <= k <= length:
        raise InputError(f"k: expected 1 to {length} (the positions), got {k!r}")
    margin = found[kind].transpose("layer", "position").values
    if np.isnan(margin).any():
        raise InputError(f"{kind}: expected numbers, got NaN; the forward pass overflows")
    order = np.argsort(margin, axis=-1, kind="stable")[:, :k]  # (layer, rank)
    return xr.Dataset(
        {
            "position": (("layer", "rank"), found["position"].values[order]),
            "token": (("layer", "rank"), found["token"].values[order]),
            "margin": (("layer", "rank"), np.take_along_axis(margin, order, axis=-1)),
        },
        coords={"layer": found["layer"].values, "rank": np.arange(k)},
        attrs={"kind": kind, "reading": found.attrs["reading"]},
    )
