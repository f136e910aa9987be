"""The tensors in a folder of safetensors files, each read when it is asked for."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401, gives numpy the name bfloat16, by which safetensors asks for it

from probattn.errors import InputError
from probattn.lens.optional import package

WEIGHTS_FILE, WEIGHTS_INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")


def read_json(path: Path) -> dict[str, Any]:
    """The fields of a JSON file. Raises: InputError if it is missing or is no JSON object."""
    try:
        fields = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: expected JSON, got: {error}") from error
    if not isinstance(fields, dict):
        raise InputError(f"{path}: expected a JSON object, got {type(fields).__name__}")
    return fields


class SafetensorsFolder(Mapping[str, Any]):
    """The tensors of a folder by their names; the files are mapped and not read as a whole.

    Raises: InputError for a folder without safetensors, and files that are missing or damaged.
    """

    def __init__(self, folder: Path):
        self.files: dict[str, Any] = {}  # an open file by the name of a tensor
        for path in _weight_files(folder):
            opened = _opened(path)
            for name in opened.keys():  # noqa: SIM118, it is no mapping
                self.files[name] = opened

    def __contains__(self, name: object) -> bool:
        return name in self.files  # a Mapping's own would read it

    def __getitem__(self, name: str) -> Any:
        try:
            return self.files[name].get_tensor(name)
        except Exception as error:  # of the library's own, or of numpy for a type it has not
            raise InputError(f"tensor {name}: cannot be read: {_line(error)}") from error

    def __iter__(self) -> Iterator[str]:
        return iter(self.files)

    def __len__(self) -> int:
        return len(self.files)


def _weight_files(folder: Path) -> list[Path]:
    """The files that hold the tensors: those of the index, or the one file, or all there are."""
    if (folder / WEIGHTS_INDEX).is_file():
        path = folder / WEIGHTS_INDEX
        names = read_json(path).get("weight_map")
        if not isinstance(names, dict) or not all(isinstance(n, str) for n in names.values()):
            raise InputError(f"{path}: expected a weight_map of names to files, found none")
        # An index may not lead out of its folder.
        return [folder / Path(name).name for name in sorted(set(names.values()))]
    if (folder / WEIGHTS_FILE).is_file():
        return [folder / WEIGHTS_FILE]
    found = sorted(folder.glob("*.safetensors"))
    if not found and any(path for kind in PICKLED for path in folder.glob(kind)):
        raise InputError(
            f"{folder}: expected *.safetensors, found only pickled weights, which can run code "
            "when loaded; convert them to safetensors"
        )
    if not found:
        raise InputError(f"{folder}: expected *.safetensors in it, found none")
    return found


def _opened(path: Path) -> Any:
    safetensors = package("safetensors")
    try:
        return safetensors.safe_open(path, framework="np")
    except (OSError, safetensors.SafetensorError) as error:
        raise InputError(
            f"{path}: cannot be read as safetensors; get it again: {_line(error)}"
        ) from error


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
