"""A causal attention language model with priors and a barrier on its path (theory, section 7)."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jaxtyping import Array, Bool, Float

from probattn import (
    Attention,
    Decoding,
    InputError,
    SequenceProcess,
    decoded,
    path_log_density,
    stability_margin,
)
from probattn.checks import as_integer, as_key
from probattn.models import language_law as law
from probattn.models.gauge import pairwise
from probattn.models.generation import Generation
from probattn.models.next_margins import Candidates, candidate_margins
from probattn.models.priors import normal
from probattn.sequence.shared_prefixes import PrefixTree, prefix_tree
from probattn.sequence.tokens import END, check_tokens, counted, previous_tokens

Params = dict[str, Any]
# Of the pairs of positions in whole sequences, the share that pairs of prefixes may have. Each of
# the latter costs more, since it is gathered and not part of a matrix product.
MOST_PAIRS = 0.5
BARRIERS = ("factor", "normalised")
POSITIONS = ("table", "lag")
OUT_OF_WINDOW = -1e4  # added to a logit: its weight is 0 in any precision


@dataclass(frozen=True)
class LanguageModel:
    """Bayesian one-layer attention language model of sequences padded with the end token, id 0.

    The start of a sequence is the end token too: position t reads x_{t-1}, with x_0 = end, and
    predicts x_t.

        u_t = E[x_{t-1}] + P_t                               embedding path
        h_t = u_t + sum_h V_h sum_{s<=t} alpha_ts u_s        readout (inclusive mask)
        p(x_t | x_<t) = softmax(O h_t + b)
        log joint = sum_t log p(x_t | x_<t)
                    + barrier_weight * sum_t [log N(e_t; 0, scale^2 I) + log det J_t]
                    + log prior

    Sums run over the positions up to and including the first end token. The residuals e_t and
    blocks J_t are those of the attention with the strict mask and without value maps. It shares
    query and key with the readout, so that the barrier acts on the attention that predicts. The
    joint is -inf outside the local domain (some det J_t <= 0). With a weight above 0 the density of
    the path is a factor beside a law of tokens, and the integral of it depends on the parameters:
    the posterior is a *generalised* one, and tokens are drawn and scored by another law than was
    fitted. `barrier="normalised"` makes it a part of the law of tokens,

        p(x_t | x_<t) ~ exp((O h_t + b)[x_t]) [N(e_{t+1}; 0, scale^2 I) det J_{t+1}]^barrier_weight

    with e_{t+1} and J_{t+1} of the embedding that x_t would have at the next position. The sum over
    the vocabulary is 1. Tokens outside the local domain have probability 0, and where all are, the
    sequence ends; at the last position, which no embedding follows, the factor is left out.

    Call it as a NumPyro model: `model(tokens)` conditions on tokens of shape (num_sequences,
    length); `model(num_sequences=n)` draws parameters from the prior and tokens from the
    conditionals, without the density of the path; `model(tokens, batch_size=n)` conditions on a
    random minibatch of n sequences, whose terms count num_sequences / n times.

    With `position="lag"` there is no table of positions: u_t = E[x_{t-1}], and attention to the
    token s positions back has -slope_h s added to its logit. The parameters know no length then, so
    that the laws at all lengths are one law on infinite sequences; `at_length(n)` is the model of
    its first n positions. With `window` a token attends to so many positions before it and no more.

    Parameters and priors, all Normal(0, s), with d = dim, r = rank and the standard deviations
        embedding E (vocab_size, d)  s = 1            position P (length, d)   s = 1/2
        query, key (heads, r, d)     s = d^(-1/4)     value V (heads, d, d)    s = 1 / sqrt(d)
        readout O (vocab_size, d)    s = 2 / sqrt(d)  bias b (vocab_size,)     s = 1
    and, in place of P for lags, log slope (heads,), Normal(-1, 1);
    so that the entries of the interaction have standard deviation 1/sqrt(d), and the spread of
    logits does not depend on d.

    Args:
        vocab_size: number of tokens, the end token included; at least 2.
        length: length of the longest sequence, with an end token if it has one.
        dim, heads, rank: of the attention; rank None is dim.
        barrier_weight: lambda >= 0; 1 is the whole change of variables, 0 is plain cross-entropy.
        barrier: "factor", the paper's objective, or "normalised", which needs a table of positions.
        position: "table" or "lag".
        window: positions back that attention reaches under "lag"; None is all of them.
        contraction: cap kappa in (0, 1) on the path's attention, or None for the local domain.
        scale: sigma of the path's residuals. It is fixed, since with lambda > 0 a free scale
            would be 0 at the mode.
        one_hot: whether to look up embeddings by a product with one-hot vectors, whose gradient is
            a product and not a scatter. For small vocabularies on devices where scatters are slow;
            it changes values by rounding only.

    Raises:
        InputError: a field outside these ranges, and tokens of a wrong shape, type or range.

    Source: theory, section 7.

    Example:

        >>> import jax
        >>> from numpyro.infer import Predictive
        >>> from probattn.models import LanguageModel
        >>> model = LanguageModel(vocab_size=5, length=6, dim=2)
        >>> Predictive(model, num_samples=1)(jax.random.key(0), num_sequences=3)["tokens"].shape
        (1, 3, 6)
    """

    vocab_size: int
    length: int
    dim: int
    heads: int = 1
    rank: int | None = None
    barrier_weight: float = 0.05
    contraction: float | None = None
    scale: float = 1.0
    one_hot: bool = False
    barrier: str = "factor"
    position: str = "table"
    window: int | None = None

    observed: ClassVar[str] = "tokens"
    token_sites: ClassVar[tuple[str, ...]] = ("embedding", "readout", "bias")
    path_has_start: ClassVar[bool] = (
        True  # position 0 of the path is the start, position s the s-th token
    )

    def __post_init__(self) -> None:
        if self.rank is None:
            object.__setattr__(self, "rank", self.dim)
        least = {"vocab_size": 2, "length": 1, "dim": 1, "heads": 1, "rank": 1}
        for name, low in least.items():
            as_integer(name, getattr(self, name), low)
        if not (
            isinstance(self.barrier_weight, (int, float)) and 0 <= self.barrier_weight < math.inf
        ):
            raise InputError(
                f"barrier_weight: expected a finite number >= 0, got {self.barrier_weight!r}"
            )
        if self.barrier not in BARRIERS:
            expected = ", ".join(BARRIERS)
            raise InputError(f"barrier: expected one of {expected}, got {self.barrier!r}")
        if self.position not in POSITIONS:
            expected = ", ".join(POSITIONS)
            raise InputError(f"position: expected one of {expected}, got {self.position!r}")
        if self.window is not None:
            as_integer("window", self.window)
        if self.position == "table" and self.window is not None:
            raise InputError(
                f"window: expected None with a table of positions, got {self.window}; lags have "
                'one (position="lag")'
            )
        if self.position == "lag" and self.barrier == "normalised":
            raise InputError(
                'barrier: expected "factor" with position="lag", got "normalised", which needs a '
                "table of positions"
            )
        if not isinstance(self.one_hot, bool):
            raise InputError(f"one_hot: expected True or False, got {self.one_hot!r}")
        if not (isinstance(self.scale, (int, float)) and 0 < self.scale < math.inf):
            raise InputError(f"scale: expected a finite number > 0, got {self.scale!r}")
        if self.contraction is not None and not (
            isinstance(self.contraction, (int, float)) and 0 < self.contraction < 1
        ):
            raise InputError(
                f"contraction: expected a number inside (0, 1) or None, got {self.contraction!r}"
            )

    def priors(self) -> dict[str, dist.Distribution]:
        """The prior of each parameter, by name."""
        d, rank = self.dim, self.rank or self.dim
        where = (
            {"position": normal(0.5, self.length, d)}
            if self.position == "table"
            else {"log_slope": normal(1.0, self.heads, mean=-1.0)}
        )
        return {
            "embedding": normal(1.0, self.vocab_size, d),
            **where,
            "query": normal(d**-0.25, self.heads, rank, d),
            "key": normal(d**-0.25, self.heads, rank, d),
            "value": normal(d**-0.5, self.heads, d, d),
            "readout": normal(2 * d**-0.5, self.vocab_size, d),
            "bias": normal(1.0, self.vocab_size),
        }

    def __call__(
        self, tokens: Any = None, num_sequences: int | None = None, batch_size: int | None = None
    ) -> Array:
        if isinstance(tokens, PrefixTree):
            return law.given_prefixes(self, tokens)
        if tokens is not None:
            tokens = check_tokens(tokens, self.vocab_size, self.length, rank=2)
            if num_sequences not in (None, tokens.shape[0]):
                raise InputError(
                    f"num_sequences: expected {tokens.shape[0]} to go with the tokens, got "
                    f"{num_sequences}"
                )
        elif num_sequences is None or num_sequences < 1:
            raise InputError(
                "num_sequences: expected at least 1 when no tokens are given, got "
                f"{num_sequences!r}"
            )
        params = {name: numpyro.sample(name, prior) for name, prior in self.priors().items()}
        number = num_sequences if tokens is None else tokens.shape[0]
        with numpyro.plate("sequences", number, subsample_size=batch_size) as rows:
            process = self.process(params)
            if tokens is None:  # drawn, or given by a handler: the factor is that of the value
                tokens = check_tokens(
                    numpyro.sample("tokens", process), self.vocab_size, self.length, rank=2
                )
                if self.has_factor:
                    numpyro.factor("path", self.log_factors(params, tokens))
                return tokens
            tokens = tokens if batch_size is None else tokens[rows]
            if self.has_factor:
                logits, path = law.logits_and_path(self, params, tokens)
                process = process.at_logits(logits)
                numpyro.factor("path", self.barrier_weight * path)
            return numpyro.sample("tokens", process, obs=tokens)

    def metric_blocks(self) -> tuple[dict[str, int], ...]:
        """Parameters that rotations and the order of heads exchange, for the sampler's metric.

        Rotations of the embeddings act on all rows of E, P and O alike; with those of queries and
        keys they leave of query and key only what each pair of entries has in common."""
        rows = ("embedding", "position", "readout")
        return (
            {name: 1 for name in rows if name != "position" or self.position == "table"},
            {"query": 0, "key": 0},
            {"value": 0},
            {"bias": 1},
        )

    def condensed(self, tokens: Any) -> Any:
        """The tokens as a `PrefixTree`, of which the model computes the same density faster.

        Each prefix is computed once, however many sequences share it. Tokens that share too little,
        and those of a model with a cap or without a table of positions, are returned as they are.

        Args: tokens, concrete, (num_sequences, length).
        """
        checked = np.asarray(check_tokens(tokens, self.vocab_size, self.length, rank=2))
        plain = self.contraction is None and self.position == "table"
        tree = prefix_tree(checked, self.vocab_size) if plain else None
        small = tree is not None and tree.num_pairs < MOST_PAIRS * self.length * checked.size
        return tree if small else tokens

    def process(self, params: Params) -> SequenceProcess:
        """The law of token sequences at given parameters."""
        functions = law.functions(self)
        return SequenceProcess(
            params=params,
            length=self.length,
            vocab_size=self.vocab_size,
            end_token=END,
            validate_args=False,
            **functions,
        )

    def log_likelihood(self, params: Params, tokens: Any) -> Float[Array, "..."]:
        """`sum_t log p(x_t | x_<t)` of each sequence in nats, up to and including the end token.

        Args: params, one value of each parameter; tokens, shape (..., length). Returns: shape
        (...).
        """
        if isinstance(tokens, PrefixTree):
            return law.log_likelihood_of_prefixes(self, params, tokens)
        return law.log_likelihood(self, params, check_tokens(tokens, self.vocab_size, self.length))

    def root_mean_square(self, params: Params, tokens: Any) -> Float[Array, ""]:
        """Root mean square of the path's entries at positions that count, over all sequences.

        It is the unit of the noise in `noisy_log_likelihood`.
        """
        tokens = check_tokens(tokens, self.vocab_size, self.length)
        mean_square = (self.path(params, tokens) ** 2).mean(-1)
        return jnp.sqrt(jnp.where(counted(tokens), mean_square, 0).sum() / counted(tokens).sum())

    def noisy_log_likelihood(self, params: Params, tokens: Any, noise: Any) -> Float[Array, "..."]:
        """`log_likelihood` with noise on the embedding path: `u_t + noise_t * root_mean_square`.

        Args: noise, shape (..., length, dim), in units of the path's root mean square, so that a
        model does not gain from larger embeddings.
        """
        tokens = check_tokens(tokens, self.vocab_size, self.length)
        u = self.path(params, tokens) + self.root_mean_square(params, tokens) * jnp.asarray(noise)
        rows = jax.nn.log_softmax(law.readout(self, params, u))
        chosen = jnp.take_along_axis(rows, tokens[..., None], axis=-1)[..., 0]
        return jnp.where(counted(tokens), chosen, 0).sum(-1)

    def path_log_density(self, params: Params, tokens: Any) -> Float[Array, "..."]:
        """`sum_t [log N(e_t) + log det J_t]` of each embedding path, without the barrier weight."""
        return law.whole_path_log_density(
            self, params, check_tokens(tokens, self.vocab_size, self.length)
        )

    def log_factors(self, params: Params, tokens: Any) -> Float[Array, "..."]:
        """The term of each sequence beside its likelihood: `barrier_weight * path_log_density`.

        It is 0 where there is none: with weight 0, or with the normalised barrier."""
        if not self.has_factor:
            return jnp.zeros(jnp.shape(tokens)[:-1])
        return self.barrier_weight * self.path_log_density(params, tokens)

    def next_token_logits(self, params: Params, tokens: Any) -> Float[Array, "... length vocab"]:
        """Logits of each position given the tokens before it, shape (..., length, vocab_size)."""
        return law.token_logits(self, params, check_tokens(tokens, self.vocab_size, self.length))

    def margins(
        self, params: Params, tokens: Any, kind: str = "sigma_min"
    ) -> Float[Array, "... length"]:
        """Stability margin of `kind` at each position of the path; NaN after the end.

        Counted from 0, position 0 of the path is the start and position s the s-th token.
        """
        tokens = check_tokens(tokens, self.vocab_size, self.length)
        margin = stability_margin(self.attention(params), self.path(params, tokens), kind)
        return jnp.where(counted(tokens), margin, jnp.nan)

    @property
    def has_factor(self) -> bool:
        """Whether the density of the path is a factor beside the law of tokens.

        The posterior is then a generalised one."""
        return self.barrier_weight > 0 and self.barrier == "factor"

    @property
    def is_normalised(self) -> bool:
        """Whether the density of the path is a part of the law of tokens."""
        return self.barrier_weight > 0 and self.barrier == "normalised"

    @property
    def has_boundary(self) -> bool:
        """Whether the joint is -inf for some parameters: without a cap, and with a barrier."""
        return self.contraction is None and self.barrier_weight > 0

    def outside_domain(self, params: Params, tokens: Any) -> Bool[Array, "... length"]:
        """Whether a position counts and has `det J_t <= 0`, so that the joint is -inf.

        Without a barrier (lambda = 0) no position does. With the normalised barrier it is the
        position whose token has probability 0, since its embedding would be outside.
        """
        tokens = check_tokens(tokens, self.vocab_size, self.length)
        if self.barrier_weight == 0:
            return jnp.zeros(tokens.shape, bool)
        if self.is_normalised:
            logits = self.next_token_logits(params, tokens)
            chosen = jnp.take_along_axis(logits, tokens[..., None], axis=-1)[..., 0]
            return counted(tokens) & jnp.isneginf(chosen)
        density = path_log_density(self.attention(params), self.path(params, tokens), self.scale)
        return counted(tokens) & jnp.isneginf(density)

    def quantities(self, params: Params, tokens: Any) -> dict[str, Array]:
        """Identified quantities: no symmetry of the density changes them (theory, section 6).

            interaction         F A F^T of each head (heads, vocab, vocab), in ascending order of
                                norm
            association         F O^T (vocab, vocab), with the mean row of O subtracted
                                of more than 40 symbols, both for some pairs (`pairwise`)
            bias                b minus its mean (vocab,)
            log_likelihood      of all sequences together, in nats
            log_det             sum of log |det J_t| over all positions that count
        and, unless the barrier weight is 0, where the law of tokens leaves the basis of the
        embeddings open,
            singular_values     of the A of all heads (heads * dim,), in ascending order
            smallest_margin     over all positions that count
            support_position    mean over the sequences of the position of their support token

        Embeddings are identified up to a shift against the positions. The end token occurs at the
        start alone, where only the sum with its position counts. So F has the row E_0 + P_0 for it,
        and for the others those of E minus their mean; without a table of positions F is E.
        """
        attention = self.attention(params)
        tokens, is_counted = jnp.asarray(tokens), counted(jnp.asarray(tokens))
        E, readout, b = (
            jnp.asarray(params[name], float) for name in ("embedding", "readout", "bias")
        )
        F = E
        if self.position == "table":
            F = jnp.concatenate([E[:1] + self.positions(params)[:1], E[1:] - E[1:].mean(0)])
        readout = readout - readout.mean(0)
        association = pairwise("association", F, jnp.eye(self.dim)[None], readout, tokens)
        log_det = stability_margin(attention, self.path(params, tokens), "log_det")
        of_law = {
            **pairwise("interaction", F, attention.interaction, F, tokens),
            **{name: value[0] for name, value in association.items()},
            "bias": b - b.mean(),
            "log_likelihood": self.log_likelihood(params, tokens).sum(),
            "log_det": jnp.where(is_counted, log_det, 0).sum(),
        }
        if self.barrier_weight == 0:
            return of_law
        margin = self.margins(params, tokens)
        singular = jnp.linalg.svd(attention.interaction, compute_uv=False)
        return of_law | {
            "singular_values": jnp.sort(singular.ravel()),
            "smallest_margin": jnp.nanmin(margin),
            "support_position": jnp.nanargmin(margin, axis=-1).mean(),
        }

    def path(self, params: Params, tokens: Any) -> Float[Array, "... length dim"]:
        """Embedding path `u_t = E[x_{t-1}] + P_t` with x_0 = end."""
        embedding, position = jnp.asarray(params["embedding"], float), self.positions(params)
        if self.one_hot:
            rows = jax.nn.one_hot(previous_tokens(tokens), self.vocab_size, dtype=embedding.dtype)
            return jnp.matmul(rows, embedding, precision="highest") + position
        return embedding[previous_tokens(tokens)] + position

    def positions(self, params: Params) -> Float[Array, "length dim"]:
        """The embedding P_t of each position; 0 where attention knows lags instead."""
        if self.position == "lag":
            return jnp.zeros((self.length, self.dim))
        return jnp.asarray(params["position"], float)

    def lag_bias(self, params: Params) -> Float[Array, "heads length"] | None:
        """What is added to the logit of a token by how many positions back it is, from 0."""
        if self.position == "table":
            return None
        lag = jnp.arange(self.length)
        bias = -jnp.exp(jnp.asarray(params["log_slope"], float))[:, None] * lag
        return bias if self.window is None else jnp.where(lag > self.window, OUT_OF_WINDOW, bias)

    def at_length(self, length: int) -> "LanguageModel":
        """The same law on the first `length` positions, at the same parameters.

        Raises: InputError with a table of positions, which says nothing beyond its length."""
        if self.position == "table":
            raise InputError(
                f"at_length: expected a model with lags, got one with a table of {self.length} "
                'positions, which says nothing of others; position="lag" has none'
            )
        return dataclasses.replace(self, length=length)

    def attention(self, params: Params) -> Attention:
        """The attention whose residuals and Jacobian score the path: strict mask, no value map."""
        bias = self.lag_bias(params)
        return Attention(
            params["query"], params["key"], contraction=self.contraction, position_bias=bias
        )

    def readout_attention(self, params: Params) -> Attention:
        """The attention that predicts: inclusive mask, value maps, the same query and key."""
        return Attention(
            params["query"],
            params["key"],
            params["value"],
            mask="inclusive",
            position_bias=self.lag_bias(params),
        )

    def candidates(self, params: Params, tokens: Any) -> Candidates:
        """Probability and margin of every token at each position, given the tokens before it."""
        tokens = check_tokens(tokens, self.vocab_size, self.length)
        flat = tokens.reshape(-1, self.length)
        log_prob = self.process(params).next_token_log_probs(flat)
        u = self.path(params, flat)
        following = jnp.asarray(params["embedding"], float) + self.positions(params)[1:, None]
        found = candidate_margins(self.attention(params), following, u, flat, log_prob)
        return jax.tree.map(lambda leaf: leaf.reshape(*tokens.shape, -1), found)

    def generate(
        self,
        params: Params,
        num_sequences: int,
        *,
        key: Array,
        decoding: Decoding = Decoding(),  # noqa: B008
    ) -> Generation:
        """Sample sequences, with the log probability, margin and support token of each token.

        The margin at t is that of the path position that predicts x_t: position 0, the start,
        predicts the first token. The support token at t is the path position with the smallest
        margin so far. With a `decoding` rule, log probabilities are those of the decoded law.
        """
        as_integer("num_sequences", num_sequences)
        process = decoded(self.process(params), decoding)
        return law.generate(self, process, as_key(key), num_sequences)


def falling_weight(weight: Any, until: Any, num_sequences: Any) -> float:
    """A barrier weight that falls with the data: `weight * min(1, until / num_sequences)`.

    With a fixed weight the factor of the path grows as the likelihood does, and the mode need not
    tend to the best law of tokens. With this one the factor counts as much as for `until` sequences
    and no more, as a prior does. Source: theory, section 7.

    Raises: InputError for a weight below 0, or counts below 1.

    Example:

        >>> from probattn.models import falling_weight
        >>> [round(falling_weight(0.05, 300, number), 4) for number in (100, 300, 3000)]
        [0.05, 0.05, 0.005]
    """
    if not isinstance(weight, (int, float)) or not 0 <= weight < math.inf:
        raise InputError(f"weight: expected a number from 0, got {weight!r}")
    until, number = as_integer("until", until), as_integer("num_sequences", num_sequences)
    return weight * min(1.0, until / number)
