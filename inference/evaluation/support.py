"""Stability margins and support tokens under a mode and under the draws of a posterior."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from probattn.errors import InputError
from probattn.inference.contract import AttentionModel, Params, TokenModel, require
from probattn.inference.evaluation.measured import QUANTILES, Measured
from probattn.inference.fitting.fit import Fit, over_draws

MARGIN_DRAWS = 100  # posterior draws, evenly spaced, that margins are computed under
ALWAYS_ONE = 2  # positions 1 and 2 have J_t = I: their margin is 1 by construction
LISTED = 10  # how many of the sequences on which two fits disagree most are listed


@dataclass(frozen=True, eq=False)
class Example:
    """Margins and support tokens of one sequence under several fits.

    Args:
        labels: what each position of the path holds.
        margins: by fit, the 5, 25, 50, 75 and 95 % quantiles over its draws, (5, positions).
        probability: by fit, the share of its draws in which each position is the support token,
            (positions,); 0 or 1 for a fit with one draw.
        methods: by fit, its method.
    """

    labels: tuple[str, ...]
    margins: dict[str, np.ndarray]
    probability: dict[str, np.ndarray]
    methods: dict[str, str]


@dataclass(frozen=True)
class Disagreement:
    """How often a fit with one draw and a fit with several have different support tokens.

    Args:
        point: name of the fit with one draw.
        draws: name of the fit with several draws.
        share: share of the sequences in which the most probable support token under the draws is
            not that of the point, with its binomial standard error.
        unsure: share of the sequences in which no position is the support token with probability
            above one half under the draws, with its binomial standard error.
        sequences: the sequences of `share` in which the point's support token is least probable
            under the draws, least first. Each is the text, the point's support token, its
            probability under the draws, the draws' most probable one and its probability.
    """

    point: str
    draws: str
    share: Measured
    unsure: Measured
    sequences: tuple[tuple[str, str, float, str, float], ...]


@dataclass(frozen=True)
class Rankings:
    """How often the two rankings of a fit name different support tokens.

    The smallest sigma_min(J_t) depends on the coordinates of the embeddings, and the law of the
    tokens does not; the smallest log det J_t does not either (theory, section 6).

    The first two positions, where J_t = I whatever the parameters, are left out.

    Args:
        name: of the fit.
        share: share of the sequences with more than three positions, and of the draws, in which the
            two differ; its standard error is across sequences.
        repelled: share of the positions at which det J_t > 1, further from the boundary than J = I.
    """

    name: str
    share: Measured
    repelled: float


def margins_of(
    fit: Fit, tokens: Any, *, most_draws: int | None = MARGIN_DRAWS, kind: str = "sigma_min"
) -> np.ndarray:
    """Stability margins (draws, num_sequences, positions) of a fit; NaN after the end.

    Args:
        fit: of a model with one attention map.
        tokens: sequences (num_sequences, length), or their embeddings.
        most_draws: number of draws, evenly spaced, that are used; None for all.
        kind: "sigma_min", "log_det" or "spectral", as `probattn.stability_margin`.
    """
    model = require("margins", fit.model, AttentionModel)
    of_kind: dict[str, Callable] = {
        "sigma_min": type(model).margins,
        "log_det": _log_det,
        "spectral": _spectral,
    }
    if kind not in of_kind:
        raise InputError(f"kind: expected one of {', '.join(of_kind)}, got {kind!r}")
    return over_draws(of_kind[kind], model, fit.flat_draws(most_draws), np.asarray(tokens))


# Functions of the module, and not made anew for each call, so that they are compiled once.
def _log_det(model: AttentionModel, params: Params, tokens: Any) -> Any:
    return model.margins(params, tokens, kind="log_det")


def _spectral(model: AttentionModel, params: Params, tokens: Any) -> Any:
    return model.margins(params, tokens, kind="spectral")


def rankings(name: str, margins: np.ndarray, log_dets: np.ndarray) -> Rankings | None:
    """How often the two rankings of a fit differ; None if no sequence counts.

    Args: name, of the fit; margins and log_dets, (draws, num_sequences, positions), NaN after the
        end. Sequences of three positions or fewer do not count.
    """
    long_enough = np.isfinite(margins[0]).sum(1) > ALWAYS_ONE + 1
    if not long_enough.any():
        return None
    chosen = [of[:, long_enough, ALWAYS_ONE:] for of in (margins, log_dets)]
    tokens = (np.nanargmin(of, axis=2) for of in chosen)
    by_sequence = np.not_equal(*tokens).mean(0)
    known = chosen[1][np.isfinite(chosen[1])]
    repelled = float((known > 0).mean())
    if len(margins) == 1:
        return Rankings(name, _share(int(by_sequence.sum()), len(by_sequence)), repelled)
    error = float(by_sequence.std(ddof=1) / np.sqrt(len(by_sequence)))
    return Rankings(name, Measured(float(by_sequence.mean()), error), repelled)


def support_probability(margins: np.ndarray) -> np.ndarray:
    """Share of draws in which each position is the support token, (positions,).

    Args: margins, (draws, positions); positions with NaN are never the support token.
    """
    return np.bincount(np.nanargmin(margins, axis=1), minlength=margins.shape[1]) / len(margins)


def path_labels(
    tokens: Sequence[int] | np.ndarray, symbols: Sequence[str], positions: int, start: bool = True
) -> tuple[str, ...]:
    """Labels of the first positions of an embedding path: the start, if it has one, then symbols.

    Args:
        tokens: of one sequence, (length,).
        symbols: the symbol of each token.
        positions: number of labels.
        start: whether the path begins with the start.
    """
    held = tuple(symbols[token] for token in tokens)
    return (("start", *held) if start else held)[:positions]


def example(fits: Mapping[str, Fit], tokens: np.ndarray, symbols: Sequence[str]) -> Example:
    """Margins and support tokens of one sequence (length,) under fits of one density."""
    margins = {name: margins_of(fit, tokens[None])[:, 0] for name, fit in fits.items()}
    positions = int(np.isfinite(next(iter(margins.values()))[0]).sum())
    model = require("support tokens", next(iter(fits.values())).model, TokenModel)
    return Example(
        path_labels(tokens, symbols, positions, model.path_has_start),
        {
            name: np.quantile(values[:, :positions], QUANTILES, axis=0)
            for name, values in margins.items()
        },
        {name: support_probability(values[:, :positions]) for name, values in margins.items()},
        {name: fit.method for name, fit in fits.items()},
    )


def disagreement(
    point: str,
    draws: str,
    margins: Mapping[str, np.ndarray],
    tokens: np.ndarray,
    symbols: Sequence[str],
    start: bool,
) -> Disagreement | None:
    """How often the support tokens of two fits differ; None if no sequence counts.

    Sequences of two positions or fewer do not count: their margins are all 1.

    Args:
        point: name of the fit with one draw.
        draws: name of the fit with several draws.
        margins: by fit, stability margins (draws, num_sequences, positions), NaN after the end.
        tokens: of the sequences, (num_sequences, length).
        symbols: the symbol of each token.
        start: whether an embedding path begins with the start.
    """
    long_enough = np.flatnonzero(np.isfinite(margins[point][0]).sum(1) > ALWAYS_ONE)
    if not len(long_enough):
        return None
    rows, differs, unsure = [], 0, 0
    for i in long_enough:
        chosen = int(np.nanargmin(margins[point][0, i]))
        probability = support_probability(margins[draws][:, i])
        favourite = int(probability.argmax())
        differs += favourite != chosen
        unsure += bool(probability[favourite] <= 0.5)
        labels = path_labels(tokens[i], symbols, len(probability), start)
        text = " ".join(symbols[token] for token in tokens[i] if token)
        first = 0 if start else 1  # the n-th token is numbered n, with a start at 0 or without
        names = [f"{labels[k]} ({k + first})" for k in (chosen, favourite)]
        rows.append(
            (text, names[0], float(probability[chosen]), names[1], float(probability[favourite]))
        )
    rows.sort(key=lambda row: row[2])
    listed = tuple(row for row in rows[:LISTED] if row[1] != row[3])
    return Disagreement(point, draws, _share(differs, len(rows)), _share(unsure, len(rows)), listed)


def _share(number: int, total: int) -> Measured:
    share = number / total
    # Of none or all, Wilson's limit at one standard error: the usual error would be 0.
    error = 1 / (total + 1) if share in (0, 1) else float(np.sqrt(share * (1 - share) / total))
    return Measured(share, error)
