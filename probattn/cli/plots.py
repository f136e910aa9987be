"""Where figures are written: refused before the work where they could not be."""

from pathlib import Path
from typing import Any

from probattn.errors import InputError

PLOT_FORMATS = (".png", ".svg", ".pdf")


def check_plot(path: Path) -> None:
    """An InputError for a figure whose name does not end in a format."""
    if path.suffix not in PLOT_FORMATS:
        raise InputError(
            f"{path}: expected a name that ends in {', '.join(PLOT_FORMATS)}, got {path.suffix!r}"
        )
    if not path.absolute().parent.is_dir():
        raise InputError(f"{path}: cannot be written (no such folder); choose another place")


def save_plot(figure: Any, path: Path) -> None:
    """Write a figure. Raises: InputError if it cannot be written."""
    try:
        figure.savefig(path, dpi=150)
    except OSError as error:
        raise InputError(
            f"{path}: cannot be written ({error.strerror}); choose another place"
        ) from error
