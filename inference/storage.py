"""Run directories: a fit and its corpus on disk, as JSON and zarr arrays; nothing in them executes when loaded."""

import contextlib
import dataclasses
import hashlib
import json
import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from probattn.errors import InputError
from probattn.inference.corpus import Corpus
from probattn.inference.fit import Fit

FORMAT = 2  # of the run directory; raised whenever what it holds changes
PACKAGES = ("probattn", "jax", "jaxlib", "numpyro", "numpy", "arviz", "zarr")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that a result depends on."""
    return {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}


def refuse_existing(path: str | Path) -> Path:
    """`path` as a directory still to be made; an InputError if something is there already."""
    path = Path(path)
    if path.exists():
        raise InputError(f"{path}: exists already; choose another --out or remove it")
    return path


def save_run(path: str | Path, fit: Fit, corpus: Corpus, settings: Mapping[str, Any]) -> None:
    """Write a run directory, whole or not at all.

    Args: path, a directory still to be made; settings, JSON values such as the seed, kept as they are.
    Raises: InputError if the path exists or cannot be made.
    """
    path = refuse_existing(path)
    arrays = {f"draws/{name}": value for name, value in fit.draws.items()}
    arrays |= {f"stats/{name}": value for name, value in fit.stats.items()}
    arrays |= {f"latents/{name}": value for name, value in fit.latents.items()}
    arrays |= {"train": corpus.train, "heldout": corpus.heldout}
    config = {
        "format": FORMAT,
        "model": {"name": type(fit.model).__name__, **dataclasses.asdict(fit.model)},
        "method": fit.method,
        "seconds": fit.seconds,
        "corpus": {
            "name": corpus.name,
            "symbols": corpus.symbols,
            "separator": corpus.separator,
            "sha256": corpus.digest(),
        },
        "settings": dict(settings),
        "versions": versions(),
        "arrays": {name: _fingerprint(array) for name, array in arrays.items()},
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    except OSError as error:
        raise InputError(f"{path}: cannot be made ({error.strerror}); choose another --out") from error
    try:
        group = zarr.open_group(partial / "arrays.zarr", mode="w")
        for name, array in arrays.items():
            group.create_array(name, data=array)
        (partial / "config.json").write_text(json.dumps(config, indent=1))
        partial.chmod(0o755)
        os.rename(partial, path)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def load_run(path: str | Path, models: Mapping[str, Callable]) -> tuple[Fit, Corpus, dict[str, Any]]:
    """Read a run directory back: the fit, its corpus and its whole configuration.

    Args: models, the model classes that a run may name.
    Raises: InputError if the directory is missing, truncated, altered, or of another format or model.
    """
    path = Path(path)
    if not (path / "config.json").is_file():
        raise InputError(f"{path}: no run directory (no config.json there); make one with `probattn fit`")
    with _reported_as_damage(path):
        config = json.loads((path / "config.json").read_text())
        found = config["format"]
    if found != FORMAT:
        raise InputError(
            f"{path}: written in format {found} by probattn {config.get('versions', {}).get('probattn', 'unknown')}, "
            f"this probattn reads format {FORMAT}; fit again"
        )
    with _reported_as_damage(path):
        group = zarr.open_group(path / "arrays.zarr", mode="r")
        arrays = {name: np.asarray(group[name][...]) for name in config["arrays"]}  # type: ignore[index]
        for name, array in arrays.items():
            if _fingerprint(array) != config["arrays"][name]:
                raise ValueError(f"array {name} is not what was written")
        fields = dict(config["model"])
        model_name = fields.pop("name")
        about = config["corpus"]
        corpus = Corpus(about["name"], tuple(about["symbols"]), about["separator"], arrays["train"], arrays["heldout"])
        if corpus.digest() != about["sha256"]:
            raise ValueError("symbols or sequences are not what was written")
        draws, stats, latents = (
            {name.removeprefix(part): array for name, array in arrays.items() if name.startswith(part)}
            for part in ("draws/", "stats/", "latents/")
        )
        method, seconds = config["method"], config["seconds"]
    if model_name not in models:
        raise InputError(f"{path}: holds a {model_name}, which this probattn does not know; fit again")
    return Fit(models[model_name](**fields), method, corpus.train, draws, stats, latents, seconds), corpus, config


@contextlib.contextmanager
def _reported_as_damage(path: Path):
    """Whatever a damaged file makes the readers raise is bad input, with the path and what to do."""
    try:
        yield
    except Exception as error:
        raise InputError(f"{path}: the run directory is damaged or truncated ({error}); fit again") from error


def _fingerprint(array: np.ndarray) -> dict[str, Any]:
    # zarr reads a missing chunk as zeros without a word, so what was written is known by its hash.
    data = np.ascontiguousarray(array)
    return {"shape": list(data.shape), "dtype": str(data.dtype), "sha256": hashlib.sha256(data.tobytes()).hexdigest()}
