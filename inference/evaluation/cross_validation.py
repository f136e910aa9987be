"""Leave-one-out: the probability of each training sequence given all others, without refits."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from arviz_stats.base import array_stats

from probattn.errors import InputError
from probattn.inference.contract import is_generalised
from probattn.inference.evaluation.convergence import diagnose
from probattn.inference.evaluation.left_out_posteriors import left_out_mixture
from probattn.inference.fitting.fit import Fit
from probattn.inference.fitting.posterior import sample_posterior
from probattn.inference.fitting.verdict import Verdict

LEAST_FOR_LOO = 25  # draws: the tail that PSIS fits, a fifth of them, needs at least five
EVEN = 1e-3  # spread of log weights that is rounding: of draws of what is left out itself

STILL_MORE = "Sample more, or use held-out sequences."
MORE = f"Leave these out by a second posterior, leave_one_out(fit, key=...). {STILL_MORE}"
GENERALISED = (
    "Generalised posterior: a sequence is left out together with its factor, and its term here is "
    "that of the law of tokens alone, which is not the law that was fitted."
)


@dataclass(frozen=True, eq=False)
class LeaveOneOut:
    """Leave-one-out log probabilities, in nats.

    Args:
        log_prob: sum over sequences of `log p(x_i | x_-i)`.
        standard_error: of `log_prob`, over sequences.
        effective_parameters: the effective number of parameters, `log_prob` below the log
            probability of the sequences under the whole posterior.
        per_sequence: `log p(x_i | x_-i)` of each sequence, (num_sequences,).
        khat: Pareto shape estimate of each sequence, (num_sequences,).
        verdict: whether every k-hat is within its limit, and the second posterior has converged
            where there is one.
        resampled: whether a sequence's term is that of the second posterior, (num_sequences,).
    """

    log_prob: float
    standard_error: float
    effective_parameters: float
    per_sequence: np.ndarray
    khat: np.ndarray
    verdict: Verdict
    resampled: np.ndarray


def leave_one_out(fit: Fit, *, key: Any = None, **settings: Any) -> LeaveOneOut:
    """PSIS-LOO: log probability of each training sequence given all others, without refitting.

        log p(x_i | x_-i) = log sum_s w_is p(x_i | theta_s)
        w_is  proportional to  1 / [p(x_i | theta_s) f_i(theta_s)],  Pareto-smoothed

    over the posterior's draws theta_s. f_i holds all other terms that sequence i puts into the
    joint density (`FactoredModel`; for a `LanguageModel` its path term), so that with the sequence
    all of its terms are left out. The verdict counts the sequences whose k-hat is above its limit:
    leaving one of these out changes the posterior too much for the estimate to be reliable.

    With a `key` these are left out by a second posterior, the mixture of their left-out posteriors,
    in which their weights are bounded: it costs as much as another `sample_posterior`, or two,
    however many they are.

    Args: fit, a posterior; key, random key of the second one; settings, of its `sample_posterior`.

    Raises: InputError for a fit whose draws are not those of Markov chains, fewer than 25 draws, an
    estimated likelihood, or settings without a key. FitError if the second posterior fails.
    Source: Vehtari, Gelman, Gabry, arXiv:1507.04544; Silva and Zanella, arXiv:2209.09190.
    """
    if settings and key is None:
        raise InputError(
            f"leave_one_out: expected a key together with {', '.join(settings)}, which are of the "
            "second posterior"
        )
    if not fit.sampled:
        raise InputError(
            f"leave_one_out: expected draws of Markov chains, got a fit by {fit.method}"
        )
    if fit.estimated:
        raise InputError(
            "leave_one_out: the likelihood of this model is an estimate; use held-out sequences"
        )
    chains, draws = fit.shape
    if chains * draws < LEAST_FOR_LOO:
        raise InputError(
            f"leave_one_out: expected at least {LEAST_FOR_LOO} draws, got {chains * draws}"
        )
    log_prob = fit.draw_log_prob(fit.data).astype(float)  # [chain, draw, n]
    terms = log_prob + fit.draw_log_factors(fit.data)
    per_sequence, khat = np.transpose(
        [_left_out(log_prob[..., i], terms[..., i]) for i in range(log_prob.shape[-1])]
    )
    whole = np.logaddexp.reduce(log_prob, axis=(0, 1)) - math.log(chains * draws)
    # A NaN, of too short a tail, is no good either.
    resampled = ~(khat <= _limit(chains * draws)) & (key is not None)
    second = None
    if resampled.any():
        log_weights = np.full(len(khat), -np.inf)
        for i in np.flatnonzero(resampled):
            log_weights[i] = _left_out(terms[..., i], terms[..., i])[0]
        second = _second_posterior(fit, log_weights, key, settings)
        found = _left_out_of_mixture(second, log_weights)
        per_sequence[resampled], khat[resampled] = found
    error = math.sqrt(len(khat)) * per_sequence.std(ddof=1) if len(khat) > 1 else math.nan
    return LeaveOneOut(
        float(per_sequence.sum()),
        float(error),
        float((whole - per_sequence).sum()),
        per_sequence,
        khat,
        _verdict(khat, chains * draws, is_generalised(fit.model), int(resampled.sum()), second),
        resampled,
    )


def _second_posterior(fit: Fit, log_weights: np.ndarray, key: Any, settings: dict[str, Any]) -> Fit:
    """Draws of the mixture of left-out posteriors, as a fit of the model itself."""
    # Near the origin, since modes of the mixture may lie at the wall of a local domain.
    settings = {"start": "random", **settings}
    drawn = sample_posterior(
        left_out_mixture(fit.model, log_weights), fit.data, key=key, **settings
    )
    return dataclasses.replace(drawn, model=fit.model)


def _left_out_of_mixture(second: Fit, log_weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`log p(x_i | x_-i)` and k-hat of the sequences of the mixture by its draws."""
    log_prob = second.draw_log_prob(second.data).astype(float)  # [chain, draw, n]
    terms = log_prob + second.draw_log_factors(second.data)
    chosen = np.flatnonzero(np.isfinite(log_weights))
    every = np.logaddexp.reduce(log_weights[chosen] - terms[..., chosen], axis=-1)
    each = [_left_out(log_prob[..., i], terms[..., i] + every) for i in chosen]
    per_sequence, khat = np.transpose(each)
    return per_sequence, khat


def _left_out(log_prob: np.ndarray, terms: np.ndarray) -> tuple[float, float]:
    """`log p(x_i | x_-i)` and k-hat of one sequence.

    Args: log_prob, its log probability; terms, the log of all its terms; [chain, draw] each.
    """
    if np.ptp(terms) < EVEN:  # weights that do not vary have no tail
        return float(np.logaddexp.reduce(log_prob.ravel()) - math.log(log_prob.size)), 0.0
    # The smoothed tail is as long as these draws are worth for the mean of 1 / weight.
    efficiency = array_stats.ess(
        np.exp(terms - terms.max()), chain_axis=0, draw_axis=1, method="mean"
    )
    relative = float(efficiency) / terms.size
    # ArviZ takes the log of what is left out, and weighs by its inverse.
    log_weight, khat = array_stats.psislw(terms.ravel(), r_eff=relative)
    normalised = log_weight - np.logaddexp.reduce(log_weight)
    return float(np.logaddexp.reduce(normalised + log_prob.ravel())), float(khat)


def _limit(number: int) -> float:
    """The largest k-hat with which this number of draws give a reliable estimate."""
    return min(1 - 1 / math.log10(number), 0.7)


def _verdict(
    khat: np.ndarray, number: int, generalised: bool, resampled: int = 0, second: Fit | None = None
) -> Verdict:
    limit = _limit(number)
    bad = int((~(khat <= limit)).sum())
    largest = float(np.nanmax(khat, initial=-np.inf))
    said = (
        f"{bad} of {len(khat)} sequences have k-hat above {limit:.2f} (largest {largest:.2f}): "
        "their terms are not reliable."
        if bad
        else f"All k-hat are below {limit:.2f}."
    )
    advice = [MORE if second is None else STILL_MORE] if bad else []
    reasons, good = [said], not bad
    if second is not None:
        judged = diagnose(second).verdict
        good = good and judged.converged
        reasons.append(
            f"{resampled} of {len(khat)} sequences were left out by a second posterior, which has "
            f"{'' if judged.converged else 'not '}converged."
        )
        advice += [] if judged.converged else judged.advice
    notes = (GENERALISED,) if generalised else ()
    return Verdict(good, tuple(reasons), tuple(advice), notes, {"k-hat": largest})
