"""How close a model comes to the boundary while it is trained."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from probattn.inference.contract import LayeredModel
from probattn.inference.fitting.descent import CHUNK
from probattn.inference.fitting.training import each_seed, train, untrained
from probattn.inference.study.under_stress import margins_of_heads


def margins_in_training(
    model: LayeredModel,
    data: np.ndarray,
    heldout: np.ndarray,
    *,
    seeds: Sequence[int],
    num_steps: int,
    batch_size: int,
) -> list[dict[str, Any]]:
    """Margins of the heads before training, and after ever more steps of it, each time trained anew
    from the same seeds.

    Args: model, data, seeds and batch_size as of `train`; heldout, the sequences whose margins are
        taken.
    Returns: for each number of steps, `steps` and `results`, of `margins_of_heads` for each seed.
    """
    course = []
    for steps in (0, *_checkpoints(num_steps)):
        if steps == 0:
            params = untrained(model, seeds=seeds)
        else:
            params = train(model, data, seeds=seeds, num_steps=steps, batch_size=batch_size).params
        results = [margins_of_heads(model, one, heldout) for one in each_seed(params)]
        course.append({"steps": steps, "results": results})
    return course


def _checkpoints(num_steps: int) -> list[int]:
    """Whole chunks, each some three times the one before: what a chunk compiles serves them all.
    The end is not among them."""
    found, steps = [], CHUNK
    while steps < num_steps:
        found.append(steps)
        steps *= 3
    return found
