"""The command `study robustness`: transformers with barriers or other regularisation, under stress.

The study is resumable: each part of its result is a file that is kept once it is written.
"""

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from probattn.cli.printing import SAME_COMMAND, console, resumption_hint
from probattn.cli.shared import SeedOption
from probattn.cli.study_folder import open_study
from probattn.errors import FitError, InputError

if TYPE_CHECKING:
    from probattn.inference.study.robustness_arms import Arm

ROBUSTNESS_STUDY_FORMAT = 1  # of study.json and of each arm's file
SHORTEST = 8  # least length of a sequence, which leaves room for the typos
MOST_HELDOUT = 256  # held-out sequences that are put under stress
WORTH_A_PROJECTION = 500  # least number of steps for which the cost of training is projected
PROBES = (50, 50, 200)  # steps of the trainings that are timed for that; the first compiles
# Sizes of the small LanguageModel that is sampled, and of its run.
POSTERIOR_SETTINGS = {
    "length": 12,
    "train_size": 150,
    "dim": 2,
    "num_warmup": 300,
    "num_samples": 500,
}
QUICK_POSTERIOR = {"length": 8, "train_size": 50, "dim": 2, "num_warmup": 50, "num_samples": 50}
QUICK = {"dim": 16, "length": 32, "num_steps": 150, "num_seeds": 2}


@dataclasses.dataclass(frozen=True)
class Plan:
    """What all arms share.

    Args:
        folder: of the study.
        corpus: the corpus that was read.
        settings: fields of the TransformerLM.
        training: number of steps and batch size.
        seeds: of each arm.
    """

    folder: Path
    corpus: Any
    settings: dict[str, Any]
    training: dict[str, Any]
    seeds: tuple[int, ...]

    def to_json(self) -> dict[str, Any]:
        """What must be the same for a study to be resumed, as a JSON object."""
        from probattn.inference.devices.environment import precision

        about = {
            "format": ROBUSTNESS_STUDY_FORMAT,
            "study": "robustness",
            "corpus": self.corpus.name,
            "length": self.corpus.length,
            "data SHA-256": self.corpus.digest(),
        }
        if said := self.corpus.what_is_left_out():
            about["left out"] = said
        return (
            about
            | self.settings
            | self.training
            | {"seeds": list(self.seeds), "precision": precision()}
        )

    def model(self, arm: "Arm") -> Any:
        """The model of an arm."""
        from probattn.models import TransformerLM

        return TransformerLM(
            len(self.corpus.symbols), self.corpus.length, **self.settings, **arm.settings
        )

    def file(self, arm: "Arm") -> Path:
        """The path of the file with an arm's result."""
        return self.folder / "arms" / f"{arm.name}.json"


def robustness(
    corpus: Annotated[
        str, typer.Argument(metavar="CORPUS", help="Path of a text file, read as running text.")
    ],
    out: Annotated[
        Path,
        typer.Option(
            help=(
                "Folder of the study: arms/*.json, report.html, report.json. A study that was "
                "killed is resumed."
            )
        ),
    ],
    dim: Annotated[int, typer.Option(help="Width of the transformer.")] = 32,
    layers: Annotated[int, typer.Option(help="Layers.")] = 2,
    heads: Annotated[int, typer.Option(help="Heads of each layer.")] = 4,
    length: Annotated[int, typer.Option(help="Characters in a sequence.")] = 64,
    num_steps: Annotated[int, typer.Option(help="Steps of training.")] = 2000,
    batch_size: Annotated[int, typer.Option(help="Sequences in a minibatch.")] = 32,
    num_seeds: Annotated[int, typer.Option(help="Seeds of each arm, trained vectorised.")] = 5,
    seed: SeedOption = 0,
    quick: Annotated[
        bool,
        typer.Option(
            "--quick",
            help=(
                "A few arms of a tiny model, with its own width, length, steps and seeds: some 3 "
                "minutes on 2 cores."
            ),
        ),
    ] = False,
) -> None:
    """Train transformers with and without the barrier, and measure their loss under stress.

    The study shows whether the barrier makes them robust. It has several arms; an arm is one way to
    train, with all its seeds. The result of each arm is kept, and the same command resumes a study
    that was killed.

    Example: `probattn study robustness corpus.txt --out runs/robustness --quick`
    """
    from probattn.checks import as_integer

    chosen = {
        "dim": dim,
        "layers": layers,
        "heads": heads,
        "length": length,
        "num_steps": num_steps,
    }
    chosen |= {"batch_size": batch_size, "num_seeds": num_seeds}
    for name, value in (chosen | {"seed": seed}).items():
        as_integer(name, value, {"length": SHORTEST, "seed": 0}.get(name, 1))
    chosen |= QUICK if quick else {}
    plan = _plan(corpus, out, chosen, seed)
    # Imported only here, so that --help loads no JAX.
    from probattn.inference.study.robustness_arms import arms

    planned = arms(quick)
    plan.model(planned[0])  # refuses wrong settings before anything is written
    open_study(out, plan.to_json(), "study of robustness")
    (out / "arms").mkdir(exist_ok=True)
    with resumption_hint(lambda: SAME_COMMAND):
        carry_out(plan, planned)
        _write_once(plan.folder / "course.json", lambda: _course(plan, planned[0]))
        _write_once(plan.folder / "posterior.json", lambda: _posterior(plan, corpus, quick))
    report(plan, planned, corpus, quick)


def _plan(source: str, out: Path, chosen: dict[str, Any], seed: int) -> Plan:
    from probattn.inference import load_corpus

    if source == "cmudict":
        raise InputError(
            "corpus: expected the path of a text file, running text; cmudict is a list of words"
        )
    corpus = load_corpus(source, length=chosen["length"], stream=True)
    if len(corpus.train) < chosen["batch_size"]:
        raise InputError(
            f"corpus: {source} has {len(corpus.train)} training sequences of "
            f"{chosen['length']} characters, fewer than a "
            f"minibatch of {chosen['batch_size']}; give a longer text, or a smaller --batch-size"
        )
    settings = {name: chosen[name] for name in ("dim", "layers", "heads")}
    training = {name: chosen[name] for name in ("num_steps", "batch_size")}
    return Plan(out, corpus, settings, training, tuple(range(seed, seed + chosen["num_seeds"])))


def carry_out(plan: Plan, planned: "list[Arm]") -> None:
    """Train every arm without a result and put it under stress; print the projected cost first."""
    import jax

    from probattn.inference.data.array_file import write_json

    missing = [arm for arm in planned if not plan.file(arm).exists()]
    sequences = plan.training["num_steps"] * plan.training["batch_size"] * len(plan.seeds)
    console.print(
        f"{len(planned)} arms of {len(plan.seeds)} seeds, {len(planned) - len(missing)} done; "
        f"each trains on {sequences:,} sequences of {plan.corpus.length} characters"
    )
    costs = _projected_seconds(plan, missing)
    if costs:
        console.print(
            f"training will take some {sum(costs.values()) / 60:.0f} min, projected from a few "
            "steps of each kind of arm"
        )
    for number, arm in enumerate(missing):
        started = time.perf_counter()
        write_json(plan.file(arm), _result(plan, arm))
        left = (
            f"; some {sum(list(costs.values())[number + 1 :]) / 60:.0f} min of training left"
            if costs
            else ""
        )
        console.print(f"{arm.name}: {time.perf_counter() - started:.0f} s{left}")
        # Otherwise compiled programs of all arms pile up in memory. Those that arms share are read
        # back from the compilation cache on disk.
        jax.clear_caches()


def _projected_seconds(plan: Plan, missing: "list[Arm]") -> dict[str, float]:
    """Projected seconds of training by name of arm, from a few steps of one arm of each kind.

    The kind of an arm is the placement of its barrier. The result is empty where training takes too
    few steps for a projection to be worth its time."""
    if plan.training["num_steps"] < WORTH_A_PROJECTION:
        return {}
    seconds: dict[Any, float] = {}
    for arm in missing:
        if (kind := arm.settings.get("placement")) not in seconds:
            first, few, more = (_seconds(plan, arm, steps) for steps in PROBES)
            # `first` includes compilation; `few` is as many steps without it.
            each = max(0.0, more - few) / (PROBES[-1] - PROBES[-2])
            seconds[kind] = first + each * (plan.training["num_steps"] - PROBES[-2])
    return {arm.name: seconds[arm.settings.get("placement")] for arm in missing}


def _seconds(plan: Plan, arm: "Arm", num_steps: int) -> float:
    """Wall time of training an arm for a number of steps."""
    from probattn.inference.fitting.training import train

    started = time.perf_counter()
    train(
        plan.model(arm),
        plan.corpus.train,
        seeds=plan.seeds,
        **{**plan.training, "num_steps": num_steps},
    )
    return time.perf_counter() - started


def _result(plan: Plan, arm: "Arm") -> dict[str, Any]:
    """The losses of each seed of an arm under stress, or why it could not be trained, as JSON."""
    from probattn.inference.fitting.training import split_by_seed, train
    from probattn.inference.study.under_stress import stress

    model, about = (
        plan.model(arm),
        dataclasses.asdict(arm) | {"format": ROBUSTNESS_STUDY_FORMAT, "seeds": list(plan.seeds)},
    )
    started = time.perf_counter()
    try:
        trained = train(
            model,
            plan.corpus.train,
            seeds=plan.seeds,
            weight_decay=arm.weight_decay,
            **plan.training,
        )
    except FitError as error:
        return about | {"failed": str(error), "results": []}
    seconds = time.perf_counter() - started
    some = plan.corpus.heldout[:MOST_HELDOUT]
    return about | {
        "failed": None,
        "seconds": seconds,
        "results": [stress(model, params, some) for params in split_by_seed(trained.params)],
    }


def _write_once(file: Path, make: Callable[[], Any]) -> None:
    """Write what `make` returns to `file` as JSON, unless a killed study has written it already."""
    from probattn.inference.data.array_file import write_json

    if not file.exists():
        started = time.perf_counter()
        write_json(file, make())
        console.print(f"{file.stem}: {time.perf_counter() - started:.0f} s")


def _course(plan: Plan, plain: "Arm") -> list[dict[str, Any]]:
    """Margins of the plain model after increasing numbers of training steps."""
    from probattn.inference.study.course import margins_in_training

    heldout = plan.corpus.heldout[:MOST_HELDOUT]
    return margins_in_training(
        plan.model(plain), plan.corpus.train, heldout, seeds=plan.seeds, **plan.training
    )


def _posterior(plan: Plan, source: str, quick: bool) -> dict[str, Any]:
    """Losses of MAPs, an ensemble and a posterior of a small LanguageModel under disturbance.

    The data are short pieces of the same text. Returns a JSON object."""
    import numpy as np

    from probattn.inference import load_corpus
    from probattn.inference.study.posterior_robustness import compare_under_disturbance
    from probattn.models import LanguageModel

    chosen = POSTERIOR_SETTINGS | (QUICK_POSTERIOR if quick else {})
    pieces = load_corpus(source, length=chosen.pop("length"), stream=True)
    number = min(chosen.pop("train_size"), len(pieces.train))
    some = np.random.default_rng(plan.seeds[0]).choice(len(pieces.train), number, replace=False)
    heldout = pieces.heldout[:MOST_HELDOUT]
    size = len(pieces.symbols), pieces.length, chosen.pop("dim")
    plain, barrier = (LanguageModel(*size, barrier_weight=weight) for weight in (0.0, 0.05))
    try:
        return compare_under_disturbance(
            plain, barrier, pieces.train[some], heldout, seed=plan.seeds[0], **chosen
        )
    except FitError as error:
        return {"failed": str(error), "curves": {}, "posterior_minus": {}}


def report(plan: Plan, planned: "list[Arm]", source: str, quick: bool) -> None:
    """Write the report of the arms with a result, and print the claims."""
    from probattn.inference.study.robustness_page import save_robustness

    done = [_read(plan.file(arm)) for arm in planned if plan.file(arm).exists()]
    options = (
        "--quick"
        if quick
        else " ".join(
            f"--{name.replace('_', '-')} {value}"
            for name, value in {
                **plan.settings,
                "length": plan.corpus.length,
                **plan.training,
                "num_seeds": len(plan.seeds),
                "seed": plan.seeds[0],
            }.items()
        )
    )
    command = f"probattn study robustness {Path(source).name} --out {plan.folder.name} {options}"
    found = save_robustness(
        plan.folder,
        plan.to_json(),
        done,
        len(planned) - len(done),
        command,
        course=_read(plan.folder / "course.json"),
        posterior=_read(plan.folder / "posterior.json"),
    )
    table = Table(
        "barrier",
        "clean loss",
        "loss under noise 0.4",
        "claim",
        title="changes from the plain model, 95 % over seeds",
    )
    for claim in found["claims"]:
        table.add_row(
            claim["name"], claim["clean"].percent, claim["noise"].percent, claim["verdict"]
        )
    console.print(table)
    console.print(f"report: {(plan.folder / 'report.html').resolve()}")


def _read(file: Path) -> Any:
    from probattn.inference.data.array_file import MAKE_AGAIN, read_json

    return read_json(file, MAKE_AGAIN)
