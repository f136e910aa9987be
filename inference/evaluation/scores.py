"""Held-out log probability of fits and n-gram baselines, and their paired differences."""

import math
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np

from probattn.inference.contract import TokenModel, require
from probattn.inference.data.ngram import fit_ngram, token_counts
from probattn.inference.evaluation.measured import INTERNAL, Measured, ratio
from probattn.inference.evaluation.monte_carlo import error_of_draws
from probattn.inference.evaluation.predictive import affordable
from probattn.inference.fitting.fit import CHAINS, Fit, mixture_error, mixture_log_prob

BASELINES = ("unigram", "bigram")


@dataclass(frozen=True, eq=False)
class Score:
    """Held-out log probability of one predictor, and what it cost.

    Args:
        name: of the predictor.
        method: of the fit, or "baseline".
        per_token, per_sequence: log probability in nats, with standard errors across sequences and
            of the draws.
        density: the class name of the model; empty for a baseline.
        parameters: number of scalar parameters that have a prior; 0 for a baseline.
        gradients: gradient evaluations of the log density on all training data; NaN if unknown.
        seconds: wall time of the fit; NaN if unknown.
        monte_carlo_error: standard error of the log probability per token due to particles, where
            they estimate it; else 0.
        monte_carlo_bias: by how much such an estimate is too low on average, per token.
        draws_error: standard error of the log probability of all sequences due to the finite number
            of draws or members; NaN where one draw cannot tell.
        num_tokens: how many held-out tokens count.
        log_probs: log probability of each sequence, (num_sequences,).
        per_draw: log probability of each sequence under each draw, (chains, draws, num_sequences);
            None for a baseline.
    """

    name: str
    method: str
    per_token: Measured
    per_sequence: Measured
    density: str = ""
    parameters: int = 0
    gradients: float = math.nan
    seconds: float = math.nan
    monte_carlo_error: float = 0.0
    monte_carlo_bias: float = 0.0
    draws_error: float = math.nan
    num_tokens: int = 0
    log_probs: Any = field(default=None, metadata=INTERNAL)
    per_draw: Any = field(default=None, metadata=INTERNAL)

    @property
    def loss(self) -> float:
        """Minus the log probability per token, in nats."""
        return -self.per_token.value


@dataclass(frozen=True)
class Difference:
    """Paired difference of two predictors' held-out log probability, first minus second, in nats.

    Args:
        first, second: names of the two predictors.
        per_token, per_sequence: the difference, with standard errors across sequences and of the
            draws of both.
        densities: class names of their models; empty for a baseline.
    """

    first: str
    second: str
    per_token: Measured
    per_sequence: Measured
    densities: tuple[str, str] = ("", "")


def score_fit(name: str, fit: Fit, tokens: Any) -> Score:
    """Held-out score of one fit; a posterior scores as the mixture of its draws.

    Args:
        name: of the score.
        fit: of a model of tokens.
        tokens: held-out tokens (num_sequences, length).
    """
    used = affordable(fit)
    per_draw, errors = used.estimate_log_prob(tokens)
    counts = token_counts(np.asarray(tokens))
    error = mixture_error(per_draw, errors)
    of_draws = error_of_draws(per_draw, fit.method)
    return Score(
        name,
        fit.method,
        *_measured(mixture_log_prob(per_draw), counts, of_draws),
        density=type(fit.model).__name__,
        parameters=num_parameters(require("scores", fit.model, TokenModel)),
        gradients=float(fit.gradients),
        seconds=fit.seconds,
        monte_carlo_error=float(np.sqrt((error**2).sum()) / counts.sum()),
        monte_carlo_bias=float((error**2).sum() / 2 / counts.sum()),
        draws_error=of_draws,
        num_tokens=int(counts.sum()),
        log_probs=mixture_log_prob(per_draw),
        per_draw=per_draw,
    )


def score_baselines(
    train: np.ndarray, tokens: np.ndarray, vocab_size: int, more: Any = None
) -> list[Score]:
    """Scores of a unigram and a bigram fitted to the training sequences.

    Args:
        train: training tokens (num_train, length).
        tokens: held-out tokens (num_sequences, length).
        vocab_size: size of the vocabulary, the end token included.
        more: a larger training set (num_more, length); if given, its bigram is scored too.
    """
    data: dict[str, Any] = {name: (train, name) for name in BASELINES}
    if more is not None:
        data[f"bigram, {len(more):,} sequences"] = (more, "bigram")
    found = []
    for name, (sequences, order) in data.items():
        log_probs = fit_ngram(sequences, vocab_size, order).log_prob(tokens)
        counts = token_counts(tokens)
        found.append(
            Score(
                name,
                "baseline",
                *_measured(log_probs, counts),
                num_tokens=int(counts.sum()),
                log_probs=log_probs,
            )
        )
    return found


def differences(scores: list[Score], tokens: np.ndarray) -> tuple[Difference, ...]:
    """Paired differences of all pairs of scores on the same held-out tokens."""
    counts = token_counts(tokens)
    return tuple(
        Difference(
            one.name,
            other.name,
            gain(one, other, counts),
            gain(one, other, np.ones(len(counts))),
            (one.density, other.density),
        )
        for one, other in combinations(scores, 2)
    )


def num_parameters(model: TokenModel) -> int:
    """Number of scalar parameters of a model; latent variables do not count."""
    return sum(math.prod(prior.shape()) for prior in model.priors().values())


def has_chains(score: Score) -> bool:
    """Whether the scored draws come from Markov chains."""
    return score.method in CHAINS


def gain(one: Score, other: Score, counts: np.ndarray) -> Measured:
    """Log probability of the first minus that of the second, paired over sequences.

    Args: counts, what it is per, of each sequence, (num_sequences,)."""
    return measured(one.log_probs - other.log_probs, counts, one.draws_error, other.draws_error)


def measured(sums: np.ndarray, counts: np.ndarray, *of_draws: float) -> Measured:
    """`sum sums / sum counts`, with its standard error across sequences and of the draws.

    Args: of_draws, standard errors of `sum sums` due to draws or members, NaN where unknown."""
    across = ratio(sums, counts)
    more = [error / counts.sum() for error in of_draws if not math.isnan(error)]
    return Measured(across.value, math.hypot(across.error, *more))


def _measured(
    log_probs: np.ndarray, counts: np.ndarray, *of_draws: float
) -> tuple[Measured, Measured]:
    """The ratio per token and the mean per sequence."""
    per_sequence = np.ones(len(log_probs))
    return measured(log_probs, counts, *of_draws), measured(log_probs, per_sequence, *of_draws)
