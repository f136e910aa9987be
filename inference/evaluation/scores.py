"""Held-out log probability of fits and n-gram baselines, and their paired differences."""

import math
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes

from probattn.errors import InputError
from probattn.inference.data.ngram import fit_ngram, token_counts
from probattn.inference.evaluation.measured import INTERNAL, Measured, ratio
from probattn.inference.evaluation.predictive import affordable, as_fits
from probattn.inference.fitting.fit import CHAINS, Fit, mixture_error, mixture_log_prob
from probattn.inference.report.style import STYLE, looks, own_axes

BASELINES = ("unigram", "bigram")


@dataclass(frozen=True, eq=False)
class Score:
    """Held-out log probability of one predictor, and what it cost.

    Args:
        name: of the predictor; method, of the fit, or "baseline".
        per_token, per_sequence: log probability in nats, with standard errors across sequences.
        density: the model's name; parameters: how many numbers its priors are over; 0 for a baseline.
        gradients: evaluations of the log density's gradient on all training data; seconds: wall time; NaN if unknown.
        monte_carlo_error: part of the standard error per token that is due to particles, where the log probability is
            estimated by them; monte_carlo_bias: by how much it is then too low on average.
        num_tokens: how many held-out tokens count.
        log_probs: of each sequence; per_draw: of each under each draw (chains, draws, num_sequences), None of a baseline.
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
    num_tokens: int = 0
    log_probs: Any = field(default=None, metadata=INTERNAL)
    per_draw: Any = field(default=None, metadata=INTERNAL)

    @property
    def loss(self) -> float:
        """Minus the log probability per token, nats."""
        return -self.per_token.value


@dataclass(frozen=True)
class Difference:
    """Paired difference of two predictors' held-out log probability, first minus second, in nats."""

    first: str
    second: str
    per_token: Measured
    per_sequence: Measured
    densities: tuple[str, str] = ("", "")


def score_fit(name: str, fit: Fit, tokens: Any) -> Score:
    """Score of one fit: a posterior gives each sequence its probability under the mixture of its draws."""
    used = affordable(fit)
    per_draw, errors = used.estimate_log_prob(tokens)
    counts = token_counts(np.asarray(tokens))
    error = mixture_error(per_draw, errors)
    return Score(
        name,
        fit.method,
        *_measured(mixture_log_prob(per_draw), counts),
        density=type(fit.model).__name__,
        parameters=num_parameters(fit.model),
        gradients=float(fit.gradients),
        seconds=fit.seconds,
        monte_carlo_error=float(np.sqrt((error**2).sum()) / counts.sum()),
        monte_carlo_bias=float((error**2).sum() / 2 / counts.sum()),
        num_tokens=int(counts.sum()),
        log_probs=mixture_log_prob(per_draw),
        per_draw=per_draw,
    )


def score_baselines(train: np.ndarray, tokens: np.ndarray, vocab_size: int, more: Any = None) -> list[Score]:
    """Scores of a unigram and a bigram of the training sequences, and of a bigram of `more` of them."""
    data: dict[str, Any] = {name: (train, name) for name in BASELINES}
    if more is not None:
        data[f"bigram, {len(more):,} sequences"] = (more, "bigram")
    found = []
    for name, (sequences, order) in data.items():
        log_probs = fit_ngram(sequences, vocab_size, order).log_prob(tokens)
        counts = token_counts(tokens)
        measured = _measured(log_probs, counts)
        found.append(Score(name, "baseline", *measured, num_tokens=int(counts.sum()), log_probs=log_probs))
    return found


def differences(scores: list[Score], tokens: np.ndarray) -> tuple[Difference, ...]:
    """Paired differences of all pairs, the first minus the second."""
    counts = token_counts(tokens)
    return tuple(
        Difference(
            one.name,
            other.name,
            *_measured(one.log_probs - other.log_probs, counts),
            (one.density, other.density),
        )
        for one, other in combinations(scores, 2)
    )


def num_parameters(model: Any) -> int:
    """How many numbers a model's priors are over; its latent variables are not among them."""
    return sum(math.prod(prior.shape()) for prior in model.priors().values())


def plot_scores(fits: Any, tokens: Any = None, *, ax: Axes | None = None) -> Axes:
    """Held-out loss of each predictor with two standard errors.

    Args: fits, one, several by name, or a sequence of `Score`; tokens, held-out sequences (num_sequences, length), for
        which a unigram and a bigram of the training sequences are scored too.
    Raises: InputError on tokens that the model refuses.
    """
    if isinstance(fits, (list, tuple)):
        scores = list(fits)
    else:
        given = as_fits(fits)
        first = next(iter(given.values()))
        scores = [score_fit(name, fit, tokens) for name, fit in given.items()]
        scores += score_baselines(first.data, np.asarray(tokens), first.model.vocab_size)
    ordered = sorted(scores, key=lambda score: -score.loss)
    ax = own_axes(ax, 6.8, 1.0 + 0.38 * len(ordered))
    shown = looks({score.name: score.method for score in scores})
    with mpl.rc_context(STYLE):
        for row, score in enumerate(ordered):
            look = {"color": shown[score.name]["color"], "marker": shown[score.name]["marker"]}
            ax.errorbar(score.loss, row, xerr=2 * score.per_token.error, capsize=3, label=score.name, **look)
            ax.annotate(f"{score.loss:.3f}", (score.loss, row), xytext=(0, 7), textcoords="offset points", ha="center", fontsize=9)  # fmt: skip
        ax.set_yticks(range(len(ordered)), [score.name for score in ordered])
        ax.set_ylim(-0.5, len(ordered) - 0.2)
        ax.set_xlabel("held-out loss, nats per token (left is better; bars: two standard errors)")
        ax.grid(axis="x", alpha=0.3)
    return ax


def plot_traces(fits: Any, tokens: Any = None, *, ax: Axes | None = None) -> Axes:
    """Held-out log probability per token of single draws, chain by chain.

    Args: fits, one, several by name, or a sequence of `Score`; tokens, held-out sequences. Fits without chains have none.
    Raises: InputError where no fit has chains.
    """
    given = isinstance(fits, (list, tuple))
    scores = fits if given else [score_fit(name, fit, tokens) for name, fit in as_fits(fits).items()]
    sampled = [score for score in scores if has_chains(score)]
    if not sampled:
        raise InputError("traces: expected a fit by Markov chains, got none")
    ax = own_axes(ax, 6.8, 3.0)
    shown = looks({score.name: score.method for score in sampled})
    with mpl.rc_context(STYLE):
        for score in sampled:
            for chain, values in enumerate(score.per_draw.sum(-1) / score.num_tokens):
                style = ("-", "--", ":", "-.")[chain % 4]
                ax.plot(
                    values,
                    style,
                    color=shown[score.name]["color"],
                    linewidth=1,
                    label=f"{score.name}, chain {chain + 1}",
                )
        ax.set_xlabel("draw")
        ax.set_ylabel("held-out log probability,\nnats per token")
        ax.figure.legend(*ax.get_legend_handles_labels(), loc="outside upper left", ncols=3, fontsize=9)
    return ax


def has_chains(score: Score) -> bool:
    """Whether the draws of a score are those of Markov chains."""
    return score.method in CHAINS


def _measured(log_probs: np.ndarray, counts: np.ndarray) -> tuple[Measured, Measured]:
    """Per token and per sequence."""
    return ratio(log_probs, counts), ratio(log_probs, np.ones(len(log_probs)))
