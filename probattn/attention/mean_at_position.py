"""Mean, residual and block of one position, of many tokens each after a past of its own (theory,
sections 1, 2 and 5).

What solves the equation position by position and what filters particles ask for these. Arrays carry
the tokens as their **last** axis, `u[s, i, n]`, and sums over the short axes are written as a
broadcast product and a sum, which the compiler turns into one vectorised loop over the tokens;
thousands of tiny matrix products would each be a call of their own."""

import math

import jax
import jax.numpy as jnp

from probattn.attention.attention import Attention
from probattn.attention.weighted_mean import capped


def mean_at(attention: Attention, u: jax.Array, position: jax.Array, token: jax.Array) -> jax.Array:
    """`mu_t(token; u_<t)` at one position of one sequence u[t, i], for an attention without a cap,
    as [i].

    What u holds from that position on is not looked at: it is a buffer that a sampler fills.
    """
    alpha = _weights_at(attention, u[..., None], position, token[:, None], jnp.ones(1, u.dtype))
    return _mean_of_heads(attention, _head_means(alpha, u[..., None]), position)[:, 0]


def conditional_parts(
    attention: Attention, past: jax.Array, squared: jax.Array, position: jax.Array, token: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Residual [i, n] and block [i, j, n] of tokens [i, n] at one position, each after a past [s,
    i, n] of its own.

    `squared` [n] is the squared diameter of that past; what `past` holds from the position on is
    not looked at."""
    shrink = capped(attention, squared)
    alpha = _weights_at(attention, past, position, token, shrink)
    ubar = _head_means(alpha, past)
    centred = past - ubar[:, None]  # [h, s, i, n]
    covariance = _contract("hsi,hsj->hij", alpha[:, :, None] * centred, centred)
    slope = _contract("hij,hjk->hik", covariance, attention.interaction[..., None]) * shrink
    slope = (
        slope.mean(0)
        if attention.value is None
        else _contract("hij,hjk->ik", attention.value[..., None], slope)
    )
    identity = jnp.eye(attention.dim, dtype=past.dtype)[..., None]
    return token - _mean_of_heads(attention, ubar, position), identity - slope


def _weights_at(
    attention: Attention, past: jax.Array, position: jax.Array, token: jax.Array, shrink: jax.Array
) -> jax.Array:
    """Weights of tokens [i, n] on their pasts [s, i, n], as [h, s, n]; all zero at the first
    position."""
    query = _contract("hri,i->hr", attention.query[..., None], token)
    key = _contract(
        "hri,si->hrs", attention.key[..., None], past - past[:1]
    )  # shifted as in `weighted_mean.attend`
    logits = _contract("hr,hrs->hs", query, key) / math.sqrt(attention.rank) * shrink
    lag = position - jnp.arange(len(past))
    if attention.position_bias is not None:
        logits = logits + attention.position_bias[:, jnp.maximum(lag, 0), None]
    allowed = (lag > 0 if attention.mask == "strict" else lag >= 0)[:, None]
    weights = jax.nn.softmax(jnp.where(allowed, logits, jnp.finfo(past.dtype).min), axis=1)
    return jax.lax.optimization_barrier(jnp.where(allowed, weights, 0))


def _head_means(alpha: jax.Array, past: jax.Array) -> jax.Array:
    return _contract("hs,si->hi", alpha, past)


def _mean_of_heads(attention: Attention, ubar: jax.Array, position: jax.Array) -> jax.Array:
    value = attention.value
    mu = ubar.mean(0) if value is None else _contract("hij,hj->i", value[..., None], ubar)
    if attention.origin is None or attention.mask != "strict":
        return mu
    return jnp.where(position == 0, attention.origin[:, None], mu)


def _contract(spec: str, left: jax.Array, right: jax.Array) -> jax.Array:
    """`einsum(spec)` of two arrays that carry the tokens as an unnamed last axis (size 1
    broadcasts)."""
    terms, out = spec.split("->")
    letters = out + "".join(sorted(set(terms) - set(out) - {","}))
    aligned = []
    for term, array in zip(terms.split(","), (left, right), strict=True):
        order = sorted(range(len(term)), key=lambda axis: letters.index(term[axis]))
        shape = [array.shape[term.index(letter)] if letter in term else 1 for letter in letters]
        aligned.append(jnp.transpose(array, (*order, len(term))).reshape(*shape, array.shape[-1]))
    return (aligned[0] * aligned[1]).sum(axis=tuple(range(len(out), len(letters))))
