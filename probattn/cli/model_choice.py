"""The command `evidence`: which model of a corpus makes it most probable."""

import dataclasses
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from probattn.cli.models import Barrier, ModelName, build_model
from probattn.cli.printing import console, in_options
from probattn.cli.runs import command
from probattn.cli.shared import (
    NOT_CONVERGED,
    CorpusArgument,
    FormatOption,
    KeepSpaceOption,
    RankOption,
    SeedOption,
    StreamOption,
    StrictOption,
)
from probattn.errors import FitError, InputError

EVIDENCE_SIZE = 30  # sequences of the corpus; the time grows with them


def evidence(
    corpus: CorpusArgument,
    dim: Annotated[str, typer.Option(help="Embedding dimensions, such as 1,2,4.")] = "1,2",
    heads: Annotated[str, typer.Option(help="Numbers of attention heads, such as 1,2.")] = "1",
    barrier_weight: Annotated[
        str,
        typer.Option(help="Weights of the normalised barrier, such as 0,0.05,1; 0 is without one."),
    ] = "0",
    rank: RankOption = None,
    contraction: Annotated[
        float | None, typer.Option(help="As of `fit`; with it the barrier has no boundary.")
    ] = None,
    length: Annotated[int | None, typer.Option(help="As of `fit`.")] = None,
    train_size: Annotated[
        int, typer.Option(help="Sequences of the corpus; the time grows with them.")
    ] = EVIDENCE_SIZE,
    stream: StreamOption = False,
    format: FormatOption = "lines",
    keep_space: KeepSpaceOption = False,
    num_particles: Annotated[int, typer.Option(help="Particles of each run.")] = 1024,
    num_runs: Annotated[int, typer.Option(help="Independent runs, whose spread is the error.")] = 4,
    chain_length: Annotated[
        int, typer.Option(help="Particles of one chain at each temperature.")
    ] = 4,
    num_steps: Annotated[int, typer.Option(help="Leapfrog steps of a move.")] = 8,
    out: Annotated[Path | None, typer.Option(help="JSON file to write the numbers to.")] = None,
    strict: StrictOption = False,
    seed: SeedOption = 0,
) -> None:
    """Compare language models by their evidence: the probability of a corpus under the prior.

    Every combination of the sizes is a model. The barrier is the normalised one, since with the
    other a model has no evidence. The time grows with the sequences, the particles and the models:
    minutes for each without a barrier, several times that with one. Needs the extra `blackjax`.

    Example: `probattn evidence cmudict --dim 1,2 --heads 1,2 --out evidence.json`
    """
    import jax

    from probattn.inference import evidence as evidence_of
    from probattn.inference import load_corpus

    if out is not None and out.is_dir():
        raise InputError(f"{out}: is a folder; give the name of the file to write")
    sizes = {
        "dim": _numbers("dim", dim, int),
        "heads": _numbers("heads", heads, int),
        "barrier_weight": _numbers("barrier_weight", barrier_weight, float),
    }
    read = load_corpus(
        corpus,
        length=length,
        train_size=train_size,
        stream=stream,
        format=format,
        keep_space=keep_space,
    )
    models, numbers = {}, {}
    for chosen in product(*sizes.values()):
        options: dict[str, Any] = dict(zip(sizes, chosen, strict=True))
        name = ", ".join(f"{key.replace('_', ' ')} {value:g}" for key, value in options.items())
        options |= {"rank": rank, "contraction": contraction, "barrier": Barrier.normalised}
        numbers[name] = [f"{value:g}" for value in chosen]
        models[name] = build_model(ModelName.language, len(read.symbols), read.length, **options)
    found, failed = {}, {}
    for name, model in models.items():
        try:
            found[name] = evidence_of(
                model,
                read.train,
                key=jax.random.key(seed),
                num_particles=num_particles,
                num_runs=num_runs,
                chain_length=chain_length,
                num_steps=num_steps,
            )
            one = found[name]
            console.print(f"{name}: {one.measured} nats ({one.seconds:.0f} s)")
        except FitError as error:  # the other models have an evidence all the same
            failed[name] = str(error)
            console.print(f"{name}: none")
    if found:
        _show(found, numbers, len(read.train))
    for name, said in failed.items():
        console.print(in_options(f"{name}: {said}"))
    if out is not None:
        _write(out, found, failed)
        console.print(f"numbers: {out.resolve()}")
    if failed:
        raise FitError(f"evidence: {len(failed)} of {len(models)} models have none, see above")
    if strict and not all(one.verdict.converged for one in found.values()):
        raise SystemExit(NOT_CONVERGED)


def _numbers(name: str, text: str, kind: type) -> list[Any]:
    """Different numbers from text such as "1,2,4"."""
    try:
        found = [kind(word) for word in text.split(",")]
    except ValueError:
        found = []
    if not found or len(set(found)) < len(found):
        raise InputError(f"{name}: expected different numbers, such as 1,2, got {text!r}")
    return found


def _show(found: dict[str, Any], numbers: dict[str, list[str]], sequences: int) -> None:
    """Print the table, the best model first."""
    from probattn.inference import log_bayes_factor

    order = sorted(found, key=lambda name: -found[name].log_evidence)
    best = found[order[0]]
    table = Table(
        "dim",
        "heads",
        "barrier",
        "log evidence",
        "each",
        "less best",
        "trusted",
        title=f"nats of {sequences} sequences",
    )
    for name in order:
        one = found[name]
        table.add_row(
            *numbers[name],
            f"{one.log_evidence:.1f} ± {one.standard_error:.1f}",
            f"{one.log_evidence / sequences:.2f}",
            "" if one is best else _in_short(log_bayes_factor(one, best)),
            "yes" if one.verdict.converged else "no",
        )
    console.print(table)
    for name in order:
        if not found[name].verdict.converged:
            console.print(in_options(f"{name}: {found[name].verdict}"))


def _in_short(factor: Any) -> str:
    return f"{factor.value:+.1f} ± {factor.error:.1f}"


def _write(out: Path, found: dict[str, Any], failed: dict[str, str]) -> None:
    """Write all numbers but the draws as JSON."""
    from probattn.inference.data.array_file import with_folder, write_json

    models = {
        name: {
            "density": one.density.to_json(),
            "log_evidence": one.log_evidence,
            "standard_error": one.standard_error,
            "num_sequences": one.num_sequences,
            "runs": one.runs.tolist(),
            "support": one.support.tolist(),
            "drift": one.drift.tolist(),
            "information": one.information,
            "temperatures": [each.tolist() for each in one.temperatures],
            "share": [each.tolist() for each in one.share],
            "acceptance": [each.tolist() for each in one.acceptance],
            "num_gradients": one.num_gradients,
            "seconds": one.seconds,
            "verdict": {**dataclasses.asdict(one.verdict), "numbers": dict(one.verdict.numbers)},
        }
        for name, one in found.items()
    }
    try:
        write_json(with_folder(out), {"command": command(), "models": models, "failed": failed})
    except OSError as error:
        raise InputError(
            f"{out}: cannot be written ({error.strerror}); choose another place"
        ) from error
