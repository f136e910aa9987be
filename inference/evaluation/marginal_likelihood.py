"""The evidence of a model: the probability of the data, averaged over the prior."""

import importlib.util
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from probattn.checks import as_data, as_integer, as_key
from probattn.errors import InputError
from probattn.inference.contract import (
    BoundedModel,
    Model,
    NumPyroModel,
    ParticleModel,
    TokenModel,
    is_generalised,
    name_of,
    require,
)
from probattn.inference.devices.progress import Progress
from probattn.inference.devices.sharding import condensed
from probattn.inference.evaluation.measured import SURE, Measured
from probattn.inference.evaluation.tempering import (
    Run,
    Settings,
    live_draws,
    programs_of,
    tempered_run,
)
from probattn.inference.fitting.density import Density, density_of
from probattn.inference.fitting.unconstrained import Values, constrain_each
from probattn.inference.fitting.verdict import Verdict

# A ratio of evidences below e, 1 nat, is "not worth more than a bare mention" (Kass and Raftery,
# Journal of the American Statistical Association 90, 1995): an evidence is trusted to that.
WORTH_MENTION = 1.0
LEAST_ACCEPTANCE = 0.2  # below it hardly any particle moves at some temperature
# Terms of the joint density may differ from the likelihood by the rounding of float32 sums.
ROUNDING_OF_SUMS = 1e-3


@dataclass(frozen=True, eq=False)
class Evidence:
    """The evidence `p(data) = integral p(data | theta) p(theta) d theta`, estimated by particles.

    Args:
        density: identity of the model and its data.
        log_evidence: in nats, the log of the mean over the runs of their evidences: the mean is
            taken on the scale of the evidence itself, where each run is right on average.
        standard_error: of it, in nats: the standard deviation of the runs' log evidences, divided
            by the square root of how many they are. With 4 runs 95 % of all intervals that have
            the truth reach 3.2 of it to both sides (Student's t with 3 degrees of freedom).
        num_sequences: number of sequences in the data.
        runs: log evidence of each run (num_runs,).
        support: log of the prior's mass where the likelihood is positive, of each run (num_runs,);
            0 without a boundary.
        temperatures, share, acceptance: of each run, its temperatures up to 1, the effective share
            of the particles under the weights of each, and the mean acceptance of the moves there.
        drift: how many nats each run would gain from chains that had begun where they ended
            (num_runs,), see `tempering.Run`; 0 on average where moves are enough.
        draws: of the posterior by name of site, (num_runs, num_particles, ...).
        log_likelihood: of the draws (num_runs, num_particles).
        num_gradients: gradients on the whole data, of all runs.
        seconds: wall time.
        verdict: whether the evidence can be trusted to 1 nat.
    """

    density: Density
    log_evidence: float
    standard_error: float
    num_sequences: int
    runs: Float[np.ndarray, " num_runs"]
    support: Float[np.ndarray, " num_runs"]
    temperatures: tuple[np.ndarray, ...]
    share: tuple[np.ndarray, ...]
    acceptance: tuple[np.ndarray, ...]
    drift: Float[np.ndarray, " num_runs"]
    draws: Mapping[str, np.ndarray]
    log_likelihood: np.ndarray
    num_gradients: float
    seconds: float
    verdict: Verdict

    @property
    def measured(self) -> Measured:
        """The log evidence with its standard error, in nats."""
        return Measured(self.log_evidence, self.standard_error)

    @property
    def information(self) -> float:
        """Nats by which the data moved the prior: the mean log likelihood minus the log evidence.

        It is the Kullback-Leibler divergence of the posterior from the prior, which a model pays
        for its fit."""
        return float(self.log_likelihood.mean()) - self.log_evidence


def evidence(
    model: NumPyroModel,
    data: Any,
    *,
    key: Array,
    num_particles: int = 1024,
    num_runs: int = 4,
    chain_length: int = 4,
    num_steps: int = 8,
    progress: bool = True,
) -> Evidence:
    """The log evidence of a model whose law is normalised, by tempered sequential Monte Carlo.

        log p(data) = log integral p(data | theta) p(theta) d theta

    Particles go from the prior to the posterior through temperatures that their weights choose, in
    several independent runs, whose spread is the error. Particles are vectorised, so that a GPU
    pays once there are thousands. Needs the extra `blackjax`.

    The evidence depends on the prior, however many data there are: a prior twice as wide in k
    directions that the data determine costs about k log 2 nats. Compare models whose priors are
    meant.

    Args:
        model: its joint density is prior times `log_likelihood`, and nothing else.
        data: sequences first, as for `sample_posterior`.
        key: JAX random key.
        num_particles: of each run, N; a multiple of `chain_length`.
        num_runs: independent runs, at least 2.
        chain_length: particles of one chain at each temperature, at least 2. There are as many
            chains as this divides the particles, and they are computed side by side.
        num_steps: leapfrog steps of a move, whose size is tuned.
        progress: show progress.

    Raises:
        InputError: BlackJAX is not installed; a count out of range; a generalised posterior; a
            likelihood that is an estimate by particles; a density that is restricted to a domain;
            terms of the joint beside prior and likelihood.
        FitError: a NaN, or a prior that hardly ever has positive likelihood.

    Source: Dau and Chopin, arXiv:2011.02328 (waste-free); theory, section 7, for which laws.
    """
    for name, value in {"num_particles": num_particles, "num_steps": num_steps}.items():
        as_integer(name, value)
    as_integer("num_runs", num_runs, 2)
    as_integer("chain_length", chain_length, 2)
    if num_particles % chain_length or num_particles < 2 * chain_length:
        raise InputError(
            f"num_particles: expected a multiple of the chain length, at least twice "
            f"{chain_length}, got {num_particles}"
        )
    scored = refuse_unnormalised(model)
    if importlib.util.find_spec("blackjax") is None:
        raise InputError(
            'evidence: needs BlackJAX; install it with `pip install "probattn[blackjax]"`'
        )
    started = time.perf_counter()
    data, keys = as_data(data), jax.random.split(as_key(key), num_runs)
    settings = Settings(num_particles, chain_length, num_steps)
    given = condensed(model, data, None)
    start = live_draws(programs_of(model, settings), given, keys[0], num_particles)
    _refuse_other_terms(scored, data, given, start)
    runs: list[Run] = []
    with Progress("evidence", num_runs, progress) as bar:
        for one in keys:

            def tell(temperature: float, done: int = len(runs)) -> None:
                bar.update(done, f"temperature {temperature:.2g} of run {done + 1}")

            runs.append(tempered_run(model, given, one, settings, tell))
        bar.update(num_runs)
    values = [constrain_each(model, given, run.z) for run in runs]
    each = np.array([run.log_evidence for run in runs])
    drift = np.array([run.drift for run in runs])
    acceptance = tuple(run.acceptance for run in runs)
    return Evidence(
        density=density_of(model, data),
        log_evidence=float(np.logaddexp.reduce(each) - np.log(num_runs)),
        standard_error=_error(each),
        num_sequences=len(data),
        runs=each,
        support=np.array([run.log_support for run in runs]),
        temperatures=tuple(run.temperatures for run in runs),
        share=tuple(run.share for run in runs),
        acceptance=acceptance,
        drift=drift,
        draws=jax.tree.map(lambda *leaves: np.stack(leaves), *values),
        log_likelihood=np.stack([run.log_likelihood for run in runs]),
        num_gradients=float(sum(run.num_gradients for run in runs)),
        seconds=time.perf_counter() - started,
        verdict=_judge(each, drift, float(min(one.min() for one in acceptance))),
    )


def log_bayes_factor(one: Evidence, other: Evidence) -> Measured:
    """`log p(data | one) - log p(data | other)` in nats, with its standard error.

    Raises: InputError if they are evidences of different data."""
    if one.density.data != other.density.data:
        raise InputError(
            "log_bayes_factor: expected evidences of the same data, got other training sequences"
        )
    return Measured(
        one.log_evidence - other.log_evidence,
        float(np.hypot(one.standard_error, other.standard_error)),
    )


def refuse_unnormalised(model: NumPyroModel) -> Model:
    """Return the model if its law is normalised and its likelihood known.

    Raises: InputError, with the reason, for one that has no evidence that this computes."""
    if is_generalised(model):
        raise InputError(
            "evidence: expected a model whose law is normalised, got one with a factor beside the "
            "law of its data, whose integral depends on the parameters: its posterior is a "
            'generalised one and has no evidence; use barrier="normalised" or barrier_weight=0'
        )
    if isinstance(model, ParticleModel):
        raise InputError(
            f"evidence: expected a likelihood that is known, got {name_of(model)}, whose "
            "likelihood is itself an estimate by particles; use a LanguageModel"
        )
    # A law of tokens sums to one whatever its domain; a density that is cut off does not.
    cut_off = isinstance(model, BoundedModel) and model.has_boundary
    if cut_off and not isinstance(model, TokenModel):
        raise InputError(
            "evidence: expected a model whose law is normalised, got one whose density is "
            "restricted to its local domain, over which it need not integrate to one (theory, "
            "section 4); use the contraction cap (contraction=0.9)"
        )
    return require("evidence", model, Model)


def _refuse_other_terms(
    model: Model, data: Array, given: Any, start: tuple[Values, Array, float]
) -> None:
    """Raise InputError if the joint density has terms beside the prior and `log_likelihood`.

    Args: start, draws from the prior with the likelihood that the joint density has there."""
    z, values, _ = start
    first = jax.tree.map(lambda leaf: leaf[:1], z)
    params = {name: leaf[0] for name, leaf in constrain_each(model, given, first).items()}
    joint, law = float(values[0]), float(jnp.sum(model.log_likelihood(params, data)))
    if not abs(joint - law) <= ROUNDING_OF_SUMS * (1 + abs(law)):
        raise InputError(
            f"evidence: expected a joint density of prior times log_likelihood, got {joint:.6g} "
            f"nats beside the prior where log_likelihood has {law:.6g}: the model has another "
            "term, such as a numpyro.factor, with which its law is not normalised; leave it out"
        )


def _error(values: np.ndarray) -> float:
    """The standard error of the mean of several independent values."""
    return float(values.std(ddof=1) / np.sqrt(len(values)))


def _judge(runs: np.ndarray, drift: np.ndarray, acceptance: float) -> Verdict:
    """Whether the log evidence can be trusted to WORTH_MENTION."""
    error, mean_drift, its_error = _error(runs), float(drift.mean()), _error(drift)
    findings, advice = [], []
    if SURE * error > WORTH_MENTION:
        findings.append(
            f"The runs spread from {runs.min():.1f} to {runs.max():.1f} nats: two standard errors "
            f"are {SURE * error:.1f} nats, more than {WORTH_MENTION:g}."
        )
        advice.append("Use more particles (`num_particles`).")
    # A drift that is no noise is an error that all runs share, beside that of their spread.
    if mean_drift > SURE * its_error and mean_drift + SURE * error > WORTH_MENTION:
        findings.append(
            f"The chains still rise where they end: the evidence is too low, by about "
            f"{mean_drift:.1f} ± {its_error:.1f} nats or more."
        )
        advice.append("Use longer chains and more particles (`chain_length`, `num_particles`).")
    if acceptance < LEAST_ACCEPTANCE:
        findings.append(f"At some temperature only {acceptance:.0%} of the moves are accepted.")
        advice.append("Use more particles (`num_particles`), so that temperatures are nearer.")
    trusted = not findings
    if trusted:
        findings.append(
            f"The runs agree to {SURE * error:.2f} nats (two standard errors), and the "
            f"chains drift by {mean_drift:+.2f} ± {its_error:.2f}, which changes little."
        )
    numbers = {
        "standard_error": error,
        "drift": mean_drift,
        "drift_error": its_error,
        "acceptance": acceptance,
    }
    return Verdict(trusted, tuple(findings), tuple(advice), numbers=numbers)
