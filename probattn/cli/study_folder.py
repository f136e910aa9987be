"""The folder of a study, which records the settings that must be the same to resume it."""

from pathlib import Path
from typing import Any

from probattn.errors import InputError


def open_study(folder: Path, given: dict[str, Any], kind: str) -> None:
    """Create a study's folder with its `study.json`, or check that the folder holds this study.

    Args:
        given: the settings, as JSON values, that must be the same to resume the study.
        kind: the kind of study, for messages, such as "learning curve".

    Raises: InputError if the folder holds anything else or another study (the message lists what
        differs), if `study.json` is damaged, or if the folder cannot be made.
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
    """The settings in `study.json`. Raises: InputError if the file is damaged."""
    from probattn.inference.data.array_file import read_json

    found = read_json(file, "choose another --out")
    if not isinstance(found, dict):
        raise InputError(f"{file}: is damaged (expected an object); choose another --out")
    return found


def _refuse_other(folder: Path, recorded: dict[str, Any], given: dict[str, Any]) -> None:
    """Raise an InputError that lists all differences, unless the settings are the recorded ones."""
    from probattn.inference.devices.environment import how_to_go_on

    apart = [
        f"{name}: the study has {recorded.get(name)}, now {given.get(name)}"
        f"{how_to_go_on(name, recorded.get(name))}"
        for name in recorded | given
        if recorded.get(name) != given.get(name)
    ]
    if apart:
        raise InputError(
            f"{folder}: holds another study ({'; '.join(apart)}); choose another --out, or "
            "give the settings that it was started with"
        )
