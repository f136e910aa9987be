"""The commands that read a fit (diagnose, generate, margins), and calibrate and env."""

import os
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from probattn.cli.models import Barrier, CalibratedModel, small_model
from probattn.cli.plots import check_plot, save_plot
from probattn.cli.printing import (
    candidate_table,
    console,
    generation_table,
    margin_text,
    visible,
)
from probattn.cli.runs import CalibratedMethod
from probattn.cli.shared import NOT_CONVERGED, RunArgument, SeedOption, StrictOption, judge
from probattn.visible_text import visible_symbol

MOST_PLOTTED = 8  # rows of a figure that still fit on a page


def diagnose(run: RunArgument, strict: StrictOption = False) -> None:
    """Diagnose whether a fit has converged, in identified quantities and in its predictions.

    A posterior can be diagnosed before it is finished.

    Example: `probattn diagnose runs/posterior --strict`
    """
    import numpy as np

    from probattn.inference import load_run
    from probattn.inference.evaluation.cross_validation import LEAST_FOR_LOO

    fitted, corpus, _ = load_run(run)
    judge(fitted, Path(run).name, strict, corpus.heldout)
    if fitted.sampled and not fitted.estimated and np.prod(fitted.shape) >= LEAST_FOR_LOO:
        from probattn.inference import leave_one_out

        found = leave_one_out(fitted)
        per = f"{found.log_prob:.1f} ± {found.standard_error:.1f} nats"
        console.print(
            f"leave-one-out log probability of the {len(fitted.data)} training sequences: "
            f"{per}. {found.verdict}"
        )


def calibrate(
    model: Annotated[
        CalibratedModel,
        typer.Argument(
            metavar="MODEL",
            help=(
                "latent, language (without barrier) or emission; small, so that it takes a minute "
                "or two."
            ),
        ),
    ],
    method: Annotated[
        CalibratedMethod,
        typer.Option(
            help="NUTS should pass; how far Laplace's approximation and a MAP fall short is shown."
        ),
    ] = CalibratedMethod.nuts,
    out: Annotated[Path, typer.Option(help="Figure of the ranks: .png, .svg or .pdf.")] = Path(
        "calibration.png"
    ),
    num_simulations: Annotated[
        int, typer.Option(help="Data sets drawn from the model, at least 10.")
    ] = 100,
    dim: Annotated[
        int | None, typer.Option(help="Embedding dimension; default: 2, of the emission model 1.")
    ] = None,
    length: Annotated[
        int | None, typer.Option(help="Length of the sequences; default: 8 for latent, else 4.")
    ] = None,
    barrier_weight: Annotated[
        float,
        typer.Option(
            help=(
                "Language model: above 0 and as a factor, its joint density is not the law that "
                "generates the data, and the ranks show it."
            )
        ),
    ] = 0.0,
    barrier: Annotated[
        Barrier, typer.Option(help="Language model: with a weight, normalised is calibrated.")
    ] = Barrier.factor,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with code 3 if ranks leave their bands.")
    ] = False,
    seed: SeedOption = 0,
) -> None:
    """Check by simulation-based calibration whether a method draws from the posterior.

    The data are drawn from the model itself, with parameters from its prior.

    Example: `probattn calibrate latent --method laplace --out laplace.png`
    """
    import jax

    from probattn.inference import plot_ranks, simulation_based_calibration

    check_plot(out)
    found = simulation_based_calibration(
        small_model(model, dim, length, barrier_weight, barrier.value),
        key=jax.random.key(seed),
        method=method.value,
        num_simulations=num_simulations,
        num_samples=49,
        thinning=3,
        num_warmup=200,
    )
    save_plot(plot_ranks(found)[0].figure, out)
    outside = found.outside()
    names = ", ".join(outside) if outside else "none"
    if found.note:
        console.print(found.note)
    console.print(f"{len(outside)} of {len(found.ranks)} quantities leave their bands: {names}")
    console.print(f"plot: {out.resolve()}")
    if strict and outside:
        raise SystemExit(NOT_CONVERGED)


def generate(
    run: RunArgument,
    number: Annotated[int, typer.Option("-n", "--number", help="How many sequences.")] = 10,
    margins: Annotated[
        bool,
        typer.Option(
            "--margins",
            help="A table for each: log probability, margin before the token and support token.",
        ),
    ] = False,
    plot: Annotated[
        Path | None,
        typer.Option(help="Draw margins and log probabilities to this .png, .svg or .pdf."),
    ] = None,
    candidates: Annotated[
        int | None,
        typer.Option(
            help=(
                "A table for each: at every step the most probable tokens, this many, with the "
                "margin that each would have, and how many would leave the local domain."
            )
        ),
    ] = None,
    candidate_plot: Annotated[
        Path | None,
        typer.Option(help="Draw all candidates of the first sequence to this .png, .svg or .pdf."),
    ] = None,
    temperature: Annotated[float, typer.Option(help="Below 1 sharpens, above 1 flattens.")] = 1.0,
    top_k: Annotated[
        int | None, typer.Option(help="Draw from this many of the most probable tokens.")
    ] = None,
    nucleus: Annotated[
        float, typer.Option(help="Draw from the most probable tokens with this probability.")
    ] = 1.0,
    seed: SeedOption = 0,
) -> None:
    """Sample sequences from a fit.

    With a posterior, each sequence comes from a random draw, so that they follow the mixture; a
    decoding rule acts on the law of each draw.

    Example: `probattn generate runs/posterior -n 3 --margins --plot words.png`
    """
    import jax
    import numpy as np

    from probattn import Decoding
    from probattn.checks import as_integer
    from probattn.inference import load_run
    from probattn.inference.contract import CandidateModel, GenerativeModel, require

    as_integer("number", number)
    if candidates is not None:
        as_integer("candidates", candidates)
    rule = Decoding(temperature, top_k, nucleus)
    for path in (plot, candidate_plot):
        if path is not None:
            check_plot(path)
    fitted, corpus, _ = load_run(run)
    keys = jax.random.split(jax.random.key(seed), number)
    draws = fitted.flat_draws()
    total = len(next(iter(draws.values())))
    chosen = np.random.default_rng(seed).integers(total, size=number)
    model = require("generate", fitted.model, GenerativeModel)
    settings: dict[str, Any] = {}
    if rule != Decoding():
        model = require("generate by a decoding rule", model, CandidateModel)
        settings["decoding"] = rule
    params = {name: value[chosen] for name, value in draws.items()}
    sample = jax.jit(jax.vmap(lambda params, key: model.generate(params, 1, key=key, **settings)))
    generation = jax.tree.map(lambda array: np.asarray(array)[:, 0], sample(params, keys))
    each: Any = None
    if candidates is not None or candidate_plot is not None:
        knows = require("generate --candidates", model, CandidateModel)
        shown = slice(None) if candidates is not None else slice(1)
        given = jax.tree.map(lambda value: value[shown], params)
        each = jax.jit(jax.vmap(knows.candidates))(given, generation.tokens[shown])
        each = jax.tree.map(np.asarray, each)
    for row, tokens in enumerate(generation.tokens):
        one = jax.tree.map(lambda array, row=row: array[row], generation)
        if margins:
            console.print(generation_table(corpus, one))
        if candidates is not None:
            every = jax.tree.map(lambda array, row=row: array[row], each)
            console.print(candidate_table(corpus, one, every, candidates))
        if not margins and candidates is None:
            console.print(visible(corpus.decode(tokens)))
    if candidate_plot is not None:
        from probattn.inference import plot_candidates

        first = jax.tree.map(lambda array: array[0], each)
        drawn = plot_candidates(first, generation.tokens[0], corpus.symbols)
        save_plot(drawn.figure, candidate_plot)
        console.print(f"candidates of the first sequence: {candidate_plot.resolve()}")
    if plot is not None:
        from probattn.inference import plot_generation

        shown = jax.tree.map(lambda array: array[:MOST_PLOTTED], generation)
        save_plot(plot_generation(shown, corpus.symbols)[0, 0].figure, plot)
        console.print(f"plot of {len(shown.tokens)} of {number} sequences: {plot.resolve()}")


def margins(
    run: RunArgument,
    text: Annotated[
        str,
        typer.Argument(
            metavar="TEXT",
            help='A sequence, such as "K AE T" (or a word of the dictionary) for cmudict.',
        ),
    ],
) -> None:
    """Print the stability margin of each position of a text, and which one is the support token.

    Example: `probattn margins runs/posterior "K AE T"`
    """
    import numpy as np

    from probattn.inference import load_run
    from probattn.inference.contract import TokenModel, require
    from probattn.inference.evaluation.support import (
        ALWAYS_ONE,
        margins_of,
        path_labels,
        support_probability,
    )

    fitted, corpus, _ = load_run(run)
    tokens = corpus.encode(text)
    values, log_dets = (
        margins_of(fitted, tokens[None], most_draws=None, kind=kind)[:, 0]
        for kind in ("sigma_min", "log_det")
    )
    counted = np.isfinite(values[0])
    values, log_dets = values[:, counted], log_dets[:, counted]
    support = support_probability(values)
    title = f"{fitted.method}: {visible(corpus.decode(tokens))}"
    table = Table("position", "symbol", "margin", title=title)
    is_map = fitted.method == "map"
    if not is_map:
        table.add_column("5 % to 95 %")
    table.add_column("support token" if is_map else "support token, probability")
    table.add_column("log det")
    table.add_column("by log det")
    # At the first two positions det J_t = 1 whatever the parameters.
    by_log_det = np.zeros(values.shape[1])
    if len(by_log_det) > ALWAYS_ONE:
        by_log_det[ALWAYS_ONE:] = support_probability(log_dets[:, ALWAYS_ONE:])
    start = require("margins", fitted.model, TokenModel).path_has_start
    for position, symbol in enumerate(path_labels(tokens, corpus.symbols, values.shape[1], start)):
        column = values[:, position]
        cells = [
            str(position if start else position + 1),
            visible_symbol(symbol),
            margin_text(column.mean()),
        ]
        if not is_map:
            low, high = np.quantile(column, [0.05, 0.95])
            cells.append(f"{margin_text(low)} to {margin_text(high)}")
        first, second = (
            ("yes" if share[position] else "") if is_map else f"{share[position]:.2f}"
            for share in (support, by_log_det)
        )
        table.add_row(*cells, first, f"{log_dets[:, position].mean():.3f}", second)
    console.print(table)
    console.print(
        "The margin sigma_min(J_t) depends on the coordinates of the embeddings, log det J_t does "
        "not; it ranks from the third position on, since J_t = I before."
    )


def env() -> None:
    """Print versions, devices, precision and the compilation cache, for a problem report.

    Example: `probattn env`
    """
    import jax

    from probattn.inference.devices.environment import precision, versions

    for name, number in versions().items():
        console.print(f"{name} {number}")
    console.print(
        f"devices: {', '.join(str(device) for device in jax.devices())}; cores: {os.cpu_count()}"
    )
    kept = jax.config.jax_compilation_cache_dir if jax.config.jax_enable_compilation_cache else None
    console.print(f"compiled programs: {kept or 'not kept'}")
    console.print(f"precision: {precision()} (set JAX_ENABLE_X64=1 for float64)")
