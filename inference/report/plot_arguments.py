"""What figures and comparisons take: one fit, several by name, or what was computed of them."""

from collections.abc import Callable, Mapping
from typing import Any

from probattn.errors import InputError
from probattn.inference.fitting.fit import Fit


def fits_by_name(fits: Any) -> dict[str, Fit]:
    """Fits by name; a single fit is named by its method.

    Raises: InputError for no fit, or for anything else than fits.
    """
    if isinstance(fits, Fit):
        return {fits.method: fits}
    if (
        not isinstance(fits, Mapping)
        or not fits
        or not all(isinstance(fit, Fit) for fit in fits.values())
    ):
        given = "none" if isinstance(fits, Mapping) and not fits else type(fits).__name__
        raise InputError(f"fits: expected at least one fit, alone or by name, got {given}")
    return dict(fits)


def results_by_name(fits: Any, kind: type, compute: Callable[[Fit], Any]) -> dict[str, Any]:
    """By name, `compute(fit)` of each fit.

    Where the caller has computed these already and gives values of type `kind` by name in place of
    the fits, they are returned as they are.
    """
    if isinstance(fits, Mapping) and fits and all(isinstance(one, kind) for one in fits.values()):
        return dict(fits)
    return {name: compute(fit) for name, fit in fits_by_name(fits).items()}
