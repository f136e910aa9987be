"""The density of each next token's embedding, as a factor of the law of tokens (theory, section 7).

    p(x_t | x_<t) ~ exp(logit_t(x_t)) p(u_{t+1}(x_t) | u_<=t)^lambda,  u_{t+1}(x) = E[x] + P_{t+1}

It is normalised over the vocabulary, so that tokens follow the law that is fitted. Candidates
outside the local domain have probability 0; where all are, the sequence ends. At the last position,
which no embedding follows, the factor is left out.

Letters in shapes: b sequence, t position, s attended position, v token, n prefix, d dimension.
"""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from probattn import Attention
from probattn.attention.batching import LARGEST_WORKING_SET, in_pieces
from probattn.attention.candidates import candidate_log_density
from probattn.sequence.shared_prefixes import PrefixTree
from probattn.sequence.tokens import END


def after_positions(
    attention: Attention, params: Mapping[str, Any], u: Array, scale: float
) -> Float[Array, "b t v"]:
    """Log density of each token's embedding after each position of paths u [b, t, d].

    0 after the last position."""
    embedding, position = _tables(params)
    length = u.shape[1]
    if length == 1:
        return jnp.zeros((*u.shape[:2], len(embedding)), u.dtype)
    candidates = embedding + position[1:, None]  # [t, v, d]
    there = jnp.tri(length - 1, dtype=bool)  # [t, s]

    def of_paths(u: Array) -> Array:
        past = jnp.broadcast_to(u[:, None, :-1], (len(u), length - 1, length - 1, u.shape[-1]))
        flat = [
            jnp.broadcast_to(x, (len(u), *x.shape[-3:])).reshape(-1, *x.shape[-2:])
            for x in (past, candidates)
        ]
        mask = jnp.broadcast_to(there, (len(u), *there.shape)).reshape(-1, length - 1)
        found = candidate_log_density(attention, flat[0], mask, flat[1], scale)
        return found.reshape(len(u), length - 1, -1)

    size = attention.heads * attention.rank
    numbers = length * len(embedding) * (2 * length + 6 * size**2)
    density = in_pieces(of_paths, u, max(1, LARGEST_WORKING_SET // numbers))
    return jnp.pad(density, ((0, 0), (0, 1), (0, 0)))


def after_prefixes(
    attention: Attention, params: Mapping[str, Any], tree: PrefixTree, scale: float
) -> Float[Array, "n v"]:
    """`after_positions` of each prefix of a tree."""
    embedding, position = _tables(params)
    table = embedding[tree.row_token] + position[tree.row_position]  # [k, d]
    last, first, found = jnp.asarray(tree.row_position)[tree.own], 0, []
    for strict in tree.pasts:
        rows = slice(first, first + len(strict))
        # The last embedding comes first, since in each row the first belongs to the prefix.
        past = jnp.concatenate([jnp.asarray(tree.own)[rows, None], strict], axis=1)  # [n, s]
        following = jnp.minimum(last[rows] + 1, len(position) - 1)
        candidates = embedding + position[following][:, None]  # [n, v, d]
        found.append(candidate_log_density(attention, table[past], past >= 0, candidates, scale))
        first += len(strict)
    return jnp.where((last == len(position) - 1)[:, None], 0, jnp.concatenate(found))


def after_step(
    attention: Attention, params: Mapping[str, Any], path: Array, position: Array, scale: float
) -> Float[Array, " v"]:
    """`after_positions` of one position of one path [t, d], of which later rows are ignored."""
    embedding, positions = _tables(params)
    following = jnp.minimum(position + 1, len(positions) - 1)
    there = jnp.arange(len(path)) <= position
    found = candidate_log_density(
        attention, path[None], there[None], (embedding + positions[following])[None], scale
    )[0]
    return jnp.where(position == len(positions) - 1, 0, found)


def weighted(logits: Array, density: Array, weight: float) -> Float[Array, "... v"]:
    """`logits + weight * density`; the end token alone where the domain holds no candidate."""
    total = logits + weight * density
    impossible = jnp.isneginf(total).all(-1, keepdims=True)
    ends = jnp.where(jnp.arange(total.shape[-1]) == END, 0, -jnp.inf)
    return jnp.where(impossible, ends.astype(total.dtype), total)


def _tables(params: Mapping[str, Any]) -> tuple[Array, Array]:
    embedding, position = (jnp.asarray(params[name], float) for name in ("embedding", "position"))
    return embedding, position
