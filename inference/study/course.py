"""How close a model comes to the boundary while it is trained."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from probattn.inference.contract import LayeredModel
from probattn.inference.fitting.descent import CHUNK_STEPS
from probattn.inference.fitting.training import initial_parameters, split_by_seed, train
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
    """Margins of the heads before training and after increasing numbers of steps.

    For each number of steps the model is trained again from the start, with the same seeds.

    Args:
        model, data, seeds, batch_size: as for `train`.
        heldout: tokens (num_sequences, length) whose margins are computed.
        num_steps: only numbers of steps below this are included.

    Returns: for each number of steps a dictionary of `steps`, and `results` with the result of
    `margins_of_heads` for each seed.
    """
    course = []
    for steps in (0, *_checkpoints(num_steps)):
        if steps == 0:
            params = initial_parameters(model, seeds=seeds)
        else:
            params = train(model, data, seeds=seeds, num_steps=steps, batch_size=batch_size).params
        results = [margins_of_heads(model, one, heldout) for one in split_by_seed(params)]
        course.append({"steps": steps, "results": results})
    return course


def _checkpoints(num_steps: int) -> list[int]:
    """Numbers of steps below `num_steps`: CHUNK_STEPS, and three times the previous number each.

    All are multiples of CHUNK_STEPS, so that one compiled chunk of steps serves them all.
    """
    found, steps = [], CHUNK_STEPS
    while steps < num_steps:
        found.append(steps)
        steps *= 3
    return found
