"""The commands that fit: demo, fit, resume."""

import os
import shutil
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from probattn.cli.models import Barrier, Coordinates, ModelName
from probattn.cli.printing import console, print_comparison
from probattn.cli.runs import (
    TRAIN_SIZE,
    Method,
    Sampler,
    Start,
    command,
    compare_runs,
    fit_and_save,
    method_settings,
    resume_run,
    set_host_devices,
)
from probattn.cli.shared import (
    ClusterOption,
    CorpusArgument,
    DimOption,
    FormatOption,
    HeadsOption,
    KeepSpaceOption,
    RankOption,
    RunArgument,
    SeedOption,
    StreamOption,
    StrictOption,
    judge,
)
from probattn.errors import InputError

DEMO_DRAWS = {False: (220, 460, 8), True: (30, 30, 5)}  # quick: warmup, draws, tree depth
DEMO_FILES = {"map", "posterior", "report.html", "report.json"}
QUICK_STEPS = 200  # of the quick demo's MAP, which need not be a mode


def demo(
    quick: Annotated[
        bool, typer.Option("--quick", help="Take only a few draws: two minutes, not converged.")
    ] = False,
    out: Annotated[
        Path, typer.Option(help="Folder of the result; an earlier demo there is replaced.")
    ] = Path("runs/demo"),
    seed: SeedOption = 0,
) -> None:
    """Fit 300 pronunciations by MAP and by posterior sampling, and compare them on 2,000 others.

    Example: `probattn demo`
    """
    set_host_devices(2)
    if out.exists() and not (out.is_dir() and {path.name for path in out.iterdir()} == DEMO_FILES):
        raise InputError(f"{out}: exists and is no earlier demo; choose another --out or remove it")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    except OSError as error:
        raise InputError(
            f"{out}: cannot be made ({error.strerror}); choose another --out"
        ) from error
    num_warmup, num_samples, depth = DEMO_DRAWS[quick]
    try:
        chains = {
            "num_warmup": num_warmup,
            "num_samples": num_samples,
            "num_chains": 4,
            "max_tree_depth": depth,
        }
        descents = {"num_steps": QUICK_STEPS} if quick else {}
        for method, settings in ((Method.map, descents), (Method.posterior, chains)):
            console.print(f"fitting by {method.value} ...")
            data: dict[str, Any] = {"length": None, "train_size": None}
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
        console.print(
            "quick mode: too few draws to have converged; run without --quick for a result"
        )
    console.print(f"report: {(out / 'report.html').resolve()}")


def fit(
    corpus: CorpusArgument,
    method: Annotated[
        Method,
        typer.Option(
            help=(
                "One mode; a Gaussian around it; several modes; or draws from the posterior, by "
                "Hamiltonian Monte Carlo or by microcanonical Langevin dynamics (needs the extra "
                "blackjax)."
            )
        ),
    ],
    out: Annotated[Path, typer.Option(help="Run directory to create.")],
    model: Annotated[
        ModelName,
        typer.Option(help="LanguageModel, or EmissionModel: tokens emitted by latent embeddings."),
    ] = ModelName.language,
    dim: DimOption = 4,
    heads: HeadsOption = 1,
    rank: RankOption = None,
    length: Annotated[
        int | None,
        typer.Option(
            help=(
                "Longest sequence with its end token; default: 10 for cmudict, else what the file "
                "needs."
            )
        ),
    ] = None,
    train_size: Annotated[
        int | None,
        typer.Option(help=f"Training sequences; default: {TRAIN_SIZE}, or all if fewer."),
    ] = None,
    barrier_weight: Annotated[
        float | None,
        typer.Option(
            help=(
                "Language model: weight of the embedding path's density, default 0.05; 0 is plain "
                "cross-entropy."
            )
        ),
    ] = None,
    barrier: Annotated[
        Barrier | None,
        typer.Option(
            help=(
                "Language model: that density as a factor beside the law of tokens (default; the "
                "posterior is then a generalised one), or normalised, as a part of that law."
            )
        ),
    ] = None,
    contraction: Annotated[
        float | None,
        typer.Option(
            help=(
                "Cap inside (0, 1) under which the embeddings have a density everywhere; default: "
                "none for the language model, 0.9 for the emission model."
            )
        ),
    ] = None,
    coordinates: Annotated[
        Coordinates | None,
        typer.Option(
            help=(
                "Emission model: coordinates of the latent embeddings, default embedding. They "
                "move the MAP, not the posterior."
            )
        ),
    ] = None,
    num_particles: Annotated[
        int | None,
        typer.Option(help="Emission model: particles that score a sequence, default 200."),
    ] = None,
    stream: StreamOption = False,
    format: FormatOption = "lines",
    keep_space: KeepSpaceOption = False,
    num_steps: Annotated[
        int | None,
        typer.Option(
            help=(
                "MAP, Laplace, ensemble: most optimiser steps to a mode, default 8000; it stops "
                "early at rest."
            )
        ),
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="MAP, ensemble: sequences in a minibatch; default: all.")
    ] = None,
    num_members: Annotated[
        int | None, typer.Option(help="Modes of an ensemble, default 5.")
    ] = None,
    num_warmup: Annotated[
        int | None,
        typer.Option(help="Warmup iterations, per chain, default 300 (microcanonical 5000)."),
    ] = None,
    num_samples: Annotated[int | None, typer.Option(help="Draws, per chain, default 500.")] = None,
    num_chains: Annotated[int | None, typer.Option(help="Chains, default 4.")] = None,
    sampler: Annotated[
        Sampler | None,
        typer.Option(
            help=(
                "Posterior: Hamiltonian Monte Carlo with trajectories of random length (default), "
                "or the No-U-Turn sampler."
            )
        ),
    ] = None,
    max_tree_depth: Annotated[
        int | None, typer.Option(help="Posterior: at most 2^depth - 1 gradients a draw, default 8.")
    ] = None,
    start: Annotated[
        Start | None,
        typer.Option(
            help=(
                "Posterior: where chains start: on the way to independently trained modes "
                "(default) or to one, at draws from the prior, or near the origin."
            )
        ),
    ] = None,
    num_starts: Annotated[
        int | None,
        typer.Option(
            help=(
                "MAP, Laplace: descents, of which the best is taken, default 4. Posterior: start "
                "points that the chains share, default one for each chain."
            )
        ),
    ] = None,
    devices: Annotated[
        int | None,
        typer.Option(
            help=(
                "Devices to use: chains come first, the others split the sequences. Default: one "
                "for each chain if there are enough; in a cluster, all."
            )
        ),
    ] = None,
    cluster: ClusterOption = False,
    strict: StrictOption = False,
    seed: SeedOption = 0,
) -> None:
    """Fit a model to a corpus and write a run directory.

    A posterior fit that was killed can be resumed with `probattn resume`.

    Example: `probattn fit cmudict --method posterior --out runs/posterior`
    """
    settings = method_settings(
        method,
        dict(
            num_steps=num_steps,
            batch_size=batch_size,
            num_members=num_members,
            num_warmup=num_warmup,
            num_samples=num_samples,
            num_chains=num_chains,
            sampler=sampler,
            max_tree_depth=max_tree_depth,
            start=start,
            num_starts=num_starts,
            devices=devices,
        ),
    )
    from probattn.inference.devices.multihost import join, on_first

    join(cluster)
    set_host_devices(
        (num_chains or 4) if method in (Method.posterior, Method.microcanonical) else 1, devices
    )
    fitted = fit_and_save(
        corpus,
        method,
        out,
        model,
        seed=seed,
        settings=settings,
        data=dict(
            length=length,
            train_size=train_size,
            stream=stream,
            format=format,
            keep_space=keep_space,
        ),
        model_options=dict(
            dim=dim,
            heads=heads,
            rank=rank,
            barrier_weight=barrier_weight,
            barrier=barrier,
            contraction=contraction,
            coordinates=coordinates,
            num_particles=num_particles,
        ),
    )

    def report() -> None:
        from probattn.inference import load_run

        heldout = load_run(out)[1].heldout
        sizes = f"{len(fitted.data)} sequences ({len(heldout)} held out)"
        console.print(f"{method.value} fit of {sizes} in {fitted.seconds:.0f} s: {out}")
        judge(fitted, out.name, strict, heldout)

    on_first(report)


def resume(
    run: RunArgument,
    num_samples: Annotated[
        int | None, typer.Option(help="Total draws per chain, if more than first asked for.")
    ] = None,
    cluster: ClusterOption = False,
    strict: StrictOption = False,
) -> None:
    """Resume a posterior fit that was killed, bit for bit, or draw more from a finished one.

    Example: `probattn resume runs/posterior`
    """
    from probattn.inference import load_run
    from probattn.inference.devices.multihost import join, on_first
    from probattn.inference.fitting.run_directory import num_devices_of

    join(cluster)
    set_host_devices(1, num_devices_of(run))
    fitted = resume_run(Path(run), num_samples)

    def report() -> None:
        console.print(
            f"posterior of {len(fitted.data)} sequences, {fitted.shape[1]} draws a chain: {run}"
        )
        judge(fitted, Path(run).name, strict, load_run(run)[1].heldout)

    on_first(report)
