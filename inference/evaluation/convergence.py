"""Convergence of a posterior in three tiers: raw weights, identified quantities and predictions.

Source: theory, section 6.
"""

import dataclasses
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from arviz_stats.base import array_stats

from probattn.errors import InputError
from probattn.inference.contract import IdentifiedModel, Model, ParticleModel
from probattn.inference.evaluation.chain_levels import ADVICE, levels_apart
from probattn.inference.evaluation.chain_statistics import mixing
from probattn.inference.evaluation.monte_carlo import LEAST_DRAWS, error_of_draws
from probattn.inference.fitting.fit import Fit, over_draws
from probattn.inference.fitting.verdict import Verdict

RHAT_LIMIT = 1.05
CHANCE = 0.05  # below it the largest R-hat of a tier is not that of converged chains
ESS_LIMIT = 100  # the Monte Carlo error of a mean is then a tenth of the posterior's spread
# Of the smallest effective sample size of a tier, for each chain. Below, autocorrelations are not
# known well enough to say how large R-hat is when chains have converged. Of 1,000 AR(1) series with
# a true size of 42 in four chains the smallest estimate is 10.
LEAST_ESS = 4
BFMI_LIMIT = 0.3  # below it the momentum hardly changes the energy, and tails are explored slowly
DEPTH_SHARE = 0.25  # a larger share of draws with trajectories cut short by tree depth is noted
DIVERGED_SHARE = 0.01  # for a larger share of divergent draws the note names a cause
JUDGED_SEQUENCES = 100  # sequences whose log probabilities are judged one by one


@dataclass(frozen=True)
class Tier:
    """The worst of several quantities.

    Args:
        name: "raw", "identified" or "predictive".
        count: how many scalars were judged; scalars that are equal in all draws do not count.
        rhat: the largest rank-normalised R-hat; where chains share starts, the larger one of it
            and nested R-hat.
        rhat_of: name of the scalar with this R-hat.
        chance: probability that, had all chains converged, one of the `count` R-hats were as
            surprising as the most surprising one is (Bonferroni).
        ess_bulk, ess_tail: the smallest effective sample sizes of the bulk and of the tails.
        ess_of: name of the scalar with the smallest effective sample size of either kind.
        below: how many scalars have an effective sample size below ESS_LIMIT.
    """

    name: str
    count: int
    rhat: float
    rhat_of: str
    chance: float
    ess_bulk: float
    ess_tail: float
    ess_of: str
    below: int


@dataclass(frozen=True)
class Diagnosis:
    """Convergence of a posterior, and statistics of its sampler.

    Args:
        name: of the fit.
        quantity: what the headline numbers are of: the log probability of all sequences together;
            where the likelihood is estimated, that of the training tokens given their embeddings;
            else the raw parameters.
        chains: number of chains.
        draws: number of draws in each chain so far.
        planned: number of draws that each chain is to have.
        start: how chains were started.
        num_starts: number of different start points.
        rhat, ess_bulk, ess_tail: R-hat and effective sample sizes of `quantity`.
        divergences: number of divergent draws in all chains.
        outside: number of trajectories that met a point of density 0, the boundary of the local
            domain, and were rejected; NUTS counts them among the divergent ones.
        steps_per_draw: mean number of gradients per draw.
        at_most_depth: share of trajectories that max_tree_depth cut short.
        bfmi: Bayesian fraction of missing information, the smallest over chains; NaN if unknown.
        monte_carlo_error: of the log probability that the mixture of all draws gives to all
            sequences together, in nats: what other draws of the same posterior would change; NaN
            where the model's likelihood is not known or draws are too few.
        tiers: those of raw, identified and predictive that the model has.
        verdict: whether the chains have converged, from the identified and predictive tiers if
            there are any, else from the raw one.
    """

    name: str
    quantity: str
    chains: int
    draws: int
    planned: int
    start: str
    num_starts: int
    rhat: float
    ess_bulk: float
    ess_tail: float
    divergences: int
    outside: int
    steps_per_draw: float
    at_most_depth: float
    bfmi: float
    tiers: tuple[Tier, ...]
    monte_carlo_error: float
    verdict: Verdict


def diagnose(
    fit: Fit, data: Any = None, *, name: str = "posterior", log_prob: np.ndarray | None = None
) -> Diagnosis:
    """Judge whether a posterior has converged, by identified quantities and predictions.

    Raw weights may look converged while the chains sit in different arrangements of the tokens, or
    the reverse. So the verdict rests on identified quantities (`model.quantities`) and on log
    probabilities of sequences. A model that has neither is judged by its raw parameters.

    Args:
        fit: a posterior, finished or not.
        data: sequences, whose log probabilities are predicted; the training data if None.
        name: of the fit, for reports.
        log_prob: their log probabilities (chains, draws, num_sequences), if already computed.

    Raises: InputError for a fit whose draws are not those of Markov chains: R-hat has no meaning
    there. Source: theory, section 6.
    """
    if not fit.sampled:
        raise InputError(
            f"diagnose: expected draws of Markov chains, got a fit by {fit.method}; see its "
            "`verdict`"
        )
    chains, draws = fit.shape
    quantity, predicted, per_sequence = _predictions(fit, data, log_prob)
    identified = _identified(fit)
    tiers = tuple(
        _tier(tier, values, fit.origins)
        for tier, values in (
            ("raw", _columns(fit.draws)),
            ("identified", identified),
            ("predictive", predicted),
        )
        if values
    )
    headline = (
        _tier("headline", {quantity: predicted[quantity]}, fit.origins) if predicted else tiers[0]
    )
    steps = np.asarray(fit.stats["n_steps"]) if "n_steps" in fit.stats else np.ones((chains, draws))
    enough = "energy" in fit.stats and draws >= LEAST_DRAWS
    found: dict[str, Any] = dict(
        chains=chains,
        draws=draws,
        planned=fit.planned or draws,
        start=fit.start,
        num_starts=len(set(fit.origins)) or chains,
        divergences=int(fit.stats["diverging"].sum()) if "diverging" in fit.stats else 0,
        outside=int(fit.stats["outside"].sum()) if "outside" in fit.stats else 0,
        steps_per_draw=float(steps.mean()),
        at_most_depth=float(np.mean(fit.stats.get("reached_max_treedepth", 0.0))),
        bfmi=float(np.min(array_stats.bfmi(np.asarray(fit.stats["energy"]))))
        if enough
        else math.nan,
    )
    verdict, more = _verdict(tiers, headline, found), [_pairs(identified)]
    error = math.nan if per_sequence is None else error_of_draws(per_sequence, fit.method)
    if per_sequence is not None and not math.isnan(error):
        more.append(
            f"The predictive log probability of the {per_sequence.shape[-1]} sequences has a Monte "
            f"Carlo error of {error:.2g} nats, from the finite number of draws."
        )
    advice = verdict.advice
    energies = fit.stats.get("potential_energy")
    if not verdict.converged and energies is not None and (apart := levels_apart(-energies)):
        more.append(apart)
        advice = (*advice, ADVICE)
    notes = (*verdict.notes, *filter(None, more))
    verdict = dataclasses.replace(verdict, notes=notes, advice=advice)
    return Diagnosis(
        name,
        quantity,
        rhat=headline.rhat,
        ess_bulk=headline.ess_bulk,
        ess_tail=headline.ess_tail,
        tiers=tiers,
        monte_carlo_error=error,
        verdict=verdict,
        **found,
    )


def _predictions(
    fit: Fit, sequences: Any, log_prob: np.ndarray | None
) -> tuple[str, dict[str, np.ndarray], np.ndarray | None]:
    """What is predicted, the quantities that are judged, and log probabilities of each sequence."""
    if isinstance(fit.model, ParticleModel):
        quantity = "log probability of the training tokens given their embeddings"
        values = over_draws(
            type(fit.model).emitted, fit.model, {**fit.flat_draws(), **fit.flat_latents()}, fit.data
        )
        return quantity, {quantity: values.reshape(fit.shape)}, None
    if not isinstance(fit.model, Model):
        return "raw parameters", {}, None
    quantity = (
        "training log probability"
        if sequences is None and log_prob is None
        else "held-out log probability"
    )
    if log_prob is None:
        log_prob = fit.draw_log_prob(fit.data if sequences is None else sequences)
    total = {quantity: log_prob.sum(-1)}
    each = {
        f"sequence {i}": log_prob[..., i] for i in range(min(JUDGED_SEQUENCES, log_prob.shape[-1]))
    }
    return quantity, total | each, log_prob


def _identified(fit: Fit) -> dict[str, np.ndarray]:
    if not isinstance(fit.model, IdentifiedModel):
        return {}
    values = over_draws(
        type(fit.model).quantities, fit.model, {**fit.flat_draws(), **fit.flat_latents()}, fit.data
    )
    return _columns(
        {name: value.reshape(*fit.shape, *value.shape[1:]) for name, value in values.items()}
    )


def _pairs(identified: Mapping[str, np.ndarray]) -> str:
    """A note where of the pairs of symbols only some are judged, which quantities say by name."""
    named = Counter(column.split("[")[0] for column in identified if " pairs" in column)
    some = ", ".join(f"{name} ({number})" for name, number in named.items())
    return some and f"Not all pairs of symbols are judged, so that time is linear: {some}."


def _columns(values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Each entry of arrays (chains, draws, ...) as (chains, draws), named with indices from 0."""
    columns = {}
    for name, value in values.items():
        for index in np.ndindex(value.shape[2:]):
            columns[f"{name}{list(index) if index else ''}"] = np.asarray(value[(..., *index)])
    return columns


def _tier(name: str, columns: Mapping[str, np.ndarray], origins: tuple[int, ...]) -> Tier:
    """The worst R-hat and effective sample sizes of columns (chains, draws) that vary.

    Args: origins, the number of the start of each chain.
    """
    varying = {column: values for column, values in columns.items() if np.ptp(values) > 0}
    some = next(iter(columns.values()))
    if not varying or some.shape[1] < LEAST_DRAWS:
        return Tier(name, len(varying), math.nan, "", math.nan, math.nan, math.nan, "", 0)
    names, values = list(varying), np.stack(list(varying.values()))
    # Nested R-hat needs several starts, each shared by the same number of chains.
    shared = len(origins) // max(len(set(origins)), 1)
    nests = 1 < len(set(origins)) < len(origins) and all(
        origins.count(one) == shared for one in origins
    )
    rhat, chance, bulk, tail, nested = mixing(values, np.array(origins) if nests else None)
    # R-hat can be NaN where a quantity never changes within chains but differs between them.
    # Such chains do not mix at all.
    rhat, chance = np.where(np.isnan(rhat), np.inf, rhat), np.where(np.isnan(rhat), 0, chance)
    if nested is not None:
        chance = np.where((nested > rhat) & (nested > RHAT_LIMIT), 0, chance)
        rhat = np.fmax(rhat, nested)
    least = np.fmin(np.where(np.isnan(bulk), 0, bulk), np.where(np.isnan(tail), np.inf, tail))
    return Tier(
        name,
        len(names),
        float(rhat.max()),
        names[int(rhat.argmax())],
        float(min(1.0, len(names) * np.nanmin(chance))),
        float(np.nanmin(bulk)) if not np.isnan(bulk).all() else math.nan,
        float(np.nanmin(tail)) if not np.isnan(tail).all() else math.nan,
        names[int(least.argmin())],
        int((least < ESS_LIMIT).sum()),
    )


def _agrees(tier: Tier) -> bool:
    """Whether the chains agree: R-hats are small, or as large as chance makes some of many."""
    return tier.rhat <= RHAT_LIMIT or tier.chance >= CHANCE


def _verdict(tiers: tuple[Tier, ...], headline: Tier, found: dict[str, Any]) -> Verdict:
    judged = [tier for tier in tiers if tier.name != "raw"] or list(tiers)
    findings, advice, notes = [], [], []
    few = found["draws"] < LEAST_DRAWS
    if few:
        findings.append(
            f"{found['draws']} draws a chain are too few to judge (at least {LEAST_DRAWS})."
        )
    least_size = LEAST_ESS * found["chains"]
    for tier in () if few else judged:
        if not tier.count:
            continue
        if not _agrees(tier):
            findings.append(
                f"R-hat of {tier.rhat_of or 'all'} ({tier.name}) is {tier.rhat:.3f} (limit "
                f"{RHAT_LIMIT}); converged chains would show such a largest one of {tier.count} "
                f"with probability {tier.chance:.2g}."
            )
        elif tier.ess_bulk < least_size:
            findings.append(
                f"The smallest bulk effective sample size ({tier.name}) is {tier.ess_bulk:.0f}: "
                f"below {least_size} R-hat cannot be judged."
            )
        else:
            if tier.rhat > RHAT_LIMIT:
                notes.append(
                    f"The largest R-hat of {tier.count} ({tier.name}) is {tier.rhat:.3f}: at their "
                    "effective sample sizes converged chains show as surprising a one with "
                    f"probability {tier.chance:.2g}."
                )
            if tier.below:
                notes.append(
                    f"{tier.below} of {tier.count} ({tier.name}) have an effective sample size "
                    f"below {ESS_LIMIT}: their means have a Monte Carlo error above a tenth of the "
                    "posterior's spread."
                )
    size = min(headline.ess_bulk, headline.ess_tail)
    if not findings and headline.count and size < ESS_LIMIT:
        findings.append(
            f"The effective sample size of {headline.ess_of} is {size:.0f} (limit {ESS_LIMIT})."
        )
    if findings:
        advice.append("Give it more warmup and draws (num_warmup, num_samples).")
    raw = next((tier for tier in tiers if tier.name == "raw"), None)
    # Nothing is said of chains whose R-hat cannot be judged, as above for the others.
    known = raw is not None and (not _agrees(raw) or raw.ess_bulk >= least_size)
    if raw is not None and raw not in judged and known and _agrees(raw) != (not findings):
        looks = "look converged" if _agrees(raw) else "have not converged"
        notes.append(
            f"Raw weights {looks} (R-hat {raw.rhat:.3f}), which symmetries make meaningless here."
        )
    if found["num_starts"] == 1 and found["chains"] > 1:
        notes.append(
            "All chains started from one point: their agreement says nothing about other modes."
        )
    if found["chains"] == 1:
        notes.append("There is only one chain: R-hat needs at least two.")
    if found["draws"] < found["planned"]:
        notes.append(f"Unfinished: {found['draws']} of {found['planned']} draws a chain.")
    total = found["chains"] * found["draws"]
    if found["divergences"]:
        cause = "" if found["outside"] else "; a step across the boundary is one cause"
        many = found["divergences"] > DIVERGED_SHARE * total
        notes.append(f"{found['divergences']} of {total} draws diverged{cause if many else ''}.")
    if found["outside"]:
        notes.append(
            f"{found['outside']} of {total} trajectories met the boundary of the local domain, "
            "where the density is 0, and were rejected, which is exact and no divergence."
        )
    if found["at_most_depth"] > DEPTH_SHARE:
        notes.append(
            f"{found['at_most_depth']:.0%} of trajectories had the greatest length there was "
            "(max_tree_depth)."
        )
    if found["bfmi"] < BFMI_LIMIT:
        notes.append(f"BFMI is {found['bfmi']:.2f}: tails are explored slowly.")
    numbers = {f"{tier.name} R-hat": tier.rhat for tier in tiers} | {
        f"{tier.name} ESS": tier.ess_bulk for tier in tiers
    }
    if not findings:
        worst = max(judged, key=lambda tier: tier.rhat)
        least = min(min(tier.ess_bulk, tier.ess_tail) for tier in judged)
        fine = (
            (
                f"Largest R-hat {worst.rhat:.3f}, smallest effective sample size {least:.0f}, of "
                f"{sum(t.count for t in judged)} identified and predictive quantities."
            ),
        )
        return Verdict(True, fine, (), tuple(notes), numbers)
    return Verdict(False, tuple(findings), tuple(advice), tuple(notes), numbers)
