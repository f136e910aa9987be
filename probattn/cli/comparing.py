"""The command `compare`: fits beside each other on held-out sequences, as a page."""

from pathlib import Path
from typing import Annotated

import typer

from probattn.cli.printing import console, print_comparison
from probattn.cli.runs import command, compare_runs
from probattn.cli.shared import NOT_CONVERGED, StrictOption
from probattn.errors import InputError


def compare(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="DIR ...", help="Run directories of the same corpus and density."),
    ],
    out: Annotated[Path, typer.Option(help="HTML page to write; the JSON goes beside it.")] = Path(
        "report.html"
    ),
    num_particles: Annotated[
        int | None,
        typer.Option(
            help="Emission models: particles that score a sequence, in place of the fit's own."
        ),
    ] = None,
    mix_densities: Annotated[
        bool,
        typer.Option(
            "--mix-densities",
            help="Compare fits of different densities all the same; the report says so.",
        ),
    ] = False,
    elsewhere: Annotated[
        list[Path] | None,
        typer.Option(
            help=(
                "Another text, one sequence a line, to distinguish from the corpus; may be given "
                "several times."
            )
        ),
    ] = None,
    learning_curve: Annotated[
        Path | None,
        typer.Option(help="A study made by `probattn learning-curve` on the same corpus, to show."),
    ] = None,
    second_posterior: Annotated[
        bool,
        typer.Option(
            "--second-posterior",
            help=(
                "Leave out by a second posterior the training sequences that weights cannot leave "
                "out; it takes as long as the first."
            ),
        ),
    ] = False,
    figures: Annotated[
        Path | None, typer.Option(help="Folder for each figure as PNG and SVG.")
    ] = None,
    strict: StrictOption = False,
) -> None:
    """Compare fits on held-out sequences.

    Says what the posterior buys over the MAP: prints a table, and writes an HTML page and its
    numbers as JSON.

    Example: `probattn compare runs/map runs/posterior --out report.html --figures figures`
    """
    if out.is_dir():
        raise InputError(
            f"{out}: is a folder; give the name of the page to write, such as {out}/report.html"
        )
    if out.exists() and not out.is_file():
        raise InputError(f"{out}: is a device or a pipe, and no file; give the name of the page")
    if figures is not None and figures.exists() and not figures.is_dir():
        raise InputError(f"{figures}: is no folder; give the name of one for --figures")
    about = {"command": command()}
    comparison = compare_runs(
        runs,
        about,
        num_particles,
        mix_densities,
        elsewhere or (),
        learning_curve,
        second_posterior,
    )
    written = out
    try:
        comparison.save_json(out.with_suffix(".json"))
        comparison.save_html(out)
        if figures is not None:
            written = figures
            comparison.save_figures(figures)
    except OSError as error:
        raise InputError(
            f"{written}: cannot be written ({error.strerror}); choose another place"
        ) from error
    print_comparison(comparison)
    console.print(f"report: {out.resolve()}")
    verdicts = [*(found.verdict for found in comparison.diagnostics), *comparison.modes.values()]
    if strict and not all(verdict.converged for verdict in verdicts):
        raise SystemExit(NOT_CONVERGED)
