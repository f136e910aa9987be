"""The command line. It alone knows models, inference and the theory together."""

import dataclasses
import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from probattn.errors import FitError, InputError

app = typer.Typer(
    name="probattn",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Causal self-attention as a probabilistic model: fit it by MAP and by full posterior sampling, and compare.",
)
console = Console(highlight=False, soft_wrap=True)


class Method(StrEnum):
    map = "map"
    posterior = "posterior"


class ModelName(StrEnum):
    language = "language"
    emission = "emission"


class Coordinates(StrEnum):
    embedding = "embedding"
    noise = "noise"


CorpusArgument = Annotated[str, typer.Argument(metavar="CORPUS", help='"cmudict" or the path of a text file.')]
RunArgument = Annotated[str, typer.Argument(metavar="DIR", help="A run directory made by `probattn fit`.")]
SeedOption = Annotated[int, typer.Option(help="Seed of every random number.")]

TRAIN_SIZE = 300
REFERENCE_SIZE = 50_000
DEMO_DRAWS = {False: (155, 155, 6), True: (30, 30, 5)}  # quick -> warmup, samples, tree depth
DEMO_FILES = {"map", "posterior", "report.html", "report.json"}
PLOT_FORMATS = (".png", ".svg", ".pdf")
MOST_PLOTTED = 8  # rows of a figure that still fit on a page
DEMO_STEPS = {False: 800, True: 200}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; bad input is one line and exit code 2, a failed fit one line and exit code 1."""
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
    _wake_devices(2)
    if out.exists() and not (out.is_dir() and {path.name for path in out.iterdir()} == DEMO_FILES):
        raise InputError(f"{out}: exists and is no earlier demo; choose another --out or remove it")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    except OSError as error:
        raise InputError(f"{out}: cannot be made ({error.strerror}); choose another --out") from error
    num_warmup, num_samples, depth = DEMO_DRAWS[quick]
    try:
        for method in Method:
            console.print(f"fitting by {method.value} ...")
            _fit_and_save(
                "cmudict", method, fresh / method.value, seed=seed, num_warmup=num_warmup, num_samples=num_samples,
                num_chains=2, num_steps=DEMO_STEPS[quick], max_tree_depth=depth,
            )  # fmt: skip
        console.print("comparing on held-out words ...")
        comparison = _compare_runs([fresh / method.value for method in Method], {"command": _command()})
        comparison.save_json(fresh / "report.json")
        comparison.save_html(fresh / "report.html")
        fresh.chmod(0o755)
        shutil.rmtree(out, ignore_errors=True)
        os.rename(fresh, out)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise
    _print_comparison(comparison)
    if quick:
        console.print("quick mode: too few draws to have converged; run without --quick for a result")
    console.print(f"report: {(out / 'report.html').resolve()}")


@app.command()
def fit(
    corpus: CorpusArgument,
    method: Annotated[Method, typer.Option(help="The mode, or draws from the whole posterior.")],
    out: Annotated[Path, typer.Option(help="Run directory to make.")],
    model: Annotated[ModelName, typer.Option(help="LanguageModel, or EmissionModel: tokens emitted by latent embeddings.")] = ModelName.language,
    dim: Annotated[int, typer.Option(help="Embedding dimension.")] = 4,
    heads: Annotated[int, typer.Option(help="Attention heads.")] = 1,
    rank: Annotated[int | None, typer.Option(help="Rank of query and key; default: dim.")] = None,
    length: Annotated[int | None, typer.Option(help="Longest sequence with its end token; default: 10 for cmudict, what the file needs.")] = None,
    train_size: Annotated[int | None, typer.Option(help=f"Training sequences; default: {TRAIN_SIZE}, or all if fewer.")] = None,
    barrier_weight: Annotated[float | None, typer.Option(help="Language model: weight of the embedding path's density, default 0.05; 0 is plain cross-entropy.")] = None,
    coordinates: Annotated[Coordinates | None, typer.Option(help="Emission model: what is sampled, default embedding. It moves the MAP, not the posterior.")] = None,
    num_particles: Annotated[int | None, typer.Option(help="Emission model: particles that score a sequence, default 200.")] = None,
    stream: Annotated[bool, typer.Option("--stream", help="Running text, cut into pieces of --length characters.")] = False,
    num_steps: Annotated[int, typer.Option(help="Optimiser steps of a MAP.")] = 1500,
    num_warmup: Annotated[int, typer.Option(help="Warmup iterations of a posterior, per chain.")] = 500,
    num_samples: Annotated[int, typer.Option(help="Draws of a posterior, per chain.")] = 500,
    num_chains: Annotated[int, typer.Option(help="Chains of a posterior.")] = 4,
    seed: SeedOption = 0,
) -> None:  # fmt: skip
    """Fit a model to a corpus and write a run directory.

    Example: `probattn fit cmudict --method posterior --out runs/posterior`
    """
    _wake_devices(num_chains if method is Method.posterior else 1)
    fitted = _fit_and_save(
        corpus, method, out, model, dim=dim, heads=heads, rank=rank, length=length, train_size=train_size,
        barrier_weight=barrier_weight, coordinates=coordinates, num_particles=num_particles, stream=stream, num_steps=num_steps, num_warmup=num_warmup, num_samples=num_samples, num_chains=num_chains, seed=seed,
    )  # fmt: skip
    console.print(f"{method.value} fit of {len(fitted.data)} sequences in {fitted.seconds:.0f} s: {out}")


@app.command()
def compare(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="DIR ...", help="Run directories on the same corpus; those of one kind of model, of one density."
        ),
    ],
    out: Annotated[Path, typer.Option(help="HTML page to write; the JSON goes beside it.")] = Path("report.html"),
    num_particles: Annotated[
        int | None, typer.Option(help="Emission models: particles that score a sequence, in place of the fit's own.")
    ] = None,
) -> None:
    """Compare fits on the held-out sequences: a table here, a page and JSON on disk.

    Example: `probattn compare runs/map runs/posterior --out report.html`
    """
    if out.is_dir():
        raise InputError(f"{out}: is a folder; give the name of the page to write, such as {out}/report.html")
    comparison = _compare_runs(runs, {"command": _command()}, num_particles)
    try:
        comparison.save_json(out.with_suffix(".json"))
        comparison.save_html(out)
    except OSError as error:
        raise InputError(f"{out}: cannot be written ({error.strerror}); choose another --out") from error
    _print_comparison(comparison)
    console.print(f"report: {out.resolve()}")


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

    if plot is not None and plot.suffix not in PLOT_FORMATS:
        raise InputError(f"{plot}: expected a name that ends in {', '.join(PLOT_FORMATS)}, got {plot.suffix!r}")
    fitted, corpus, _ = _load(run)
    keys = jax.random.split(jax.random.key(seed), number)
    draws = fitted.flat_draws()
    total = len(next(iter(draws.values())))
    chosen = np.random.default_rng(seed).integers(total, size=number)
    sample = jax.jit(jax.vmap(lambda params, key: fitted.model.generate(params, 1, key=key)))
    generation = sample({name: value[chosen] for name, value in draws.items()}, keys)
    generation = jax.tree.map(lambda array: np.asarray(array)[:, 0], generation)
    for row, tokens in enumerate(generation.tokens):
        if margins:
            console.print(_generation_table(corpus, jax.tree.map(lambda array, row=row: array[row], generation)))
        else:
            console.print(corpus.decode(tokens), markup=False)
    if plot is not None:
        from probattn.inference import plot_generation

        shown = jax.tree.map(lambda array: array[:MOST_PLOTTED], generation)
        try:
            plot_generation(shown, corpus.symbols).savefig(plot, dpi=150)
        except OSError as error:
            raise InputError(f"{plot}: cannot be written ({error.strerror}); choose another --plot") from error
        console.print(f"plot of {len(shown.tokens)} of {number} sequences: {plot.resolve()}", markup=False)


def _generation_table(corpus: Any, generation: Any) -> Table:
    """One generated sequence, a row for each token."""
    from rich.markup import escape

    from probattn.inference.compare import path_labels

    positions = int((generation.support >= 0).sum())
    labels = path_labels(generation.tokens, corpus.symbols, positions, generation.path_has_start)
    first = 0 if generation.path_has_start else 1  # so that the token at position n is n on the path too
    total = generation.log_prob[:positions].sum()
    table = Table(
        "position", "token", "log probability", "margin", "support token so far",
        title=f"{escape(corpus.decode(generation.tokens))}   (log probability {total:.3f} nats)",
    )  # fmt: skip
    for position in range(positions):
        support = generation.support[position]
        table.add_row(
            str(position + 1),
            escape(corpus.symbols[generation.tokens[position]]),
            f"{generation.log_prob[position]:.3f}",
            f"{generation.margin[position]:.3f}",
            f"{first + support} {escape(labels[support])}",
        )
    return table


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

    fitted, corpus, _ = _load(run)
    tokens = corpus.encode(text)
    values = over_draws(fitted.model.margins, fitted.flat_draws(), tokens[None])[:, 0]
    values = values[:, np.isfinite(values[0])]
    support = support_probability(values)
    table = Table("position", "symbol", "margin", title=f"{fitted.method}: {corpus.decode(tokens)}")
    if fitted.method == "posterior":
        table.add_column("5 % to 95 %")
    table.add_column("support token")
    start = fitted.model.path_has_start
    for position, symbol in enumerate(path_labels(tokens, corpus.symbols, values.shape[1], start)):
        column = values[:, position]
        cells = [str(position if start else position + 1), symbol, f"{column.mean():.3f}"]
        if fitted.method == "posterior":
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

    from probattn.inference.storage import versions

    for name, number in versions().items():
        console.print(f"{name} {number}")
    console.print(f"devices: {', '.join(str(device) for device in jax.devices())}; cores: {os.cpu_count()}")
    console.print(
        f"precision: {'float64' if jax.config.jax_enable_x64 else 'float32'} (set JAX_ENABLE_X64=1 for float64)"
    )


def _wake_devices(chains: int) -> None:
    """One host device a chain, as far as there are cores; JAX reads this when its backend first wakes."""
    import numpyro

    if chains > 1 and (os.cpu_count() or 1) >= chains:
        numpyro.set_host_device_count(chains)


def _fit_and_save(
    source: str, method: Method, out: Path, model_name: ModelName = ModelName.language, *, dim: int = 4, heads: int = 1,
    rank: int | None = None, length: int | None = None, train_size: int | None = None, barrier_weight: float | None = None,
    coordinates: Coordinates | None = None, num_particles: int | None = None, stream: bool = False, num_steps: int,
    num_warmup: int, num_samples: int, num_chains: int, max_tree_depth: int = 8, seed: int,
) -> Any:  # fmt: skip
    import jax

    from probattn.inference import fit_map, load_corpus, sample_posterior, save_run
    from probattn.inference.storage import refuse_existing

    refuse_existing(out)
    corpus = load_corpus(source, length=length, train_size=train_size, stream=stream)
    if train_size is None:
        corpus = dataclasses.replace(corpus, train=corpus.train[:TRAIN_SIZE])
    model = _model(
        model_name, len(corpus.symbols), corpus.length, dim=dim, heads=heads, rank=rank,
        barrier_weight=barrier_weight, coordinates=coordinates, num_particles=num_particles,
    )  # fmt: skip
    key = jax.random.key(seed)
    own = (
        {"num_steps": num_steps}
        if method is Method.map
        else {
            "num_chains": num_chains,
            "num_warmup": num_warmup,
            "num_samples": num_samples,
            "max_tree_depth": max_tree_depth,
        }
    )
    run: Any = fit_map if method is Method.map else sample_posterior
    fitted = run(model, corpus.train, key=key, **own)
    settings = {"seed": seed, "source": source, "command": _command()}
    save_run(out, fitted, corpus, settings | own)
    return fitted


def _model(name: ModelName, vocab_size: int, length: int, **options: Any) -> Any:
    """The model of that name; an option that it does not have is refused, one that is None is left at its default."""
    from probattn.models import EmissionModel, LanguageModel

    foreign = {
        ModelName.language: {"coordinates": "emission", "num_particles": "emission"},
        ModelName.emission: {"barrier_weight": "language"},
    }
    given = {option: value for option, value in options.items() if value is not None}
    for option, owner in foreign[name].items():
        if option in given:
            raise InputError(
                f"{option}: is an option of the {owner} model, not of --model {name.value}; leave "
                f"--{option.replace('_', '-')} out"
            )
    if "coordinates" in given:
        given["coordinates"] = str(given["coordinates"])
    return {ModelName.language: LanguageModel, ModelName.emission: EmissionModel}[name](vocab_size, length, **given)


def _load(run: Path | str) -> tuple[Any, Any, dict[str, Any]]:
    from probattn.inference import load_run
    from probattn.models import EmissionModel, LanguageModel

    return load_run(run, {"LanguageModel": LanguageModel, "EmissionModel": EmissionModel})


def _compare_runs(runs: Sequence[Path], about: dict[str, Any], num_particles: int | None = None) -> Any:
    from probattn.inference import compare, load_corpus

    loaded = {}
    for run in runs:
        if run.resolve() in {other.resolve() for other in runs if other is not run}:
            raise InputError(f"{run}: given twice; name each run directory once")
        name = run.name if run.name not in loaded else str(run)
        loaded[name] = _load(run)
    (first, (_, corpus, _)), *others = loaded.items()
    for name, (_, other, _) in others:
        if other.digest() != corpus.digest():
            raise InputError(f"{name} holds other data than {first}; compare fits of one corpus, length and train size")
    reference = None
    if corpus.name == "cmudict":
        larger = load_corpus("cmudict", length=corpus.length)
        if larger.symbols == corpus.symbols and (larger.heldout == corpus.heldout).all():
            reference = larger.train[:REFERENCE_SIZE]
    about = about | {
        "corpus": corpus.name,
        "data SHA-256": corpus.digest(),
        "seeds": {name: run_config["settings"]["seed"] for name, (_, _, run_config) in loaded.items()},
        "fitted by": {name: run_config["settings"]["command"] for name, (_, _, run_config) in loaded.items()},
    }
    fits = {name: fitted for name, (fitted, _, _) in loaded.items()}
    if num_particles is not None:
        if not any(fitted.estimated for fitted in fits.values()):
            raise InputError("num_particles: none of the runs is of an emission model; leave --num-particles out")
        fits = {
            name: dataclasses.replace(fitted, model=dataclasses.replace(fitted.model, num_particles=num_particles))
            if fitted.estimated
            else fitted
            for name, fitted in fits.items()
        }
    return compare(fits, corpus.heldout, symbols=corpus.symbols, reference_tokens=reference, about=about)


def _print_comparison(comparison: Any) -> None:
    from probattn.inference.report import verdicts

    table = Table("predictor", "density", "parameters", "nats per token", "standard error", title="held-out loss")
    for score in sorted(comparison.scores, key=lambda score: -score.log_prob_per_token):
        loss, error = f"{-score.log_prob_per_token:.4f}", f"{score.standard_error:.4f}"
        table.add_row(score.name, score.density, str(score.parameters or ""), loss, error)
    console.print(table)
    for sentence in verdicts(comparison):
        console.print(f"- {sentence}", markup=False)


def _command() -> str:
    return " ".join(["probattn", *sys.argv[1:]])
