"""What the trial runs next, from what is done: a pure function of the results so far."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from probattn.errors import FitError
from probattn.inference.study.trial_families import PLAIN_FAMILY, TRIAL_FAMILIES, family, in_group
from probattn.inference.study.trial_texts import TEXTS

STAGES = ("rate-third", "rate", "rest", "third", "tuned", "judgement", "scaling")
BEST = {"best barrier": "barrier", "best rival": "rival"}  # names that stand for a tuned family

type Results = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class TrialSize:
    """How large a trial is; the defaults are the plan's.

    Args:
        width, layers, heads, length, batch_size: of model and minibatches.
        first_steps: steps of the first training of the plain model, which are doubled until it is
            at rest, at most `doublings` times.
        configurations: tried for each family, of which `kept` go on after a third of the steps.
        tuning_seeds, seeds: of tuning and of judgement.
        widths: of the scaling look, beside the width above.
        text: characters that are used, in a block, and occurrences of a symbol of its own, as
            arguments of `trial_text`.
        most_judged: sequences of the judgement part that are used; None is all.
        families: the names of those that are tried.
    """

    width: int = 64
    layers: int = 2
    heads: int = 4
    length: int = 64
    batch_size: int = 32
    first_steps: int = 1000
    doublings: int = 5
    configurations: int = 9
    kept: int = 3
    tuning_seeds: tuple[int, ...] = (100, 101)
    seeds: tuple[int, ...] = tuple(range(12))
    widths: tuple[int, ...] = (32, 128)
    text: dict[str, int] = field(default_factory=dict)
    most_judged: int | None = None
    families: tuple[str, ...] = tuple(one.name for one in TRIAL_FAMILIES)

    def of_group(self, group: str) -> list[str]:
        """The families that are tried of a group, in order."""
        return [name for name in in_group(group) if name in self.families]

    @property
    def tuned(self) -> list[str]:
        """The families that are tried and have a configuration of their own."""
        return [name for name in self.families if family(name).of is None]


FULL_TRIAL = TrialSize()
QUICK_TRIAL = TrialSize(
    width=8,
    layers=1,
    heads=2,
    length=16,
    batch_size=8,
    first_steps=10,
    doublings=1,
    configurations=2,
    kept=1,
    tuning_seeds=(100,),
    seeds=(0, 1),
    widths=(4,),
    text={"most": 8000, "block": 256, "least": 20},
    most_judged=16,
    families=(
        PLAIN_FAMILY,
        "plain, averaged",
        "noise",
        "ensemble of three",
        "auxiliary, full",
        "own heads, one-sided",
        "SWAG, best barrier",
    ),
)


@dataclass(frozen=True)
class Job:
    """One arm: one training, of one family at one configuration and seed.

    Args:
        text, stage, family: as named in TEXTS, STAGES and TRIAL_FAMILIES.
        number: of the configuration.
        seed: of start, minibatches and noise.
        num_steps: of the schedules.
        until: step at which training ends.
        width: of the model.
    """

    text: str
    stage: str
    family: str
    number: int
    seed: int
    num_steps: int
    until: int
    width: int

    @property
    def name(self) -> str:
        """The name of its file, without the ending, below the folder of arms."""
        kind = self.family.replace(",", "").replace(" ", "-")
        size = {"rest": f"-{self.num_steps}-steps", "scaling": f"-width-{self.width}"}
        return (
            f"{self.text}/{self.stage}/{kind}-{self.number}{size.get(self.stage, '')}-{self.seed}"
        )


def next_jobs(
    results: Results, size: TrialSize = FULL_TRIAL, texts: Sequence[str] = TEXTS
) -> tuple[Job, ...]:
    """The arms that can run now, the next one first; empty where the trial is done.

    The order is the plan's: for each text the plain model and its number of steps, the tuning of
    all families, and judgement of plain, the barriers and the rivals; last the scaling look, of the
    first text.

    Args: results, by name of job, of the arms that are done; texts, a part of TEXTS, in order.
    """
    for text in texts:
        for stage in (_rest_jobs, _tuning_jobs, _judgement_jobs):
            if missing := _missing(stage(text, results, size), results):
                return missing
    return _missing(_scaling_jobs(texts[0], results, size), results) if texts else ()


def steps_of(text: str, results: Results, size: TrialSize = FULL_TRIAL) -> int | None:
    """The number of steps at which the plain model is at rest; None while it is not known.

    After the last doubling it is that of the last training, at rest or not.
    """
    for doubling in range(size.doublings + 1):
        job = _rest(text, results, size, doubling)
        if job is None or job.name not in results:
            return None
        if results[job.name]["at_rest"] or doubling == size.doublings:
            return job.num_steps
    return None


def chosen(text: str, name: str, results: Results, size: TrialSize = FULL_TRIAL) -> int | None:
    """The number of a family's chosen configuration.

    None while it is not known, and where no configuration could be trained: `untrainable` says
    which.
    """
    steps = steps_of(text, results, size)
    if steps is None:
        return None
    finals = _finals(text, "tuned", name, results, size, steps)
    if finals is None or _missing(finals, results) or not finals:
        return None
    return min(
        dict.fromkeys(job.number for job in finals), key=lambda n: _score(finals, n, results)
    )


def untrainable(text: str, name: str, results: Results, size: TrialSize = FULL_TRIAL) -> bool:
    """Whether a family is tuned and none of its configurations had a finite loss."""
    steps = steps_of(text, results, size)
    if steps is None:
        return False
    return _finals(text, "tuned", name, results, size, steps) == []


def behind(text: str, name: str, results: Results, size: TrialSize = FULL_TRIAL) -> str | None:
    """The tuned family whose configuration a name stands for; None while it is not known.

    "best barrier" and "best rival" are those of the lowest score of tuning, plain left out: the
    part that is judged has no part in it.
    """
    if name in BEST:
        tuned = [
            one for one in size.of_group(BEST[name]) if one in size.tuned and one != PLAIN_FAMILY
        ]
        scores = {one: tuning_score(text, one, results, size) for one in tuned}
        found = {one: score for one, score in scores.items() if score is not None}
        waiting = any(
            scores[one] is None and not untrainable(text, one, results, size) for one in tuned
        )
        return None if waiting or not found else min(found, key=lambda one: found[one])
    of = family(name).of
    return name if of is None else behind(text, of, results, size)


def tuning_score(
    text: str, name: str, results: Results, size: TrialSize = FULL_TRIAL
) -> float | None:
    """The tuning score of a family's chosen configuration, after all steps."""
    number, steps = chosen(text, name, results, size), steps_of(text, results, size)
    if number is None or steps is None:
        return None
    return _score(_finals(text, "tuned", name, results, size, steps) or [], number, results)


def _missing(jobs: Iterable[Job] | None, results: Results) -> tuple[Job, ...]:
    return tuple(job for job in jobs or () if job.name not in results)


def _score(jobs: Iterable[Job], number: int, results: Results) -> float:
    """Mean over seeds of the mean of clean loss and loss under noise; infinite if any failed."""
    scores = []
    for job in jobs:
        if job.number == number:
            found = results[job.name].get("tuning")
            scores.append((found["clean"] + found["noise"]) / 2 if found else math.inf)
    return sum(scores) / len(scores)


def _trials(
    text: str,
    stage: str,
    name: str,
    size: TrialSize,
    steps: int,
    until: int,
    numbers: Iterable[int],
) -> list[Job]:
    return [
        Job(text, stage, name, number, seed, steps, until, size.width)
        for number in numbers
        for seed in size.tuning_seeds
    ]


def _thirds(text: str, stage: str, name: str, size: TrialSize, steps: int) -> list[Job]:
    numbers = range(size.configurations)
    return _trials(text, stage, name, size, steps, -(-steps // 3), numbers)


def _finals(
    text: str, stage: str, name: str, results: Results, size: TrialSize, steps: int
) -> list[Job] | None:
    """Arms of the best third of the configurations; None while it is not known which these are.

    Configurations that failed are left out."""
    first = "rate-third" if stage == "rate" else "third"
    thirds = _thirds(text, first, name, size, steps)
    if _missing(thirds, results):
        return None
    scores = {number: _score(thirds, number, results) for number in range(size.configurations)}
    best = sorted(
        (number for number in scores if math.isfinite(scores[number])), key=lambda n: scores[n]
    )
    return _trials(text, stage, name, size, steps, steps, best[: size.kept])


def _rate_chosen(text: str, results: Results, size: TrialSize) -> int | None:
    """The plain model's best configuration at the first number of steps."""
    finals = _finals(text, "rate", PLAIN_FAMILY, results, size, size.first_steps)
    if not finals or _missing(finals, results):
        return None
    return min((job.number for job in finals), key=lambda n: _score(finals, n, results))


def _rest(text: str, results: Results, size: TrialSize, doubling: int) -> Job | None:
    number, steps = _rate_chosen(text, results, size), size.first_steps * 2**doubling
    if number is None:
        return None
    return Job(text, "rest", PLAIN_FAMILY, number, size.tuning_seeds[0], steps, steps, size.width)


def _rest_jobs(text: str, results: Results, size: TrialSize) -> list[Job]:
    if _rate_chosen(text, results, size) is None:
        finals = _finals(text, "rate", PLAIN_FAMILY, results, size, size.first_steps)
        if finals is None:
            return _thirds(text, "rate-third", PLAIN_FAMILY, size, size.first_steps)
        if not finals:
            raise FitError("trial: the plain model had no finite loss at any learning rate")
        return finals
    for doubling in range(size.doublings + 1):
        job = _rest(text, results, size, doubling)
        assert job is not None
        if job.name not in results:
            return [job]
        if results[job.name]["at_rest"]:
            break
    return []


def _tuning_jobs(text: str, results: Results, size: TrialSize) -> list[Job]:
    steps = steps_of(text, results, size)
    assert steps is not None
    found = []
    for name in size.tuned:
        finals = _finals(text, "tuned", name, results, size, steps)
        found += _thirds(text, "third", name, size, steps) if finals is None else finals
    return found


def _judged(
    text: str, stage: str, name: str, results: Results, size: TrialSize, width: int
) -> list[Job]:
    """Arms of a family for each seed of judgement; none if it cannot be trained."""
    steps, of = steps_of(text, results, size), behind(text, name, results, size)
    number = None if of is None else chosen(text, of, results, size)
    if steps is None or number is None:
        return []
    return [Job(text, stage, name, number, seed, steps, steps, width) for seed in size.seeds]


def in_order(size: TrialSize) -> list[str]:
    """The families in the order of judgement: plain, the barriers, the rivals, what is a prior."""
    others = [name for name in size.of_group("rival") if name != PLAIN_FAMILY]
    return [PLAIN_FAMILY, *size.of_group("barrier"), *others, *size.of_group("prior")]


def _judgement_jobs(text: str, results: Results, size: TrialSize) -> list[Job]:
    """All arms of judgement; those beside plain wait for the plain one of all seeds."""
    plain = _judged(text, "judgement", PLAIN_FAMILY, results, size, size.width)
    if _missing(plain, results):
        return plain
    found = []
    for name in in_order(size):
        found += _judged(text, "judgement", name, results, size, size.width)
    return found


def _scaling_jobs(text: str, results: Results, size: TrialSize) -> list[Job]:
    found = []
    for width in size.widths:
        for name in (PLAIN_FAMILY, *BEST):
            found += _judged(text, "scaling", name, results, size, width)
    return found
