"""What sequences look like, in a few numbers of a whole data set."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from probattn import path_log_density
from probattn.inference.contract import ParticleModel, PathModel, TokenModel
from probattn.sequence.tokens import END, counted

SOME = 100  # sequences whose smallest margin is computed: it costs more than all else
MOST_PAIRED = 256  # of a vocabulary whose pairs are counted: a table of the square of it


def figures_of_tokens(tokens: Any) -> dict[str, Float[Array, ""]]:
    """Numbers of a data set by name, from its tokens (num_sequences, length) alone.

    symbols per sequence, and their standard deviation; different symbols per sequence (the size of
    the set that it visits); repeated symbols, the share of symbols that equal the one before;
    sequences without end, the share that fills all positions; and different sequences, the share
    that is left when each counts once.
    """
    is_symbol = tokens != END
    lengths = is_symbol.sum(-1)
    follows = is_symbol[:, 1:]  # symbols that have one before
    ordered = jnp.sort(tokens, axis=-1)
    is_new = (ordered != END) & jnp.concatenate(
        [jnp.ones_like(follows[:, :1]), ordered[:, 1:] != ordered[:, :-1]], axis=-1
    )
    rows = tokens[jnp.lexsort(tokens.T[::-1])]  # equal sequences are neighbours
    first = 1 + (rows[1:] != rows[:-1]).any(-1).sum()
    repeats = (follows & (tokens[:, 1:] == tokens[:, :-1])).sum()
    return {
        "symbols per sequence": lengths.mean(),
        "their standard deviation": lengths.std(),
        "different symbols per sequence": is_new.sum(-1).mean(),
        "repeated symbols": repeats / jnp.maximum(follows.sum(), 1),
        "sequences without end": is_symbol.all(-1).mean(),
        "different sequences": first / len(tokens),
    }


def figures_at(model: TokenModel, params: Any, tokens: Any) -> dict[str, Float[Array, ""]]:
    """Numbers of a data set by name that depend on the parameters, too.

    entropy of the next token, in nats, its mean over all positions that count; and of a model whose
    embeddings are a function of the tokens: the smallest margin sigma_min of a sequence (mean of
    the first SOME), the sum of its log |det J_t| (mean), and the share of positions outside
    the local domain (det J_t <= 0), whatever the weight of the barrier. A model whose likelihood is
    estimated by particles has none of them.
    """
    if isinstance(model, ParticleModel):
        return {}
    counts = counted(tokens)
    log_prob = model.process(params).next_token_log_probs(tokens)
    entropy = -jnp.where(jnp.isneginf(log_prob), 0, jnp.exp(log_prob) * log_prob).sum(-1)
    found = {"entropy of the next token": _mean(entropy, counts)}
    if not isinstance(model, PathModel):
        return found
    log_det = model.margins(params, tokens, "log_det")
    outside = jnp.isneginf(path_log_density(model.attention(params), model.path(params, tokens)))
    return found | {
        "smallest margin": jnp.nanmin(model.margins(params, tokens[:SOME]), axis=-1).mean(),
        "log determinant of a sequence": jnp.where(counts, log_det, 0).sum(-1).mean(),
        "positions outside the domain": _mean(outside, counts),
    }


def shares_of_tokens(tokens: Any, vocab_size: int) -> dict[str, Float[Array, " kinds"]]:
    """How a data set divides into kinds, by name, in shares that add up to one.

    lengths, of 0 to `length` symbols; symbols, by id; and pairs of neighbours by ids, start and end
    included, (vocab_size^2,), of at most MOST_PAIRED symbols.
    """
    is_symbol = tokens != END
    found = {
        "lengths": jnp.bincount(is_symbol.sum(-1), length=tokens.shape[-1] + 1),
        "symbols": jnp.bincount(tokens.ravel(), is_symbol.ravel().astype(int), length=vocab_size),
    }
    if vocab_size <= MOST_PAIRED:
        before = jnp.pad(tokens[:, :-1], ((0, 0), (1, 0)), constant_values=END)
        pairs = (before * vocab_size + tokens).ravel()
        found["pairs"] = jnp.bincount(
            pairs, counted(tokens).ravel().astype(int), length=vocab_size**2
        )
    return {name: number / jnp.maximum(number.sum(), 1) for name, number in found.items()}


def _mean(values: Array, counts: Array) -> Array:
    """The mean over positions that count."""
    return jnp.where(counts, values, 0).sum() / counts.sum()
