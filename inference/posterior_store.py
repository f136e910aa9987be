"""A posterior run on disk: what it samples, and chunks of draws that hold the sampler's whole state."""

import json
import warnings
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from probattn.errors import InputError
from probattn.inference.chunks import DamagedFile, read_arrays, write_arrays, write_json
from probattn.inference.environment import versions
from probattn.inference.identity import Density

FORMAT = 1
EXTENDABLE = ("num_samples",)  # what a resumed run may have more of


Arrays = Mapping[str, np.ndarray]
WATCHED = ("potential_energy", "diverging")  # a number a draw: what progress is reported from


class Stored(NamedTuple):
    """Where a run stands: the arrays of the sampler's state, iterations done, and shapes and types of its coordinates."""

    state: list[np.ndarray]
    done: int
    z: dict[str, Any]


class Run:
    """What a run keeps while it lasts."""

    def __init__(self) -> None:
        self._count = 0
        self._seconds: list[float] = []
        self._kept: dict[str, list[np.ndarray]] = {}

    def _remember(self, stats: Arrays) -> None:
        for name in WATCHED:
            if name in stats:
                self._kept.setdefault(name, []).append(stats[name])

    def stat(self, name: str) -> np.ndarray:
        """One of the watched statistics of all draws so far, (chains, draws)."""
        return np.concatenate(self._kept[name], axis=1)


class InMemory(Run):
    """A run without a folder."""

    def __init__(self) -> None:
        super().__init__()
        self._parts: dict[str, list[Arrays]] = {"draws": [], "stats": []}

    def last_state(self) -> Stored | None:
        """None: it begins."""
        return None

    def add(self, state: list[np.ndarray], draws: Arrays, stats: Arrays, about: Mapping[str, Any]) -> None:
        """Add a chunk."""
        self._seconds.append(about["seconds"])
        self._remember(stats)
        if draws:
            self._parts["draws"].append(draws)
            self._parts["stats"].append(stats)

    def arrays(self, kind: str) -> dict[str, np.ndarray]:
        """The "draws" or "stats" of all chunks."""
        parts = self._parts[kind]
        return {name: np.concatenate([part[name] for part in parts], axis=1) for name in parts[0]}

    def seconds(self) -> float:
        """Wall time of all chunks, start points and compilation included."""
        return sum(self._seconds)


class PosteriorStore(Run):
    """The folder of a run: `store.json`, which says what is sampled and how, and `chunks/00000.zip` and so on.

    A chunk is a file that is whole or not there. It holds draws, what the sampler reports of each, and its state after
    them, so that the last whole chunk is all that is needed to go on.
    """

    def __init__(self, path: str | Path):
        super().__init__()
        self.path = Path(path)

    @cached_property
    def config(self) -> dict[str, Any]:
        """What is sampled and how. Raises: InputError if there is no such run, or one of another format."""
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
                f"{self.path}: written in format {found}, this probattn reads format {FORMAT}; sample again"
            )
        return config

    def exists(self) -> bool:
        """Whether a run was begun here."""
        return (self.path / "store.json").exists()

    def open(self, config: dict[str, Any]) -> None:
        """Begin a run of this configuration, or make sure that the one begun here is.

        Raises: InputError if it is not, with what differs, or if the folder holds something else.
        """
        if self.exists():
            refuse_other(self.path, self.config, config)
            if self.config != config:
                write_json(self.path / "store.json", config)
                del self.config
            return
        if self.path.exists() and any(self.path.iterdir()):
            raise InputError(f"{self.path}: exists and is no posterior run; choose another folder or remove it")
        try:
            (self.path / "chunks").mkdir(parents=True, exist_ok=True)
            write_json(self.path / "store.json", config)
        except OSError as error:
            raise InputError(f"{self.path}: cannot be made ({error.strerror}); choose another folder") from error

    def file(self, number: int) -> Path:
        """The file of a chunk."""
        return self.path / "chunks" / f"{number:05d}.zip"

    def add(self, state: list[np.ndarray], draws: Arrays, stats: Arrays, about: Mapping[str, Any]) -> None:
        """Add a chunk. Raises: FitError if the disk does not take it; the chunks before stay."""
        named = {f"state/{index}": array for index, array in enumerate(state)}
        for kind, arrays in (("draws", draws), ("stats", stats)):
            named |= {f"{kind}/{name}": array for name, array in arrays.items()}
        write_arrays(self.file(self._count), named, about)
        self._count += 1
        self._seconds.append(about["seconds"])
        self._remember(stats)

    def whole(self) -> list[Path]:
        """The chunks up to the first one that is missing or damaged, with a warning if any follow."""
        found = sorted((self.path / "chunks").glob("*.zip"))
        good = []
        for number, path in enumerate(found):
            try:
                if path != self.file(number):
                    raise DamagedFile(f"{self.file(number).name} is missing")
                read_arrays(path)
            except DamagedFile as error:
                warnings.warn(
                    f"{self.path}: {error}; the {len(found) - number} chunks from there on are left out and sampled again "
                    "when the run is resumed",
                    stacklevel=2,
                )
                break
            good.append(path)
        return good

    def last_state(self) -> "Stored | None":
        """The sampler's state after the last whole chunk; the files of others are removed."""
        good = self.whole()
        for path in sorted((self.path / "chunks").iterdir()):
            if path not in good:
                path.unlink()
        self._count, self._seconds, self._kept = len(good), [], {}
        about: dict[str, Any] = {}
        for path in good:
            stats, about = read_arrays(path, "stats/")
            self._seconds.append(about["seconds"])
            self._remember(stats)
        if not good:
            return None
        leaves, _ = read_arrays(good[-1], "state/")
        return Stored([leaves[str(index)] for index in range(len(leaves))], about["done"], about["z"])

    def arrays(self, kind: str) -> "StoredArrays":
        """The "draws" or "stats" of all whole chunks, read when they are asked for."""
        return StoredArrays(self.whole(), f"{kind}/")

    def seconds(self) -> float:
        """Wall time of all chunks, start points and compilation included."""
        return sum(self._seconds) or sum(read_arrays(path, "nothing")[1]["seconds"] for path in self.whole())


class StoredArrays(Mapping[str, np.ndarray]):
    """Arrays of a run by name, chunks joined along the draws; read from disk at first use."""

    def __init__(self, files: list[Path], prefix: str):
        self.files, self.prefix = files, prefix

    @cached_property
    def _names(self) -> tuple[str, ...]:
        return tuple(read_arrays(self.files[-1], self.prefix)[0]) if self.files else ()

    @cached_property
    def _read(self) -> dict[str, np.ndarray]:
        return {}

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self._names:
            raise KeyError(name)
        if name not in self._read:
            parts = [read_arrays(path, self.prefix)[0] for path in self.files]
            self._read[name] = np.concatenate([part[name] for part in parts if name in part], axis=1)
        return self._read[name]

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def run_config(density: Density, key: jax.Array, settings: dict[str, Any], placement: dict[str, Any]) -> dict[str, Any]:
    """All that bears on the bits of the draws."""
    return {
        "format": FORMAT,
        "model": {"name": density.model, **dict(density.fields)},
        "data": density.data,
        "key": {"data": np.asarray(jax.random.key_data(key)).tolist(), "kind": str(jax.random.key_impl(key))},
        "settings": settings,
        "precision": "float64" if jax.config.jax_enable_x64 else "float32",
        "placement": placement,
        "versions": versions(),
    }


def refuse_other(path: Path, recorded: dict[str, Any], given: dict[str, Any]) -> None:
    """InputError, with all that differs, unless a run that was begun can go on as it is now asked for."""
    found = []
    for part in given:
        was, is_now = recorded.get(part), given[part]
        if not isinstance(is_now, dict):
            found += [] if was == is_now else [f"{part}: the run has {_short(was)}, now {_short(is_now)}"]
            continue
        for name in {**(was or {}), **is_now}:
            one, other = (was or {}).get(name), is_now.get(name)
            if name in EXTENDABLE and one is not None and other >= one:
                continue
            found += [] if one == other else [f"{part} {name}: the run has {_short(one)}, now {_short(other)}"]
    if found:
        raise InputError(
            f"{path}: holds another run, which cannot go on bit for bit ({'; '.join(found)}); sample into another folder, or "
            "restore what it was begun with"
        )


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) < 40 else f"{text[:12]}..."
