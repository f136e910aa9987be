"""Warmup in stages, each of which ends with a metric from gradients and lengths of all chains."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from probattn.inference.fitting.chain_program import Chain
from probattn.inference.fitting.metric import Block, next_metric, to_w, to_z

# Of warmup: for a first metric, which makes the scales alike; to leave the start; for the metric;
# for the step size.
SHARES = (1 / 9, 2 / 9, 3 / 7, 5 / 21)
LEAST = 20  # iterations of warmup below which there is one stage, without a metric
SETTLED = 0.4  # share of a stage before gradients and lengths count
FIRST_STEP, FIRST_LONGEST = 0.1, 15.0


class Tuned(NamedTuple):
    """What a stage of warmup hands on, the same for all chains.

    Args: metric, W of each block; step_size; longest, most steps of a trajectory."""

    metric: list[np.ndarray]
    step_size: float
    longest: float


def stage_ends(num_warmup: int) -> tuple[int, ...]:
    """The iterations at which the stages of warmup end, the last at `num_warmup`."""
    if num_warmup < LEAST:
        return (num_warmup,)
    ends = np.cumsum(SHARES) * num_warmup
    return tuple(int(end) for end in ends.round())


def settle_iteration(done: int, ends: Sequence[int]) -> int:
    """The iteration of the present stage, from 1, from which gradients count; 0 after warmup."""
    if done >= ends[-1]:
        return 0
    first = max([0, *(end for end in ends if end <= done)])
    last = min(end for end in ends if end > done)
    return 1 + int(SETTLED * (last - first))


def tune(
    blocks: tuple[Block, ...], metric: list[np.ndarray], chains: Chain, is_last: bool
) -> tuple[Tuned, np.ndarray]:
    """What the stage has found, and the chains' positions w in the metric that follows.

    Args: metric, of this stage; chains, on the host, (chains, ...) each; is_last, whether the
        metric stays as it is.
    """
    number = int(chains.counted.sum())
    step_size = float(np.exp(np.mean(chains.averaging[1])))
    longest = float(chains.turns.sum() / max(number, 1))
    w = np.asarray(chains.point.w)
    if is_last or not number:
        return Tuned(metric, step_size, longest), w
    moments = [np.asarray(total, float).sum(0) / number for total in chains.moments]
    found = [root.astype(w.dtype) for root in next_metric(blocks, metric, moments, number)]
    moved = [to_w(blocks, found, np.asarray(to_z(blocks, metric, one))) for one in w]
    # In the new coordinates precisions are 1 on average: steps grow as precisions fall.
    precision = np.concatenate([np.diagonal(m) if m.ndim == 2 else m for m in moments]).mean()
    step_size *= float(np.sqrt(precision))
    return Tuned(found, step_size, longest), np.stack(moved).astype(w.dtype)
