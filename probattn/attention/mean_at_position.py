"""Mean, residual and block at one position, for many pasts at once (theory, sections 1, 2 and 5).

Used by the root solver, which goes position by position, and by the particle filter, where each
particle has a past of its own. The embedding at the position itself is called the token.

Letters in shapes: n pair of a token and its past, h head, s attended position, r rank, i, j and k
components of an embedding. n is the last axis, u[s, i, n], and a product is written as a broadcast
and a sum over the short axes (`_contract`): the compiler makes one vectorised loop over n of it,
where thousands of tiny matrix products would be as many calls.
"""

import math

import jax
import jax.numpy as jnp

from probattn.attention.attention import Attention
from probattn.attention.weighted_mean import capped


def mean_at(attention: Attention, u: jax.Array, position: jax.Array, token: jax.Array) -> jax.Array:
    """`mu_t(token; u_<t)` [i] at one position of one sequence u[s, i], without a contraction cap.

    u is a buffer that a sampler fills: its rows from that position on are ignored.
    """
    alpha = _weights_at(attention, u[..., None], position, token[:, None], jnp.ones(1, u.dtype))
    return _mean_of_heads(attention, _head_means(alpha, u[..., None]), position)[:, 0]


def conditional_parts(
    attention: Attention, past: jax.Array, squared: jax.Array, position: jax.Array, token: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Residual [i, n] and block [i, j, n] of tokens [i, n] at one position, given their pasts.

    Each token has a past of its own, `past` [s, i, n], with squared diameter `squared` [n]. Rows of
    `past` from the position on are ignored.
    """
    shrink = capped(attention, squared)
    alpha = _weights_at(attention, past, position, token, shrink)
    ubar = _head_means(alpha, past)
    centred = past - ubar[:, None]  # [h, s, i, n]
    covariance = _contract("hsi,hsj->hij", alpha[:, :, None] * centred, centred)
    # The derivative of the weighted mean: first of each head [h, i, k, n], then of all [i, k, n].
    derivative = _contract("hij,hjk->hik", covariance, attention.interaction[..., None]) * shrink
    derivative = (
        derivative.mean(0)
        if attention.value is None
        else _contract("hij,hjk->ik", attention.value[..., None], derivative)
    )
    identity = jnp.eye(attention.dim, dtype=past.dtype)[..., None]
    return token - _mean_of_heads(attention, ubar, position), identity - derivative


def _weights_at(
    attention: Attention, past: jax.Array, position: jax.Array, token: jax.Array, shrink: jax.Array
) -> jax.Array:
    """Weights [h, s, n] of tokens [i, n] on their pasts [s, i, n], 0 outside the past.

    Under the strict mask all are 0 at the first position.
    """
    query = _contract("hri,i->hr", attention.query[..., None], token)
    # Keys count from the first embedding, as in `weighted_mean.Attended`.
    key = _contract("hri,si->hrs", attention.key[..., None], past - past[:1])
    logits = _contract("hr,hrs->hs", query, key) / math.sqrt(attention.rank) * shrink
    lag = position - jnp.arange(len(past))
    if attention.position_bias is not None:
        logits = logits + attention.position_bias[:, jnp.maximum(lag, 0), None]
    allowed = (lag > 0 if attention.mask == "strict" else lag >= 0)[:, None]
    weights = jax.nn.softmax(jnp.where(allowed, logits, jnp.finfo(past.dtype).min), axis=1)
    return jax.lax.optimization_barrier(jnp.where(allowed, weights, 0))


def _head_means(alpha: jax.Array, past: jax.Array) -> jax.Array:
    """Weighted mean of the past in each head, [h, i, n]."""
    return _contract("hs,si->hi", alpha, past)


def _mean_of_heads(attention: Attention, ubar: jax.Array, position: jax.Array) -> jax.Array:
    """`mu_t` [i, n] from the mean of each head [h, i, n]; the origin where there is no past."""
    value = attention.value
    mu = ubar.mean(0) if value is None else _contract("hij,hj->i", value[..., None], ubar)
    if attention.origin is None or attention.mask != "strict":
        return mu
    return jnp.where(position == 0, attention.origin[:, None], mu)


def _contract(spec: str, left: jax.Array, right: jax.Array) -> jax.Array:
    """`einsum(spec)` of two arrays for each n, their last axis, which `spec` does not name.

    A last axis of size 1 broadcasts.
    """
    terms, out = spec.split("->")
    # Give both arrays all axes, those of the result first, and sum over the others.
    letters = out + "".join(sorted(set(terms) - set(out) - {","}))
    aligned = []
    for term, array in zip(terms.split(","), (left, right), strict=True):
        order = sorted(range(len(term)), key=lambda axis: letters.index(term[axis]))
        shape = [array.shape[term.index(letter)] if letter in term else 1 for letter in letters]
        aligned.append(jnp.transpose(array, (*order, len(term))).reshape(*shape, array.shape[-1]))
    return (aligned[0] * aligned[1]).sum(axis=tuple(range(len(out), len(letters))))
