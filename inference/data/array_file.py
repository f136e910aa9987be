"""Arrays in one file that is never partial: a zarr group in a zip, with a hash of each array."""

import contextlib
import hashlib
import json
import os
import warnings
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.storage import ZipStore

from probattn.errors import FitError, InputError

# Advice on a file of a study, which makes what is missing.
MAKE_AGAIN = "remove it, and the same command makes it again"


class DamagedFile(Exception):
    """A file of arrays that is missing, or that differs from what was written."""


def write_arrays(
    path: Path, arrays: Mapping[str, np.ndarray], about: Mapping[str, Any] | None = None
) -> None:
    """Write arrays, and the JSON values `about` that describe them, to one file.

    The file is written under another name and renamed when it is complete.

    Raises: FitError if it cannot be written; the folder is then as it was.
    """
    partial = path.with_name(f".{path.name}.partial")
    attributes = {
        "about": dict(about or {}),
        "arrays": {name: fingerprint(array) for name, array in arrays.items()},
    }
    try:
        with warnings.catch_warnings():
            # zarr writes zarr.json a second time, with the attributes.
            warnings.filterwarnings("ignore", message="Duplicate name")
            with ZipStore(partial, mode="w") as store:
                group = zarr.create_group(store, attributes=attributes)
                for name, array in arrays.items():
                    group.create_array(name, data=np.asarray(array))
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise FitError(
            f"{path}: could not be written ({error.strerror or error}); files written earlier "
            "are intact. Free some space and resume"
        ) from error


def read_arrays(
    path: Path, prefix: str = "", names: Collection[str] | None = None
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read the arrays whose names begin with `prefix`, and the JSON values about the file.

    Args:
        names: the arrays to read, by their names without `prefix`; a name that the file does not
            have is ignored. None reads all.

    Returns: the arrays by name, without `prefix`, and the `about` of `write_arrays`.

    Raises: DamagedFile if the file is missing, or an array read differs from what was written.
    """
    if not path.exists():
        raise DamagedFile(f"{path.name} is missing")
    try:
        with ZipStore(path, mode="r") as store:
            group = zarr.open_group(store, mode="r")
            attributes: dict[str, Any] = dict(group.attrs)
            there = {
                name: what for name, what in attributes["arrays"].items() if name.startswith(prefix)
            }
            wanted = {
                name: what
                for name, what in there.items()
                if names is None or name.removeprefix(prefix) in names
            }
            arrays = {name: np.asarray(group[name][...]) for name in wanted}  # type: ignore[index]
    except Exception as error:  # a damaged zip, zarr group or JSON makes its reader raise anything
        raise DamagedFile(f"{path.name}: {error}") from error
    for name, array in arrays.items():
        if fingerprint(array) != wanted[name]:
            raise DamagedFile(f"{path.name}: array {name} is not what was written")
    return {name.removeprefix(prefix): array for name, array in arrays.items()}, attributes["about"]


def with_folder(path: Any) -> Path:
    """A path that a user has named, whose folder is made."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def read_json(path: Path, advice: str) -> Any:
    """The value in a JSON file.

    Args: advice, what to do about a damaged file, for the message.
    Raises: InputError if the file is missing or is no JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: is damaged ({error}); {advice}") from error


def write_json(path: Path, value: Any) -> None:
    """Write a value as JSON; the file is never partial."""
    write_text(path, json.dumps(value, indent=1))


def write_text(path: Path, text: str) -> None:
    """Write text; the file is never partial."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def fingerprint(array: np.ndarray) -> dict[str, Any]:
    """Shape, dtype and SHA-256 of an array, to recognise what was written.

    Without it damage could go unnoticed: zarr silently reads a missing chunk as zeros.
    """
    data = np.ascontiguousarray(array)
    return {
        "shape": list(data.shape),
        "dtype": str(data.dtype),
        "sha256": hashlib.sha256(data.tobytes()).hexdigest(),
    }
