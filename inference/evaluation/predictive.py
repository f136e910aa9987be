"""Next-token predictions of a fit, as the mixture over its draws (theory, section 8)."""

from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy.special import entr

from probattn.errors import InputError
from probattn.inference.contract import ParticleModel, TokenModel, require
from probattn.inference.data.ngram import Ngram
from probattn.inference.fitting.fit import Fit
from probattn.sequence.tokens import check_tokens, counted

MOST_DRAWS = 200  # posterior draws, evenly spaced, that predictions are made from
# Where the likelihood is estimated, each draw costs a particle filter for each sequence. Such fits
# use fewer draws, with fewer particles each; the mixture averages their errors.
FILTERED_DRAWS = 32
PARTICLE_SHARE = 0.25


@dataclass(frozen=True, eq=False)
class Prediction:
    """Predictive distribution of each next token of some sequences.

    Args:
        tokens: shape (num_sequences, length), padded with the end token.
        log_probs: `log p(x_t = v | x_<t)` for every v, (num_sequences, length, vocab_size), in
            nats.
        data_entropy: entropy of the next token at given parameters, in expectation over the draws
            given x_<t, (num_sequences, length), in nats. With one draw it equals `entropy`.
        counted: whether each position counts, (num_sequences, length): positions up to and
            including the first end token do.
        method: of the fit, or "baseline".
    """

    tokens: np.ndarray
    log_probs: np.ndarray
    data_entropy: np.ndarray
    counted: np.ndarray
    method: str

    def __repr__(self) -> str:
        number, length, vocab_size = self.log_probs.shape
        return (
            f"Prediction({self.method}, {number:,} sequences of {length} positions, "
            f"{vocab_size} tokens)"
        )

    @cached_property
    def entropy(self) -> np.ndarray:
        """Entropy of the next token, its total uncertainty, (num_sequences, length), in nats."""
        return entr(np.exp(self.log_probs)).sum(-1)

    @cached_property
    def mutual_information(self) -> np.ndarray:
        """Mutual information of the next token and the parameters, (num_sequences, length).

        In nats. Given x_<t it is `entropy - data_entropy`, what the draws disagree about.
        """
        return np.maximum(self.entropy - self.data_entropy, 0)  # negative only by rounding

    @property
    def token_log_probs(self) -> np.ndarray:
        """`log p(x_t | x_<t)` of the given tokens, 0 after the end, (num_sequences, length)."""
        chosen = np.take_along_axis(self.log_probs, self.tokens[..., None], axis=-1)[..., 0]
        return np.where(self.counted, chosen, 0)

    def first(self, number: int) -> "Prediction":
        """The predictions of the first `number` sequences."""
        parts = {
            name: getattr(self, name)[:number]
            for name in ("tokens", "log_probs", "data_entropy", "counted")
        }
        return replace(self, **parts)


def predict(fit: Fit, tokens: Any, *, most_draws: int = MOST_DRAWS) -> Prediction:
    """Next-token predictions of a fit along sequences.

    A fit with several draws predicts as their mixture, which weights each draw by the probability
    it gives to the prefix:

        p(x_t | x_<t) = sum over draws w_theta(x_<t) p_theta(x_t | x_<t),
        w_theta(x_<t) proportional to P_theta(x_<t)

    Args:
        fit: of a model of tokens.
        tokens: shape (num_sequences, length).
        most_draws: number of draws, evenly spaced, that are used.

    Raises: InputError for missing tokens, or tokens that the model refuses. Source: theory,
    section 8.
    """
    fit, model, tokens = _prepared(fit, tokens)
    log_probs, data_entropy = _predict(model, fit.flat_draws(most_draws), tokens)
    parts = (np.asarray(tokens), log_probs, data_entropy, np.asarray(counted(tokens)))
    return Prediction(*parts, method=fit.method)


def predict_ngram(ngram: Ngram, tokens: np.ndarray) -> Prediction:
    """Next-token predictions of an n-gram baseline along sequences (num_sequences, length)."""
    tokens, rows = np.asarray(tokens), ngram.next_token_log_probs(tokens)
    entropy, counts = entr(np.exp(rows)).sum(-1), np.asarray(counted(tokens))
    return Prediction(tokens, rows, entropy, counts, method="baseline")


def token_log_probs(
    fit: Fit, tokens: Any, *, most_draws: int = MOST_DRAWS
) -> Float[np.ndarray, "draws n length"]:
    """`log p_theta(x_t | x_<t)` of each token under each draw, in nats; 0 after the end.

    Args:
        fit: of a model of tokens.
        tokens: shape (n, length).
        most_draws: number of draws, evenly spaced, that are used.

    Raises: InputError for missing tokens, or tokens that the model refuses.
    """
    fit, model, tokens = _prepared(fit, tokens)
    draws = fit.flat_draws(most_draws)
    each = [
        {name: value[i] for name, value in draws.items()}
        for i in range(len(next(iter(draws.values()))))
    ]
    return np.stack(
        [_token_log_probs(model, params, np.int32(i), tokens) for i, params in enumerate(each)]
    )


def mixture_conditionals(log_probs: np.ndarray) -> np.ndarray:
    """`log p(x_t | x_<t)` of the mixture (..., length), from those of its draws.

    It is the ratio of the mixture's probabilities of successive prefixes (theory, section 8).

    Args: log_probs, `log p_theta(x_t | x_<t)` of each draw, (draws, ..., length).
    """
    prefixes = np.logaddexp.reduce(np.cumsum(log_probs, axis=-1), axis=0) - np.log(len(log_probs))
    return np.diff(prefixes, axis=-1, prepend=0)


def affordable(fit: Fit) -> Fit:
    """The fit itself; if its likelihood is estimated, with fewer draws and fewer particles.

    A MAP, which has a single draw, is returned as it is.
    """
    if not isinstance(fit.model, ParticleModel) or fit.method == "map":
        return fit
    particles = max(2, round(PARTICLE_SHARE * fit.model.num_particles))
    return fit.thinned(FILTERED_DRAWS).with_particles(particles)


def _prepared(fit: Fit, tokens: Any) -> tuple[Fit, TokenModel, Array]:
    """The fit that can be afforded, its model, and checked tokens (num_sequences, length)."""
    if tokens is None:
        raise InputError(
            "tokens: expected held-out sequences (num_sequences, length) to go with fits, got none"
        )
    fit = affordable(fit)
    model = require("predict", fit.model, TokenModel)
    return fit, model, check_tokens(np.asarray(tokens), model.vocab_size, model.length, rank=2)


def _next_token_log_probs(model: TokenModel, params: Any, number: Array, tokens: Array) -> Array:
    process = model.process(params)
    return process.at(process.params, number).conditionals(tokens)


def _predict(
    model: TokenModel, draws: dict[str, np.ndarray], tokens: Array
) -> tuple[np.ndarray, np.ndarray]:
    """`log p(x_t | x_<t)` of the mixture and the expected entropy over its draws.

    Draws are added up one after the other, so that memory does not grow with their number. n
    sequences, t positions, v tokens of the vocabulary.
    """
    shape = tokens.shape  # [n, t]
    total: Any = (
        np.full((*shape, model.vocab_size), -np.inf),
        np.full(shape, -np.inf),
        np.full(shape, -np.inf),
    )
    total = jax.tree.map(lambda part: part.astype(jax.dtypes.canonicalize_dtype(part.dtype)), total)
    for number in range(len(next(iter(draws.values())))):
        params = {name: value[number] for name, value in draws.items()}
        total = _add_draw(model, params, np.int32(number), tokens, total)
    joint, entropy, prefix = map(np.asarray, total)  # [n, t, v], [n, t], [n, t]
    return joint - prefix[..., None], np.exp(entropy - prefix)


@partial(jax.jit, static_argnums=0)
def _add_draw(
    model: TokenModel, params: dict[str, Array], number: Array, tokens: Array, total: Any
) -> Any:
    """Add one draw to the logarithms of three sums over draws, each weighted by `P_theta(x_<t)`.

    The sums are of p_theta(x_t = v | x_<t), of its entropy, and of 1.
    """
    rows = _next_token_log_probs(model, params, number, tokens)  # [n, t, v]
    chosen = jnp.take_along_axis(rows, tokens[..., None], axis=-1)[..., 0]  # [n, t]
    prefix = jnp.cumsum(chosen, axis=-1) - chosen  # log P_theta(x_<t)
    entropy = -jnp.where(rows > -jnp.inf, jnp.exp(rows) * rows, 0).sum(-1)
    terms = prefix[..., None] + rows, prefix + jnp.log(entropy), prefix
    return jax.tree.map(jnp.logaddexp, total, terms)


@partial(jax.jit, static_argnums=0)
def _token_log_probs(
    model: TokenModel, params: dict[str, Array], number: Array, tokens: Array
) -> Array:
    if isinstance(model, ParticleModel):
        process = model.process(params)
        found = process.at(process.params, number).filter(tokens).log_increments
    else:
        rows = _next_token_log_probs(model, params, number, tokens)
        found = jnp.take_along_axis(rows, tokens[..., None], axis=-1)[..., 0]
    return jnp.where(counted(tokens), found, 0)
