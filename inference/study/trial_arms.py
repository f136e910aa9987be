"""One arm of the trial: a training, its readings and measures, and the file that keeps them."""

import contextlib
import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from probattn.errors import FitError, InputError
from probattn.inference.contract import LayeredModel
from probattn.inference.data.array_file import MAKE_AGAIN, read_json, write_json
from probattn.inference.data.folder_lock import only_one
from probattn.inference.devices.environment import precision, versions
from probattn.inference.fitting.unconstrained import Values
from probattn.inference.study.trial_families import PLAIN_FAMILY, family, split
from probattn.inference.study.trial_geometry import geometry, support
from probattn.inference.study.trial_measures import (
    losses_under_stress,
    primary,
    root_mean_square,
    stacked,
)
from probattn.inference.study.trial_order import BEST, FULL_TRIAL, Job, Results, TrialSize, behind
from probattn.inference.study.trial_swag import swag_draws
from probattn.inference.study.trial_texts import TrialText
from probattn.inference.study.trial_training import TrialTraining, train_trial
from probattn.inference.study.under_stress import AUXILIARY

TRIAL_FORMAT = 1
SWAG_DRAWS = 20
MORE_SEEDS = 1000  # seeds of the further members of ensembles begin here

# Builds a model from the number of symbols and fields of the TransformerLM.
type Maker = Callable[..., LayeredModel]


def run_arm(
    job: Job,
    texts: dict[str, TrialText],
    results: Results,
    make: Maker,
    plan: str,
    size: TrialSize = FULL_TRIAL,
) -> dict[str, Any]:
    """Train and measure one arm.

    Args:
        job: which arm.
        texts: both texts, by name.
        results: of the arms that are done: of the plain models whose embeddings are a unit.
        make: builds a TransformerLM.
        plan: SHA-256 of the plan.
        size: of the trial.

    Returns: a JSON object with the arm's job, configuration, seed, hashes, versions and results;
    where training had no finite loss, `failed` says so and there are no results.
    """
    of = behind(job.text, job.family, results, size)
    assert of is not None
    configuration = family(of).configurations(size.configurations)[job.number]
    text = texts[job.text]
    found: dict[str, Any] = {
        "format": TRIAL_FORMAT,
        **dataclasses.asdict(job),
        "of": of,
        "configuration": configuration,
        "plan SHA-256": plan,
        "text SHA-256": text.digest(),
        "precision": precision(),
        "versions": versions(),
        "failed": None,
    }
    begun = time.perf_counter()
    model = _model(job, text, configuration, make, size)
    try:
        found |= _measured(job, model, configuration, texts, results, size)
    except FitError as error:
        found |= {"failed": str(error), "at_rest": False}
    return found | {"seconds": time.perf_counter() - begun}


def take_arm(
    folder: Path, jobs: tuple[Job, ...], run: Callable[[Job], dict[str, Any]]
) -> tuple[Job, dict[str, Any]] | None:
    """Run the first of these arms that is neither done nor taken by another process, and keep it.

    The file appears whole when the arm is done: an arm that was killed begins again.

    Returns: the arm and its result; None if all are done or taken.
    """
    for job in jobs:
        file = folder / f"{job.name}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(only_one(file.with_suffix(".lock"), "taken"))
            except InputError:
                continue
            if file.exists():  # another process has done it since it was found missing
                continue
            result = run(job)
            write_json(file, result)
            return job, result
    return None


def read_arms(folder: Path, known: dict[str, dict[str, Any]] | None = None) -> dict[str, Any]:
    """The results by name of arm.

    Args: known, results that were read before, which are not read again.
    Raises: InputError for a file that is no whole JSON object."""
    known, found = known or {}, {}
    for file in sorted(folder.rglob("*.json")):
        if file.name.startswith("."):
            continue
        name = file.relative_to(folder).as_posix().removesuffix(".json")
        if name in known:
            found[name] = known[name]
            continue
        found[name] = read_json(file, MAKE_AGAIN)
        if not isinstance(found[name], dict) or "family" not in found[name]:
            raise InputError(f"{file}: is damaged (expected an arm); {MAKE_AGAIN}")
    return found


def _model(
    job: Job, text: TrialText, configuration: dict[str, Any], make: Maker, size: TrialSize
) -> LayeredModel:
    fields, _ = split(configuration)
    return make(
        text.vocab_size, size.length, dim=job.width, layers=size.layers, heads=size.heads, **fields
    )


def _train(
    job: Job,
    model: LayeredModel,
    configuration: dict[str, Any],
    text: TrialText,
    size: TrialSize,
    seed: int,
) -> TrialTraining:
    _, of_training = split(configuration)
    return train_trial(
        model,
        text.pieces("training"),
        text.pieces("stopping"),
        seed=seed,
        num_steps=job.num_steps,
        until=job.until,
        batch_size=size.batch_size,
        **of_training,
    )


def _measured(
    job: Job,
    model: LayeredModel,
    configuration: dict[str, Any],
    texts: dict[str, TrialText],
    results: Results,
    size: TrialSize,
) -> dict[str, Any]:
    text = texts[job.text]
    reading = "stopped" if job.family in BEST else family(job.family).reading
    trained = _train(job, model, configuration, text, size, job.seed)
    found: dict[str, Any] = {
        "at_rest": trained.at_rest,
        "seconds_a_step": None if np.isnan(trained.seconds) else trained.seconds,
        "course": trained.course,
    }
    if job.stage not in ("judgement", "scaling"):
        members = stacked([_of_law(trained.stopped)])
        scores = primary(model.law, members, text.pieces("tuning"), job.seed)
        if not all(np.isfinite(list(scores.values()))):
            raise FitError(f"tuning: expected finite losses, got {scores}")
        return found | {"tuning": scores}
    if reading == "ensemble":
        more = [MORE_SEEDS + 2 * job.seed, MORE_SEEDS + 2 * job.seed + 1]
        others = [_train(job, model, configuration, text, size, seed).stopped for seed in more]
        members = stacked([_of_law(one) for one in (trained.stopped, *others)])
    elif reading == "swag":
        several = [_of_law(one) for one in trained.iterates]
        members = swag_draws(several, SWAG_DRAWS, jax.random.key(job.seed))
    else:
        one = trained.averaged if reading == "averaged" else trained.stopped
        members = stacked([_of_law(one)])
    return found | _judged(job, model, trained, members, texts, results, size)


def _judged(
    job: Job,
    model: LayeredModel,
    trained: TrialTraining,
    members: Values,
    texts: dict[str, TrialText],
    results: Results,
    size: TrialSize,
) -> dict[str, Any]:
    """The measures of the part that is judged."""
    law, text = model.law, texts[job.text]
    other = next(one for name, one in texts.items() if name != job.text)
    tokens = text.pieces("judgement")[: size.most_judged]
    if job.stage == "scaling":
        return {"losses": primary(law, members, tokens, job.seed)}
    unit = root_mean_square(law, members, tokens)
    absolute = unit if job.family == PLAIN_FAMILY else _unit_of_plain(job, results)
    foreign = text.encode(other.parts["judgement"])[: size.most_judged]
    found: dict[str, Any] = {
        "root_mean_square": unit,
        "losses": losses_under_stress(
            law, members, tokens, foreign, seed=job.seed, absolute=absolute
        ),
    }
    # Of other scores the blocks are others, and several members have no margins in common.
    if law.bilinear and len(members["embedding"]) == 1:
        read = jax.tree.map(lambda leaf: leaf[0], members)
        found["margins"] = geometry(law, read, tokens)
        found["support"] = support(law, read, tokens, seed=job.seed)
        found["margins_after"] = {
            str(share): geometry(law, _of_law(params), tokens)
            for share, params in trained.snapshots.items()
        }
    return found


def _unit_of_plain(job: Job, results: Results) -> float | None:
    """Root mean square of the embeddings of the plain model of the same text and seed."""
    return next(
        (
            result["root_mean_square"]
            for result in results.values()
            if (result["text"], result["stage"], result["family"], result["seed"])
            == (job.text, "judgement", PLAIN_FAMILY, job.seed)
            and not result["failed"]
        ),
        None,
    )


def _of_law(params: Values) -> Values:
    """Parameters without those of the auxiliary attention, which the law does not have."""
    return {name: value for name, value in params.items() if name not in AUXILIARY}
