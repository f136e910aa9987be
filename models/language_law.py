"""The law of a LanguageModel as compiled functions: logits, densities, draws (theory, section 7).

The first argument of each is the model, which is hashable; equal models share compiled programs.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpyro
from jaxtyping import Array

from probattn import (
    CachedStep,
    SequenceProcess,
    attention_mean,
    path_log_density,
    stability_margin,
)
from probattn.attention.batching import in_pieces
from probattn.attention.cached_mean import empty_cache, mean_step
from probattn.attention.density_and_readout import density_with_readout
from probattn.attention.density_at_rows import density_with_readout_at_rows
from probattn.models.generation import Generation, support_so_far
from probattn.models.next_embedding import after_positions, after_prefixes, after_step, weighted
from probattn.sequence.shared_prefixes import PrefixTree
from probattn.sequence.tokens import END, counted

Params = dict[str, Any]
LOGITS_AT_ONCE = 2**20  # when sequences are scored: what a cache of 4 MB holds in float32


def token_logits(model: Any, params: Params, tokens: Array) -> Array:
    """Logits of each position given the tokens before it, (..., length, vocab)."""
    return readout(model, params, model.path(params, tokens))


def readout(model: Any, params: Params, u: Array) -> Array:
    """Logits of paths u (..., length, dim); with the density of candidates if the law has it."""
    logits = _logits_of(params, u + attention_mean(model.readout_attention(params), u))
    if not model.is_normalised:
        return logits
    flat = u.reshape(-1, *u.shape[-2:])
    density = after_positions(model.attention(params), params, flat, model.scale)
    return weighted(logits, density.reshape(logits.shape), model.barrier_weight)


# Jitted, since pieces are a loop, which would be compiled at each call.
@jax.jit(static_argnums=0)
def log_likelihood(model: Any, params: Params, tokens: Array) -> Array:
    """Log probability of each sequence of tokens (..., length), in pieces."""
    sequences = tokens.reshape(-1, model.length)
    most = max(1, LOGITS_AT_ONCE // (model.length * model.vocab_size))
    return in_pieces(model.process(params).score, sequences, most).reshape(tokens.shape[:-1])


def _logits_of(params: Params, hidden: Array) -> Array:
    return jnp.matmul(hidden, params["readout"].T, precision="highest") + params["bias"]


# Jitted, since NumPyro runs a model without jit to find its sites, where each operation would be
# compiled by itself.
@jax.jit(static_argnums=0)
def whole_path_log_density(model: Any, params: Params, tokens: Array) -> Array:
    """Log density of each path over the positions that count, without the weight."""
    density = path_log_density(model.attention(params), model.path(params, tokens), model.scale)
    return jnp.where(counted(tokens), density, 0).sum(-1)


@jax.jit(static_argnums=0)
def logits_and_path(model: Any, params: Params, tokens: Array) -> tuple[Array, Array]:
    """Logits (n, length, vocab) and the log density of each path (n,).

    Without a cap, readout and path have the same attention logits, and one pass computes both.
    """
    if model.contraction is not None:
        return token_logits(model, params, tokens), whole_path_log_density(model, params, tokens)
    u = model.path(params, tokens)
    density, mean = density_with_readout(model.readout_attention(params), u, model.scale)
    return _logits_of(params, u + mean), jnp.where(counted(tokens), density, 0).sum(-1)


def given_prefixes(model: Any, tree: PrefixTree) -> Array:
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
def _at_prefixes(model: Any, params: Params, tree: PrefixTree) -> tuple[Array, Array]:
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


def log_likelihood_of_prefixes(model: Any, params: Params, tree: PrefixTree) -> Array:
    """Log probability of each sequence of a tree."""
    rows = jax.nn.log_softmax(_at_prefixes(model, params, tree)[0])  # [n, vocab]
    chosen = rows[tree.prefix, tree.tokens]
    return jnp.where(tree.prefix >= 0, chosen, 0).sum(-1)


@jax.jit(static_argnums=(0, 3))
def generate(model: Any, process: SequenceProcess, key: Array, num_sequences: int) -> Generation:
    """Draws of a process, with what `Generation` says of each token."""
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
def functions(model: Any) -> dict[str, Any]:
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
        u = jnp.asarray(params["embedding"])[last] + model.positions(params)[position]
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
        return token_logits(model, params, tokens)

    return {
        "next_token_logits": next_token_logits,
        "batched": True,
        "cached_step": CachedStep(start, step),
        "end_probability_bound": end_probability_bound,
        # There is no position beyond a table; lags go on for ever.
        "open_ended": model.position == "lag",
    }


def _end_probability_bound(model: Any, params: Params) -> Array:
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
    u = params["embedding"]
    if model.position == "table":
        u = (u[:, None] + params["position"]).reshape(-1, model.dim)
    # [v, i]: readout of each token relative to the end token
    apart = params["readout"] - params["readout"][END]
    # [p, v, j]
    parts = jnp.concatenate([apart[None], jnp.einsum("vi,hij->hvj", apart, params["value"])])
    largest = (
        jnp.einsum("pvj,uj->pvu", parts, u).max(-1).sum(0) + params["bias"] - params["bias"][END]
    )
    return 1 / jnp.exp(largest.at[END].set(0)).sum()
