"""Attention weights and the mean of each embedding given its past (theory, sections 1 and 4).

Inside, arrays carry the batch of sequences as their **last** axis, `u[t, i, b]`, and sums over the short
axes are written as a broadcast product and a sum. On small blocks the compiler turns that into one vectorised
loop over the batch; thousands of 4 x 4 matrix products would each be a call of their own.
"""

import math

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from probattn.attention import Attention, over_sequences


def attention_mean(attention: Attention, u: ArrayLike) -> Float[Array, "*batch length dim"]:
    """Mean of each embedding given its past, `mu_t = sum_h V_h sum_s alpha^h_ts u_s`.

    Args: attention; u, embeddings of shape (..., length, dim). Raises: InputError on a wrong shape or a NaN.
    Source: theory, section 1.
    """
    return over_sequences(mean, attention, u)


def mean(attention: Attention, u: jax.Array) -> jax.Array:
    """`mu_t` as [t, i, b]."""
    everywhere = jnp.arange(u.shape[0])
    mu = apply_values(attention, head_means(weights(attention, u), u))
    return mu + first_mean(attention, everywhere)


def mean_at(attention: Attention, u: jax.Array, position: jax.Array, token: jax.Array) -> jax.Array:
    """`mu_t(token; u_<t)` at one position of one sequence u[t, i], for an attention without a cap, as [i].

    What u holds from that position on is not looked at: it is a buffer that a sampler fills.
    """
    position = position[None]
    alpha = weights(attention, u[..., None], token[None, :, None], position)
    mu = apply_values(attention, head_means(alpha, u[..., None])) + first_mean(attention, position)
    return mu[0, :, 0]


def contract(spec: str, left: jax.Array, right: jax.Array) -> jax.Array:
    """`einsum(spec)` of two arrays that carry the batch as an unnamed last axis (size 1 broadcasts)."""
    terms, out = spec.split("->")
    letters = out + "".join(sorted(set(terms) - set(out) - {","}))
    aligned = []
    for term, array in zip(terms.split(","), (left, right), strict=True):
        order = sorted(range(len(term)), key=lambda axis: letters.index(term[axis]))
        shape = [array.shape[term.index(letter)] if letter in term else 1 for letter in letters]
        aligned.append(jnp.transpose(array, (*order, len(term))).reshape(*shape, array.shape[-1]))
    return (aligned[0] * aligned[1]).sum(axis=tuple(range(len(out), len(letters))))


def squared_diameter(u: jax.Array) -> jax.Array:
    """`D_t^2`, the squared diameter of the strict past of each position, as [t, b]; 0 for the first two."""
    squared = ((u[:, None] - u[None, :]) ** 2).sum(axis=2)
    earlier = jnp.tri(u.shape[0], dtype=bool)[..., None]
    farthest = jnp.where(earlier, squared, 0).max(axis=1)
    return jnp.concatenate([jnp.zeros_like(farthest[:1]), jax.lax.cummax(farthest, axis=0)[:-1]])


def shrinkage(attention: Attention, u: jax.Array) -> jax.Array:
    """What the contraction cap multiplies A by at each position, `1 / (1 + g D_t^2 / (4 kappa))`, as [t, b]."""
    if attention.contraction is None:
        return jnp.ones((u.shape[0], 1), u.dtype)
    return capped(attention, squared_diameter(u))


def capped(attention: Attention, squared: jax.Array) -> jax.Array:
    """The same where the squared diameter of the past is known; it has its shape."""
    if attention.contraction is None:
        return jnp.ones_like(squared)
    interaction = frobenius_norm(attention.interaction)
    value = math.sqrt(attention.dim) / attention.heads if attention.value is None else frobenius_norm(attention.value)
    return 1 / (1 + (value * interaction).sum() * squared / (4 * attention.contraction))


def frobenius_norm(matrices: jax.Array) -> jax.Array:
    """Frobenius norm of each matrix, with gradient 0 (not NaN) at the zero matrix."""
    squares = (matrices**2).sum(axis=(-2, -1))
    return jnp.where(squares > 0, jnp.sqrt(jnp.where(squares > 0, squares, 1)), 0)


def weights(
    attention: Attention,
    u: jax.Array,
    tokens: jax.Array | None = None,
    positions: jax.Array | None = None,
    shrink: jax.Array | None = None,
) -> jax.Array:
    """Attention weights `alpha_ts` as [h, t, s, b]; a row without a past is zero.

    By default of every embedding u_t at its own position; with `tokens` [q, i, b] and their `positions` [q], of
    those tokens in the places of u's. What the cap then multiplies A by must be in A already or be given, [q, b].
    """
    length = u.shape[0]
    if tokens is None or positions is None:
        tokens, positions = u, jnp.arange(length)
        shrink = shrinkage(attention, u)
    elif shrink is None:
        shrink = jnp.ones((1, 1), u.dtype)
    query = contract("hri,ti->hrt", attention.query[..., None], tokens)
    # The softmax is blind to a shift of all keys: without it, long embeddings that lie close would round away.
    key = contract("hri,si->hrs", attention.key[..., None], u - u[:1])
    logits = contract("hrt,hrs->hts", query, key) / math.sqrt(attention.rank) * shrink[:, None]
    lag = positions[:, None] - jnp.arange(length)
    if attention.position_bias is not None:
        logits = logits + attention.position_bias[:, jnp.maximum(lag, 0), None]
    allowed = (lag > 0 if attention.mask == "strict" else lag >= 0)[..., None]
    # The empty past is a case of its own: no weight anywhere, and value and gradient finite.
    largest = jax.lax.stop_gradient(jnp.where(allowed, logits, -jnp.inf).max(axis=2, keepdims=True))
    largest = jnp.where(jnp.isneginf(largest), 0, largest)
    unnormalised = jnp.where(allowed, jnp.exp(jnp.where(allowed, logits - largest, 0)), 0)
    total = unnormalised.sum(axis=2, keepdims=True)
    return jax.lax.optimization_barrier(unnormalised / jnp.where(total > 0, total, 1))


def head_means(alpha: jax.Array, u: jax.Array) -> jax.Array:
    """Weighted mean of the past in each head, `sum_s alpha_ts u_s`, as [h, t, i, b]."""
    return contract("hts,si->hti", alpha, u)


def apply_values(attention: Attention, per_head: jax.Array) -> jax.Array:
    """`sum_h V_h x_h` over [h, t, i, ..., b], with V_h = I / H when the attention has no value map."""
    if attention.value is None:
        return per_head.mean(axis=0)
    value = attention.value[..., None]
    return contract("hij,htj->ti" if per_head.ndim == 4 else "hij,htjk->tik", value, per_head)


def first_mean(attention: Attention, positions: jax.Array) -> jax.Array | float:
    """What the origin adds to the mean at each position, as [t, i, 1]: itself at the first, which has no past."""
    if attention.origin is None or attention.mask != "strict":
        return 0.0
    return jnp.where(positions[:, None, None] == 0, attention.origin[:, None], 0)
