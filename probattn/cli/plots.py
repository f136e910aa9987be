"""Writing figures; a path that cannot be written is refused before the work starts."""

from pathlib import Path
from typing import Any

from probattn.errors import InputError

PLOT_FORMATS = (".png", ".svg", ".pdf")


def check_plot(path: Path) -> None:
    """Raise InputError if `path` does not end in one of PLOT_FORMATS or its folder is missing."""
    if path.suffix not in PLOT_FORMATS:
        raise InputError(
            f"{path}: expected a name that ends in {', '.join(PLOT_FORMATS)}, got {path.suffix!r}"
        )
    if not path.absolute().parent.is_dir():
        raise InputError(f"{path}: cannot be written (no such folder); choose another place")


def save_plot(figure: Any, path: Path) -> None:
    """Write a Matplotlib figure. Raises: InputError if it cannot be written."""
    from probattn.inference.report.style import save_figure

    try:
        save_figure(figure, path, dpi=150)
    except OSError as error:
        raise InputError(
            f"{path}: cannot be written ({error.strerror}); choose another place"
        ) from error
