"""Combining fits: weights under which their mixture predicts best, and what it is worth."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xarray as xr
from arviz_stats import compare
from arviz_stats.utils import ELPDDataLOO
from jaxtyping import Float

from probattn.errors import InputError
from probattn.inference.data.ngram import token_counts
from probattn.inference.evaluation.measured import INTERNAL, Measured, ratio
from probattn.inference.fitting.fit import Fit

HALVES = 2  # of the held-out sequences: each is scored with weights from the other
LEAST_FOR_STACK = 2 * HALVES  # sequences


@dataclass(frozen=True, eq=False)
class Stack:
    """A mixture of fits whose weights are chosen for prediction, scored on other sequences.

        p(x) = sum_k w_k p_k(x),     w maximises sum_i log sum_k w_k p_k(x_i)

    Args:
        weights: by fit, from all the sequences.
        of_parts: by fit, from all sequences but those of each part, (parts,); how far they are
            apart is how well the weights are known.
        log_probs: log probability of each sequence with weights from the other parts,
            (num_sequences,).
        per_token: its mean over tokens, in nats, with standard error across sequences.
        gains: by fit, `per_token` of the stack minus that of the fit, paired.

    Source: Yao, Vehtari, Simpson and Gelman, arXiv:1704.02030, as implemented in ArviZ.
    """

    weights: Mapping[str, float]
    of_parts: Mapping[str, Float[np.ndarray, " parts"]]
    log_probs: Any = field(metadata=INTERNAL)
    per_token: Measured
    gains: Mapping[str, Measured]


def stacking_weights(log_probs: Mapping[str, Any]) -> dict[str, float]:
    """Weights of the mixture that gives sequences the highest probability, by name.

    The log probabilities must be of sequences that the fits have not seen: held out, or each left
    out (`leave_one_out(fit).per_sequence`).

    Args: log_probs, by name, of the same sequences, (num_sequences,), in nats.

    Raises: InputError for fewer than two, or shapes that differ. Source: as `Stack`."""
    arrays = {name: np.asarray(value, float) for name, value in log_probs.items()}
    shapes = {value.shape for value in arrays.values()}
    if len(arrays) < 2 or len(shapes) > 1 or any(len(shape) != 1 for shape in shapes):
        raise InputError(
            "stacking_weights: expected log probabilities of the same sequences, (num_sequences,), "
            f"of at least two fits, got shapes {[value.shape for value in arrays.values()]}"
        )
    # What all give alike does not move the weights, but would underflow.
    most = np.max(list(arrays.values()), axis=0)
    most = np.where(np.isfinite(most), most, 0)
    with warnings.catch_warnings():
        # ArviZ warns of choosing the best of many; a stack chooses none.
        warnings.simplefilter("ignore", UserWarning)
        compared = compare(
            {name: _as_elpd(value - most) for name, value in arrays.items()}, round_to="none"
        )
    return {name: float(compared.loc[name, "weight"]) for name in arrays}


def stack(log_probs: Mapping[str, Any], tokens: Any) -> Stack:
    """Stack fits on held-out sequences: each is scored with weights from those of another half.

    Args:
        log_probs: by name, the log probability of each sequence, (num_sequences,), such as
            `fit.predictive_log_prob(tokens)`.
        tokens: the held-out tokens (num_sequences, length); at least four sequences.

    Raises: InputError as `stacking_weights`, and for fewer than four sequences. Source: as
    `Stack`."""
    arrays = {name: np.asarray(value, float) for name, value in log_probs.items()}
    counts = token_counts(np.asarray(tokens))
    if len(counts) < LEAST_FOR_STACK:
        raise InputError(f"stack: expected at least {LEAST_FOR_STACK} sequences, got {len(counts)}")
    weights = stacking_weights(arrays)
    part = np.arange(len(counts)) % HALVES
    of_parts: dict[str, list[float]] = {name: [] for name in arrays}
    scored = np.empty(len(counts))
    for number in range(HALVES):
        mine = part == number
        found = stacking_weights({name: value[~mine] for name, value in arrays.items()})
        for name, weight in found.items():
            of_parts[name].append(weight)
        scored[mine] = _mixture({name: value[mine] for name, value in arrays.items()}, found)
    return Stack(
        weights,
        {name: np.array(value) for name, value in of_parts.items()},
        scored,
        ratio(scored, counts),
        {name: ratio(scored - value, counts) for name, value in arrays.items()},
    )


def single_chains(fit: Fit) -> dict[str, Fit]:
    """Each chain of a posterior as a fit of its own, by name, to be stacked.

    Where chains stay near different modes, their equal mixture is no posterior; a stack of them
    weighs each by how well it predicts.

    Raises: InputError for a fit whose draws are not those of Markov chains.
    Source: Yao, Vehtari and Gelman, arXiv:2006.12335."""
    if not fit.sampled:
        raise InputError(
            f"single_chains: expected draws of Markov chains, got a fit by {fit.method}"
        )
    return {f"chain {chain + 1}": fit.chain(chain) for chain in range(fit.shape[0])}


def _mixture(log_probs: Mapping[str, np.ndarray], weights: Mapping[str, float]) -> np.ndarray:
    stacked = np.array(list(log_probs.values()))  # [k, n]
    with np.errstate(divide="ignore"):  # a weight of 0
        logs = np.log([max(0.0, weights[name]) for name in log_probs])
    return np.logaddexp.reduce(stacked + logs[:, None], axis=0)


def _as_elpd(log_probs: np.ndarray) -> ELPDDataLOO:
    """Log probabilities of sequences as ArviZ takes them."""
    error = float(np.sqrt(len(log_probs)) * log_probs.std(ddof=1))
    return ELPDDataLOO(
        elpd=float(log_probs.sum()),
        se=error,
        p=np.nan,
        n_samples=1,
        n_data_points=len(log_probs),
        scale="log",
        warning=False,
        good_k=np.nan,
        elpd_i=xr.DataArray(log_probs, dims="sequence"),
    )
