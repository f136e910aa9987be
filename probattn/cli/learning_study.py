"""The command `learning-curve`: MAP and posterior at growing training sizes, resumable."""

import dataclasses
import shutil
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from probattn.cli.models import ModelName, build_model
from probattn.cli.printing import SAME_COMMAND, console, resumption_hint
from probattn.cli.runs import Method, fit_and_save, num_chunks, resume_run, set_host_devices
from probattn.cli.shared import (
    CorpusArgument,
    DimOption,
    FormatOption,
    HeadsOption,
    KeepSpaceOption,
    RankOption,
    SeedOption,
    StreamOption,
)
from probattn.cli.study_folder import open_study
from probattn.errors import FitError, InputError

SIZES = "30,100,300,1000,3000"
CURVE_METHODS = (Method.map, Method.posterior)
LEARNING_STUDY_FORMAT = 1  # of study.json


@dataclass(frozen=True)
class Study:
    """What all runs of a study share.

    Args:
        folder: holds the run directories, study.json and curve.zip.
        source: the corpus as the command line names it.
        data: the options that it is read with, apart from the training size.
        corpus: the corpus with all its training sequences, whose symbols all sizes have.
        model_options: arguments of `build_model`.
        model: the model built with them.
        settings: arguments of the fit, by method.
        seed: of every random number.
    """

    folder: Path
    source: str
    data: dict[str, Any]
    corpus: Any
    model_options: dict[str, Any]
    model: Any
    settings: dict[Method, dict[str, Any]]
    seed: int

    def to_json(self) -> dict[str, Any]:
        """What must be the same for a study to be resumed, as a JSON object.

        Sizes are not part of it, since a study may be given other sizes."""
        from probattn.inference.devices.environment import precision

        fields = {f"model {name}": value for name, value in dataclasses.asdict(self.model).items()}
        settings = {
            f"{method} {name}": value
            for method in CURVE_METHODS
            for name, value in self.settings[method].items()
        }
        about = {
            "format": LEARNING_STUDY_FORMAT,
            "corpus": self.corpus.name,
            "data SHA-256": self.corpus.digest(),
        }
        return about | {
            "model": type(self.model).__name__,
            **fields,
            **settings,
            "seed": self.seed,
            "precision": precision(),
        }

    def run(self, method: Method, size: int) -> Path:
        """The path of the run directory of a fit."""
        return self.folder / f"{method}-{size}"


def learning_curve(
    corpus: CorpusArgument,
    out: Annotated[
        Path,
        typer.Option(
            help=(
                "Folder of the study: a run directory for each fit, and curve.zip. A study that "
                "was killed is resumed."
            )
        ),
    ],
    sizes: Annotated[str, typer.Option(help="Training sequences, ascending.")] = SIZES,
    dim: DimOption = 4,
    heads: HeadsOption = 1,
    rank: RankOption = None,
    barrier_weight: Annotated[
        float | None,
        typer.Option(
            help="Weight of the embedding path's density, default 0.05; 0 is plain cross-entropy."
        ),
    ] = None,
    contraction: Annotated[
        float | None,
        typer.Option(
            help=(
                "Cap inside (0, 1) under which the embeddings have a density everywhere; default: "
                "none."
            )
        ),
    ] = None,
    length: Annotated[
        int | None,
        typer.Option(
            help=(
                "Longest sequence with its end token; default: 10 for cmudict, else what the file "
                "needs."
            )
        ),
    ] = None,
    stream: StreamOption = False,
    format: FormatOption = "lines",
    keep_space: KeepSpaceOption = False,
    num_steps: Annotated[
        int | None,
        typer.Option(help="MAP: most optimiser steps, default 8000; fewer once at rest."),
    ] = None,
    num_warmup: Annotated[int, typer.Option(help="Posterior: warmup iterations, per chain.")] = 250,
    num_samples: Annotated[int, typer.Option(help="Posterior: draws, per chain.")] = 300,
    num_chains: Annotated[int, typer.Option(help="Posterior: chains.")] = 4,
    max_tree_depth: Annotated[
        int, typer.Option(help="Posterior: at most 2^depth - 1 gradients a draw.")
    ] = 7,
    seed: SeedOption = 0,
) -> None:
    """Fit by MAP and by posterior at growing training sizes, with one held-out set.

    The study shows at which sizes the posterior is worth its cost. The chains are short by default,
    so that five sizes take hours and not days; fits that have not converged are named at the end.
    The same command resumes a study that was killed, also with sizes added.

    Example: `probattn learning-curve cmudict --out runs/curve`
    """
    from probattn.checks import as_integer

    wanted = parse_sizes(sizes)
    counts = {"num_warmup": num_warmup, "num_samples": num_samples, "num_chains": num_chains}
    counts |= {"max_tree_depth": max_tree_depth}
    steps = {} if num_steps is None else {"num_steps": num_steps}
    for name, value in {**counts, **steps}.items():
        as_integer(name, value)
    set_host_devices(num_chains)
    from probattn.inference import load_corpus

    data = {"length": length, "stream": stream, "format": format, "keep_space": keep_space}
    whole = load_corpus(corpus, length=length, stream=stream, format=format, keep_space=keep_space)
    if wanted[-1] > len(whole.train):
        raise InputError(
            f"sizes: {corpus} has {len(whole.train):,} training sequences, got {wanted[-1]:,}; "
            "ask for fewer"
        )
    options = {
        "dim": dim,
        "heads": heads,
        "rank": rank,
        "barrier_weight": barrier_weight,
        "contraction": contraction,
    }
    model = build_model(ModelName.language, len(whole.symbols), whole.length, **options)
    settings = {Method.map: steps, Method.posterior: counts}
    study = Study(out, corpus, data, whole, options, model, settings, seed)
    open_study(study.folder, study.to_json(), "learning curve")
    with resumption_hint(lambda: SAME_COMMAND):
        print_curve(carry_out(study, wanted))
    console.print(f"curve: {(out / 'curve.zip').resolve()}")


def parse_sizes(text: str) -> list[int]:
    """Training sizes from text such as "30,100,300".

    Raises: InputError unless they are ascending integers of at least 1."""
    try:
        found = [int(word) for word in text.split(",")]
    except ValueError:
        found = []
    if not found or found[0] < 1 or any(one >= other for one, other in pairwise(found)):
        raise InputError(
            f"sizes: expected ascending whole numbers of at least 1, such as {SIZES}, got {text!r}"
        )
    return found


def carry_out(study: Study, sizes: Sequence[int]) -> Any:
    """Fit all sizes that are not fitted yet, writing the curve so far after each; return the curve.

    Args: sizes, numbers of training sequences, ascending."""
    from probattn.inference import save_curve
    from probattn.inference.evaluation.curve import join
    from probattn.inference.evaluation.learning_study import learning_curve as curve_of

    points, file = [], study.folder / "curve.zip"
    for size in sizes:
        fits, fresh = {}, False
        for method in CURVE_METHODS:
            found = load_finished(study, method, size)
            fresh |= found is None
            fits[method.value] = fit_keeping_draws(study, method, size) if found is None else found
            earlier = "" if found is None else ", finished already"
            console.print(
                f"{method.value} of {size:,} sequences: {fits[method.value].seconds:.0f} s{earlier}"
            )
        points.append(curve_of({name: [fit] for name, fit in fits.items()}, study.corpus.heldout))
        # Without a new fit, an existing file may have more sizes than the curve so far: it is
        # replaced at the last size only.
        if fresh or size == sizes[-1] or not file.exists():
            save_curve(file, join(points))
    return join(points)


def load_finished(study: Study, method: Method, size: int) -> Any:
    """The fit of a size if it is finished, else None.

    Raises: InputError for a run directory with another model or other data than the study."""
    from probattn.inference.fitting.run_directory import load_run, load_setting

    run = study.run(method, size)
    if not run.exists() or not _begun(run):
        return None
    model, corpus, _ = load_setting(run)
    if model != study.model or corpus.digest() != _prefix(study.corpus, size).digest():
        raise InputError(
            f"{run}: is a run of another model or other data than its study; remove it"
        )
    if (run / "store").exists() and not _has_draws(run):
        return None
    fitted = load_run(run)[0]
    return None if fitted.unfinished else fitted


def fit_keeping_draws(study: Study, method: Method, size: int) -> Any:
    """Fit a size, keeping a posterior that failed after its last draw, such as by a stuck chain.

    Its verdict says that it has not converged. Raising the error would stop the study for good at
    this size, since the same seed would fail again.

    Raises: FitError if the fit failed before it had all its draws."""
    try:
        return fit_one(study, method, size)
    except FitError as error:
        found = load_finished(study, method, size)
        if found is None:
            raise
        warnings.warn(
            f"{error}; the study goes on, and reports this fit as not converged", stacklevel=2
        )
        return found


def fit_one(study: Study, method: Method, size: int) -> Any:
    """Fit a size, or resume its posterior if that was killed."""
    run = study.run(method, size)
    if run.exists() and _begun(run):
        console.print(f"resuming the {method.value} of {size:,} sequences ...")
        return resume_run(run, None)
    console.print(f"fitting {size:,} sequences by {method.value} ...")
    if method is Method.posterior and (run / "config.json").is_file():
        # The run was killed before its first chunk: there is nothing to resume.
        shutil.rmtree(run, ignore_errors=True)
    return fit_and_save(
        study.source,
        method,
        run,
        model_options=study.model_options,
        data={**study.data, "train_size": size},
        settings=study.settings[method],
        seed=study.seed,
        corpus=_prefix(study.corpus, size),
    )


def print_curve(curve: Any) -> None:
    """Print the losses of a learning curve as a table, and its verdicts."""
    table = Table(
        "training sequences",
        *curve.methods,
        title="held-out loss, nats per token, ± standard error",
    )
    columns = {
        name: zip(*curve.losses(name), curve.trusted(name), strict=True) for name in curve.methods
    }
    cells = {
        name: [_cell(loss, error, bool(trusted)) for loss, error, trusted in rows]
        for name, rows in columns.items()
    }
    for number, size in enumerate(curve.sizes):
        table.add_row(f"{size:,}", *(cells[name][number] for name in curve.methods))
    console.print(table)
    for sentence in curve.verdicts():
        console.print(f"- {sentence}")


def _cell(loss: float, error: float, trusted: bool) -> str:
    return f"{loss:.4f} ± {error:.4f}{'' if trusted else ' (not converged)'}"


def _prefix(corpus: Any, size: int) -> Any:
    """The corpus with the training sequences of one size."""
    return dataclasses.replace(corpus, train=corpus.train[:size])


def _begun(run: Path) -> bool:
    """Whether a run directory holds a fit or at least one chunk of a posterior."""
    return (run / "fit.zip").exists() or num_chunks(run) > 0


def _has_draws(run: Path) -> bool:
    from probattn.inference.fitting.posterior_store import PosteriorStore

    return bool(PosteriorStore(run / "store").arrays("draws"))
