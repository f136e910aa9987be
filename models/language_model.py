"""A causal attention language model with priors, whose embedding path carries the barrier (theory, section 7)."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jaxtyping import Array, Float
from numpyro.distributions import constraints

from probattn import Attention, InputError, attention_mean, path_log_density, stability_margin
from probattn.checks import whole_number
from probattn.models.priors import normal
from probattn.models.tokens import END, check_tokens, counted

Params = dict[str, Any]


@dataclass(frozen=True)
class LanguageModel:
    """Bayesian one-layer attention language model over sequences that are padded with the end token, id 0.

    The start of a sequence is the end token too: position t reads x_{t-1}, with x_0 = end, and predicts x_t.

        u_t = E[x_{t-1}] + P_t                                                 embedding path
        h_t = u_t + sum_h V_h sum_{s<=t} alpha_ts u_s                          readout (inclusive mask)
        p(x_t | x_<t) = softmax(O h_t + b)
        log joint = sum_t log p(x_t | x_<t)  +  barrier_weight * sum_t [log N(e_t; 0, scale^2 I) + log det J_t]
                    + log prior

    Sums run over the positions up to and including the first end token. The residuals e_t and blocks J_t are those
    of the strict mask without value maps; they share query and key with the readout, so the barrier bears on the
    attention that predicts. The joint is -inf outside the local domain (some det J_t <= 0).

    Call it as a NumPyro model: `model(tokens)` conditions on tokens of shape (num_sequences, length);
    `model(num_sequences=n)` generates them from the prior (the path term weighs parameters, it emits nothing).

    Parameters and priors, all Normal(0, s), with d = dim, r = rank and the standard deviations
        embedding E (vocab_size, d)  s = 1            position P (length, d)   s = 1/2
        query, key (heads, r, d)     s = d^(-1/4)     value V (heads, d, d)    s = 1 / sqrt(d)
        readout O (vocab_size, d)    s = 2 / sqrt(d)  bias b (vocab_size,)     s = 1
    so that the entries of the interaction have standard deviation 1/sqrt(d) and logits the same spread at any d.

    Args:
        vocab_size: number of symbols, the end token included; at least 2.
        length: longest sequence, the end token included.
        dim, heads, rank: of the attention; rank None is dim.
        barrier_weight: lambda >= 0; 1 is the whole change of variables, 0 is plain cross-entropy.
        contraction: cap kappa in (0, 1) on the path's attention, or None for the local domain.
        scale: sigma of the path. Fixed, since with lambda > 0 a free one makes the mode collapse to 0.

    Raises:
        InputError: a field outside these ranges, and tokens of a wrong shape, type or range.

    Source: theory, section 7.
    """

    vocab_size: int
    length: int
    dim: int
    heads: int = 1
    rank: int | None = None
    barrier_weight: float = 0.05
    contraction: float | None = None
    scale: float = 1.0

    observed: ClassVar[str] = "tokens"

    def __post_init__(self) -> None:
        if self.rank is None:
            object.__setattr__(self, "rank", self.dim)
        least = {"vocab_size": 2, "length": 1, "dim": 1, "heads": 1, "rank": 1}
        for name, low in least.items():
            whole_number(name, getattr(self, name), low)
        if not (isinstance(self.barrier_weight, (int, float)) and 0 <= self.barrier_weight < math.inf):
            raise InputError(f"barrier_weight: expected a finite number >= 0, got {self.barrier_weight!r}")
        if not (isinstance(self.scale, (int, float)) and 0 < self.scale < math.inf):
            raise InputError(f"scale: expected a finite number > 0, got {self.scale!r}")
        if self.contraction is not None and not 0 < self.contraction < 1:
            raise InputError(f"contraction: expected a number inside (0, 1) or None, got {self.contraction!r}")

    def priors(self) -> dict[str, dist.Distribution]:
        """The prior of each parameter, by name."""
        d, rank = self.dim, self.rank or self.dim
        return {
            "embedding": normal(1.0, self.vocab_size, d),
            "position": normal(0.5, self.length, d),
            "query": normal(d**-0.25, self.heads, rank, d),
            "key": normal(d**-0.25, self.heads, rank, d),
            "value": normal(d**-0.5, self.heads, d, d),
            "readout": normal(2 * d**-0.5, self.vocab_size, d),
            "bias": normal(1.0, self.vocab_size),
        }

    def __call__(self, tokens: Any = None, num_sequences: int | None = None) -> Array:
        if tokens is not None:
            tokens = check_tokens(tokens, self.vocab_size, self.length, rank=2)
            if num_sequences not in (None, tokens.shape[0]):
                raise InputError(
                    f"num_sequences: expected {tokens.shape[0]} to go with the tokens, got {num_sequences}"
                )
        elif num_sequences is None or num_sequences < 1:
            raise InputError(f"num_sequences: expected at least 1 when no tokens are given, got {num_sequences!r}")
        params = {name: numpyro.sample(name, prior) for name, prior in self.priors().items()}
        if tokens is not None and self.barrier_weight > 0:
            numpyro.factor("path", self.barrier_weight * _path_log_density(self, params, tokens).sum())
        with numpyro.plate("sequences", num_sequences if tokens is None else tokens.shape[0]):
            return numpyro.sample("tokens", _Sequences(self, params), obs=tokens)

    def log_likelihood(self, params: Params, tokens: Any) -> Float[Array, "..."]:
        """`sum_t log p(x_t | x_<t)` of each sequence: the end token counts, what follows it does not.

        Args: params, one value per parameter; tokens, shape (..., length). Returns shape (...), in nats.
        """
        return _log_likelihood(self, params, check_tokens(tokens, self.vocab_size, self.length))

    def path_log_density(self, params: Params, tokens: Any) -> Float[Array, "..."]:
        """`sum_t [log N(e_t) + log det J_t]` of each sequence's embedding path, before the barrier weight."""
        return _path_log_density(self, params, check_tokens(tokens, self.vocab_size, self.length))

    def next_token_logits(self, params: Params, tokens: Any) -> Float[Array, "... length vocab"]:
        """Logits of each position given the tokens before it, shape (..., length, vocab_size)."""
        return _logits(self, params, check_tokens(tokens, self.vocab_size, self.length))

    def margins(self, params: Params, tokens: Any) -> Float[Array, "... length"]:
        """Stability margin `sigma_min(J_t)` at each position of the path; NaN after the end of a sequence.

        Position t holds the symbol before x_t: position 1 is the start, position t + 1 is x_t.
        """
        tokens = check_tokens(tokens, self.vocab_size, self.length)
        margin = stability_margin(self.path_attention(params), self.path(params, tokens))
        return jnp.where(counted(tokens), margin, jnp.nan)

    def path(self, params: Params, tokens: Any) -> Float[Array, "... length dim"]:
        """Embedding path `u_t = E[x_{t-1}] + P_t` with x_0 = end."""
        tokens = jnp.asarray(tokens)
        before = jnp.concatenate([jnp.full_like(tokens[..., :1], END), tokens[..., :-1]], axis=-1)
        return jnp.asarray(params["embedding"])[before] + params["position"]

    def path_attention(self, params: Params) -> Attention:
        """The attention whose residuals and Jacobian score the path: strict mask, no value map."""
        return Attention(params["query"], params["key"], contraction=self.contraction)

    def readout_attention(self, params: Params) -> Attention:
        """The attention that predicts: inclusive mask, its own value map, the same query and key."""
        return Attention(params["query"], params["key"], params["value"], mask="inclusive")

    def generate(self, params: Params, num_sequences: int, *, key: Array) -> Array:
        """Sample sequences left to right, shape (num_sequences, length); after the end token all is end."""
        return _generate(self, params, key, num_sequences)


def _logits(model: LanguageModel, params: Params, tokens: Array) -> Array:
    u = model.path(params, tokens)
    hidden = u + attention_mean(model.readout_attention(params), u)
    return hidden @ params["readout"].T + params["bias"]


# Compiled once per model and shape: a model that NumPyro runs step by step to find its sites would otherwise
# compile every operation by itself.
@jax.jit(static_argnums=0)
def _log_likelihood(model: LanguageModel, params: Params, tokens: Array) -> Array:
    logits = _logits(model, params, tokens)
    chosen = jnp.take_along_axis(logits, tokens[..., None], axis=-1)[..., 0]
    log_prob = chosen - jax.nn.logsumexp(logits, axis=-1)
    return jnp.where(counted(tokens), log_prob, 0).sum(-1)


@jax.jit(static_argnums=0)
def _path_log_density(model: LanguageModel, params: Params, tokens: Array) -> Array:
    density = path_log_density(model.path_attention(params), model.path(params, tokens), model.scale)
    return jnp.where(counted(tokens), density, 0).sum(-1)


@jax.jit(static_argnums=(0, 3))
def _generate(model: LanguageModel, params: Params, key: Array, num_sequences: int) -> Array:
    def step(tokens: Array, position_and_key: tuple[Array, Array]) -> tuple[Array, None]:
        position, key = position_and_key
        drawn = jax.random.categorical(key, _logits(model, params, tokens)[:, position])
        return tokens.at[:, position].set(jnp.where(counted(tokens)[:, position], drawn, END)), None

    # Positions not drawn yet must not read as an end, so they start as symbol 1; causality hides them.
    start = jnp.ones((num_sequences, model.length), int)
    keys = jax.random.split(key, model.length)
    return jax.lax.scan(step, start, (jnp.arange(model.length), keys))[0]


class _Sequences(dist.Distribution):
    """The model's law over one sequence at given parameters, as a NumPyro distribution."""

    support = constraints.independent(constraints.nonnegative_integer, 1)
    pytree_data_fields = ("params",)
    pytree_aux_fields = ("model",)

    def __init__(self, model: LanguageModel, params: Params):
        self.model, self.params = model, params
        super().__init__(batch_shape=(), event_shape=(model.length,), validate_args=False)

    def sample(self, key: Array, sample_shape: tuple[int, ...] = ()) -> Array:
        drawn = _generate(self.model, self.params, key, math.prod(sample_shape))
        return drawn.reshape(*sample_shape, self.model.length)

    def log_prob(self, value: Array) -> Array:
        return _log_likelihood(self.model, self.params, value)
