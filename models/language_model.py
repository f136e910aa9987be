"""A causal attention language model with priors and a barrier on its path (theory, section 7)."""

import functools
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
    CachedStep,
    Decoding,
    InputError,
    SequenceProcess,
    attention_mean,
    decoded,
    path_log_density,
    stability_margin,
)
from probattn.attention.batching import in_pieces
from probattn.attention.cached_mean import empty_cache, mean_step
from probattn.attention.density_and_readout import density_with_readout
from probattn.attention.density_at_rows import density_with_readout_at_rows
from probattn.checks import as_integer, as_key
from probattn.models.gauge import pairwise
from probattn.models.generation import Generation, support_so_far
from probattn.models.next_embedding import after_positions, after_prefixes, after_step, weighted
from probattn.models.next_margins import Candidates, next_margins
from probattn.models.priors import normal
from probattn.sequence.shared_prefixes import PrefixTree, prefix_tree
from probattn.sequence.tokens import END, check_tokens, counted, previous_tokens

Params = dict[str, Any]
# Of the pairs of positions in whole sequences, the share that pairs of prefixes may have. Each of
# the latter costs more, since it is gathered and not part of a matrix product.
MOST_PAIRS = 0.5
BARRIERS = ("factor", "normalised")
LOGITS_AT_ONCE = 2**20  # when sequences are scored: what a cache of 4 MB holds in float32


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

    Parameters and priors, all Normal(0, s), with d = dim, r = rank and the standard deviations
        embedding E (vocab_size, d)  s = 1            position P (length, d)   s = 1/2
        query, key (heads, r, d)     s = d^(-1/4)     value V (heads, d, d)    s = 1 / sqrt(d)
        readout O (vocab_size, d)    s = 2 / sqrt(d)  bias b (vocab_size,)     s = 1
    so that the entries of the interaction have standard deviation 1/sqrt(d), and the spread of
    logits does not depend on d.

    Args:
        vocab_size: number of tokens, the end token included; at least 2.
        length: length of the longest sequence, with an end token if it has one.
        dim, heads, rank: of the attention; rank None is dim.
        barrier_weight: lambda >= 0; 1 is the whole change of variables, 0 is plain cross-entropy.
        barrier: "factor", the paper's objective, or "normalised".
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

    observed: ClassVar[str] = "tokens"
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
        if not isinstance(self.one_hot, bool):
            raise InputError(f"one_hot: expected True or False, got {self.one_hot!r}")
        if not (isinstance(self.scale, (int, float)) and 0 < self.scale < math.inf):
            raise InputError(f"scale: expected a finite number > 0, got {self.scale!r}")
        if self.contraction is not None and not 0 < self.contraction < 1:
            raise InputError(
                f"contraction: expected a number inside (0, 1) or None, got {self.contraction!r}"
            )

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

    def __call__(
        self, tokens: Any = None, num_sequences: int | None = None, batch_size: int | None = None
    ) -> Array:
        if isinstance(tokens, PrefixTree):
            return _given_prefixes(self, tokens)
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
                logits, path = _logits_and_path(self, params, tokens)
                process = process.at_logits(logits)
                numpyro.factor("path", self.barrier_weight * path)
            return numpyro.sample("tokens", process, obs=tokens)

    def metric_blocks(self) -> tuple[dict[str, int], ...]:
        """Parameters that rotations and the order of heads exchange, for the sampler's metric.

        Rotations of the embeddings act on all rows of E, P and O alike; with those of queries and
        keys they leave of query and key only what each pair of entries has in common."""
        return (
            {"embedding": 1, "position": 1, "readout": 1},
            {"query": 0, "key": 0},
            {"value": 0},
            {"bias": 1},
        )

    def condensed(self, tokens: Any) -> Any:
        """The tokens as a `PrefixTree`, of which the model computes the same density faster.

        Each prefix is computed once, however many sequences share it. Tokens that share too little,
        and those of a model with a cap, are returned as they are.

        Args: tokens, concrete, (num_sequences, length).
        """
        checked = np.asarray(check_tokens(tokens, self.vocab_size, self.length, rank=2))
        tree = None if self.contraction is not None else prefix_tree(checked, self.vocab_size)
        small = tree is not None and tree.num_pairs < MOST_PAIRS * self.length * checked.size
        return tree if small else tokens

    def process(self, params: Params) -> SequenceProcess:
        """The law of token sequences at given parameters."""
        functions = _functions(self)
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
            return _log_likelihood_of_prefixes(self, params, tokens)
        return _log_likelihood(self, params, check_tokens(tokens, self.vocab_size, self.length))

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
        rows = jax.nn.log_softmax(_readout(self, params, u))
        chosen = jnp.take_along_axis(rows, tokens[..., None], axis=-1)[..., 0]
        return jnp.where(counted(tokens), chosen, 0).sum(-1)

    def path_log_density(self, params: Params, tokens: Any) -> Float[Array, "..."]:
        """`sum_t [log N(e_t) + log det J_t]` of each embedding path, without the barrier weight."""
        return _path_log_density(self, params, check_tokens(tokens, self.vocab_size, self.length))

    def log_factors(self, params: Params, tokens: Any) -> Float[Array, "..."]:
        """The term of each sequence beside its likelihood: `barrier_weight * path_log_density`.

        It is 0 where there is none: with weight 0, or with the normalised barrier."""
        if not self.has_factor:
            return jnp.zeros(jnp.shape(tokens)[:-1])
        return self.barrier_weight * self.path_log_density(params, tokens)

    def next_token_logits(self, params: Params, tokens: Any) -> Float[Array, "... length vocab"]:
        """Logits of each position given the tokens before it, shape (..., length, vocab_size)."""
        return _logits(self, params, check_tokens(tokens, self.vocab_size, self.length))

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
        and for the others those of E minus their mean.
        """
        attention = self.attention(params)
        tokens, is_counted = jnp.asarray(tokens), counted(jnp.asarray(tokens))
        E, P, readout, b = (
            jnp.asarray(params[name], float)
            for name in ("embedding", "position", "readout", "bias")
        )
        F = jnp.concatenate([E[:1] + P[:1], E[1:] - E[1:].mean(0)])
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
        embedding, position = (
            jnp.asarray(params[name], float) for name in ("embedding", "position")
        )
        if self.one_hot:
            rows = jax.nn.one_hot(previous_tokens(tokens), self.vocab_size, dtype=embedding.dtype)
            return jnp.matmul(rows, embedding, precision="highest") + position
        return embedding[previous_tokens(tokens)] + position

    def attention(self, params: Params) -> Attention:
        """The attention whose residuals and Jacobian score the path: strict mask, no value map."""
        return Attention(params["query"], params["key"], contraction=self.contraction)

    def readout_attention(self, params: Params) -> Attention:
        """The attention that predicts: inclusive mask, value maps, the same query and key."""
        return Attention(params["query"], params["key"], params["value"], mask="inclusive")

    def candidates(self, params: Params, tokens: Any) -> Candidates:
        """Probability and margin of every token at each position, given the tokens before it."""
        tokens = check_tokens(tokens, self.vocab_size, self.length)
        flat = tokens.reshape(-1, self.length)
        log_prob = self.process(params).next_token_log_probs(flat)
        u = self.path(params, flat)
        found = next_margins(self.attention(params), dict(params), u, flat, log_prob)
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
        process = decoded(self.process(params), decoding)
        return _generate(self, process, as_key(key), num_sequences)


def falling_weight(weight: float, until: int, num_sequences: int) -> float:
    """A barrier weight that falls with the data: `weight * min(1, until / num_sequences)`.

    With a fixed weight the factor of the path grows as the likelihood does, and the mode need not
    tend to the best law of tokens. With this one the factor counts as much as for `until` sequences
    and no more, as a prior does. Source: theory, section 7.

    Raises: InputError for a weight below 0, or counts below 1.

    Example:

        >>> from probattn.models import falling_weight
        >>> [falling_weight(0.05, 300, number) for number in (100, 300, 3000)]
        [0.05, 0.05, 0.005]
    """
    if not 0 <= weight < math.inf:
        raise InputError(f"weight: expected a number from 0, got {weight}")
    until, number = as_integer("until", until), as_integer("num_sequences", num_sequences)
    return weight * min(1.0, until / number)


def _logits(model: LanguageModel, params: Params, tokens: Array) -> Array:
    return _readout(model, params, model.path(params, tokens))


def _readout(model: LanguageModel, params: Params, u: Array) -> Array:
    logits = _logits_of(params, u + attention_mean(model.readout_attention(params), u))
    if not model.is_normalised:
        return logits
    flat = u.reshape(-1, *u.shape[-2:])
    density = after_positions(model.attention(params), params, flat, model.scale)
    return weighted(logits, density.reshape(logits.shape), model.barrier_weight)


# Jitted, since pieces are a loop, which would be compiled at each call.
@jax.jit(static_argnums=0)
def _log_likelihood(model: LanguageModel, params: Params, tokens: Array) -> Array:
    sequences = tokens.reshape(-1, model.length)
    most = max(1, LOGITS_AT_ONCE // (model.length * model.vocab_size))
    return in_pieces(model.process(params).score, sequences, most).reshape(tokens.shape[:-1])


def _logits_of(params: Params, hidden: Array) -> Array:
    return jnp.matmul(hidden, params["readout"].T, precision="highest") + params["bias"]


# Jitted, since NumPyro runs a model without jit to find its sites, where each operation would be
# compiled by itself.
@jax.jit(static_argnums=0)
def _path_log_density(model: LanguageModel, params: Params, tokens: Array) -> Array:
    density = path_log_density(model.attention(params), model.path(params, tokens), model.scale)
    return jnp.where(counted(tokens), density, 0).sum(-1)


@jax.jit(static_argnums=0)
def _logits_and_path(model: LanguageModel, params: Params, tokens: Array) -> tuple[Array, Array]:
    """Logits (n, length, vocab) and the log density of each path (n,).

    Without a cap, readout and path have the same attention logits, and one pass computes both.
    """
    if model.contraction is not None:
        return _logits(model, params, tokens), _path_log_density(model, params, tokens)
    u = model.path(params, tokens)
    density, mean = density_with_readout(model.readout_attention(params), u, model.scale)
    return _logits_of(params, u + mean), jnp.where(counted(tokens), density, 0).sum(-1)


def _given_prefixes(model: LanguageModel, tree: PrefixTree) -> Array:
    """The model conditioned on tokens that are given by their prefixes."""
    params = {name: numpyro.sample(name, prior) for name, prior in model.priors().items()}
    logits, path = _at_prefixes(model, params, tree)
    if model.has_factor:
        # 0 times -inf would be NaN: every prefix occurs at least once.
        numpyro.factor("path", model.barrier_weight * (tree.totals * path).sum())
    normalisers = jax.nn.logsumexp(logits, axis=-1)
    # Only what occurs: 0 times the -inf of a token with probability 0 would be NaN.
    chosen = jnp.where(tree.counts > 0, tree.counts * logits, 0).sum()
    numpyro.factor("tokens", chosen - (tree.totals * normalisers).sum())
    return jnp.asarray(tree.tokens)


@jax.jit(static_argnums=0)
def _at_prefixes(model: LanguageModel, params: Params, tree: PrefixTree) -> tuple[Array, Array]:
    """Logits (n, vocab) after each prefix, and the log density of its last embedding (n,)."""
    embedding, position = (jnp.asarray(params[name], float) for name in ("embedding", "position"))
    table = embedding[tree.row_token] + position[tree.row_position]
    path, mean = density_with_readout_at_rows(
        model.readout_attention(params), table, tree.own, tree.pasts, model.scale
    )
    logits = _logits_of(params, table[tree.own] + mean)
    if model.is_normalised:
        density = after_prefixes(model.attention(params), params, tree, model.scale)
        logits = weighted(logits, density, model.barrier_weight)
    return logits, path


def _log_likelihood_of_prefixes(model: LanguageModel, params: Params, tree: PrefixTree) -> Array:
    rows = jax.nn.log_softmax(_at_prefixes(model, params, tree)[0])  # [n, vocab]
    chosen = rows[tree.prefix, tree.tokens]
    return jnp.where(tree.prefix >= 0, chosen, 0).sum(-1)


@jax.jit(static_argnums=(0, 3))
def _generate(
    model: LanguageModel, process: SequenceProcess, key: Array, num_sequences: int
) -> Generation:
    tokens = process.sample(key, (num_sequences,))
    rows = process.conditionals(tokens)  # [n, t, v]
    is_counted = counted(tokens)
    log_prob = jnp.take_along_axis(rows, tokens[..., None], axis=-1)[..., 0]
    margin = stability_margin(model.attention(process.params), model.path(process.params, tokens))
    return Generation(
        tokens,
        jnp.where(is_counted, log_prob, jnp.nan),
        jnp.where(is_counted, margin, jnp.nan),
        jnp.where(is_counted, support_so_far(margin), -1),
    )


@functools.lru_cache(maxsize=128)
def _functions(model: LanguageModel) -> dict[str, Any]:
    """The functions that define the model's SequenceProcess.

    Equal models get the same function objects, so that they share compiled programs.
    """

    def start(params: Params) -> Any:
        cache = empty_cache(model.readout_attention(params), model.length)
        path = jnp.zeros((model.length if model.is_normalised else 0, model.dim), cache[0].dtype)
        return cache, path

    def step(params: Params, state: Any, previous: Array, position: Array) -> tuple[Any, Array]:
        cache, path = state
        last = jnp.where(position == 0, END, previous)
        u = jnp.asarray(params["embedding"])[last] + jnp.asarray(params["position"])[position]
        cache, mu = mean_step(model.readout_attention(params), cache, u, position)
        logits = params["readout"] @ (u + mu) + params["bias"]
        if model.is_normalised:
            path = path.at[position].set(u)
            density = after_step(model.attention(params), params, path, position, model.scale)
            logits = weighted(logits, density, model.barrier_weight)
        return (cache, path), logits

    def end_probability_bound(params: Params) -> Array:
        return _end_probability_bound(model, params)

    def next_token_logits(params: Params, tokens: Array) -> Array:
        return _logits(model, params, tokens)

    return {
        "next_token_logits": next_token_logits,
        "batched": True,
        "cached_step": CachedStep(start, step),
        "end_probability_bound": end_probability_bound,
        "open_ended": False,  # there is no position beyond the table
    }


def _end_probability_bound(model: LanguageModel, params: Params) -> Array:
    """Lower bound on the probability of ending: `1 / (1 + sum_v m_v)` over the symbols v.

    m_v is exp of an upper bound on the logit of v minus that of the end token. This difference is
    linear in u_t and in the mean of each head, which lies in the convex hull of the path. So it is
    at most the value with each of these at that one of the finitely many E[x] + P_t for which it is
    largest. Under the normalised barrier no bound is claimed: the embedding of the end token may
    come as near to the boundary as any.

    Letters in shapes: p term (u_t, then the mean of each head), h head, v token, i and j component
    of an embedding, u embedding.
    """
    if model.is_normalised:
        return jnp.zeros(())
    u = (params["embedding"][:, None] + params["position"]).reshape(-1, model.dim)
    # [v, i]: readout of each token relative to the end token
    apart = params["readout"] - params["readout"][END]
    # [p, v, j]
    parts = jnp.concatenate([apart[None], jnp.einsum("vi,hij->hvj", apart, params["value"])])
    largest = (
        jnp.einsum("pvj,uj->pvu", parts, u).max(-1).sum(0) + params["bias"] - params["bias"][END]
    )
    return 1 / jnp.exp(largest.at[END].set(0)).sum()
