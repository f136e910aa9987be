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
from probattn.inference.data.typos import MOST_TYPOS, TYPO_KINDS, room_for_typos, with_typos
from probattn.inference.evaluation.measured import INTERNAL, Measured, ratio
from probattn.inference.evaluation.predictive import mixture_conditionals, token_log_probs
from probattn.inference.fitting.fit import Fit, over_draws

EMBEDDING_NOISE = "embedding noise"
# Standard deviations of the noise, in root mean squares of the embeddings.
LEVELS = (0.0, 0.05, 0.1, 0.2, 0.4, 0.8)
DISTURBED_SEQUENCES = 500
DISTURBED_DRAWS = 100
DISTURBANCES = (EMBEDDING_NOISE, *TYPO_KINDS)


@dataclass(frozen=True, eq=False)
class Robustness:
    """Held-out loss of one fit as a disturbance grows.

    Args:
        method: of the fit.
        disturbance: "embedding noise", or the kind of typo.
        levels: standard deviations of the noise in root mean squares of the embeddings, or numbers
            of typos in each sequence.
        loss: at each level, nats per token, with standard errors across sequences. Under typos it
            counts only the tokens that are still the writer's own, each predicted from everything
            typed before it.
        averaged: control for noise on a fit with few draws: its loss at each level when its
            probability is averaged over as many noise draws as a posterior has. Empty for typos,
            and for a fit that has enough draws of its own.
        root_mean_square: of the entries of the embedding path, mean over the draws; NaN for typos.
        sums: log probability of each sequence at each level, (levels, num_sequences).
        averaged_sums: log probability behind `averaged`, of the same shape; `sums` where that is
            empty.
        counts: number of tokens that count in each sequence at each level, of the same shape.
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
        """Paired difference of two fits' losses at level number `level`, from `averaged_sums`."""
        return ratio(other.averaged_sums[level] - self.averaged_sums[level], self.counts[level])


def noise_robustness(
    fit: Fit,
    tokens: Any,
    *,
    levels: tuple[float, ...] = LEVELS,
    num_noises: int = DISTURBED_DRAWS,
    seed: int = 0,
) -> Robustness:
    """Held-out loss with Gaussian noise on the embeddings.

    The standard deviation of the noise is `level` times the root mean square of the embeddings.
    Noise is independent across draws, sequences and positions, and predictions are those of the
    mixture over the disturbed draws. A fit with fewer than `num_noises` draws is disturbed
    repeatedly, until at least `num_noises` noises have been drawn: `loss` is the mean loss over the
    repetitions, `averaged` the loss of their mean probability.

    Args:
        fit: of a model whose embeddings are a function of the tokens; at most 100 draws are used.
        tokens: held-out tokens (num_sequences, length).
        levels: of the noise.
        num_noises: least number of noise draws.
        seed: of the noise.

    Raises: InputError for a model whose embeddings are not a function of the tokens.
    """
    if isinstance(fit.model, ParticleModel):
        raise InputError(
            f"robustness: {type(fit.model).__name__} has latent embeddings; noise on them is "
            "part of the model"
        )
    model = require("robustness", fit.model, PathModel)
    tokens = np.asarray(tokens)
    draws = fit.flat_draws(DISTURBED_DRAWS)
    number = len(next(iter(draws.values())))
    times = -(-num_noises // number)
    draws = {name: np.concatenate([value] * times) for name, value in draws.items()}
    found, scale = over_draws(
        _under_noise, model, draws, tokens, np.asarray(levels, float), key=jax.random.key(seed)
    )
    # l levels, r repetitions of the noise, d draws, n sequences.
    found = np.swapaxes(found, 0, 1).astype(float)  # [l, r * d, n]
    found = found.reshape(len(levels), times, number, len(tokens))  # [l, r, d, n]
    once = np.logaddexp.reduce(found, axis=2) - math.log(number)  # mixture over draws, [l, r, n]
    sums, averaged = once.mean(1), np.logaddexp.reduce(once, axis=1) - math.log(times)
    counts = np.broadcast_to(token_counts(tokens), sums.shape)
    losses, levelled = (
        tuple(ratio(-row, count) for row, count in zip(of, counts, strict=True))
        for of in (sums, averaged)
    )
    size = float(np.mean(scale))
    return Robustness(
        fit.method,
        EMBEDDING_NOISE,
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
    """Held-out loss with 0 to `most` typos of one kind in each sequence.

    The loss is that of the tokens that are still the writer's own. Only sequences with room for
    `most` typos take part, the same ones at each number of typos.

    Args:
        fit: of a model of tokens; at most 100 draws are used.
        tokens: held-out tokens (num_sequences, length).
        kind: "swap", "drop", "insert" or "substitute" (`with_typos`).
        most: largest number of typos in a sequence.
        seed: of the places and the symbols of the typos.

    Raises: InputError for another kind, fewer than two sequences with room, or a vocabulary with a
    single symbol beside the end token.
    """
    if kind not in TYPO_KINDS:
        raise InputError(f"kind: expected {', '.join(TYPO_KINDS)}, got {kind!r}")
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
        token_log_probs(fit, np.concatenate(typed), most_draws=DISTURBED_DRAWS).astype(float)
    )
    mask = np.stack(own)
    sums = np.where(mask, log_probs.reshape(mask.shape), 0).sum(-1)
    counts = mask.sum(-1)
    losses = tuple(ratio(-row, count) for row, count in zip(sums, counts, strict=True))
    return Robustness(
        fit.method, kind, tuple(range(most + 1)), losses, (), float("nan"), sums, sums, counts
    )


def robustness(fit: Fit, tokens: Any, disturbance: str) -> Robustness:
    """Robustness of a fit to a disturbance, chosen by name.

    The names are "embedding noise" (`noise_robustness`) and the kinds of typo (`typo_robustness`).

    Raises: InputError for another name.
    """
    if disturbance not in DISTURBANCES:
        raise InputError(f"disturbance: expected {', '.join(DISTURBANCES)}, got {disturbance!r}")
    return (
        noise_robustness(fit, tokens)
        if disturbance == EMBEDDING_NOISE
        else typo_robustness(fit, tokens, disturbance)
    )


def _under_noise(
    model: PathModel, params: Any, key: Array, tokens: Any, levels: Any
) -> tuple[Array, Array]:
    """Log probabilities (levels, num_sequences) under noise, and the noise's unit.

    One noise is scaled to every level; its unit is the root mean square of the embeddings.
    """
    noise = jax.random.normal(key, (*tokens.shape, model.dim))
    scores = jax.lax.map(
        lambda level: model.noisy_log_likelihood(params, tokens, level * noise), levels
    )
    return scores, model.root_mean_square(params, tokens)
