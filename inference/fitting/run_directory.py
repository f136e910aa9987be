"""Run directories: a fit and its corpus on disk, as JSON and zarr arrays.

config.json   model, method, density, symbols of the corpus, settings, versions
data.zip      training and held-out sequences
fit.zip       draws, stats and the other fields of the fit, its verdict among them
store/        in place of fit.zip, a posterior run, finished or not (`posterior_store`)

Loading a run directory executes no code from it.
"""

import contextlib
import dataclasses
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import numpy as np

from probattn.errors import FitError, InputError
from probattn.inference.contract import NumPyroModel
from probattn.inference.data.array_file import DamagedFile, read_arrays, write_arrays, write_json
from probattn.inference.data.corpus import Corpus
from probattn.inference.data.folder_lock import only_one
from probattn.inference.devices.environment import versions
from probattn.inference.fitting.density import density_of
from probattn.inference.fitting.fit import Fit
from probattn.inference.fitting.posterior import load_posterior
from probattn.inference.fitting.posterior_store import PosteriorStore
from probattn.inference.fitting.verdict import Verdict

RUN_FORMAT = 9  # of the run directory; raised whenever its content changes
PARTS = ("draws", "stats", "latents", "other_mode")  # fields of a fit that hold arrays by name
# Fields of a fit that hold JSON values.
FIT_FIELDS = ("seconds", "gradients", "start", "origins", "planned", "coordinates")


def refuse_existing(path: str | Path) -> Path:
    """Return `path` as a `Path` if a directory can be made there.

    Raises: InputError if it exists already or cannot be made."""
    path = Path(path)
    if path.exists() or path.is_symlink():  # a link to nothing is there, too
        raise InputError(f"{path}: exists already; choose another path or remove it")
    above = next(folder for folder in path.absolute().parents if folder.exists())
    if not above.is_dir():  # refused here already, since making it comes after a long fit
        raise InputError(f"{path}: cannot be made ({above} is no folder); choose another path")
    return path


@contextlib.contextmanager
def reserved(path: str | Path) -> Iterator[None]:
    """Keep other processes from making a run directory at `path`, for as long as a fit takes.

    Folders above it are made; those that are empty at the end are removed again.

    Raises: InputError if it exists already, cannot be made, or is reserved by another process."""
    path = refuse_existing(path)
    made = [folder for folder in path.absolute().parents if not folder.exists()]
    try:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _cannot_be_made(path, error) from error
        refusal = f"{path}: another process is fitting into it; choose another path or wait"
        with only_one(path.parent / f".{path.name}.lock", refusal):
            refuse_existing(path)  # the other process may have ended just now
            yield
    finally:
        for folder in made:
            with contextlib.suppress(OSError):  # it holds something
                folder.rmdir()


def save_run(path: str | Path, fit: Fit, corpus: Corpus, settings: Mapping[str, Any]) -> None:
    """Write a run directory, whole or not at all.

    Args:
        path: of the directory, which must not exist yet.
        fit: its model must be a dataclass.
        corpus: the corpus that it was fitted to.
        settings: JSON values such as the seed, kept as they are.

    Raises: InputError if the path exists or cannot be made, or the model is no dataclass; FitError
        if the arrays cannot be written.
    """
    arrays = {
        f"{part}/{name}": value for part in PARTS for name, value in getattr(fit, part).items()
    }
    about = {name: getattr(fit, name) for name in FIT_FIELDS}
    about["verdict"] = None if fit.verdict is None else dataclasses.asdict(fit.verdict)
    with _new_folder(path) as partial:
        _describe(partial, fit.model, fit.method, corpus, settings)
        write_arrays(partial / "fit.zip", arrays, about)


def begin_run(
    path: str | Path, model: NumPyroModel, corpus: Corpus, settings: Mapping[str, Any]
) -> Path:
    """Write a run directory without a fit, for a posterior that is to be sampled into it.

    Returns: the folder to give to `sample_posterior` as `store`.
    Args, raises: as `save_run`.
    """
    with _new_folder(path) as partial:
        _describe(partial, model, "posterior", corpus, settings)
    return Path(path) / "store"


def load_run(
    path: str | Path, models: Mapping[str, Callable] | None = None
) -> tuple[Fit, Corpus, dict[str, Any]]:
    """Read a run directory: the fit, its corpus and its whole configuration.

    The fit of an unfinished run has the draws so far.

    Args: models, classes of models by name, in addition to those of installed packages; see
        `model_of`.
    Raises: InputError if the directory is missing, truncated or altered, has no draw yet, has
        another format, or holds an unknown model."""
    path = Path(path)
    model, corpus, config = load_setting(path, models)
    if (path / "store").exists():
        return load_posterior(model, corpus.train, store=path / "store"), corpus, config
    if config["method"] == "posterior" and not (path / "fit.zip").exists():
        raise InputError(f"{path}: has no draw yet; resume it with `probattn resume {path}`")
    with _reported_as_damage(path):
        arrays, about = read_arrays(path / "fit.zip")
        parts: dict[str, Any] = {part: _with_prefix(f"{part}/", arrays) for part in PARTS}
        verdict = about.pop("verdict")
        about["origins"] = tuple(about["origins"])
        if verdict is not None:
            fields: dict[str, Any] = {
                name: tuple(v) if isinstance(v, list) else v for name, v in verdict.items()
            }
            verdict = Verdict(**fields)
    return (
        Fit(model, config["method"], corpus.train, verdict=verdict, **parts, **about),
        corpus,
        config,
    )


def model_of(
    path: str | Path,
    name: str,
    fields: Mapping[str, Any],
    models: Mapping[str, Callable] | None = None,
) -> Any:
    """Make the model of a run directory from the name of its class and its fields.

    The class is looked up in `models`, then among the entry points `probattn.models` of installed
    packages, where this package registers its own models.

    Raises: InputError, which names `path`, if the class is found in neither.
    """
    if models and name in models:
        return models[name](**fields)
    for point in entry_points(group="probattn.models", name=name):
        return point.load()(**fields)
    raise InputError(
        f"{path}: holds an unknown model: {name} is not among the entry points `probattn.models` "
        f'of any installed package; give its class to load_run: models={{"{name}": {name}}}'
    )


def load_setting(
    path: str | Path, models: Mapping[str, Callable] | None = None
) -> tuple[Any, Corpus, dict[str, Any]]:
    """Read model, corpus and configuration of a run directory, whether or not it has a fit yet.

    Args, raises: as `load_run`."""
    path = Path(path)
    if not (path / "config.json").is_file():
        raise InputError(
            f"{path}: no run directory (no config.json there); make one with `probattn fit`"
        )
    with _reported_as_damage(path):
        try:
            config = json.loads((path / "config.json").read_text("utf-8"))
        except ValueError as error:
            raise DamagedFile(f"config.json is no JSON: {error}") from error
        found = config["format"]
    if found != RUN_FORMAT:
        raise InputError(
            f"{path}: written in format {found} by probattn "
            f"{config.get('versions', {}).get('probattn', 'unknown')}, "
            f"this probattn reads format {RUN_FORMAT}; fit again"
        )
    with _reported_as_damage(path):
        arrays, _ = read_arrays(path / "data.zip")
        fields = dict(config["model"])
        name = fields.pop("name")
        about = config["corpus"]
        corpus = Corpus(
            about["name"],
            tuple(about["symbols"]),
            about["separator"],
            arrays["train"],
            arrays["heldout"],
            about["format"],
            about["keep_space"],
            about["left_out"],
        )
        if corpus.digest() != about["sha256"]:
            raise ValueError("symbols or sequences are not what was written")
    return model_of(path, name, fields, models), corpus, config


def num_devices_of(path: str | Path) -> int:
    """The number of devices of a posterior run in `path`; 1 if there is no such run.

    It has to be set before JAX initialises its backend."""
    store = PosteriorStore(Path(path) / "store")
    return store.config["placement"]["num_devices"] if store.exists() else 1


def _describe(
    folder: Path, model: NumPyroModel, method: str, corpus: Corpus, settings: Mapping[str, Any]
) -> None:
    if not dataclasses.is_dataclass(model) or isinstance(model, type):
        raise InputError(
            f"run directory: expected a dataclass as model, whose fields are kept, got {model}"
        )
    config = {
        "format": RUN_FORMAT,
        "model": {"name": type(model).__name__, **dataclasses.asdict(model)},
        "method": method,
        "density": density_of(model, corpus.train).to_json(),
        "corpus": {
            "name": corpus.name,
            "symbols": corpus.symbols,
            "separator": corpus.separator,
            "format": corpus.format,
            "keep_space": corpus.keep_space,
            "left_out": corpus.left_out,
            "sha256": corpus.digest(),
        },
        "settings": dict(settings),
        "versions": versions(),
    }
    write_arrays(folder / "data.zip", {"train": corpus.train, "heldout": corpus.heldout})
    write_json(folder / "config.json", config)


@contextlib.contextmanager
def _new_folder(path: str | Path):
    """A temporary folder that is renamed to `path` on success and removed on failure."""
    path = refuse_existing(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    except OSError as error:
        raise _cannot_be_made(path, error) from error
    try:
        yield partial
        partial.chmod(0o755)
        try:
            os.rename(partial, path)
        except OSError:
            refuse_existing(path)  # another process may have made it meanwhile
            raise
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _cannot_be_made(path: Path, error: OSError) -> InputError:
    return InputError(f"{path}: cannot be made ({error.strerror}); choose another path")


def _with_prefix(prefix: str, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {
        name.removeprefix(prefix): array
        for name, array in arrays.items()
        if name.startswith(prefix)
    }


@contextlib.contextmanager
def _reported_as_damage(path: Path):
    """Turn whatever reading a damaged file raises into an InputError with path and advice."""
    try:
        yield
    except (DamagedFile, FitError, ValueError, KeyError, TypeError, OSError) as error:
        raise InputError(
            f"{path}: the run directory is damaged or truncated ({error}); fit again"
        ) from error
