"""A pre-norm transformer with priors and penalties on attention (theory, sections 2 and 7)."""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jaxtyping import Array, Float

from probattn import Attention, InputError, SequenceProcess
from probattn.attention.barrier import VARIANTS, check_threshold
from probattn.checks import as_integer
from probattn.models.layers import forward
from probattn.models.priors import normal
from probattn.models.training_terms import barrier_penalty, smoothing_and_z_loss
from probattn.sequence.tokens import END, check_tokens, counted, previous_tokens

Params = dict[str, Any]
PLACEMENTS = ("auxiliary", "own", "stream")
OF_STREAM = ("one_sided", "hinge")  # variants that need the blocks alone


@dataclass(frozen=True)
class TransformerLM:
    """Causal transformer language model of several layers, with priors and a barrier.

    Sequences are padded with the end token, id 0, which is also the start: position t reads x_{t-1}
    and predicts x_t.

        u_t = E[x_{t-1}] + P_t
        h_t = h_t + sum_h O_h sum_{s<=t} alpha^h_ts W_h n(h_s)       in each layer
        h_t = h_t + D gelu(U n(h_t))                                 in each layer
        p(x_t | x_<t) = softmax(R n(h_t) + b)

    with n(x) = x / root mean square of x, and alpha^h_ts the softmax over s of
    n(h_s)^T K_h^T Q_h n(h_t) / sqrt(r), r = d / heads. The joint is

        log joint = sum_t log p(x_t | x_<t)  -  barrier_weight * sum_t penalty_t
                    - sum_t [ label_smoothing (log p(x_t | x_<t) - mean_v log p(v | x_<t))
                              + z_loss (log sum_v exp(logit_v))^2 ]  +  log prior

    summed over the positions up to and including the first end token. The penalty is that of
    `probattn.barrier_loss`; `placement` chooses its attention:

        auxiliary   a separate attention on u with the strict mask and query and key of rank 4,
                    capped by `cap` in the variant "bounded"
        own         the heads of all layers, each on its input n(h), with the inclusive mask and
                    value maps O_h W_h; penalties of the layers add up
        stream      the same with the residual: J_t is the derivative of h_t + attention(n(h))_t by
                    h_t; variants "one_sided" and "hinge" only

    Parameters and priors, all Normal(0, s), with d = dim:
        embedding E            s = 1              position P    s = 1/2
        readout R              s = 2 / sqrt(d)    bias b        s = 1
        matrices with n inputs                    s = 1 / sqrt(n)
        auxiliary query and key                   s = d^(-1/4)

    Call it as a NumPyro model, like the LanguageModel: `model(tokens)`, `model(num_sequences=n)`
    or `model(tokens, batch_size=n)`.

    Args:
        vocab_size: number of tokens, the end token included; at least 2.
        length: length of the longest sequence, with an end token if it has one.
        dim, layers, heads: of the transformer; heads divide dim.
        barrier_weight: weight of the penalty, at least 0.
        placement: "auxiliary", "own" or "stream", as above.
        variant: of the penalty, as in `barrier_loss`.
        threshold: of the variant "hinge", as in `barrier_loss`.
        cap: contraction cap, inside (0, 1), of the auxiliary attention in the variant "bounded".
        barrier_sequences: number of sequences, the first of the data or minibatch, from which the
            mean penalty of a position is computed; None is all.
        noise: standard deviation of noise on u in training, in root mean squares of u.
        dropout: rate of dropout, in training, of u and of what each block adds.
        qk_norm: scale g of scores that are cosines of queries and keys, g q.k / (|q| |k|); None
            leaves them as above.
        softcap: c of scores that are capped, c tanh(score / c); None is no cap.
        label_smoothing: share of each label that is spread over the vocabulary, in training.
        z_loss: weight of the squared log normaliser of the logits, in training.
        spectral: largest singular value allowed in each head's Q and K; None is no limit.

    Raises: InputError for a field out of range, heads that do not divide dim, and tokens of a wrong
    shape, type or range. Source: theory, sections 2 and 7.

    Example:

        >>> import jax
        >>> from numpyro.infer import Predictive
        >>> from probattn.models import TransformerLM
        >>> model = TransformerLM(vocab_size=5, length=6, dim=8, layers=2, heads=2, placement="own")
        >>> Predictive(model, num_samples=1)(jax.random.key(0), num_sequences=3)["tokens"].shape
        (1, 3, 6)
    """

    vocab_size: int
    length: int
    dim: int = 64
    layers: int = 2
    heads: int = 4
    barrier_weight: float = 0.0
    placement: str = "auxiliary"
    variant: str = "full"
    threshold: float | None = None
    cap: float = 0.9
    barrier_sequences: int | None = None
    noise: float = 0.0
    dropout: float = 0.0
    qk_norm: float | None = None
    softcap: float | None = None
    label_smoothing: float = 0.0
    z_loss: float = 0.0
    spectral: float | None = None

    observed: ClassVar[str] = "tokens"
    token_sites: ClassVar[tuple[str, ...]] = ("embedding", "readout", "bias")
    path_has_start: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for name, low in {"vocab_size": 2, "length": 1, "dim": 1, "layers": 1, "heads": 1}.items():
            as_integer(name, getattr(self, name), low)
        if self.dim % self.heads:
            raise InputError(f"heads: expected a divisor of dim {self.dim}, got {self.heads}")
        if self.barrier_sequences is not None:
            as_integer("barrier_sequences", self.barrier_sequences)
        for name in ("barrier_weight", "noise", "z_loss"):
            _check(name, getattr(self, name), "a finite number >= 0", lambda x: 0 <= x < math.inf)
        for name in ("dropout", "label_smoothing"):
            _check(name, getattr(self, name), "a number in [0, 1)", lambda x: 0 <= x < 1)
        _check("cap", self.cap, "a number inside (0, 1)", lambda x: 0 < x < 1)
        for name in ("spectral", "softcap", "qk_norm"):
            if getattr(self, name) is not None:
                _check(
                    name,
                    getattr(self, name),
                    "a finite number > 0 or None",
                    lambda x: 0 < x < math.inf,
                )
        for name, allowed in (("placement", PLACEMENTS), ("variant", VARIANTS)):
            if getattr(self, name) not in allowed:
                raise InputError(
                    f"{name}: expected {', '.join(allowed)}, got {getattr(self, name)!r}"
                )
        check_threshold(self.variant, self.threshold)
        if self.barrier_weight > 0 and self.placement != "auxiliary" and not self.bilinear:
            raise InputError(
                "qk_norm, softcap: the blocks of such scores are others; use them without a "
                "barrier on the model's own heads"
            )
        if self.placement == "stream" and self.variant not in OF_STREAM:
            raise InputError(
                f'variant: expected {", ".join(OF_STREAM)} with placement "stream", got '
                f"{self.variant!r}"
            )

    @property
    def rank(self) -> int:
        """Rank of each head, dim / heads."""
        return self.dim // self.heads

    @property
    def bilinear(self) -> bool:
        """Whether scores are n(h_s)^T A n(h_t): the Jacobian blocks of the heads are then known."""
        return self.qk_norm is None and self.softcap is None

    @property
    def law(self) -> "TransformerLM":
        """The model without what acts in training alone: noise, dropout, penalties and smoothing.

        Two models with the same law of sequences have equal `law`, and share compiled programs.
        """
        return replace(
            self,
            barrier_weight=0.0,
            placement="auxiliary",
            variant="full",
            threshold=None,
            cap=0.9,
            barrier_sequences=None,
            noise=0.0,
            dropout=0.0,
            label_smoothing=0.0,
            z_loss=0.0,
        )

    def priors(self) -> dict[str, dist.Distribution]:
        """The prior of each parameter, by name; those of layers have the layers as first axis."""
        d, layers, heads = self.dim, self.layers, self.heads
        found = {
            "embedding": normal(1.0, self.vocab_size, d),
            "position": normal(0.5, self.length, d),
            "query": normal(d**-0.5, layers, heads, self.rank, d),
            "key": normal(d**-0.5, layers, heads, self.rank, d),
            "value": normal(d**-0.5, layers, heads, self.rank, d),
            "output": normal(d**-0.5, layers, heads, d, self.rank),
            "up": normal(d**-0.5, layers, 4 * d, d),
            "down": normal((4 * d) ** -0.5, layers, d, 4 * d),
            "readout": normal(2 * d**-0.5, self.vocab_size, d),
            "bias": normal(1.0, self.vocab_size),
        }
        if self.barrier_weight > 0 and self.placement == "auxiliary":
            rank = min(4, d)
            found |= {
                name: normal(d**-0.25, 1, rank, d) for name in ("auxiliary_query", "auxiliary_key")
            }
        return found

    def __call__(
        self, tokens: Any = None, num_sequences: int | None = None, batch_size: int | None = None
    ) -> Array:
        if tokens is not None:
            tokens = check_tokens(tokens, self.vocab_size, self.length, rank=2)
        elif num_sequences is None or num_sequences < 1:
            raise InputError(
                "num_sequences: expected at least 1 when no tokens are given, got "
                f"{num_sequences!r}"
            )
        params = {name: numpyro.sample(name, prior) for name, prior in self.priors().items()}
        number = num_sequences if tokens is None else tokens.shape[0]
        key = numpyro.prng_key() if self.noise or self.dropout else None
        with numpyro.plate("sequences", number, subsample_size=batch_size) as rows:
            process = self.process(params)
            given = tokens is not None
            if not given:  # drawn, or given by a handler: the factors are those of the value
                tokens = check_tokens(
                    numpyro.sample("tokens", process), self.vocab_size, self.length, rank=2
                )
            elif batch_size is not None:
                tokens = tokens[rows]
            if not given and key is None and not self.has_factor:
                return tokens
            logits, penalty, added = _logits_and_terms(self, params, tokens, key)
            trained = process.at_logits(logits)  # with noise and dropout
            if self.barrier_weight > 0:
                numpyro.factor("barrier", -self.barrier_weight * penalty * counted(tokens).sum(-1))
            if self.label_smoothing or self.z_loss:
                numpyro.factor("smoothing", -added)
            if given:
                return numpyro.sample("tokens", trained, obs=tokens)
            if key is not None:
                numpyro.factor("noise", trained.log_prob(tokens) - process.log_prob(tokens))
            return tokens

    def process(self, params: Params) -> SequenceProcess:
        """The law of token sequences at given parameters."""
        return SequenceProcess(
            _function(self),
            params,
            length=self.length,
            vocab_size=self.vocab_size,
            end_token=END,
            batched=True,
            open_ended=False,  # there is no position beyond the table
            validate_args=False,
        )

    def log_likelihood(self, params: Params, tokens: Any) -> Float[Array, "..."]:
        """`sum_t log p(x_t | x_<t)` of each sequence in nats, up to and including the end token.

        Args: params, one value of each parameter; tokens, shape (..., length). Returns: shape
        (...).
        """
        return self.process(params).log_prob(check_tokens(tokens, self.vocab_size, self.length))

    @property
    def has_factor(self) -> bool:
        """Whether the joint has a term of each sequence beside its likelihood and the prior."""
        return self.barrier_weight > 0 or self.label_smoothing > 0 or self.z_loss > 0

    def log_factors(self, params: Params, tokens: Any) -> Float[Array, "..."]:
        """The terms that each sequence has beside its likelihood: barrier, smoothing, z-loss."""
        tokens = check_tokens(tokens, self.vocab_size, self.length)
        if not self.has_factor:
            return jnp.zeros(tokens.shape[:-1])
        rows = tokens.reshape(-1, 1, self.length)

        def of_row(row: Array) -> Array:
            _, penalty, added = _logits_and_terms(self, params, row, None)
            return -self.barrier_weight * penalty * counted(row).sum(-1) - added

        return jax.lax.map(of_row, rows).reshape(tokens.shape[:-1])

    def loss(
        self, params: Params, tokens: Any, key: Array | None = None, strength: Any = 1.0
    ) -> Float[Array, ""]:
        """The mean over the tokens of a minibatch of what training minimises, in nats, no prior.

        Args: params, one value of each parameter; tokens, (num_sequences, length); key, of noise
        and dropout, None for neither; strength, a factor of the barrier's weight, which a training
        loop may change on the way.
        """
        tokens = check_tokens(tokens, self.vocab_size, self.length, rank=2)
        logits, penalty, added = _logits_and_terms(self, params, tokens, key)
        log_prob = self.process(params).at_logits(logits).log_prob(tokens)
        mean = (added - log_prob).sum() / counted(tokens).sum()
        return mean + strength * self.barrier_weight * penalty

    def path(self, params: Params, tokens: Any) -> Float[Array, "... length dim"]:
        """Embedding path `u_t = E[x_{t-1}] + P_t` with x_0 = end."""
        embedding, position = (
            jnp.asarray(params[name], float) for name in ("embedding", "position")
        )
        return embedding[previous_tokens(tokens)] + position

    def logits_at(self, params: Params, u: Array) -> Float[Array, "... length vocab"]:
        """Logits of each position given an embedding path, such as one with noise added.

        Args: params, one value of each parameter; u, shape (..., length, dim).
        """
        return forward(self, params, u)[0]

    def auxiliary_attention(self, params: Params) -> Attention:
        """The attention of the penalty with placement "auxiliary"."""
        cap = self.cap if self.variant == "bounded" else None
        return Attention(params["auxiliary_query"], params["auxiliary_key"], contraction=cap)

    def attentions(
        self, params: Params, u: Array
    ) -> list[tuple[Attention, Float[Array, "... length dim"]]]:
        """For each layer, its attention and the input n(h) of that.

        The attention has the inclusive mask and value maps `O_h W_h`, and scores before `qk_norm`
        and `softcap`.
        """
        return [(attention, x) for attention, x, _ in forward(self, params, u)[1]]


@jax.jit(static_argnums=0)
@jax.default_matmul_precision("highest")
def _logits_and_terms(
    model: TransformerLM, params: Params, tokens: Array, key: Array | None
) -> tuple[Array, Array, Array]:
    """Logits (n, length, vocab), mean penalty of a position, smoothing and z-loss (n,) in nats.

    Noise and dropout act under a key; the auxiliary attention gets the path without noise.
    """
    u = clean = model.path(params, tokens)
    if key is not None and model.noise:
        for_noise, key = jax.random.split(key)
        root_mean_square = jax.lax.stop_gradient(jnp.sqrt((u**2).mean()))
        u = u + model.noise * root_mean_square * jax.random.normal(for_noise, u.shape)
    logits, layers = forward(model, params, u, key)
    added = smoothing_and_z_loss(model, logits, tokens)
    if model.barrier_weight == 0:
        return logits, jnp.zeros(()), added
    return logits, barrier_penalty(model, params, tokens, clean, layers), added


def _check(name: str, value: Any, expected: str, fits: Callable[[float], bool]) -> None:
    """Raise InputError unless a field is a number that fits."""
    if isinstance(value, bool) or not (isinstance(value, (int, float)) and fits(value)):
        raise InputError(f"{name}: expected {expected}, got {value!r}")


@functools.lru_cache(maxsize=128)
def _function(model: TransformerLM) -> Any:
    """The function from tokens to logits: one object for equal models, so that it compiles once."""

    def next_token_logits(params: Params, tokens: Array) -> Array:
        return forward(model, params, model.path(params, tokens))[0]

    return next_token_logits
