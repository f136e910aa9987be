"""A posterior run on disk: what it samples, and chunks of draws that hold the sampler's whole
state."""

import json
import warnings
from collections.abc import Mapping
from functools import cache, cached_property
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from probattn.errors import InputError
from probattn.inference.data.array_file import DamagedFile, read_arrays, write_arrays, write_json
from probattn.inference.devices.environment import versions
from probattn.inference.devices.multihost import on_first
from probattn.inference.fitting.density import Density
from probattn.inference.fitting.fit import OnDemand

FORMAT = 4
EXTENDABLE = ("num_samples",)  # what a resumed run may have more of


Arrays = Mapping[str, np.ndarray]
WATCHED = ("potential_energy", "diverging")  # a number a draw: what progress is reported from


class Stored(NamedTuple):
    """Where a run stands: the arrays of the sampler's state, iterations done, and shapes and types
    of its coordinates."""

    state: list[np.ndarray]
    done: int
    z: dict[str, Any]


class Chunk(NamedTuple):
    """What is remembered of a chunk: what is about it, the names of its arrays, and its watched
    statistics."""

    about: Mapping[str, Any]
    names: tuple[str, ...]
    watched: Arrays


def _remember(arrays: Arrays, about: Mapping[str, Any]) -> Chunk:
    """The part of a chunk that stays in memory; its arrays are named as in its file."""
    return Chunk(
        about,
        tuple(arrays),
        {name: arrays[f"stats/{name}"] for name in WATCHED if f"stats/{name}" in arrays},
    )


class Run:
    """What a run keeps while it lasts."""

    @cached_property
    def _chunks(self) -> list[Chunk]:
        """Its chunks so far."""
        return []

    def stat(self, name: str) -> np.ndarray:
        """One of the watched statistics of all draws so far, (chains, draws)."""
        return np.concatenate(
            [chunk.watched[name] for chunk in self._chunks if name in chunk.watched], axis=1
        )

    def seconds(self) -> float:
        """Wall time of all chunks, start points and compilation included."""
        return float(sum(chunk.about["seconds"] for chunk in self._chunks))

    def gradients(self) -> float:
        """Gradients of the log density of all chains, in the descents to the start points and in
        all chunks."""
        return float(sum(chunk.about["gradients"] for chunk in self._chunks))


class InMemory(Run):
    """A run without a folder."""

    def __init__(self) -> None:
        self._parts: dict[str, list[Arrays]] = {"draws": [], "stats": []}

    def last_state(self) -> Stored | None:
        """None: it begins."""
        return None

    def add(
        self, state: list[np.ndarray], draws: Arrays, stats: Arrays, about: Mapping[str, Any]
    ) -> None:
        """Add a chunk."""
        self._chunks.append(_remember(_named(draws, stats), about))
        if draws:
            self._parts["draws"].append(draws)
            self._parts["stats"].append(stats)

    def arrays(self, kind: str) -> dict[str, np.ndarray]:
        """The "draws" or "stats" of all chunks."""
        parts = self._parts[kind]
        return {name: np.concatenate([part[name] for part in parts], axis=1) for name in parts[0]}


class PosteriorStore(Run):
    """The folder of a run: `store.json`, which says what is sampled and how, and `chunks/00000.zip`
    and so on.

    A chunk is a file that is whole or not there. It holds draws, what the sampler reports of each,
    and its state after them, so that the last whole chunk is all that is needed to go on.

    Where several processes compute a run, all of them call `open`, `last_state` and `add`; the
    first does it, and all know."""

    def __init__(self, path: str | Path):
        self.path = Path(path)

    @cached_property
    def config(self) -> dict[str, Any]:
        """What is sampled and how. Raises: InputError if there is no such run, or one of another
        format."""
        try:
            config = json.loads((self.path / "store.json").read_text(encoding="utf-8"))
            found = config["format"]
        except OSError as error:
            raise InputError(f"{self.path}: no posterior run (no store.json there)") from error
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{self.path}: store.json is damaged ({error}); sample again into another folder"
            ) from error
        if found != FORMAT:
            raise InputError(
                f"{self.path}: written in format {found}, this probattn reads format {FORMAT}; "
                "sample again"
            )
        return config

    def exists(self) -> bool:
        """Whether a run was begun here."""
        return (self.path / "store.json").exists()

    def open(self, config: dict[str, Any]) -> None:
        """Begin a run of this configuration, or make sure that the one begun here is.

        Raises: InputError if it is not, with what differs, or if the folder holds something else.
        """
        on_first(lambda: self._open(config))

    def _open(self, config: dict[str, Any]) -> None:
        if self.exists():
            refuse_other(self.path, self.config, config)
            if self.config != config:
                write_json(self.path / "store.json", config)
                del self.config
            return
        if self.path.exists() and any(self.path.iterdir()):
            raise InputError(
                f"{self.path}: exists and is no posterior run; choose another folder or remove it"
            )
        try:
            (self.path / "chunks").mkdir(parents=True, exist_ok=True)
            write_json(self.path / "store.json", config)
        except OSError as error:
            raise InputError(
                f"{self.path}: cannot be made ({error.strerror}); choose another folder"
            ) from error

    def file(self, number: int) -> Path:
        """The file of a chunk."""
        return self.path / "chunks" / f"{number:05d}.zip"

    def add(
        self, state: list[np.ndarray], draws: Arrays, stats: Arrays, about: Mapping[str, Any]
    ) -> None:
        """Add a chunk. Raises: FitError if the disk does not take it; the chunks before stay."""
        named = {f"state/{index}": array for index, array in enumerate(state)} | _named(
            draws, stats
        )
        on_first(lambda: write_arrays(self.file(len(self._chunks)), named, about))
        self._chunks.append(_remember(named, about))

    @cached_property
    def _chunks(self) -> list[Chunk]:
        """The chunks up to the first one that is missing or damaged, with a warning if there is
        one; each is read once."""
        found = sorted((self.path / "chunks").glob("*.zip"))
        good: list[Chunk] = []
        for number, path in enumerate(found):
            try:
                if path != self.file(number):
                    raise DamagedFile(f"{self.file(number).name} is missing")
                good.append(_remember(*read_arrays(path)))
            except DamagedFile as error:
                left = len(found) - number
                warnings.warn(
                    f"{self.path}: {error}; the {left} {'chunk' if left == 1 else 'chunks'} "
                    "from there on "
                    f"{'is' if left == 1 else 'are'} left out and sampled again when the run "
                    "is resumed",
                    stacklevel=2,
                )
                break
        return good

    def _files(self) -> list[Path]:
        return [self.file(number) for number in range(len(self._chunks))]

    def last_state(self) -> "Stored | None":
        """The sampler's state after the last whole chunk; the files of others are removed."""
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
        """The "draws" or "stats" of all whole chunks, joined along the draws; each read from disk
        at first use."""
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
    """All that bears on the bits of the draws."""
    return {
        "format": FORMAT,
        "model": {"name": density.model, **dict(density.fields)},
        "data": density.data,
        "key": {
            "data": np.asarray(jax.random.key_data(key)).tolist(),
            "kind": str(jax.random.key_impl(key)),
        },
        "settings": settings,
        "precision": "float64" if jax.config.jax_enable_x64 else "float32",
        "placement": placement,
        "versions": versions(),
    }


def refuse_other(path: Path, recorded: dict[str, Any], given: dict[str, Any]) -> None:
    """InputError, with all that differs, unless a run that was begun can go on as it is now asked
    for."""
    found = []
    for part in given:
        was, is_now = recorded.get(part), given[part]
        if not isinstance(is_now, dict):
            found += (
                []
                if was == is_now
                else [f"{part}: the run has {_short(was)}, now {_short(is_now)}"]
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
            f"{path}: holds another run, which cannot go on bit for bit ({'; '.join(found)}); "
            "sample into another folder, or "
            "restore what it was begun with"
        )


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) < 40 else f"{text[:12]}..."
