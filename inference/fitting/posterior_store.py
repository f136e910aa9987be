"""Posterior runs, on disk or in memory: chunks of draws with the sampler's state after each."""

import contextlib
import json
import os
import warnings
from collections.abc import Mapping
from functools import cache, cached_property
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from probattn.errors import InputError
from probattn.inference.data.array_file import DamagedFile, read_arrays, write_arrays, write_json
from probattn.inference.data.folder_lock import only_one
from probattn.inference.devices.environment import how_to_go_on, precision, versions
from probattn.inference.devices.multihost import on_first
from probattn.inference.fitting.density import Density
from probattn.inference.fitting.fit import OnDemand

STORE_FORMAT = 7
LOCK = ".lock"  # the file in the folder that the process that samples holds
EXTENDABLE = ("num_samples",)  # settings that may be larger in a resumed run


Arrays = Mapping[str, np.ndarray]
# Statistics with one number per draw that stay in memory, since progress is reported from them.
WATCHED = ("potential_energy", "diverging")


class Stored(NamedTuple):
    """The state of a run after its last chunk.

    Args:
        state: the arrays of the sampler's state.
        done: iterations done, warmup included.
        z: shape and type of each array of the unconstrained coordinates, by name.
    """

    state: list[np.ndarray]
    done: int
    z: dict[str, Any]


class Chunk(NamedTuple):
    """The part of a chunk that stays in memory.

    Args:
        about: iterations done, shapes and types of z, wall time and number of gradients.
        names: of the arrays in its file.
        watched: the statistics `WATCHED`, (chains, draws).
    """

    about: Mapping[str, Any]
    names: tuple[str, ...]
    watched: Arrays


def _summary_of_chunk(arrays: Arrays, about: Mapping[str, Any]) -> Chunk:
    """The part of a chunk that stays in memory; `arrays` are named as in the chunk's file."""
    return Chunk(
        about,
        tuple(arrays),
        {name: arrays[f"stats/{name}"] for name in WATCHED if f"stats/{name}" in arrays},
    )


class Run:
    """A run as a list of chunks; the base of `InMemory` and `PosteriorStore`."""

    @cached_property
    def _chunks(self) -> list[Chunk]:
        """The chunks of the run so far."""
        return []

    def stat(self, name: str) -> np.ndarray:
        """One of the statistics `WATCHED` for all draws so far, (chains, draws)."""
        return np.concatenate(
            [chunk.watched[name] for chunk in self._chunks if name in chunk.watched], axis=1
        )

    def close(self) -> None:
        """Let other processes write to the run; only one with a folder keeps them out."""

    def seconds(self) -> float:
        """Wall time of all chunks in seconds, start points and compilation included."""
        return float(sum(chunk.about["seconds"] for chunk in self._chunks))

    def gradients(self) -> float:
        """Number of gradients of the log density, of descents to start points and of all chunks."""
        return float(sum(chunk.about["gradients"] for chunk in self._chunks))


class InMemory(Run):
    """A run in memory, which has no folder."""

    def __init__(self) -> None:
        self._parts: dict[str, list[Arrays]] = {"draws": [], "stats": []}

    def last_state(self) -> Stored | None:
        """None: there is nothing to resume."""
        return None

    def add(
        self, state: list[np.ndarray], draws: Arrays, stats: Arrays, about: Mapping[str, Any]
    ) -> None:
        """Add a chunk."""
        self._chunks.append(_summary_of_chunk(_named(draws, stats), about))
        if draws:
            self._parts["draws"].append(draws)
            self._parts["stats"].append(stats)

    def arrays(self, kind: str) -> dict[str, np.ndarray]:
        """The "draws" or "stats" of all chunks by name, (chains, draws, ...)."""
        parts = self._parts[kind]
        return {name: np.concatenate([part[name] for part in parts], axis=1) for name in parts[0]}


class PosteriorStore(Run):
    """The folder of a run: `store.json`, which says what is sampled and how, and its chunks.

    A chunk is a file, `chunks/00000.zip` and so on, that is either whole or absent. It holds draws,
    the sampler's statistics of each, and the sampler's state after them; the run can be resumed
    from its last whole chunk alone.

    Where several processes compute a run, all of them call `open`, `last_state` and `add`: the
    first process alone accesses the files, and all get its result or its error. From `open` to
    `close` no other run can be opened in the folder."""

    def __init__(self, path: Any):
        if not isinstance(path, (str, os.PathLike)) or not os.fspath(path):
            raise InputError(f"store: expected the path of a folder, got {path!r}")
        self.path = Path(path)
        self._held = contextlib.ExitStack()

    @cached_property
    def config(self) -> dict[str, Any]:
        """The content of `store.json`, as from `run_config`.

        Raises: InputError if it is missing, damaged or of another format."""
        try:
            config = json.loads((self.path / "store.json").read_text(encoding="utf-8"))
            found = config["format"]
        except OSError as error:
            raise InputError(f"{self.path}: no posterior run (no store.json there)") from error
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{self.path}: store.json is damaged ({error}); sample again into another folder"
            ) from error
        if found != STORE_FORMAT:
            raise InputError(
                f"{self.path}: written in format {found}, this probattn reads format "
                f"{STORE_FORMAT}; sample again"
            )
        return config

    def exists(self) -> bool:
        """Whether a run was begun here."""
        return (self.path / "store.json").exists()

    def open(self, config: dict[str, Any]) -> None:
        """Begin a run with this configuration, or check that the run begun here has it.

        Raises: InputError if it has another one, with all differences, if another process has it
            open, if the folder holds something else, or if it cannot be made.
        """
        on_first(lambda: self._open(config))

    def _open(self, config: dict[str, Any]) -> None:
        if not self.exists() and self._holds_something_else():
            raise InputError(
                f"{self.path}: exists and is no posterior run; choose another folder or remove it"
            )
        try:
            (self.path / "chunks").mkdir(parents=True, exist_ok=True)
            self._held.enter_context(only_one(self.path / LOCK, self._is_open_elsewhere()))
            if not self.exists():
                write_json(self.path / "store.json", config)
        except OSError as error:
            raise InputError(
                f"{self.path}: cannot be made ({error.strerror}); choose another folder"
            ) from error
        refuse_other(self.path, self.config, config)
        if self.config != config:
            write_json(self.path / "store.json", config)
            del self.config

    def close(self) -> None:
        """Let other processes open the run."""
        self._held.close()

    def _is_open_elsewhere(self) -> str:
        return (
            f"{self.path}: another process is sampling into it; wait until it has ended, or choose "
            "another folder"
        )

    def _holds_something_else(self) -> bool:
        """Whether the folder has files beside those of a run that another process is beginning."""
        if not self.path.exists():
            return False
        names = {file.name for file in self.path.iterdir()}
        return bool(names - {LOCK, "chunks", ".store.json.partial"} or self.file(0).exists())

    def file(self, number: int) -> Path:
        """The path of a chunk's file."""
        return self.path / "chunks" / f"{number:05d}.zip"

    def add(
        self, state: list[np.ndarray], draws: Arrays, stats: Arrays, about: Mapping[str, Any]
    ) -> None:
        """Add a chunk.

        Args: state, the arrays of the sampler's state after it; draws, stats, arrays by name,
            (chains, draws, ...), empty in warmup; about, see `Chunk`.
        Raises: FitError if it cannot be written; the chunks before stay whole."""
        named = {f"state/{index}": array for index, array in enumerate(state)} | _named(
            draws, stats
        )
        on_first(lambda: write_arrays(self.file(len(self._chunks)), named, about))
        self._chunks.append(_summary_of_chunk(named, about))

    @cached_property
    def _chunks(self) -> list[Chunk]:
        """The chunks before the first one that is missing or damaged, for which it warns.

        Each chunk is read once."""
        found = sorted((self.path / "chunks").glob("*.zip"))
        good: list[Chunk] = []
        for number, path in enumerate(found):
            try:
                if path != self.file(number):
                    raise DamagedFile(f"{self.file(number).name} is missing")
                good.append(_summary_of_chunk(*read_arrays(path)))
            except DamagedFile as error:
                left = len(found) - number
                warnings.warn(
                    f"{self.path}: {error}; the {left} {'chunk' if left == 1 else 'chunks'} "
                    f"from there on {'is' if left == 1 else 'are'} left out and sampled again "
                    "when the run is resumed",
                    stacklevel=2,
                )
                break
        return good

    def _files(self) -> list[Path]:
        return [self.file(number) for number in range(len(self._chunks))]

    def last_state(self) -> "Stored | None":
        """The state after the last whole chunk; files of later chunks are removed.

        None if there is no whole chunk."""
        chunks, stored = on_first(
            lambda: ([tuple(chunk) for chunk in self._chunks], self._last_state())
        )
        self._chunks = [Chunk._make(chunk) for chunk in chunks]
        return None if stored is None else Stored(*stored)

    def _last_state(self) -> tuple[list[np.ndarray], int, dict[str, Any]] | None:
        good = self._files()
        for path in sorted((self.path / "chunks").iterdir()):
            if path not in good:
                path.unlink()
        if not good:
            return None
        leaves, about = read_arrays(good[-1], "state/")
        return [leaves[str(index)] for index in range(len(leaves))], about["done"], about["z"]

    def arrays(self, kind: str) -> OnDemand:
        """The "draws" or "stats" of all whole chunks by name, (chains, draws, ...).

        Each array is read from disk at its first use."""
        prefix = f"{kind}/"
        names = self._chunks[-1].names if self._chunks else ()
        wanted = tuple(name.removeprefix(prefix) for name in names if name.startswith(prefix))
        pairs = zip(self._files(), self._chunks, strict=True)
        files = [
            path for path, chunk in pairs if any(name.startswith(prefix) for name in chunk.names)
        ]

        def read(name: str) -> np.ndarray:
            return np.concatenate(
                [read_arrays(path, prefix, [name])[0][name] for path in files], axis=1
            )

        return OnDemand(cache(read), wanted)


def _named(draws: Arrays, stats: Arrays) -> dict[str, np.ndarray]:
    kinds = {"draws": draws, "stats": stats}
    return {
        f"{kind}/{name}": array for kind, arrays in kinds.items() for name, array in arrays.items()
    }


def run_config(
    density: Density, key: jax.Array, settings: dict[str, Any], placement: dict[str, Any]
) -> dict[str, Any]:
    """Everything that determines the bits of the draws, as a JSON object."""
    return {
        "format": STORE_FORMAT,
        "model": {"name": density.model, **dict(density.fields)},
        "data": density.data,
        "key": {
            "data": np.asarray(jax.random.key_data(key)).tolist(),
            "kind": str(jax.random.key_impl(key)),
        },
        "settings": settings,
        "precision": precision(),
        "placement": placement,
        "versions": versions(),
    }


def refuse_other(path: Path, recorded: dict[str, Any], given: dict[str, Any]) -> None:
    """Raise InputError with all differences unless the recorded run can be resumed as given.

    Args: path, the folder of the run, for the message; recorded, given, as from `run_config`. Of
        the settings, those in `EXTENDABLE` may be larger than recorded."""
    found = []
    for part in given:
        was, is_now = recorded.get(part), given[part]
        if not isinstance(is_now, dict):
            found += (
                []
                if was == is_now
                else [
                    f"{part}: the run has {_short(was)}, now {_short(is_now)}"
                    f"{how_to_go_on(part, was)}"
                ]
            )
            continue
        for name in {**(was or {}), **is_now}:
            one, other = (was or {}).get(name), is_now.get(name)
            if name in EXTENDABLE and one is not None and other >= one:
                continue
            found += (
                []
                if one == other
                else [f"{part} {name}: the run has {_short(one)}, now {_short(other)}"]
            )
    if found:
        raise InputError(
            f"{path}: holds another run, which cannot be resumed bit for bit "
            f"({'; '.join(found)}); sample into another folder, or restore what it was begun with"
        )


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) < 40 else f"{text[:12]}..."
