"""The order of the trial, on made-up results: what runs next, what is chosen, and what is left."""

import dataclasses

import pytest

from probattn.errors import FitError
from probattn.inference.study.trial_estimate import remaining_steps
from probattn.inference.study.trial_families import PLAIN_FAMILY, TRIAL_FAMILIES, family
from probattn.inference.study.trial_order import (
    FULL_TRIAL,
    QUICK_TRIAL,
    behind,
    chosen,
    next_jobs,
    steps_of,
    untrainable,
)

SMALL = dataclasses.replace(FULL_TRIAL, seeds=(0, 1), widths=(32,), configurations=4, kept=2)


def made_up(job, score=None, rest=2000, failed=None):
    """A result of an arm whose loss is best at configuration 2, and at rest at `rest` steps."""
    value = abs(job.number - 2) + 1.0 if score is None else score(job)
    found = {**dataclasses.asdict(job), "at_rest": job.num_steps >= rest, "failed": failed}
    return found if failed else found | {"tuning": {"clean": value, "noise": value + 1}}


def carried_out(size=SMALL, texts=("prose", "code"), **how):
    """All jobs in the order in which they run, all that can run at once, and their results."""
    order, results = [], {}
    while jobs := next_jobs(results, size, texts):
        assert not {job.name for job in jobs} & set(results)
        order += jobs
        results |= {job.name: made_up(job, **how) for job in jobs}
    return order, results


def test_it_ends_and_has_the_order_of_the_plan():
    order, results = carried_out()
    prose = [job for job in order if job.text == "prose" and job.stage != "scaling"]
    assert order[: len(prose)] == prose
    assert {job.stage for job in order[-6:]} == {"scaling"}
    stages = [job.stage for job in prose]
    for before, after in (("rate-third", "rate"), ("rate", "rest"), ("rest", "third")):
        assert len(stages) - 1 - stages[::-1].index(before) < stages.index(after)
    judged = [job.family for job in prose if job.stage == "judgement"]
    assert judged[:2] == [PLAIN_FAMILY, PLAIN_FAMILY]
    groups = [family(name).group for name in dict.fromkeys(judged)][1:]
    assert groups == ["barrier"] * 7 + ["rival"] * 10 + ["prior"] * 2
    assert len(order) == len({job.name for job in order})
    assert steps_of("prose", results, SMALL) == 2000
    assert [job.num_steps for job in prose if job.stage == "rest"] == [1000, 2000]


def test_the_best_third_goes_on_and_the_best_is_chosen():
    order, results = carried_out()
    thirds = [
        job for job in order if (job.text, job.stage, job.family) == ("code", "third", PLAIN_FAMILY)
    ]
    assert [(job.number, job.seed, job.until) for job in thirds] == [
        (number, seed, 667) for number in range(4) for seed in (100, 101)
    ]
    finals = [
        job for job in order if (job.text, job.stage, job.family) == ("code", "tuned", PLAIN_FAMILY)
    ]
    assert {job.number for job in finals} == {2, 1}  # 1 and 3 are equal: the earlier one
    assert {job.until for job in finals} == {2000}
    assert chosen("code", PLAIN_FAMILY, results, SMALL) == 2
    assert {job.number for job in order if job.stage == "judgement"} == {2}


def test_the_full_trial_has_the_plans_numbers():
    order, _ = carried_out(FULL_TRIAL, ("prose",))
    count = {
        stage: sum(job.stage == stage for job in order)
        for stage in ("third", "tuned", "judgement", "scaling")
    }
    assert count == {
        "third": 16 * 9 * 2,
        "tuned": 16 * 3 * 2,
        "judgement": 20 * 12,
        "scaling": 2 * 3 * 12,
    }


def test_a_family_without_a_finite_loss_is_left_out():
    def score(job):
        return job.number + 1.0

    results, size = {}, SMALL
    while jobs := next_jobs(results, size, ("prose",)):
        for job in jobs:
            lost = "no finite loss" if job.family == "noise" else None
            results[job.name] = made_up(job, score, failed=lost)
    assert untrainable("prose", "noise", results, size)
    assert chosen("prose", "noise", results, size) is None
    assert not untrainable("prose", "dropout", results, size)
    assert not any(
        name.startswith(("prose/judgement/noise", "prose/tuned/noise")) for name in results
    )
    assert behind("prose", "best rival", results, size) == "dropout"
    with pytest.raises(FitError, match="plain model had no finite loss"):
        carried_out(failed="no finite loss")


def test_the_best_are_those_of_tuning():
    def score(job):
        return {"auxiliary, one-sided": 0.5, "z-loss": 0.7, PLAIN_FAMILY: 0.1}.get(job.family, 1.0)

    order, results = carried_out(texts=("prose",), score=score)
    assert behind("prose", "SWAG, best barrier", results, SMALL) == "auxiliary, one-sided"
    assert behind("prose", "best rival", results, SMALL) == "z-loss"  # plain is the reference
    assert behind("prose", "plain, averaged", results, SMALL) == PLAIN_FAMILY
    scaling = {job.family for job in order if job.stage == "scaling"}
    assert scaling == {PLAIN_FAMILY, "best barrier", "best rival"}


def test_a_model_that_never_rests_ends_at_the_last_doubling():
    _, results = carried_out(texts=("prose",), rest=10**9)
    assert steps_of("prose", results, SMALL) == 1000 * 2**SMALL.doublings


def test_what_is_left_falls_to_nothing():
    before = remaining_steps({}, SMALL)
    assert set(before) == {one.name for one in TRIAL_FAMILIES}
    assert min(before.values()) > 0
    _, results = carried_out(rest=4000)
    # Of the guess, which is right here, only what was planned beyond need is left.
    after = remaining_steps(results, SMALL)
    assert sum(after.values()) < 0.05 * sum(before.values())


def test_the_quick_trial_has_every_stage():
    order, _ = carried_out(QUICK_TRIAL, rest=20)
    assert {job.stage for job in order} == {
        "rate-third",
        "rate",
        "rest",
        "third",
        "tuned",
        "judgement",
        "scaling",
    }
