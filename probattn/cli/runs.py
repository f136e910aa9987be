"""What the commands do with runs: fit into run directories, resume, load and compare them."""

import dataclasses
import shutil
import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any

from probattn.cli.models import ModelName, build_model
from probattn.cli.printing import told_how_to_go_on
from probattn.errors import InputError

TRAIN_SIZE = 300
REFERENCE_SIZE = 50_000


class Method(StrEnum):
    map = "map"
    laplace = "laplace"
    ensemble = "ensemble"
    posterior = "posterior"
    microcanonical = "microcanonical"


class Start(StrEnum):
    maps = "maps"
    map = "map"
    prior = "prior"
    random = "random"


class CalibratedMethod(StrEnum):
    nuts = "nuts"
    laplace = "laplace"
    map = "map"


def wake_devices(num_chains: int, devices: int | None = None) -> None:
    """Host devices: as many as asked for, else one a chain as far as there are cores; before JAX's
    backend first wakes."""
    from probattn.inference.devices.device_placement import wake_host_devices

    wake_host_devices(num_chains, devices)


def fit_and_save(
    source: str,
    method: Method,
    out: Path,
    model_name: ModelName = ModelName.language,
    *,
    model_options: dict[str, Any],
    data: dict[str, Any],
    settings: dict[str, Any],
    seed: int,
) -> Any:
    """Fit a model to a corpus and write a run directory; a posterior is sampled into it, and can be
    resumed.

    Of several processes the first alone reads and writes files.
    """
    import jax

    from probattn import inference
    from probattn.inference.data.corpus import Corpus
    from probattn.inference.devices.multihost import is_first, on_first
    from probattn.inference.fitting.run_directory import begin_run

    corpus = Corpus(**on_first(lambda: vars(_corpus_for(out, source, data))))
    built = build_model(model_name, len(corpus.symbols), corpus.length, **model_options)
    key = jax.random.key(seed)
    about = {"seed": seed, "source": source, "command": command(), **settings}
    if method is not Method.posterior:
        fits: dict[Method, Any] = {
            Method.map: inference.fit_map,
            Method.laplace: inference.fit_laplace,
            Method.ensemble: inference.fit_ensemble,
            Method.microcanonical: inference.sample_microcanonical,
        }
        fitted = fits[method](built, corpus.train, key=key, **settings)
        on_first(lambda: inference.save_run(out, fitted, corpus, about))
        return fitted
    store = Path(on_first(lambda: str(begin_run(out, built, corpus, about))))
    try:
        with told_how_to_go_on(lambda: _resumption(out)):
            return inference.sample_posterior(built, corpus.train, key=key, store=store, **settings)
    except BaseException:
        if is_first() and not num_chunks(out):  # nothing to resume
            shutil.rmtree(out, ignore_errors=True)
        raise


def _corpus_for(out: Path, source: str, data: dict[str, Any]) -> Any:
    """The corpus of a run that is still to be made. Raises: InputError if something is there
    already."""
    from probattn.inference import load_corpus
    from probattn.inference.fitting.run_directory import refuse_existing

    if (out / "store").exists():
        raise InputError(
            f"{out}: exists already; go on with `probattn resume {out}`, or choose another --out"
        )
    refuse_existing(out)
    corpus = load_corpus(source, **data)
    return (
        corpus
        if data["train_size"] is not None
        else dataclasses.replace(corpus, train=corpus.train[:TRAIN_SIZE])
    )


def method_settings(method: Method, given: dict[str, Any]) -> dict[str, Any]:
    """The settings that a method has; one that it does not have is refused, one that is None is
    left at its default."""
    chains = {"num_chains": "num_chains", "num_warmup": "num_warmup", "num_samples": "num_samples"}
    of_map = {"num_steps": "num_steps", "num_starts": "num_starts", "batch_size": "batch_size"}
    own = {
        Method.map: of_map,
        Method.laplace: {
            "num_steps": "num_steps",
            "num_starts": "num_starts",
            "num_samples": "num_samples",
        },
        Method.ensemble: {
            "num_steps": "num_steps",
            "batch_size": "batch_size",
            "num_members": "num_members",
        },
        Method.posterior: {
            **chains,
            "max_tree_depth": "max_tree_depth",
            "start": "start",
            "num_starts": "num_starts",
        },
        Method.microcanonical: chains,
    }[method]
    own["devices"] = "devices"
    settings = {}
    for option, value in given.items():
        if value is None:
            continue
        if option not in own:
            raise InputError(
                f"{option}: is no option of --method {method.value}; leave "
                f"--{option.replace('_', '-')} out"
            )
        settings[own[option]] = str(value) if isinstance(value, StrEnum) else value
    return settings


def resume_run(run: Path, num_samples: int | None) -> Any:
    """Go on with a posterior run; returns the fit."""
    from probattn.inference import Corpus, resume_posterior
    from probattn.inference.devices.multihost import is_first, on_first
    from probattn.inference.fitting.run_directory import model_of

    fields, data = on_first(lambda: _to_resume(run))
    model, corpus = model_of(run, fields.pop("name"), fields), Corpus(**data)
    before = num_chunks(run)
    with told_how_to_go_on(lambda: _resumption(run)):
        fitted = resume_posterior(model, corpus.train, store=run / "store", num_samples=num_samples)
    if is_first() and num_chunks(run) == before:
        print(
            f"{run} has all of its draws already: nothing was left to do (--num-samples asks "
            "for more)"
        )
    return fitted


def _to_resume(run: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Model (its fields and the name of its class) and corpus (its fields) of a posterior run.
    Raises: InputError if it is none."""
    from probattn.inference.fitting.run_directory import load_setting

    _, corpus, config = load_setting(run)
    if config["method"] != "posterior" or not (run / "store").exists():
        raise InputError(
            f"{run}: is a fit by {config['method']}, written when it was done; there is "
            "nothing to resume"
        )
    return config["model"], vars(corpus)


def _resumption(run: Path) -> str | None:
    """How a posterior run that was stopped goes on; None if none of it is kept, and in all
    processes but the first."""
    from probattn.inference.devices.multihost import is_first

    return f"go on with `probattn resume {run}`" if is_first() and num_chunks(run) else None


def num_chunks(run: Path) -> int:
    """How many chunks a posterior run has so far, whole or not; 0 if it is none."""
    return len(list((run / "store" / "chunks").glob("*.zip")))


def compare_runs(
    runs: Sequence[Path],
    about: dict[str, Any],
    num_particles: int | None = None,
    mix_densities: bool = False,
    elsewhere: Sequence[Path] = (),
    learning_curve: Path | None = None,
) -> Any:
    """The comparison of run directories on their held-out sequences."""
    from probattn.inference import compare, load_corpus, load_curve, load_run
    from probattn.inference.data.corpus import load_elsewhere

    loaded = {}
    for run in runs:
        if run.resolve() in {other.resolve() for other in runs if other is not run}:
            raise InputError(f"{run}: given twice; name each run directory once")
        name = run.name if run.name not in loaded else str(run)
        loaded[name] = load_run(run)
    (first, (_, corpus, _)), *others = loaded.items()
    for name, (_, other, _) in others:
        if other.digest() != corpus.digest():
            raise InputError(
                f"{name} holds other data than {first}; compare fits of one corpus, length and "
                "train size"
            )
    reference = None
    if corpus.name == "cmudict":
        larger = load_corpus("cmudict", length=corpus.length)
        if larger.symbols == corpus.symbols and (larger.heldout == corpus.heldout).all():
            reference = larger.train[:REFERENCE_SIZE]
    about = about | {
        "corpus": corpus.name,
        "data SHA-256": corpus.digest(),
        "seeds": {
            name: run_config["settings"]["seed"] for name, (_, _, run_config) in loaded.items()
        },
        "fitted by": {
            name: run_config["settings"]["command"] for name, (_, _, run_config) in loaded.items()
        },
    }
    fits = {name: fitted for name, (fitted, _, _) in loaded.items()}
    if num_particles is not None:
        if not any(fitted.estimated for fitted in fits.values()):
            raise InputError(
                "num_particles: none of the runs is of an emission model; leave --num-particles out"
            )
        fits = {name: fitted.with_particles(num_particles) for name, fitted in fits.items()}
    texts: dict[str, Any] = {}
    for path in elsewhere:
        texts[path.name], skipped = load_elsewhere(path, corpus)
        about[f"sequences from {path.name}"] = (
            f"{len(texts[path.name])}, and {skipped} left out: of the corpus itself, or not in "
            "its symbols"
        )
    return compare(
        fits,
        corpus.heldout,
        symbols=corpus.symbols,
        reference_tokens=reference,
        elsewhere=texts,
        learning_curve=load_curve(learning_curve / "curve.zip", corpus.heldout)
        if learning_curve
        else None,
        mix_densities=mix_densities,
        about=about,
    )


def command() -> str:
    """The command line as it was given."""
    return " ".join(["probattn", *sys.argv[1:]])
