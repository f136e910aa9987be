"""The folder of a study that may be killed and go on: what it was begun with is kept in it, and
must be given again."""

import json
from pathlib import Path
from typing import Any

from probattn.errors import InputError


def open_study(folder: Path, given: dict[str, Any], kind: str) -> None:
    """Make the study's folder with its `study.json`, or make sure that what is there is this study.

    Args: given, what must be the same for a study to go on, as JSON; kind, what it is, for messages
        ("learning curve").
    Raises: InputError if it is another one, with what differs, or if the folder cannot be made.
    """
    from probattn.inference.data.array_file import write_json

    file = folder / "study.json"
    if file.is_file():
        _refuse_other(folder, _recorded(file), given)
        return
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise InputError(f"{folder}: exists and is no {kind}; choose another --out or remove it")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(file, given)
    except OSError as error:
        raise InputError(
            f"{folder}: cannot be made ({error.strerror}); choose another --out"
        ) from error


def _recorded(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: is damaged ({error}); choose another --out") from error
    if not isinstance(found, dict):
        raise InputError(f"{file}: is damaged (expected an object); choose another --out")
    return found


def _refuse_other(folder: Path, recorded: dict[str, Any], given: dict[str, Any]) -> None:
    """InputError, with all that differs, unless a study is the one that was begun."""
    apart = [
        f"{name}: the study has {recorded.get(name)}, now {given.get(name)}"
        for name in recorded | given
        if recorded.get(name) != given.get(name)
    ]
    if apart:
        raise InputError(
            f"{folder}: holds another study ({'; '.join(apart)}); choose another --out, or "
            "give what it was begun with"
        )
