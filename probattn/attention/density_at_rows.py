"""Density and readout at positions whose pasts are rows of a table (theory, 1, 2 and 7).

`density_with_readout` takes whole sequences, in which positions that share their past are computed
again for each. Here each position is given by its past, a list of rows of a table of embeddings, so
that it need occur only once. What is averaged over a past, products of features included, is
computed once for each row of the table.

Letters in shapes: h head, n position, s attended position, k row of the table, f feature, d
embedding dimension, r rank, H number of heads.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from probattn.attention.attention import Attention
from probattn.attention.density_and_readout import inclusive_mean, strict_map
from probattn.attention.determinant import sign_and_log_det
from probattn.attention.jacobian import log_density_of
from probattn.attention.small_blocks import by_lemma, features
from probattn.attention.weighted_mean import Attended, projected
from probattn.checks import in_default_float


def density_with_readout_at_rows(
    attention: Attention,
    table: Any,
    own: Any,
    pasts: Sequence[Any],
    scale: float = 1.0,
) -> tuple[Float[Array, " n"], Float[Array, "n d"]]:
    """`density_with_readout` at positions whose embeddings and pasts are rows of a table.

    Args:
        attention: with the inclusive mask and neither position bias nor batch.
        table: embeddings [k, d]; row 0 is the one from which the others are counted, any of them.
        own: row of each position's own embedding [n].
        pasts: for consecutive groups of positions the rows of their strict past [n of the group,
            s], filled up with -1.
        scale: standard deviation sigma of the path's noise.

    Returns: log density of each position's embedding [n], and inclusive mean [n, d]. Source:
    theory, sections 2 and 7.
    """
    attention, table = in_default_float((attention, table))
    with jax.default_matmul_precision("highest"):
        strict = strict_map(attention)
        rows = _of_table(strict, table)
        left, right = (x[0] for x in features(strict, rows))  # [h, k, left], [h, k, right]
        products = jnp.einsum("hki,hkj->hkij", left, right)
        shape = products.shape[2:]
        w = jnp.broadcast_to(rows.w[0], (strict.heads, *table.shape))
        # All that is averaged over a past, [h, k, f].
        parts = [w, left, right, products.reshape(*products.shape[:2], -1)]
        averaged = jnp.concatenate(parts, axis=-1)
        query, key = rows.query[0][:, own], rows.key[0]  # [h, n, r], [h, k, r]
        first, found = 0, []
        for past in pasts:
            found.append(_of_group(query[:, first : first + len(past)], key, averaged, past))
            first += len(past)
        means, log_total = (jnp.concatenate(x, axis=1) for x in zip(*found, strict=True))
        ends = np.cumsum([attention.dim, *shape])
        wbar, left_mean, right_mean, seconds = jnp.split(means, ends, axis=-1)  # [h, n, ...]
        covariance = seconds.reshape(*seconds.shape[:2], *shape) - jnp.einsum(
            "hni,hnj->hnij", left_mean, right_mean
        )
        sign, log_det = sign_and_log_det(_blocks(strict, covariance))
        has_past = jnp.isfinite(log_total)  # [h, n]
        lowest = jnp.finfo(table.dtype).min
        at_own = Attended(
            origin=rows.origin,
            w=rows.w[:, own],
            query=query[None],
            key=key[None, :, own],
            shrink=rows.shrink,
            alpha=rows.alpha,
            log_total=jnp.where(has_past, log_total, lowest)[None],
            wbar=wbar[None],
        )
        e = table[own] - (wbar + has_past[..., None] * rows.origin[0]).mean(0)
        density = log_density_of(e, log_det, ~(sign <= 0), scale)
        return density, inclusive_mean(attention, at_own)[0]


def _of_table(attention: Attention, table: jax.Array) -> Attended:
    """What `attend` computes before the weights, for the rows of the table as one sequence."""
    origin, w, query, key = projected(attention, table[None])
    none = jnp.zeros((1, attention.heads, 0, 0), table.dtype)
    means = jnp.broadcast_to(w[:, None], (1, attention.heads, *table.shape))  # only its shape
    ones = jnp.ones((1, len(table)), table.dtype)
    return Attended(origin, w, query, key, ones, none, none, means)


def _of_group(
    query: jax.Array, key: jax.Array, averaged: jax.Array, past: Any
) -> tuple[jax.Array, jax.Array]:
    """Weighted means [h, n, f] and log normalisers [h, n]; 0 and -inf without a past.

    Args: query [h, n, r]; key [h, k, r] and averaged [h, k, f], of the table; past, rows of it
    [n, s], filled up with -1.
    """
    there = past >= 0  # [n, s]
    logits = (query[:, :, None] * key[:, past]).sum(-1)  # [h, n, s]
    logits = jnp.where(there, logits, jnp.finfo(logits.dtype).min)
    largest = jax.lax.stop_gradient(logits.max(-1, keepdims=True))
    raw = jnp.where(there, jnp.exp(logits - largest), 0)
    has_past = there.any(-1)[:, None]  # [n, 1]
    total = jnp.where(has_past, raw.sum(-1, keepdims=True), 1)  # [h, n, 1]
    means = jnp.einsum("hns,hnsf->hnf", raw / total, averaged[:, past])
    return means, jnp.where(has_past, largest + jnp.log(total), -jnp.inf)[..., 0]


def _blocks(attention: Attention, covariance: jax.Array) -> jax.Array:
    """Blocks [n, i, j] whose determinants are those of J_t, from [h, n, left, right]."""
    if by_lemma(attention):  # the columns of block (g, h) are those of head h: [n, H r, H r]
        derivative = jnp.moveaxis(covariance, 0, 2)
        derivative = derivative.reshape(*derivative.shape[:2], -1)
    else:
        derivative = covariance.sum(0)  # [n, d, d]
    return jnp.eye(derivative.shape[-1], dtype=derivative.dtype) - derivative
