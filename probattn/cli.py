"""The command line. It alone knows models, inference and the theory together."""

import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from probattn.cli_print import console, generation_table, print_comparison, print_diagnosis
from probattn.cli_runs import (
    TRAIN_SIZE,
    CalibratedMethod,
    CalibratedModel,
    Coordinates,
    Method,
    ModelName,
    Start,
    check_plot,
    command,
    compare_runs,
    fit_and_save,
    load,
    method_settings,
    resume_run,
    save_plot,
    small_model,
    wake_devices,
)
from probattn.errors import FitError, InputError

app = typer.Typer(
    name="probattn",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Causal self-attention as a probabilistic model: fit it by MAP and by full posterior sampling, and compare.",
)


CorpusArgument = Annotated[str, typer.Argument(metavar="CORPUS", help='"cmudict" or the path of a text file.')]
RunArgument = Annotated[str, typer.Argument(metavar="DIR", help="A run directory made by `probattn fit`.")]
StrictOption = Annotated[bool, typer.Option("--strict", help="Exit with code 3 if not converged.")]
SeedOption = Annotated[int, typer.Option(help="Seed of every random number.")]

DEMO_DRAWS = {False: (155, 155, 6), True: (30, 30, 5)}  # quick -> warmup, samples, tree depth
DEMO_FILES = {"map", "posterior", "report.html", "report.json"}
MOST_PLOTTED = 8  # rows of a figure that still fit on a page
DEMO_STEPS = {False: 3000, True: 200}
NOT_CONVERGED = 3


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; bad input is one line and exit code 2, a failed fit one line and exit code 1.

    Under --strict a fit that has not converged is exit code 3.
    """
    warnings.showwarning = _print_warning
    try:
        app(args=arguments, standalone_mode=True)
    except InputError as error:
        _stop(error, 2)
    except FitError as error:
        _stop(error, 1)


def _print_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    print(f"probattn: warning: {' '.join(str(message).split())}", file=sys.stderr)


def _stop(error: Exception, code: int) -> None:
    print(f"probattn: {' '.join(str(error).split())}", file=sys.stderr)
    raise SystemExit(code)


@app.command()
def demo(
    quick: Annotated[bool, typer.Option("--quick", help="A few draws only: seconds, and not converged.")] = False,
    out: Annotated[Path, typer.Option(help="Folder of the result; an earlier demo there is replaced.")] = Path(
        "runs/demo"
    ),
    seed: SeedOption = 0,
) -> None:
    """Fit 300 pronunciations by MAP and by posterior sampling, and compare them on 2,000 others.

    Example: `probattn demo`
    """
    wake_devices(2)
    if out.exists() and not (out.is_dir() and {path.name for path in out.iterdir()} == DEMO_FILES):
        raise InputError(f"{out}: exists and is no earlier demo; choose another --out or remove it")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    except OSError as error:
        raise InputError(f"{out}: cannot be made ({error.strerror}); choose another --out") from error
    num_warmup, num_samples, depth = DEMO_DRAWS[quick]
    try:
        chains = {"num_warmup": num_warmup, "num_samples": num_samples, "num_chains": 2, "max_tree_depth": depth}
        for method, settings in ((Method.map, {"num_steps": DEMO_STEPS[quick]}), (Method.posterior, chains)):
            console.print(f"fitting by {method.value} ...")
            data = {"length": None, "train_size": None, "stream": False}
            fit_and_save(
                "cmudict",
                method,
                fresh / method.value,
                model_options={"dim": 4},
                data=data,
                settings=settings,
                seed=seed,
            )
        console.print("comparing on held-out words ...")
        comparison = compare_runs([fresh / "map", fresh / "posterior"], {"command": command()})
        comparison.save_json(fresh / "report.json")
        comparison.save_html(fresh / "report.html")
        fresh.chmod(0o755)
        shutil.rmtree(out, ignore_errors=True)
        os.rename(fresh, out)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise
    print_comparison(comparison)
    if quick:
        console.print("quick mode: too few draws to have converged; run without --quick for a result")
    console.print(f"report: {(out / 'report.html').resolve()}")


@app.command()
def fit(
    corpus: CorpusArgument,
    method: Annotated[Method, typer.Option(help="The mode; a Gaussian around it; several modes; or draws from the whole posterior, by NUTS or by microcanonical Langevin dynamics (needs the extra blackjax).")],
    out: Annotated[Path, typer.Option(help="Run directory to make.")],
    model: Annotated[ModelName, typer.Option(help="LanguageModel, or EmissionModel: tokens emitted by latent embeddings.")] = ModelName.language,
    dim: Annotated[int, typer.Option(help="Embedding dimension.")] = 4,
    heads: Annotated[int, typer.Option(help="Attention heads.")] = 1,
    rank: Annotated[int | None, typer.Option(help="Rank of query and key; default: dim.")] = None,
    length: Annotated[int | None, typer.Option(help="Longest sequence with its end token; default: 10 for cmudict, what the file needs.")] = None,
    train_size: Annotated[int | None, typer.Option(help=f"Training sequences; default: {TRAIN_SIZE}, or all if fewer.")] = None,
    barrier_weight: Annotated[float | None, typer.Option(help="Language model: weight of the embedding path's density, default 0.05; 0 is plain cross-entropy.")] = None,
    contraction: Annotated[float | None, typer.Option(help="Cap inside (0, 1) under which the embeddings have a density everywhere; default: none for the language model, 0.9 for the emission model.")] = None,
    coordinates: Annotated[Coordinates | None, typer.Option(help="Emission model: what is sampled, default embedding. It moves the MAP, not the posterior.")] = None,
    num_particles: Annotated[int | None, typer.Option(help="Emission model: particles that score a sequence, default 200.")] = None,
    stream: Annotated[bool, typer.Option("--stream", help="Running text, cut into pieces of --length characters.")] = False,
    num_steps: Annotated[int | None, typer.Option(help="Most optimiser steps to a mode, default 4000; it stops at rest.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="MAP, ensemble: sequences in a minibatch; default: all.")] = None,
    num_members: Annotated[int | None, typer.Option(help="Modes of an ensemble, default 5.")] = None,
    num_warmup: Annotated[int | None, typer.Option(help="Warmup iterations, per chain, default 500.")] = None,
    num_samples: Annotated[int | None, typer.Option(help="Draws, per chain, default 500.")] = None,
    num_chains: Annotated[int | None, typer.Option(help="Chains, default 4.")] = None,
    max_tree_depth: Annotated[int | None, typer.Option(help="Posterior: at most 2^depth - 1 gradients a draw, default 8.")] = None,
    start: Annotated[Start | None, typer.Option(help="Posterior: where chains start: independently trained modes (default), one mode, the prior, or near the origin.")] = None,
    num_starts: Annotated[int | None, typer.Option(help="MAP, Laplace: descents, of which the best is taken, default 1. Posterior: points that the chains share, default one each.")] = None,
    strict: StrictOption = False,
    seed: SeedOption = 0,
) -> None:  # fmt: skip
    """Fit a model to a corpus and write a run directory. A posterior that is killed goes on with `probattn resume`.

    Example: `probattn fit cmudict --method posterior --out runs/posterior`
    """
    settings = method_settings(
        method,
        dict(
            num_steps=num_steps, batch_size=batch_size, num_members=num_members, num_warmup=num_warmup,
            num_samples=num_samples, num_chains=num_chains, max_tree_depth=max_tree_depth, start=start,
            num_starts=num_starts,
        ),
    )  # fmt: skip
    wake_devices((num_chains or 4) if method in (Method.posterior, Method.microcanonical) else 1)
    fitted = fit_and_save(
        corpus, method, out, model, seed=seed, settings=settings,
        data=dict(length=length, train_size=train_size, stream=stream),
        model_options=dict(
            dim=dim, heads=heads, rank=rank, barrier_weight=barrier_weight, contraction=contraction,
            coordinates=coordinates, num_particles=num_particles,
        ),
    )  # fmt: skip
    console.print(f"{method.value} fit of {len(fitted.data)} sequences in {fitted.seconds:.0f} s: {out}")
    _judge(fitted, out.name, strict, load(out)[1].heldout)


@app.command()
def resume(
    run: RunArgument,
    num_samples: Annotated[
        int | None, typer.Option(help="Draws per chain in total, if more than it was begun with.")
    ] = None,
    strict: StrictOption = False,
) -> None:
    """Go on with a posterior fit that was killed, bit for bit, or draw more from one that is finished.

    Example: `probattn resume runs/posterior`
    """
    from probattn.inference.storage import num_devices_of

    wake_devices(num_devices_of(run))
    fitted = resume_run(Path(run), num_samples)
    console.print(f"posterior of {len(fitted.data)} sequences, {fitted.shape[1]} draws a chain: {run}")
    _judge(fitted, Path(run).name, strict, load(run)[1].heldout)


@app.command()
def diagnose(run: RunArgument, strict: StrictOption = False) -> None:
    """Has a fit converged, in what is identified and in its predictions? Unfinished posteriors too.

    Example: `probattn diagnose runs/posterior --strict`
    """
    import numpy as np

    from probattn.inference.diagnose import LEAST_FOR_LOO

    fitted, corpus, _ = load(run)
    _judge(fitted, Path(run).name, strict, corpus.heldout)
    if fitted.sampled and not fitted.estimated and np.prod(fitted.shape) >= LEAST_FOR_LOO:
        from probattn.inference import leave_one_out

        found = leave_one_out(fitted)
        per = f"{found.log_prob:.1f} ± {found.standard_error:.1f} nats"
        console.print(
            f"leave-one-out log probability of the {len(fitted.data)} training sequences: {per}. {found.verdict}"
        )


def _judge(fitted: Any, name: str, strict: bool, heldout: Any = None) -> None:
    """Print a fit's verdict; under --strict it is the exit code."""
    from probattn.inference import diagnose

    if fitted.sampled:
        diagnosis = diagnose(fitted, heldout, name=name)
        print_diagnosis(diagnosis)
        verdict = diagnosis.verdict
    else:
        verdict = fitted.verdict
        where = f" ({fitted.coordinates} coordinates)" if fitted.coordinates else ""
        console.print(f"{fitted.method}{where}: {verdict}", markup=False)
    if strict and not verdict.converged:
        raise SystemExit(NOT_CONVERGED)


@app.command()
def compare(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="DIR ...", help="Run directories on the same corpus, of one density."),
    ],
    out: Annotated[Path, typer.Option(help="HTML page to write; the JSON goes beside it.")] = Path("report.html"),
    num_particles: Annotated[
        int | None, typer.Option(help="Emission models: particles that score a sequence, in place of the fit's own.")
    ] = None,
    mix_densities: Annotated[
        bool,
        typer.Option("--mix-densities", help="Compare fits of different densities all the same; the report says so."),
    ] = False,
    strict: StrictOption = False,
) -> None:
    """Compare fits on the held-out sequences: a table here, a page and JSON on disk.

    Example: `probattn compare runs/map runs/posterior --out report.html`
    """
    if out.is_dir():
        raise InputError(f"{out}: is a folder; give the name of the page to write, such as {out}/report.html")
    comparison = compare_runs(runs, {"command": command()}, num_particles, mix_densities)
    try:
        comparison.save_json(out.with_suffix(".json"))
        comparison.save_html(out)
    except OSError as error:
        raise InputError(f"{out}: cannot be written ({error.strerror}); choose another --out") from error
    print_comparison(comparison)
    console.print(f"report: {out.resolve()}")
    verdicts = [*(found.verdict for found in comparison.diagnostics), *comparison.modes.values()]
    if strict and not all(verdict.converged for verdict in verdicts):
        raise SystemExit(NOT_CONVERGED)


@app.command()
def calibrate(
    model: Annotated[CalibratedModel, typer.Argument(metavar="MODEL", help="latent, language (without barrier) or emission; small, so that it takes a minute or two.")],
    method: Annotated[CalibratedMethod, typer.Option(help="NUTS is to pass; Laplace's approximation and a MAP are shown for what they are.")] = CalibratedMethod.nuts,
    out: Annotated[Path, typer.Option(help="Figure of the ranks: .png, .svg or .pdf.")] = Path("calibration.png"),
    num_simulations: Annotated[int, typer.Option(help="Data sets drawn from the model, at least 10.")] = 100,
    dim: Annotated[int | None, typer.Option(help="Embedding dimension; default: 2, of the emission model 1.")] = None,
    length: Annotated[int | None, typer.Option(help="Of the sequences; default: 8 for latent, else 4.")] = None,
    barrier_weight: Annotated[float, typer.Option(help="Language model: above 0 its joint density is not the law that generates, and ranks show it.")] = 0.0,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with code 3 if ranks leave their bands.")] = False,
    seed: SeedOption = 0,
) -> None:  # fmt: skip
    """Simulation-based calibration: do the draws of a method come from the posterior of the model that made the data?

    Example: `probattn calibrate latent --method laplace --out laplace.png`
    """
    import jax

    from probattn.inference import plot_calibration, simulation_based_calibration

    check_plot(out)
    found = simulation_based_calibration(
        small_model(model, dim, length, barrier_weight), key=jax.random.key(seed), method=method.value,
        num_simulations=num_simulations, num_draws=49, thinning=3, num_warmup=200,
    )  # fmt: skip
    save_plot(plot_calibration(found), out)
    outside = found.outside()
    names = ", ".join(outside) if outside else "none"
    console.print(f"{len(outside)} of {len(found.ranks)} quantities leave their bands: {names}", markup=False)
    console.print(f"plot: {out.resolve()}", markup=False)
    if strict and outside:
        raise SystemExit(NOT_CONVERGED)


@app.command()
def generate(
    run: RunArgument,
    number: Annotated[int, typer.Option("-n", "--number", min=1, help="How many sequences.")] = 10,
    margins: Annotated[
        bool, typer.Option("--margins", help="A table for each: log probability, margin and support token.")
    ] = False,
    plot: Annotated[Path | None, typer.Option(help="Draw margins and log probabilities to this .png, .svg or .pdf.")] = None,
    seed: SeedOption = 0,
) -> None:  # fmt: skip
    """Sample sequences; those of a posterior come from a new draw each, as its mixture says.

    Example: `probattn generate runs/posterior -n 3 --margins --plot words.png`
    """
    import jax
    import numpy as np

    if plot is not None:
        check_plot(plot)
    fitted, corpus, _ = load(run)
    keys = jax.random.split(jax.random.key(seed), number)
    draws = fitted.flat_draws()
    total = len(next(iter(draws.values())))
    chosen = np.random.default_rng(seed).integers(total, size=number)
    sample = jax.jit(jax.vmap(lambda params, key: fitted.model.generate(params, 1, key=key)))
    generation = sample({name: value[chosen] for name, value in draws.items()}, keys)
    generation = jax.tree.map(lambda array: np.asarray(array)[:, 0], generation)
    for row, tokens in enumerate(generation.tokens):
        if margins:
            console.print(generation_table(corpus, jax.tree.map(lambda array, row=row: array[row], generation)))
        else:
            console.print(corpus.decode(tokens), markup=False)
    if plot is not None:
        from probattn.inference import plot_generation

        shown = jax.tree.map(lambda array: array[:MOST_PLOTTED], generation)
        save_plot(plot_generation(shown, corpus.symbols), plot)
        console.print(f"plot of {len(shown.tokens)} of {number} sequences: {plot.resolve()}", markup=False)


@app.command()
def margins(
    run: RunArgument,
    text: Annotated[
        str, typer.Argument(help='A sequence, such as "K AE T" (or a word of the dictionary) for cmudict.')
    ],
) -> None:
    """Stability margin of each position of a text, and which one is its support token.

    Example: `probattn margins runs/posterior "K AE T"`
    """
    import numpy as np

    from probattn.inference.compare import path_labels, support_probability
    from probattn.inference.fit import over_draws

    fitted, corpus, _ = load(run)
    tokens = corpus.encode(text)
    values = over_draws(fitted.model.margins, fitted.flat_draws(), tokens[None])[:, 0]
    values = values[:, np.isfinite(values[0])]
    support = support_probability(values)
    table = Table("position", "symbol", "margin", title=f"{fitted.method}: {corpus.decode(tokens)}")
    if fitted.method != "map":
        table.add_column("5 % to 95 %")
    table.add_column("support token")
    start = fitted.model.path_has_start
    for position, symbol in enumerate(path_labels(tokens, corpus.symbols, values.shape[1], start)):
        column = values[:, position]
        cells = [str(position if start else position + 1), symbol, f"{column.mean():.3f}"]
        if fitted.method != "map":
            low, high = np.quantile(column, [0.05, 0.95])
            cells += [f"{low:.3f} to {high:.3f}", f"with probability {support[position]:.2f}"]
        else:
            cells += ["yes" if support[position] else ""]
        table.add_row(*cells)
    console.print(table)


@app.command()
def env() -> None:
    """Print versions, devices and precision, for a report of a problem.

    Example: `probattn env`
    """
    import jax

    from probattn.inference.environment import versions

    for name, number in versions().items():
        console.print(f"{name} {number}")
    console.print(f"devices: {', '.join(str(device) for device in jax.devices())}; cores: {os.cpu_count()}")
    console.print(
        f"precision: {'float64' if jax.config.jax_enable_x64 else 'float32'} (set JAX_ENABLE_X64=1 for float64)"
    )
