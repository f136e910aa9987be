"""How much of the trial is left: steps by family, and what a step of each costs."""

from collections.abc import Sequence

import numpy as np

from probattn.inference.study.trial_families import PLAIN_FAMILY, family
from probattn.inference.study.trial_order import FULL_TRIAL, Results, TrialSize, steps_of
from probattn.inference.study.trial_texts import TEXTS


def remaining_steps(
    results: Results, size: TrialSize = FULL_TRIAL, texts: Sequence[str] = TEXTS
) -> dict[str, float]:
    """Steps that are left by family, in all stages; a guess until the number of steps is known.

    The guess is four times the first number of steps. A step of another width counts as often as it
    is wider.
    """
    left: dict[str, float] = dict.fromkeys(size.families, 0.0)
    tuned = size.configurations / 3 + size.kept
    for text in texts:
        steps = steps_of(text, results, size) or 4 * size.first_steps
        for name in size.families:
            trainings = float(len(size.seeds))
            if name in size.tuned:
                trainings += len(size.tuning_seeds) * tuned
            left[name] += trainings * steps
        left[PLAIN_FAMILY] += len(size.tuning_seeds) * tuned * size.first_steps + 2 * steps
    if texts:
        steps = steps_of(texts[0], results, size) or 4 * size.first_steps
        # As if the first of each group were the best ones.
        for name in (PLAIN_FAMILY, *size.of_group("barrier")[:1], *size.tuned[1:2]):
            left[name] += len(size.seeds) * steps * sum(size.widths) / size.width
    for result in results.values():
        if result["text"] in texts:
            name = result["family"] if result["family"] in left else PLAIN_FAMILY
            left[name] -= result["until"] * result["width"] / size.width
    return {name: max(0.0, steps) for name, steps in left.items()}


def measured_costs(results: Results) -> dict[str, float]:
    """Median seconds of a step over the plain model's, of the families with arms."""
    of: dict[str, list[float]] = {}
    for result in results.values():
        if result.get("seconds_a_step") and result["stage"] != "scaling":
            members = 3 if family(result["family"]).reading == "ensemble" else 1
            of.setdefault(result["family"], []).append(members * result["seconds_a_step"])
    if PLAIN_FAMILY not in of:
        return {}
    plain = float(np.median(of[PLAIN_FAMILY]))
    return {name: float(np.median(seconds)) / plain for name, seconds in of.items()}
