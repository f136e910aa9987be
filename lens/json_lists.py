"""A measured text as plain JSON values, for programs that have neither NetCDF nor Python."""

import math
from typing import Any

import xarray as xr


def as_lists(found: xr.Dataset) -> dict[str, Any]:
    """A dataset of `lens` as an object of lists.

    `dims` names the dimensions of each array and `arrays` holds it, nested in this order, with
    coordinates such as token among them; what the dataset says of itself, such as reading, is
    beside them. NaN becomes null, and an infinity, as log |det J| of a singular block has it, the
    text "Infinity" or "-Infinity".
    """
    about = {
        name: value.item() if hasattr(value, "item") else value
        for name, value in found.attrs.items()
    }
    dims = {str(name): [str(dim) for dim in array.dims] for name, array in found.variables.items()}
    arrays = {str(name): _plain(array.values.tolist()) for name, array in found.variables.items()}
    return about | {"dims": dims, "arrays": arrays}


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(one) for one in value]
    if not isinstance(value, float) or math.isfinite(value):
        return value
    return None if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
