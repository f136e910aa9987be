"""The attention mean one position at a time, from a cache of the past's keys and values.

Letters in shapes: H or h heads, r rank, d embedding dimension, s position in the cache.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from probattn.attention.attention import Attention
from probattn.errors import InputError

Cache = tuple[Array, Array, Array]  # first embedding (d,), keys (H, s, r), values (H, s, d)


def empty_cache(attention: Attention, length: int) -> Cache:
    """A cache of zeros for one sequence of at most `length` positions.

    It holds the first embedding (d,), keys (H, length, r) and values (H, length, d).

    Raises: InputError on a batch of maps, or on a contraction cap, which depends on the distances
    between all embeddings of the past.
    """
    if attention.contraction is not None or attention.batch_shape:
        raise InputError(
            "attention: expected one map without a contraction cap, whose mean needs keys and "
            "values only"
        )
    heads, rank, dim = attention.query.shape
    dtype = attention.query.dtype
    return (
        jnp.zeros(dim, dtype),
        jnp.zeros((heads, length, rank), dtype),
        jnp.zeros((heads, length, dim), dtype),
    )


def mean_step(
    attention: Attention, cache: Cache, u: Float[Array, " dim"], position: Int[Array, ""]
) -> tuple[Cache, Float[Array, " dim"]]:
    """Add the embedding at `position` to the cache and return `mu_t`, row t of `attention_mean`.

    Positions count from 0 and must come in order. Returns: the new cache and `mu_t` (d,).
    """
    first, keys, values = cache
    # Keys count from the first embedding, as in `weighted_mean.Attended`.
    first = jnp.where(position == 0, u, first)
    value = jnp.broadcast_to(u / attention.heads, (attention.heads, attention.dim))
    value = value if attention.value is None else attention.value @ u  # [h, d]
    keys = keys.at[:, position].set(attention.key @ (u - first))
    values = values.at[:, position].set(value)
    logits = (keys @ (attention.query @ u)[..., None])[..., 0] / math.sqrt(attention.rank)  # [h, s]
    lag = position - jnp.arange(keys.shape[1])
    if attention.position_bias is not None:
        logits = logits + attention.position_bias[:, jnp.maximum(lag, 0)]
    allowed = lag > 0 if attention.mask == "strict" else lag >= 0
    mu = jnp.einsum("hs,hsi->i", jax.nn.softmax(logits, where=allowed, axis=-1), values)
    if attention.mask == "strict":  # the first position has no past; its mean is the origin
        mu = jnp.where(position == 0, 0 if attention.origin is None else attention.origin, mu)
    return (first, keys, values), mu
