"""Particles from the prior to the posterior through temperatures, and the evidence on the way."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jax.scipy.special import logsumexp
from jaxtyping import Array

from probattn.errors import FitError
from probattn.inference.contract import NumPyroModel
from probattn.inference.fitting.chain_program import TARGET
from probattn.inference.fitting.unconstrained import Values, draw_prior, log_prior_and_likelihood

SHARE_KEPT = 0.5  # the effective share of particles after a temperature, at which it is chosen
MOST_BATCHES = 1000  # batches of prior draws, until enough of them have positive likelihood
MOST_TEMPERATURES = 1000
# Step sizes of chains, relative to the tuned one: trajectories of one length return to where they
# began in some directions.
JITTER = (0.7, 1.3)


class Settings(NamedTuple):
    """Sizes of a run.

    Args: num_particles, N; chain_length, P, particles of one chain, which divides N; num_steps,
    leapfrog steps of a move.
    """

    num_particles: int
    chain_length: int
    num_steps: int

    @property
    def num_chains(self) -> int:
        """Chains that run side by side at each temperature."""
        return self.num_particles // self.chain_length

    @property
    def gradients(self) -> int:
        """Gradients at each temperature: those of the moves, and one where a chain starts."""
        return self.num_chains * (1 + (self.chain_length - 1) * self.num_steps)


class Programs(NamedTuple):
    """Compiled functions of a model.

    Args:
        draw: `key, data -> z, log likelihood` of N draws from the prior.
        advance: `key, cloud, data -> cloud, report`, one temperature further.
    """

    draw: Callable
    advance: Callable


class Cloud(NamedTuple):
    """Particles at a temperature.

    Args: z, unconstrained coordinates by name of site (N, ...); weights (N,), which sum to 1;
    temperature, which they are weighted to; log_likelihood (N,); log_step, log of the step size.
    """

    z: Values
    weights: Array
    temperature: Array
    log_likelihood: Array
    log_step: Array


class Step(NamedTuple):
    """What one temperature did.

    Args:
        temperature: reached by the weights.
        increment: log of the ratio of the evidences of this temperature and the last.
        share: effective share of the particles under the new weights.
        acceptance: mean over the moves.
        drift: how much the log likelihood rises within the chains, in nats: mean of the later half
            of each chain minus that of the earlier half. It is 0 on average where the chains start
            in the law that they move in.
    """

    temperature: Array
    increment: Array
    share: Array
    acceptance: Array
    drift: Array


@dataclass(frozen=True, eq=False)
class Run:
    """One run from the prior to the posterior.

    Args:
        log_evidence: in nats.
        log_support: log of the prior's mass where the likelihood is positive, a part of it.
        temperatures, share, acceptance: of each step, see `Step`.
        drift: sum of the drifts, each times the rise of the temperature: what the evidence would
            gain from chains that had begun where they ended.
        z: draws of the posterior, in unconstrained coordinates (N, ...).
        log_likelihood: of these draws (N,).
        num_gradients: gradients on the whole data.
    """

    log_evidence: float
    log_support: float
    temperatures: np.ndarray
    share: np.ndarray
    acceptance: np.ndarray
    drift: float
    z: Values
    log_likelihood: np.ndarray
    num_gradients: int


def tempered_run(
    model: NumPyroModel, data: Any, key: Array, settings: Settings, tell: Callable[[float], None]
) -> Run:
    """One run of adaptive, waste-free sequential Monte Carlo.

    At temperature b the particles follow `p(z) p(data | z)^b`, restricted to where the likelihood
    is positive. The next temperature is the one at which the effective share of the particles is
    SHARE_KEPT. The ratio of two neighbouring evidences is the mean of `p(data | z)^(b' - b)`, and
    their product that of the data: `Z = P(likelihood > 0) * prod_k mean_i p(data | z_ki)^(db_k)`.
    Then chains of Hamiltonian Monte Carlo start at some of the particles, and all their points are
    the next particles.

    Args: tell, called with each temperature that is reached.
    Raises: FitError for a NaN, a prior that hardly ever has positive likelihood, or temperatures
        that do not rise.
    Source: Dau and Chopin, arXiv:2011.02328; Neal, Statistics and Computing 11 (2001), for the
        path.
    """
    programs = programs_of(model, settings)
    for_start, for_steps = jax.random.split(key)
    z, log_likelihood, log_support = live_draws(programs, data, for_start, settings.num_particles)
    n = settings.num_particles
    coordinates = sum(leaf[0].size for leaf in jax.tree.leaves(z))
    # In units of the particles' spread, of a normal law in so many coordinates. All have a type, as
    # they will have later: a number of Python's would compile the program twice.
    log_step = jnp.asarray(-np.log(coordinates) / 4, float)
    cloud = Cloud(z, jnp.full(n, 1 / n, float), jnp.zeros(()), log_likelihood, log_step)
    steps: list[Step] = []
    reached = 0.0
    while True:
        last = reached == 1  # once more at the end, so that the particles have equal weights
        cloud, report = programs.advance(jax.random.fold_in(for_steps, len(steps)), cloud, data)
        report = jax.tree.map(np.asarray, report)
        if not np.isfinite(report.increment):
            raise FitError(
                f"evidence: the log likelihood of a particle is NaN past temperature {reached:.3g}"
            )
        if last:
            break
        if not report.temperature > reached or len(steps) == MOST_TEMPERATURES:
            raise FitError(
                f"evidence: the temperature does not rise past {reached:.3g}; use more particles "
                "(`num_particles`)"
            )
        steps.append(report)
        reached = float(report.temperature)
        tell(reached)
    temperatures, increments, share, acceptance, drift = np.array(steps, float).T
    rises = np.diff(temperatures, prepend=0.0)
    return Run(
        log_evidence=log_support + float(increments.sum()),
        log_support=log_support,
        temperatures=temperatures,
        share=share,
        acceptance=acceptance,
        drift=float((rises * drift).sum()),
        z=cloud.z,
        log_likelihood=np.asarray(cloud.log_likelihood),
        num_gradients=settings.gradients * (len(steps) + 1),
    )


def live_draws(
    programs: Programs, data: Any, key: Array, number: int
) -> tuple[Values, Array, float]:
    """The first `number` draws from the prior with positive likelihood.

    Returns: coordinates (number, ...), log likelihoods (number,), and an estimate of the log of the
        prior's mass there: `log (number - 1) / (n - 1)` for the n draws that it took, whose
        exponential is unbiased. Source: Haldane, Biometrika 33 (1945).
    Raises: FitError for a NaN, or if they are not found among MOST_BATCHES batches.
    """
    kept, found = [], 0
    for batch in range(MOST_BATCHES):
        z, values = programs.draw(jax.random.fold_in(key, batch), data)
        log_likelihood = np.asarray(values)
        if np.isnan(log_likelihood).any():
            raise FitError("evidence: the log likelihood of a draw from the prior is NaN")
        where = np.flatnonzero(log_likelihood > -np.inf)[: number - found]
        kept.append((jax.tree.map(lambda leaf, at=where: leaf[at], z), values[where]))
        found += len(where)
        if found == number:
            drawn = batch * number + int(where[-1]) + 1
            z, values = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *kept)
            return z, values, float(np.log((number - 1) / (drawn - 1)))
    raise FitError(
        f"evidence: of {MOST_BATCHES * number:,} draws from the prior {found:,} have positive "
        "likelihood, too few to begin with; use a smaller dim, or the contraction cap, which has "
        "no boundary (contraction=0.9)"
    )


@lru_cache(maxsize=8)
def programs_of(model: NumPyroModel, settings: Settings) -> Programs:
    """The compiled functions; the same objects for equal settings, so that all runs share them."""
    import blackjax
    from blackjax.smc import resampling, solver, tempered, waste_free

    waste_free_chains = waste_free.waste_free_smc(settings.num_particles, settings.chain_length)
    move = partial(blackjax.hmc.build_kernel(), num_integration_steps=settings.num_steps)

    @jax.jit
    def draw(key: Array, data: Any) -> tuple[Values, Array]:
        keys = jax.random.split(key, settings.num_particles)
        z = jax.lax.map(partial(draw_prior, model, data), keys)
        return z, _log_likelihoods(model, data, z, settings)

    @jax.jit
    def advance(key: Array, cloud: Cloud, data: Any) -> tuple[Cloud, Step]:
        for_moves, for_jitter = jax.random.split(key)
        rise = solver.dichotomy(
            lambda rise: _log_share(cloud, rise) - jnp.log(SHARE_KEPT),
            jnp.zeros(()),
            1 - cloud.temperature,
        )
        temperature = jnp.where(
            rise >= 1 - cloud.temperature, 1.0, jnp.minimum(1.0, cloud.temperature + rise)
        )
        kernel = tempered.build_kernel(
            lambda z: log_prior_and_likelihood(model, data, z)[0],
            lambda z: log_prior_and_likelihood(model, data, z)[1],
            move,
            blackjax.hmc.init,
            resampling.systematic,
            update_strategy=waste_free_chains,
            batch_size=settings.num_chains,  # particles that are in memory at once
        )
        jitter = jax.random.uniform(
            for_jitter, (settings.num_chains,), minval=JITTER[0], maxval=JITTER[1]
        )
        state, info = kernel(
            for_moves,
            tempered.TemperedSMCState(cloud.z, cloud.weights, cloud.temperature),
            None,
            temperature,
            {
                "step_size": jnp.exp(cloud.log_step) * jitter,
                "inverse_mass_matrix": _spread(cloud)[None],
            },
        )
        log_likelihood = _log_likelihoods(model, data, state.particles, settings)
        acceptance = info.update_info.acceptance_rate.mean()
        after = Cloud(
            state.particles,
            state.weights,
            temperature,
            log_likelihood,
            cloud.log_step + acceptance - TARGET,
        )
        share = 1 / (settings.num_particles * (state.weights**2).sum())
        return after, Step(
            temperature,
            info.log_likelihood_increment,
            share,
            acceptance,
            _drift(log_likelihood, settings),
        )

    return Programs(draw, advance)


def _log_likelihoods(model: NumPyroModel, data: Any, z: Values, settings: Settings) -> Array:
    """The log likelihood of each particle (N,), as many at a time as there are chains."""
    return jax.lax.map(
        lambda one: log_prior_and_likelihood(model, data, one)[1],
        z,
        batch_size=settings.num_chains,
    )


def _log_share(cloud: Cloud, rise: Array) -> Array:
    """Log of the effective share of equally weighted particles under weights of `rise` more.

    With E the mean over the particles as they are weighted, `log E[L^rise]^2 / E[L^(2 rise)]`.
    Source: the conditional effective sample size of Zhou, Johansen and Aston, arXiv:1303.3123.
    """
    log_weights = jnp.log(cloud.weights)
    once = logsumexp(log_weights + rise * cloud.log_likelihood)
    return 2 * once - logsumexp(log_weights + 2 * rise * cloud.log_likelihood)


def _spread(cloud: Cloud) -> Array:
    """The variance of each coordinate over the weighted particles, as one vector."""
    flat = jax.vmap(lambda one: ravel_pytree(one)[0])(cloud.z)  # [N, n]
    return cloud.weights @ (flat - cloud.weights @ flat) ** 2


def _drift(log_likelihood: Array, settings: Settings) -> Array:
    """The rise within chains, see `Step`; BlackJAX lists their starts, then the rest of each."""
    starts = log_likelihood[: settings.num_chains, None]
    rest = log_likelihood[settings.num_chains :].reshape(settings.num_chains, -1)
    chains = jnp.concatenate([starts, rest], axis=1)  # [M, P]
    half = settings.chain_length // 2
    return chains[:, half:].mean() - chains[:, :half].mean()
