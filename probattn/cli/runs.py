"""What the commands do with run directories: fit into them, resume and compare them."""

import contextlib
import shutil
import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any

from probattn.cli.models import ModelName, build_model
from probattn.cli.printing import console, naming, resumption_hint
from probattn.errors import InputError

TRAIN_SIZE = 300  # training sequences where the command line does not say how many
REFERENCE_SIZE = 50_000  # training sequences of the bigram baseline with more data


class Method(StrEnum):
    """How `fit` fits."""

    map = "map"
    laplace = "laplace"
    ensemble = "ensemble"
    posterior = "posterior"
    microcanonical = "microcanonical"


class Start(StrEnum):
    """Where chains start."""

    maps = "maps"
    map = "map"
    prior = "prior"
    random = "random"


class Sampler(StrEnum):
    """How the posterior is sampled."""

    hmc = "hmc"
    nuts = "nuts"


class CalibratedMethod(StrEnum):
    """Methods that `calibrate` takes."""

    nuts = "nuts"
    laplace = "laplace"
    map = "map"


def set_host_devices(num_chains: int, devices: int | None = None) -> None:
    """Set the number of host devices, which must be done before JAX initialises its backend.

    Args: devices, their number; None is one for each chain, and at most one for each core."""
    from probattn.inference.devices.device_placement import set_host_device_count

    set_host_device_count(num_chains, devices)


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
    corpus: Any = None,
) -> Any:
    """Fit a model to a corpus, write a run directory, and return the fit.

    A posterior is sampled into the directory, so that it can be resumed. Of several processes, the
    first alone reads and writes files.

    Args:
        source: the corpus, as the command line names it.
        method: of the fit.
        out: path of the run directory, which must not exist yet.
        model_name: with `model_options`, the arguments of `build_model`.
        data: options of `load_corpus`; "train_size" may be None for TRAIN_SIZE sequences.
        settings: arguments of the fit, as from `method_settings`.
        seed: of the fit's random key.
        corpus: what `source` and `data` stand for, if it has been read already.
    """
    import jax

    from probattn import inference
    from probattn.inference.data.corpus import Corpus
    from probattn.inference.devices.multihost import is_first, on_first
    from probattn.inference.fitting.run_directory import begin_run, reserved

    corpus = Corpus(**on_first(lambda: vars(_corpus_for(out, source, data, corpus))))
    built = build_model(model_name, len(corpus.symbols), corpus.length, **model_options)
    key = jax.random.key(seed)
    about = {"seed": seed, "source": source, "command": command(), **settings}
    with contextlib.ExitStack() as held:
        on_first(lambda: held.enter_context(reserved(out)))
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
        given: dict[str, Any] = {"key": key, "store": store, **settings}
        try:
            with resumption_hint(lambda: _resumption(out)):
                return inference.sample_posterior(built, corpus.train, **given)
        except BaseException:
            if is_first() and not num_chunks(out):  # nothing that could be resumed
                shutil.rmtree(out, ignore_errors=True)
            raise


def _corpus_for(out: Path, source: str, data: dict[str, Any], corpus: Any) -> Any:
    """The corpus for a new run directory, read unless it has been already.

    Raises: InputError if `out` exists already."""
    from probattn.inference import load_corpus
    from probattn.inference.fitting.run_directory import refuse_existing

    if (out / "store").exists():
        raise InputError(
            f"{out}: exists already; resume it with `probattn resume {out}`, or choose another "
            "--out"
        )
    refuse_existing(out)
    return corpus or load_corpus(source, at_most=TRAIN_SIZE, **data)


def method_settings(method: Method, given: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a method's fit, from options; those that are None keep their defaults.

    Raises: InputError for an option that the method does not have."""
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
            "sampler": "sampler",
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
    """Resume a posterior run and return the fit.

    Args: num_samples, a new total of draws per chain; None keeps that of the run."""
    from probattn.inference import Corpus, resume_posterior
    from probattn.inference.devices.multihost import is_first, on_first
    from probattn.inference.fitting.run_directory import model_of

    fields, data = on_first(lambda: _to_resume(run))
    model, corpus = model_of(run, fields.pop("name"), fields), Corpus(**data)
    before = num_chunks(run)
    with resumption_hint(lambda: _resumption(run)):
        fitted = resume_posterior(model, corpus.train, store=run / "store", num_samples=num_samples)
    if is_first() and num_chunks(run) == before:
        console.print(
            f"{run} has all its draws already: nothing was left to do (--num-samples asks for more)"
        )
    return fitted


def _to_resume(run: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The model and the corpus of a posterior run, as dictionaries of their fields.

    The model's dictionary has the name of its class as well. They are sent to other processes.

    Raises: InputError if `run` is no posterior run."""
    from probattn.inference.fitting.run_directory import load_setting

    _, corpus, config = load_setting(run)
    if config["method"] != "posterior" or not (run / "store").exists():
        raise InputError(
            f"{run}: is a fit by {config['method']}, which is written only when it is finished; "
            "there is nothing to resume"
        )
    return config["model"], vars(corpus)


def _resumption(run: Path) -> str | None:
    """How to resume a posterior run that was stopped, as text.

    None if no chunk of it is stored, and in all processes but the first."""
    from probattn.inference.devices.multihost import is_first

    return f"resume it with `probattn resume {run}`" if is_first() and num_chunks(run) else None


def num_chunks(run: Path) -> int:
    """The number of chunk files of a posterior run, whole or damaged; 0 for other runs."""
    return len(list((run / "store" / "chunks").glob("*.zip")))


def compare_runs(
    runs: Sequence[Path],
    about: dict[str, Any],
    num_particles: int | None = None,
    mix_densities: bool = False,
    elsewhere: Sequence[Path] = (),
    learning_curve: Path | None = None,
    second_posterior: bool = False,
) -> Any:
    """Compare the fits of run directories on their held-out sequences.

    Args:
        runs: paths of run directories with the same corpus.
        about: facts for the report, by name; corpus, seeds and commands are added.
        num_particles: of the particle filter, for emission models; None keeps the models' own.
        mix_densities: whether fits of different densities may be compared.
        elsewhere: paths of texts whose sequences the fits are to detect beside held-out ones.
        learning_curve: folder of a learning-curve study to include.
        second_posterior: whether to leave out by one what weights cannot leave out.

    Raises: InputError for a run that is given twice, runs of different data, or `num_particles`
        without an emission model.
    """
    import jax

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
    # For cmudict more training sequences are at hand, which give one more baseline; they fit the
    # run if this installation reads the same symbols and held-out sequences.
    reference = None
    if corpus.format == "cmudict":
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
    notes = [corpus.what_is_left_out()]
    for path in elsewhere:
        with naming("--elsewhere"):
            texts[path.name], left_out = load_elsewhere(path, corpus)
        about[f"sequences from {path.name}"] = len(texts[path.name])
        notes += left_out
    curve = None
    if learning_curve:
        with naming("--learning-curve"):
            curve = load_curve(learning_curve / "curve.zip", corpus.heldout)
    return compare(
        fits,
        corpus.heldout,
        symbols=corpus.symbols,
        reference_tokens=reference,
        elsewhere=texts,
        learning_curve=curve,
        mix_densities=mix_densities,
        about=about,
        notes=[f"{note}." for note in notes if note],
        key=jax.random.key(0) if second_posterior else None,
    )


def command() -> str:
    """The command line that started this process."""
    return " ".join(["probattn", *sys.argv[1:]])
