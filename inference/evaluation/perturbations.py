"""Held-out loss under disturbances: noise on the embeddings, and typos."""

import math
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
from jaxtyping import Array

from probattn.errors import InputError
from probattn.inference.contract import ParticleModel, PathModel, TokenModel, require
from probattn.inference.data.ngram import token_counts
from probattn.inference.data.typos import KINDS, MOST_TYPOS, room_for_typos, with_typos
from probattn.inference.evaluation.measured import INTERNAL, Measured, ratio
from probattn.inference.evaluation.predictive import mixture_conditionals, token_log_probs
from probattn.inference.fitting.fit import Fit, over_draws

NOISE = "embedding noise"
LEVELS = (
    0.0,
    0.05,
    0.1,
    0.2,
    0.4,
    0.8,
)  # standard deviations of the noise, in root mean squares of the embeddings
MOST_SEQUENCES = 500
MOST_DRAWS = 100
DISTURBANCES = (NOISE, *KINDS)


@dataclass(frozen=True, eq=False)
class Robustness:
    """Held-out loss of one fit as a disturbance grows.

    Args:
        method: of the fit.
        disturbance: "embedding noise", or the kind of typo.
        levels: for noise its standard deviation in root mean squares of the embeddings; else typos
            in each sequence.
        loss: at each level, nats per token, with standard errors across sequences. Of typos it is
            the loss of the tokens that are still the writer's own, given all that was typed before.
        averaged: of noise on a fit with fewer draws than a posterior: the loss at each level when
            its probability is averaged over as many noises. What averaging over noises alone buys,
            a posterior cannot claim for itself.
        root_mean_square: of the entries of the embedding path, mean over the draws; NaN for typos.
        sums, counts: log probability and tokens of each sequence at each level, (levels,
            num_sequences); averaged_sums: the log probability behind `averaged`, the same as sums
            where there is none.
    """

    method: str
    disturbance: str
    levels: tuple[int | float, ...]
    loss: tuple[Measured, ...]
    averaged: tuple[Measured, ...]
    root_mean_square: float
    sums: np.ndarray = field(metadata=INTERNAL)
    averaged_sums: np.ndarray = field(metadata=INTERNAL)
    counts: np.ndarray = field(metadata=INTERNAL)

    def __repr__(self) -> str:
        at = ", ".join(
            f"{level}: {loss}" for level, loss in zip(self.levels, self.loss, strict=True)
        )
        return f"Robustness({self.method}, {self.disturbance}; nats per token at {at})"

    def minus(self, other: "Robustness", level: int) -> Measured:
        """Paired difference of the losses of two fits at the level of this index, both averaged
        over as many noises."""
        return ratio(other.averaged_sums[level] - self.averaged_sums[level], self.counts[level])


def noise_robustness(
    fit: Fit,
    tokens: Any,
    *,
    levels: tuple[float, ...] = LEVELS,
    num_noises: int = MOST_DRAWS,
    seed: int = 0,
) -> Robustness:
    """Loss with Gaussian noise on the embeddings, of standard deviation `level` times their root
    mean square.

    Each draw meets noise of its own, in each sequence and position, and the mixture is over
    disturbed draws. A fit with fewer than `num_noises` draws meets noise several times, until it
    has met as many: `loss` is the mean over the times, `averaged` that of the mean probability.

    Raises: InputError for a model whose embeddings are not a function of the tokens.
    """
    if isinstance(fit.model, ParticleModel):
        raise InputError(
            f"robustness: {type(fit.model).__name__} has latent embeddings; noise on them is "
            "part of the model"
        )
    model = require("robustness", fit.model, PathModel)
    tokens = np.asarray(tokens)
    draws = fit.flat_draws(MOST_DRAWS)
    number = len(next(iter(draws.values())))
    times = -(-num_noises // number)
    draws = {name: np.concatenate([value] * times) for name, value in draws.items()}
    found, scale = over_draws(
        _under_noise, model, draws, tokens, np.asarray(levels, float), key=jax.random.key(seed)
    )
    found = np.swapaxes(found, 0, 1).astype(float).reshape(len(levels), times, number, len(tokens))
    once = np.logaddexp.reduce(found, axis=2) - math.log(
        number
    )  # the mixture over the draws, each time
    sums, averaged = once.mean(1), np.logaddexp.reduce(once, axis=1) - math.log(times)
    counts = np.broadcast_to(token_counts(tokens), sums.shape)
    losses, levelled = (
        tuple(ratio(-row, count) for row, count in zip(of, counts, strict=True))
        for of in (sums, averaged)
    )
    size = float(np.mean(scale))
    return Robustness(
        fit.method,
        NOISE,
        levels,
        losses,
        levelled if times > 1 else (),
        size,
        sums,
        averaged,
        counts,
    )


def typo_robustness(
    fit: Fit, tokens: Any, kind: str, *, most: int = MOST_TYPOS, seed: int = 0
) -> Robustness:
    """Loss of what is still the writer's own with 0 to `most` typos of one kind in each sequence.

    Only sequences that have room for all of them take part, the same at each number of typos.

    Raises: InputError where fewer than two sequences have, or there is one symbol only.
    """
    if kind not in KINDS:
        raise InputError(f"kind: expected {', '.join(KINDS)}, got {kind!r}")
    vocab_size = require("typos", fit.model, TokenModel).vocab_size
    if vocab_size < 3:
        raise InputError("typos: expected at least two symbols beside the end token, got one")
    tokens = np.asarray(tokens)
    tokens = tokens[room_for_typos(tokens, most)]
    if len(tokens) < 2:
        raise InputError(
            f"tokens: expected two sequences with room for {most} typos, got {len(tokens)}"
        )
    typed, own = zip(
        *(
            with_typos(tokens, kind, number, vocab_size=vocab_size, seed=seed)
            for number in range(most + 1)
        ),
        strict=True,
    )
    log_probs = mixture_conditionals(
        token_log_probs(fit, np.concatenate(typed), most_draws=MOST_DRAWS).astype(float)
    )
    mask = np.stack(own)
    sums = np.where(mask, log_probs.reshape(mask.shape), 0).sum(-1)
    counts = mask.sum(-1)
    losses = tuple(ratio(-row, count) for row, count in zip(sums, counts, strict=True))
    return Robustness(
        fit.method, kind, tuple(range(most + 1)), losses, (), float("nan"), sums, sums, counts
    )


def robustness(fit: Fit, tokens: Any, disturbance: str) -> Robustness:
    """`noise_robustness` or `typo_robustness`, by the name of the disturbance. Raises: InputError
    for another name."""
    if disturbance not in DISTURBANCES:
        raise InputError(f"disturbance: expected {', '.join(DISTURBANCES)}, got {disturbance!r}")
    return (
        noise_robustness(fit, tokens)
        if disturbance == NOISE
        else typo_robustness(fit, tokens, disturbance)
    )


def _under_noise(
    model: PathModel, params: Any, key: Array, tokens: Any, levels: Any
) -> tuple[Array, Array]:
    """Log probabilities (levels, num_sequences) at noises of these levels, and the root mean square
    of the embeddings."""
    noise = jax.random.normal(key, (*tokens.shape, model.dim))
    scores = jax.lax.map(
        lambda level: model.noisy_log_likelihood(params, tokens, level * noise), levels
    )
    return scores, model.root_mean_square(params, tokens)
