"""The commands that hold a model's own data beside a corpus: prior, check."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from probattn.cli.models import Barrier, ModelName, build_model
from probattn.cli.plots import check_plot, save_plot
from probattn.cli.printing import console, visible
from probattn.cli.runs import TRAIN_SIZE
from probattn.cli.shared import (
    CorpusArgument,
    DimOption,
    FormatOption,
    HeadsOption,
    KeepSpaceOption,
    RankOption,
    RunArgument,
    SeedOption,
    StreamOption,
)

PRINTED = 8  # sequences that are printed

DrawsOption = Annotated[
    int | None, typer.Option("--num-draws", help="Data sets, each from a draw; default 600.")
]
PlotOption = Annotated[Path | None, typer.Option(help="Draw them to this .png, .svg or .pdf.")]


def prior(
    corpus: CorpusArgument,
    model: Annotated[ModelName, typer.Option(help="As of `fit`.")] = ModelName.language,
    dim: DimOption = 4,
    heads: HeadsOption = 1,
    rank: RankOption = None,
    barrier_weight: Annotated[
        float | None, typer.Option(help="As of `fit`; it bears on new data if normalised.")
    ] = None,
    barrier: Annotated[Barrier | None, typer.Option(help="As of `fit`.")] = None,
    contraction: Annotated[float | None, typer.Option(help="As of `fit`.")] = None,
    length: Annotated[int | None, typer.Option(help="As of `fit`.")] = None,
    train_size: Annotated[
        int | None,
        typer.Option(
            help=(
                "Sequences of the corpus, and of each new data set; default: "
                f"{TRAIN_SIZE}, or all if fewer."
            )
        ),
    ] = None,
    stream: StreamOption = False,
    format: FormatOption = "lines",
    keep_space: KeepSpaceOption = False,
    num_draws: DrawsOption = None,
    plot: PlotOption = None,
    seed: SeedOption = 0,
) -> None:
    """Compare data drawn from the prior with a corpus, before anything is fitted.

    Example: `probattn prior cmudict --dim 4 --plot prior.png`
    """
    import jax

    from probattn.inference import load_corpus, prior_check

    if plot is not None:
        check_plot(plot)
    read = load_corpus(
        corpus,
        at_most=TRAIN_SIZE,
        length=length,
        train_size=train_size,
        stream=stream,
        format=format,
        keep_space=keep_space,
    )
    options: dict[str, Any] = dict(
        dim=dim,
        heads=heads,
        rank=rank,
        barrier_weight=barrier_weight,
        barrier=barrier,
        contraction=contraction,
    )
    built = build_model(model, len(read.symbols), read.length, **options)
    chosen = {} if num_draws is None else {"num_draws": num_draws}
    _show(prior_check(built, read.train, key=jax.random.key(seed), **chosen), read, plot)


def check(
    run: RunArgument,
    sequences: Annotated[
        int, typer.Option(help="Held-out sequences, and those of each new data set.")
    ] = TRAIN_SIZE,
    num_draws: DrawsOption = None,
    plot: PlotOption = None,
    seed: SeedOption = 0,
) -> None:
    """Compare new data of a fit with held-out data.

    Example: `probattn check runs/posterior --plot check.png`
    """
    import jax

    from probattn.checks import as_integer
    from probattn.inference import load_run, posterior_check

    as_integer("sequences", sequences)
    if plot is not None:
        check_plot(plot)
    fitted, corpus, _ = load_run(run)
    chosen = {} if num_draws is None else {"num_draws": num_draws}
    heldout = corpus.heldout[:sequences]
    _show(posterior_check(fitted, heldout, key=jax.random.key(seed), **chosen), corpus, plot)


def _show(found: Any, corpus: Any, plot: Path | None) -> None:
    import numpy as np

    from probattn.inference import plot_check

    p_values, adjusted = found.p_values(), found.adjusted()
    title = f"{found.sequences} sequences, and as many of each of {found.number} draws"
    table = Table("of all sequences", "seen", "new, 5 % to 95 %", "p", "corrected", title=title)
    distances = {f"{name}, distance from usual": d for name, d in found.distances().items()}
    rows = {**found.figures, **{name: (d[:1], d[1:]) for name, d in distances.items()}}
    for (name, (seen, new)), p, corrected in zip(
        rows.items(), p_values.values(), adjusted.values(), strict=True
    ):
        low, high = np.quantile(new, [0.05, 0.95])
        table.add_row(
            name, f"{seen.mean():.3f}", f"{low:.3f} to {high:.3f}", f"{p:.3f}", f"{corrected:.2f}"
        )
    console.print(table)
    console.print(f"new sequences ({found.source}):")
    for tokens in found.examples[:PRINTED]:
        console.print(f"  {visible(corpus.decode(tokens))}")
    if plot is not None:
        save_plot(plot_check(found, corpus.symbols)[0].figure, plot)
        console.print(f"plot: {plot.resolve()}")
