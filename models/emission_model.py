"""Tokens emitted by latent embeddings: the fully generative language model (theory, section 9)."""

import dataclasses
import math
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jaxtyping import Array, Float

from probattn import (
    Attention,
    AttentionProcess,
    Emission,
    EmissionProcess,
    InputError,
    stability_margin,
)
from probattn.attention.batching import map_in_batches
from probattn.checks import as_integer, as_key, in_default_float
from probattn.models.emission_distributions import StoppedEmbeddings, StoppedTokens
from probattn.models.gauge import pairwise
from probattn.models.generation import Generation, support_so_far
from probattn.models.priors import normal
from probattn.sequence.tokens import check_tokens, counted

Params = dict[str, Any]
EMBEDDING_COORDINATES = ("embedding", "noise")
NUM_PARTICLES = 200


@dataclass(frozen=True)
class EmissionModel:
    """Bayesian attention whose latent embeddings emit the tokens.

        u_t = mu_t(u_t; u_<t) + e_t,   e_t ~ N(0, scale^2 I)         attention process
        x_t ~ Categorical(softmax(O u_t + b)),   until the end token, id 0

    Call it as a NumPyro model: `model(tokens)` conditions on tokens of shape (num_sequences,
    length); `model(num_sequences=n)` generates them.

        site                      batch (plate)       event
        each parameter            ()                  its shape below
        embeddings or noise       (num_sequences,)    (length, dim)
        tokens                    (num_sequences,)    (length,)

    **Coordinates.** `"embedding"` samples u under the density of the process, which includes the
    barrier through log det J_t. `"noise"` samples e ~ N(0, scale^2 I) and solves for u (the
    deterministic site "embeddings"), without a barrier. Both are the same model with the same
    posterior, since

        log p(theta, u, x) = log p(theta, e, x) + sum_t log det J_t(u),   du = de / prod_t det J_t

    but their modes differ: a mode is where a density is highest, and that depends on the
    coordinates. At given parameters the mode in embedding coordinates has the larger sum of log
    determinants. So the barrier is a property of that mode, and not a regulariser to be switched on
    or off; the posterior has no barrier. Joint modes of many latent variables are poor estimates in
    either coordinates, since each embedding is fitted to one token.

    Parameters and priors, all Normal(0, s) except for value, with d = dim, r = rank:
        query, key (heads, r, d)       s = d^(-1/4)
        value V (heads, d, d)          Normal(I / heads, 1 / (2 sqrt(d)))
        origin (d,)                    s = 1
        lag_bias (heads, length - 1)   s = 1, lags 1, 2 ...
        readout O (vocab_size, d)      s = 2 / sqrt(d)
        bias b (vocab_size,)           s = 1

    Args:
        vocab_size: number of tokens, the end token included; at least 2.
        length: length of the longest sequence, with an end token if it has one.
        dim, heads, rank: of the attention; rank None is dim.
        contraction: cap kappa in (0, 1). None is refused: without a cap the law of the embeddings
            need not integrate to one, and tokens would have no probability.
        coordinates: the latent variables of SVI and MCMC, "embedding" or "noise".
        scale: sigma. It is fixed, since the readout, the values and the interaction can make up for
            any other scale.
        num_particles: of the particle filter in `log_likelihood`, `process` and `margins`.

    Raises:
        InputError: a field outside these ranges, and tokens of a wrong shape, type or range.

    Source: theory, section 9.

    Example:

        >>> import jax
        >>> from numpyro.infer import Predictive
        >>> from probattn.models import EmissionModel
        >>> model = EmissionModel(vocab_size=5, length=4, dim=2)
        >>> drawn = Predictive(model, num_samples=1)(jax.random.key(0), num_sequences=3)
        >>> drawn["embeddings"].shape, drawn["tokens"].shape
        ((1, 3, 4, 2), (1, 3, 4))
    """

    vocab_size: int
    length: int
    dim: int
    heads: int = 1
    rank: int | None = None
    contraction: float | None = 0.9
    coordinates: str = "embedding"
    scale: float = 1.0
    num_particles: int = NUM_PARTICLES

    observed: ClassVar[str] = "tokens"
    token_sites: ClassVar[tuple[str, ...]] = ("readout", "bias")
    path_has_start: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.rank is None:
            object.__setattr__(self, "rank", self.dim)
        least = {"vocab_size": 2, "length": 1, "dim": 1, "heads": 1, "rank": 1, "num_particles": 2}
        for name, low in least.items():
            as_integer(name, getattr(self, name), low)
        if not isinstance(self.contraction, (int, float)) or not 0 < self.contraction < 1:
            raise InputError(
                f"contraction: expected a number inside (0, 1), got {self.contraction!r}; "
                "without a cap the law of the "
                "embeddings need not integrate to one, and tokens have no probability"
            )
        if self.coordinates not in EMBEDDING_COORDINATES:
            raise InputError(
                f'coordinates: expected "embedding" or "noise", got {self.coordinates!r}'
            )
        if not (isinstance(self.scale, (int, float)) and 0 < self.scale < math.inf):
            raise InputError(f"scale: expected a finite number > 0, got {self.scale!r}")

    @property
    def latents(self) -> tuple[str, ...]:
        """Names of the sites with one value for each sequence."""
        return ("embeddings",) if self.coordinates == "embedding" else ("noise", "embeddings")

    @property
    def law(self) -> "EmissionModel":
        """The model with default coordinates and number of particles, which do not change its law.

        Two models with the same law of tokens have equal `law`.
        """
        return dataclasses.replace(self, coordinates="embedding", num_particles=NUM_PARTICLES)

    def priors(self) -> dict[str, dist.Distribution]:
        """The prior of each parameter, by name."""
        d, rank, heads = self.dim, self.rank or self.dim, self.heads
        priors = {
            "query": normal(d**-0.25, heads, rank, d),
            "key": normal(d**-0.25, heads, rank, d),
            "value": normal(0.5 * d**-0.5, heads, d, d, mean=jnp.eye(d) / heads),
            "origin": normal(1.0, d),
            "readout": normal(2 * d**-0.5, self.vocab_size, d),
            "bias": normal(1.0, self.vocab_size),
        }
        if self.length > 1:
            priors["lag_bias"] = normal(1.0, heads, self.length - 1)
        return priors

    def metric_blocks(self) -> tuple[dict[str, int], ...]:
        """Parameters and embeddings that rotations exchange, for the sampler's metric."""
        blocks = (
            {"readout": 1, "origin": 0},
            {self.latents[0]: 2},  # a row for each position of each sequence
            {"query": 0, "key": 0},
            {"value": 0},
            {"bias": 1},
        )
        return (*blocks, {"lag_bias": 2}) if self.length > 1 else blocks

    def __call__(self, tokens: Any = None, num_sequences: int | None = None) -> Array:
        if tokens is not None:
            tokens = check_tokens(tokens, self.vocab_size, self.length, rank=2)
            if num_sequences not in (None, tokens.shape[0]):
                raise InputError(
                    f"num_sequences: expected {tokens.shape[0]} to go with the tokens, got "
                    f"{num_sequences}"
                )
            num_sequences = tokens.shape[0]
        elif num_sequences is None or num_sequences < 1:
            raise InputError(
                "num_sequences: expected at least 1 when no tokens are given, got "
                f"{num_sequences!r}"
            )
        params = in_default_float(  # a handler may give them in another type
            {name: numpyro.sample(name, prior) for name, prior in self.priors().items()}
        )
        process = self.embedding_process(params)
        with numpyro.plate("sequences", num_sequences):
            if self.coordinates == "noise":
                alone = dist.Normal(0, process.scale).expand([self.length, self.dim]).to_event(2)
                u = numpyro.deterministic(
                    "embeddings", process.transform(numpyro.sample("noise", alone))
                )
            else:
                u = numpyro.sample(
                    "embeddings",
                    process if tokens is None else StoppedEmbeddings(process, counted(tokens)),
                )
            emitted = numpyro.sample(
                "tokens", StoppedTokens(u @ params["readout"].T + params["bias"]), obs=tokens
            )
            emitted = check_tokens(emitted, self.vocab_size, self.length, rank=2)
            if tokens is None and self.coordinates == "embedding":
                # Drawn, or given by a handler: after their end embeddings are noise here too.
                stopped = StoppedEmbeddings(process, counted(emitted))
                numpyro.factor("stopped", stopped.log_prob(u) - process.log_prob(u))
            return emitted

    def attention(self, params: Params) -> Attention:
        """The attention map of the embeddings."""
        bias = None
        if self.length > 1:  # a token does not attend to itself: lag 0 is never met
            lags = jnp.asarray(params["lag_bias"])
            bias = jnp.concatenate([jnp.zeros_like(lags[..., :1]), lags], axis=-1)
        return Attention(
            params["query"],
            params["key"],
            params["value"],
            params["origin"],
            contraction=self.contraction,
            position_bias=bias,
        )

    def embedding_process(self, params: Params) -> AttentionProcess:
        """The law of the embeddings of one sequence."""
        return AttentionProcess(self.attention(params), self.scale, self.length)

    def emission(self, params: Params) -> Emission:
        """Parameters of the laws of embeddings and tokens, in the form for the particle filter."""
        return Emission(
            self.attention(params),
            jnp.asarray(self.scale, float),
            params["readout"],
            params["bias"],
        )

    def process(
        self, params: Params, *, num_particles: int | None = None, key: Array | None = None
    ) -> EmissionProcess:
        """The law of token sequences at given parameters, with the embeddings integrated out.

        Args: num_particles, of the filter, by default that of the model; key, of the draws of the
        filter, by default `jax.random.key(0)`.
        """
        number = self.num_particles if num_particles is None else num_particles
        return EmissionProcess(
            self.emission(params), length=self.length, num_particles=number, key=key
        )

    def log_likelihood(self, params: Params, tokens: Any) -> Float[Array, "..."]:
        """`log p(x)` of each sequence in nats, estimated by the particle filter.

        `process(params).filter(tokens)` has its standard error.

        Args: params, one value of each parameter; tokens, shape (..., length). Returns: shape
        (...). Source: theory, section 9.
        """
        return self.process(params).log_prob(check_tokens(tokens, self.vocab_size, self.length))

    def margins(
        self, params: Params, tokens: Any, kind: str = "sigma_min"
    ) -> Float[Array, "... length"]:
        """Mean of the stability margin of `kind` given the tokens; NaN after the end.

        Position t is that of the embedding that emits x_t.
        """
        tokens = check_tokens(tokens, self.vocab_size, self.length)
        rows = tokens.reshape(-1, self.length)
        return _margins(self, kind, params, rows).reshape(tokens.shape)

    def generate(self, params: Params, num_sequences: int, *, key: Array) -> Generation:
        """Sample embeddings and tokens, with log probabilities, margins and support tokens.

        The margin at t is that of the embedding that emits x_t. The support token at t is the one
        with the smallest margin so far, x_t included. Log probabilities are estimates by the
        particle filter.
        """
        return _generate(self, params, as_key(key), num_sequences)

    def embeddings(self, values: Params) -> Float[Array, "num_sequences length dim"]:
        """The embeddings, from the values of all sites in either coordinates."""
        if "embeddings" in values:  # a deterministic site in noise coordinates
            return jnp.asarray(values["embeddings"], float)
        return self.embedding_process(values).transform(values["noise"])

    def emitted(self, values: Params, tokens: Any) -> Float[Array, ""]:
        """`log p(tokens | embeddings, parameters)` of all sequences together, in nats; exact.

        Args: values, of all sites; tokens, shape (num_sequences, length).
        """
        logits = self.embeddings(values) @ values["readout"].T + values["bias"]
        return StoppedTokens(logits).log_prob(jnp.asarray(tokens)).sum()

    def quantities(self, values: Params, tokens: Any) -> dict[str, Array]:
        """Identified quantities, computed from the values of all sites.

            interaction        O A O^T of each head (heads, vocab, vocab), in ascending order of
                               norm, with the mean row of O subtracted; neither rotations of u
                               nor a shift of O change it
            value              the same for O V O^T
                               of more than 40 symbols, both for some pairs (`pairwise`)
            emitted            log p(x | u) of all sequences together, in nats
            log_det            sum of log |det J_t| over all positions that count
            smallest_margin    over all positions that count

        Source: theory, section 6.
        """
        tokens = jnp.asarray(tokens)
        u, is_counted = self.embeddings(values), counted(tokens)
        attention = self.attention(values)
        readout = jnp.asarray(values["readout"], float)
        readout = readout - readout.mean(0)  # a shift of all rows changes no probability
        margin = stability_margin(attention, u)
        log_det = stability_margin(attention, u, "log_det")
        return {
            **pairwise("interaction", readout, attention.interaction, readout, tokens),
            **pairwise("value", readout, jnp.asarray(attention.value), readout, tokens),
            "emitted": self.emitted(values, tokens),
            "log_det": jnp.where(is_counted, log_det, 0).sum(),
            "smallest_margin": jnp.where(is_counted, margin, jnp.inf).min(),
        }


@partial(jax.jit, static_argnums=(0, 1))
def _margins(model: EmissionModel, kind: str, params: Params, tokens: Array) -> Array:
    def mean_margin(filtered: Any) -> Array:  # weights [n] @ margins [n, t] -> [t]
        return filtered.weights @ stability_margin(model.attention(params), filtered.paths, kind)

    means = map_in_batches(mean_margin, model.process(params).filter(tokens), 32)
    return jnp.where(counted(tokens), means, jnp.nan)


@partial(jax.jit, static_argnums=(0, 3))
def _generate(model: EmissionModel, params: Params, key: Array, num_sequences: int) -> Generation:
    for_embeddings, for_tokens, for_filter = jax.random.split(key, 3)
    u = model.embedding_process(params).sample(for_embeddings, (num_sequences,))
    tokens = StoppedTokens(u @ params["readout"].T + params["bias"]).sample(for_tokens)
    is_counted = counted(tokens)
    log_prob = model.process(params, key=for_filter).filter(tokens).log_increments
    margin = stability_margin(model.attention(params), u)
    return Generation(
        tokens,
        jnp.where(is_counted, log_prob, jnp.nan),
        jnp.where(is_counted, margin, jnp.nan),
        jnp.where(is_counted, support_so_far(margin), -1),
        path_has_start=False,
    )
