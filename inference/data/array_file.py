"""Arrays in one file, whole or not at all: a zarr group in a zip, with the hash of each array."""

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

from probattn.errors import FitError


class DamagedFile(Exception):
    """A file of arrays that is not what was written."""


def write_arrays(
    path: Path, arrays: Mapping[str, np.ndarray], about: Mapping[str, Any] | None = None
) -> None:
    """Write arrays and what is `about` them, JSON values, under a name that only a whole file ever
    has.

    Raises: FitError if the disk does not take them; the folder is then as it was.
    """
    partial = path.with_name(f".{path.name}.partial")
    attributes = {
        "about": dict(about or {}),
        "arrays": {name: fingerprint(array) for name, array in arrays.items()},
    }
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", message="Duplicate name"
            )  # zarr.json is written again with its attributes
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
            f"{path}: could not be written ({error.strerror or error}); what was written "
            "before is whole. Free some space "
            "and resume"
        ) from error


def read_arrays(
    path: Path, prefix: str = "", names: Collection[str] | None = None
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays whose names begin with `prefix`, which is left out of them, and what is about the
    file.

    Args: names, if not all of these are wanted: those without `prefix`, of which only the ones that
        are there are read.
    Raises: DamagedFile if the file is not there, or what is read of it not as it was written.
    """
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
    except (
        Exception
    ) as error:  # whatever a damaged zip, zarr group or JSON makes their readers raise
        raise DamagedFile(f"{path.name}: {error}") from error
    for name, array in arrays.items():
        if fingerprint(array) != wanted[name]:
            raise DamagedFile(f"{path.name}: array {name} is not what was written")
    return {name.removeprefix(prefix): array for name, array in arrays.items()}, attributes["about"]


def write_json(path: Path, value: Any) -> None:
    """Write JSON, whole or not at all."""
    write_text(path, json.dumps(value, indent=1))


def write_text(path: Path, text: str) -> None:
    """Write text, whole or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def fingerprint(array: np.ndarray) -> dict[str, Any]:
    """Shape, type and hash: zarr reads a missing chunk as zeros without a word, so what was written
    is known by these."""
    data = np.ascontiguousarray(array)
    return {
        "shape": list(data.shape),
        "dtype": str(data.dtype),
        "sha256": hashlib.sha256(data.tobytes()).hexdigest(),
    }
