"""The command `study trial`: the fair trial of the robustness claim, arm by arm, by its plan."""

import hashlib
import time
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from probattn.cli.printing import SAME_COMMAND, console, resumption_hint
from probattn.cli.study_folder import open_study
from probattn.errors import InputError

TRIAL_FOLDER = Path("studies/robustness/trial")
PLAN_FILE = Path("studies/robustness/PLAN.md")
PROBE = (500, 30)  # of a training that is timed: steps of its schedule, and steps taken
WAIT = 5.0  # seconds, while other processes have all arms that can run


def trial(
    out: Annotated[
        Path,
        typer.Option(help="Folder of the trial: arms/*/*/*.json, report.html, report.json."),
    ] = TRIAL_FOLDER,
    plan: Annotated[
        Path, typer.Option(help="The plan, whose SHA-256 every result carries.")
    ] = PLAN_FILE,
    only: Annotated[
        list[str] | None, typer.Option(help="prose or code; may be given twice. Default: both.")
    ] = None,
    minutes: Annotated[
        float | None, typer.Option(help="Stop after the arm during which so many have passed.")
    ] = None,
    quick: Annotated[
        bool,
        typer.Option(
            "--quick",
            help="A toy, to see all of it work: width 8, ten steps, seven families, two seeds.",
        ),
    ] = False,
) -> None:
    """Run the fair trial of the robustness claim, in the order of its plan.

    Prints what is left before anything starts. Each training is an arm with a file of its own: an
    arm that was killed begins again, and the same command goes on with the others. Several
    processes may run it on the same folder side by side; set OPENBLAS_NUM_THREADS=1 for these.

    Example: `probattn study trial --out runs/trial --quick`
    """
    # Imported only here, so that --help loads no JAX.
    from probattn.inference.study.trial_arms import TRIAL_FORMAT, read_arms, run_arm, take_arm
    from probattn.inference.study.trial_order import FULL_TRIAL, QUICK_TRIAL, next_jobs
    from probattn.inference.study.trial_page import save_trial
    from probattn.inference.study.trial_texts import TEXTS, trial_text
    from probattn.models import TransformerLM

    if minutes is not None and not minutes > 0:
        raise InputError(f"minutes: expected a number > 0, got {minutes}")
    chosen = tuple(text for text in TEXTS if text in (only or TEXTS))
    if unknown := [text for text in only or () if text not in TEXTS]:
        raise InputError(f"only: expected {' or '.join(TEXTS)}, got {unknown[0]!r}")
    digest, size = _digest(plan), QUICK_TRIAL if quick else FULL_TRIAL
    texts = {name: trial_text(name, size.length, **size.text) for name in TEXTS}
    open_study(out, _settings(TRIAL_FORMAT, texts, size), "trial of robustness")
    arms, begun = out / "arms", time.monotonic()
    arms.mkdir(exist_ok=True)
    results = read_arms(arms)
    _print_estimate(results, size, chosen, texts)
    with resumption_hint(lambda: SAME_COMMAND):
        while jobs := next_jobs(results, size, chosen):
            if minutes is not None and time.monotonic() - begun > 60 * minutes:
                break
            of_arm = partial(
                run_arm, texts=texts, results=results, make=TransformerLM, plan=digest, size=size
            )
            taken = take_arm(arms, jobs, of_arm)
            if taken is None:
                time.sleep(WAIT)
            else:
                job, result = taken
                said = result["failed"] or f"{result['seconds']:.0f} s"
                console.print(f"{job.name}: {said}")
            results = read_arms(arms, results)
    command = f"probattn study trial --out {out.name}" + (" --quick" if quick else "")
    _print_claims(save_trial(out, results, digest, command, size, chosen))
    console.print(f"report: {(out / 'report.html').resolve()}")


def _digest(plan: Path) -> str:
    try:
        return hashlib.sha256(plan.read_bytes()).hexdigest()
    except OSError as error:
        raise InputError(
            f"plan: {plan} cannot be read ({error.strerror}); run from the root of the repository, "
            "or give the plan's path with --plan"
        ) from error


def _settings(version: int, texts: dict[str, Any], size: Any) -> dict[str, Any]:
    """What must be the same for a trial to go on; the plan is not, its changes are on the page."""
    import dataclasses
    import json

    from probattn.inference.devices.environment import precision

    return {
        "format": version,
        "study": "trial of robustness",
        "size": json.loads(json.dumps(dataclasses.asdict(size))),
        "texts SHA-256": {name: text.digest() for name, text in texts.items()},
        "precision": precision(),
    }


def _print_estimate(results: Any, size: Any, chosen: Any, texts: Any) -> None:
    """Print how many arms are done, and the time that the training of the others will take.

    The plain model's step is timed now; other families cost what their arms took beside the plain
    ones, or what was measured once."""
    from probattn.inference.study.trial_estimate import measured_costs, remaining_steps
    from probattn.inference.study.trial_families import PLAIN_FAMILY, family
    from probattn.inference.study.trial_order import steps_of
    from probattn.inference.study.trial_training import train_trial
    from probattn.models import TransformerLM

    console.print(f"{len(results)} arms are done")
    left = remaining_steps(results, size, chosen)
    if not chosen or not any(left.values()):
        return
    text = texts[chosen[0]]
    model = TransformerLM(
        text.vocab_size, size.length, dim=size.width, layers=size.layers, heads=size.heads
    )
    num_steps, until = PROBE
    probe = train_trial(
        model,
        text.pieces("training"),
        text.pieces("stopping"),
        seed=0,
        num_steps=num_steps,
        until=until,
        learning_rate=1e-3,
        batch_size=size.batch_size,
    )
    costs = measured_costs(results)
    hours = sum(
        steps * probe.seconds * costs.get(name, family(name).cost) / 3600
        for name, steps in left.items()
    )
    known = [text for text in chosen if steps_of(text, results, size)]
    guess = (
        ""
        if len(known) == len(chosen)
        else (
            f", if {4 * size.first_steps:,} steps bring the plain model to rest where that is not "
            "known yet"
        )
    )
    console.print(
        f"a step of {PLAIN_FAMILY} takes {1000 * probe.seconds:.0f} ms; training of all that is "
        f"left takes some {hours:.1f} hours of one process{guess}. Measuring comes on top"
    )


def _print_claims(found: dict[str, Any]) -> None:
    table = Table(
        "text",
        "barrier",
        "clean loss",
        "loss under noise 0.4",
        "verdict",
        title="changes from the tuned plain model, simultaneous intervals",
    )
    for claim in found["claims"]:
        table.add_row(
            claim["text"],
            claim["family"],
            claim["clean_said"],
            claim["noise_said"],
            claim["verdict"],
        )
    if found["claims"]:
        console.print(table)
    for sentence in found["not_run"]:
        console.print(f"not run: {sentence}")
