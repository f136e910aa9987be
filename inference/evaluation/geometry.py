"""Interaction spectra, and whether the path's density integrates to one (theory, 4 and 6)."""

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

GEOMETRY_DRAWS = 100
ROOT_DRAWS = 5  # draws under which roots are counted
ROOT_HISTORIES = 4  # for each of them, at the histories nearest to the boundary
ROOT_NOISES = 200  # draws of the noise for each history
ROOT_STARTS = 16  # for each noise: first the past embeddings, since attractors are near them


@dataclass(frozen=True)
class Uniqueness:
    """Whether each token's equation has one root under a fit, so that the density integrates to 1.

    Standard errors of shares are across draws, as if these were independent, or across chains where
    that is larger; 0 for a single draw.

    Args:
        capped: whether the contraction cap proves it for every parameter and history; nothing else
            is computed then.
        positions: share of the held-out positions at which a bound proves a single root
            (`certified`), mean over the draws.
        draws: share of the draws, an estimate of posterior mass, under which that holds at every
            held-out position.
        num_draws: number of draws that were used.
        roots: expected number of roots (`expected_roots`), the mean over some histories with the
            smallest margins; NaN if none was examined.
        roots_largest: the largest expected number of roots at one of these histories.
        roots_error: standard error of `roots_largest`.
        histories: number of histories that were examined, with `ROOT_NOISES` draws of the noise
            each.
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
        """The numbers as a sentence."""
        if self.capped:
            return (
                "under the contraction cap the density of the path, with weight 1, integrates to "
                "one for every parameter and history"
            )
        everywhere = (
            f", and at all of them under {_percent(self.draws)} of the draws"
            if self.num_draws > 1
            else ""
        )
        certain = (
            "a bound proves one solution, so that the path's density, with weight 1, integrates to "
            f"one, at {_percent(self.positions)} of held-out positions{everywhere}"
        )
        if not self.histories:
            return certain
        if self.roots_largest == 1:
            # The 95 % bound on the probability of an event not seen in n trials is about 3 / n; it
            # is rounded up.
            rare = math.ceil(1e4 * 3 / (self.histories * ROOT_NOISES)) / 1e4
            return (
                f"{certain}; at {self.histories} histories near the boundary no second one was "
                f"found (with 95 % confidence fewer than {rare:.2%} of draws of the noise have one)"
            )
        return (
            f"{certain}; at {self.histories} histories near the boundary there are "
            f"{self.roots:.3f} on average and at most "
            f"{self.roots_largest:.3f} ± {self.roots_error:.3f}, where the density on the "
            f"local domain integrates to {(self.roots_largest + 1) / 2:.3f} and not to one"
        )


def uniqueness(fit: Fit, tokens: Any, *, seed: int = 0) -> Uniqueness:
    """Certify or count the roots of the token equations along sequences, under draws of a fit.

    Roots are counted only if some draw leaves a position uncertified.

    Args:
        fit: of a model of tokens with one attention map.
        tokens: sequences (num_sequences, length).
        seed: of the noise and the starts of the root counts.

    Source: theory, section 4.
    """
    tokens = np.asarray(tokens)
    if _capped(fit):
        return Uniqueness(capped=True, positions=Measured(1.0, 0.0), draws=Measured(1.0, 0.0))
    model = require("uniqueness", fit.model, PathModel)
    is_counted = np.asarray(counted(tokens))
    some = fit.thinned(GEOMETRY_DRAWS)
    found = over_draws(_certified, model, some.flat_draws(), tokens)  # [draws, n, t]
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


def singular_values(fit: Fit, *, most_draws: int | None = GEOMETRY_DRAWS) -> np.ndarray:
    """Singular values of each head's interaction, largest first, (draws, heads, dim).

    Args: fit; most_draws, number of draws, evenly spaced, that are used; None for all.
    """
    model = require("singular values", fit.model, AttentionModel)
    return over_draws(_singular_values, model, fit.flat_draws(most_draws))


def _capped(fit: Fit) -> bool:
    """Whether the attention of the fit has a contraction cap."""
    model = require("uniqueness", fit.model, AttentionModel)
    first = {name: jnp.asarray(value[0]) for name, value in fit.flat_draws(1).items()}
    return model.attention(first).contraction is not None


def _over_draws(values: np.ndarray) -> Measured:
    """Mean of values (chains, draws), with the larger error of those across draws and chains."""
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
    """Root counts at the histories with the smallest margins.

    All are at one position, the one with the smallest median margin over draws and sequences.
    """
    model, draws = require("root counts", fit.model, PathModel), fit.flat_draws(ROOT_DRAWS)
    # [draws, n, t], NaN after the end.
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
