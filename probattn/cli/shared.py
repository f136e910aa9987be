"""Options that several commands share, and a fit's verdict as an exit code."""

from typing import Annotated, Any

import typer

from probattn.cli.printing import console, in_options, print_diagnosis

CorpusArgument = Annotated[
    str, typer.Argument(metavar="CORPUS", help='"cmudict" or the path of a text file.')
]
StreamOption = Annotated[
    bool, typer.Option("--stream", help="Running text, cut into pieces of --length characters.")
]
FormatOption = Annotated[
    str,
    typer.Option(
        "--format",
        help="What a sequence is in the file: lines, words, fasta, csv:COLUMN or jsonl:FIELD.",
    ),
]
KeepSpaceOption = Annotated[
    bool,
    typer.Option("--keep-space", help="White space at both ends of a line belongs to it."),
]
DimOption = Annotated[int, typer.Option(help="Embedding dimension.")]
HeadsOption = Annotated[int, typer.Option(help="Attention heads.")]
RankOption = Annotated[int | None, typer.Option(help="Rank of query and key; default: dim.")]
RunArgument = Annotated[
    str, typer.Argument(metavar="DIR", help="A run directory made by `probattn fit`.")
]
ClusterOption = Annotated[
    bool,
    typer.Option(
        "--cluster",
        help=(
            "Join the other processes of a Slurm, Open MPI, Kubernetes or Cloud TPU job. Not "
            "needed if JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID are set."
        ),
    ),
]
StrictOption = Annotated[bool, typer.Option("--strict", help="Exit with code 3 if not converged.")]


def _seed(value: int) -> int:
    from probattn.checks import as_integer  # loads JAX, which --help does not need

    return as_integer("seed", value, 0)


SeedOption = Annotated[
    int, typer.Option(help="Seed of every random number, 0 or more.", callback=_seed)
]
NOT_CONVERGED = 3


def judge(fitted: Any, name: str, strict: bool, heldout: Any = None) -> None:
    """Print a fit's verdict, and for a sampled fit its diagnosis.

    Args: heldout, sequences for the predictive tier of the diagnosis.
    Raises: SystemExit with code 3 under `strict` if the fit has not converged.
    """
    from probattn.inference import diagnose

    if fitted.sampled:
        diagnosis = diagnose(fitted, heldout, name=name)
        print_diagnosis(diagnosis)
        verdict = diagnosis.verdict
    else:
        verdict = fitted.verdict
        where = f" ({fitted.coordinates} coordinates)" if fitted.coordinates else ""
        console.print(in_options(f"{fitted.method}{where}: {verdict}"))
    if strict and not verdict.converged:
        raise SystemExit(NOT_CONVERGED)
