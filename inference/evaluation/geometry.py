"""Interaction spectra, and whether the density of the embedding path is one (theory, sections 4 and
6)."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from probattn import RootCount, certified, expected_roots
from probattn.inference.contract import AttentionModel, PathModel, require
from probattn.inference.evaluation.measured import Measured
from probattn.inference.fitting.fit import Fit, over_draws
from probattn.sequence.tokens import counted

MOST_DRAWS = 100
ROOT_DRAWS = 5  # draws under which roots are counted, at histories nearest to the boundary
ROOT_HISTORIES = 4
ROOT_NOISES = 200
ROOT_STARTS = 16  # the tokens of the past come first among them: the attractors are near these


@dataclass(frozen=True)
class Uniqueness:
    """Whether the implicit equation has one solution, and the density integrates to one, under a
    fit.

    Args:
        capped: whether the contraction cap proves it for every parameter and history; nothing else
            is then looked at.
        positions: share of the held-out positions whose history a bound certifies (`certified`),
            mean over the draws.
        draws: share of the draws, the posterior's mass, under which every held-out position is
            certified; num_draws, of these. Errors are across draws, as if they were independent, or
            across chains where that is more; 0 of a single one.
        roots: expected number of solutions (`expected_roots`), the mean over the histories with the
            smallest margins of some draws; roots_largest, the largest of these, and roots_error,
            its standard error. NaN where none is looked at.
        histories: how many were looked at, with `ROOT_NOISES` draws of the noise each.
        unbalanced: share of noise draws in which roots are known to have been missed.
    """

    capped: bool
    positions: Measured
    draws: Measured
    num_draws: int = 1
    roots: float = math.nan
    roots_largest: float = math.nan
    roots_error: float = math.nan
    histories: int = 0
    unbalanced: float = math.nan

    def verdict(self) -> str:
        """What the numbers say, in words."""
        if self.capped:
            return (
                "under the contraction cap the density of the path integrates to one for every "
                "parameter and history"
            )
        everywhere = (
            f", and at all of them under {_percent(self.draws)} of the draws"
            if self.num_draws > 1
            else ""
        )
        certain = (
            "a bound proves one solution, so that the path's density integrates to one, at "
            f"{_percent(self.positions)} of held-out "
            f"positions{everywhere}"
        )
        if not self.histories:
            return certain
        if self.roots_largest == 1:
            # The 95 % bound on a probability whose event was never seen, rounded up.
            rare = math.ceil(1e4 * 3 / (self.histories * ROOT_NOISES)) / 1e4
            return (
                f"{certain}; at {self.histories} histories near the boundary no second one was "
                "found (with 95 % confidence fewer "
                f"than {rare:.2%} of draws of the noise have one)"
            )
        return (
            f"{certain}; at {self.histories} histories near the boundary there are "
            f"{self.roots:.3f} on average and at most "
            f"{self.roots_largest:.3f} ± {self.roots_error:.3f}, where the density on the "
            "local domain integrates to "
            f"{(self.roots_largest + 1) / 2:.3f} and not to one"
        )


def uniqueness(fit: Fit, tokens: Any, *, seed: int = 0) -> Uniqueness:
    """Certificates and root counts of the paths of sequences under the draws of a fit. Source:
    theory, section 4."""
    tokens = np.asarray(tokens)
    if _capped(fit):
        return Uniqueness(capped=True, positions=Measured(1.0, 0.0), draws=Measured(1.0, 0.0))
    model = require("uniqueness", fit.model, PathModel)
    is_counted = np.asarray(counted(tokens))
    some = fit.thinned(MOST_DRAWS)
    found = over_draws(_certified, model, some.flat_draws(), tokens)
    share = _over_draws(((found & is_counted).sum((1, 2)) / is_counted.sum()).reshape(some.shape))
    draws = _over_draws((found | ~is_counted).all((1, 2)).astype(float).reshape(some.shape))
    counts = list(_roots(fit, tokens, seed)) if draws.value < 1 else []
    if not counts:
        return Uniqueness(capped=False, positions=share, draws=draws, num_draws=len(found))
    worst = max(counts, key=lambda count: count.expected)
    return Uniqueness(
        capped=False,
        positions=share,
        draws=draws,
        num_draws=len(found),
        roots=float(np.mean([count.expected for count in counts])),
        roots_largest=worst.expected,
        roots_error=worst.standard_error,
        histories=len(counts),
        unbalanced=float(np.mean([count.unbalanced for count in counts])),
    )


def singular_values(fit: Fit) -> np.ndarray:
    """Of the interaction matrix of each head, the largest first, under evenly spaced draws: (draws,
    heads, dim)."""
    model = require("singular values", fit.model, AttentionModel)
    return over_draws(_singular_values, model, fit.flat_draws(MOST_DRAWS))


def _capped(fit: Fit) -> bool:
    """Whether the attention of the fit has a contraction cap."""
    model = require("uniqueness", fit.model, AttentionModel)
    first = {name: jnp.asarray(value[0]) for name, value in fit.flat_draws(1).items()}
    return model.attention(first).contraction is not None


def _over_draws(values: np.ndarray) -> Measured:
    """Mean of values (chains, draws) with its error."""
    error = float(values.std(ddof=1)) / math.sqrt(values.size) if values.size > 1 else 0.0
    if len(values) > 1:
        error = max(error, float(values.mean(1).std(ddof=1)) / math.sqrt(len(values)))
    return Measured(float(values.mean()), error)


def _percent(share: Measured) -> str:
    return f"{share.value:.0%} ± {share.error:.0%}" if share.error else f"{share.value:.0%}"


def _singular_values(model: AttentionModel, params: Any) -> Array:
    return jnp.linalg.svd(model.attention(params).interaction, compute_uv=False)


def _certified(model: PathModel, params: Any, tokens: Any) -> Array:
    return certified(model.attention(params), model.path(params, tokens))


def _roots(fit: Fit, tokens: np.ndarray, seed: int) -> Iterator[RootCount]:
    """Root counts at the histories with the smallest margins, all at the position where margins are
    smallest."""
    model, draws = require("root counts", fit.model, PathModel), fit.flat_draws(ROOT_DRAWS)
    margins = over_draws(type(model).margins, model, draws, tokens)
    counting = np.flatnonzero(np.isfinite(margins).any((0, 1)))
    position = int(counting[np.nanmedian(margins[..., counting], axis=(0, 1)).argmin()])
    for number in range(len(margins)):
        params = {name: jnp.asarray(value[number]) for name, value in draws.items()}
        paths = model.path(params, tokens)
        at = np.where(np.isnan(margins[number, :, position]), np.inf, margins[number, :, position])
        for i in np.argsort(at)[:ROOT_HISTORIES]:
            if np.isfinite(at[i]) and position > 0:
                key = jax.random.fold_in(jax.random.key(seed), len(tokens) * number + int(i))
                yield expected_roots(
                    model.attention(params),
                    paths[i, :position],
                    model.scale,
                    key=key,
                    num_samples=ROOT_NOISES,
                    num_starts=ROOT_STARTS,
                )
