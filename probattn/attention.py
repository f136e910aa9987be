"""One causal attention map: its parameters, its weights and its mean (theory, sections 1 and 4).

Inside, arrays carry the batch of sequences as their **last** axis, `u[t, i, b]`, and sums over the short
axes are written as a broadcast product and a sum. On small blocks the compiler turns that into one vectorised
loop over the batch; thousands of 4 x 4 matrix products would each be a call of their own.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from probattn.errors import InputError

ARRAY_FIELDS = ("query", "key", "value", "origin", "position_bias")
STATIC_FIELDS = ("contraction", "mask")


@dataclass(frozen=True, eq=False)
class Attention:
    """Parameters of a causal attention map with H heads of rank r on embeddings of dimension d.

        l_ts = u_s^T A_h u_t + c_{t-s},   A_h = key_h^T query_h / sqrt(r)
        mu_t = sum_h value_h sum_s softmax_s(l_ts) u_s

    Args:
        query: `W_Q`, shape (H, r, d).
        key: `W_K`, shape (H, r, d).
        value: `V`, shape (H, d, d); None is identity / H, so that the mean is the average of the heads.
        origin: mean of the first position under the strict mask, which has no past, shape (d,); None is 0.
            An inclusive mask never meets an empty past and does not use it.
        contraction: cap kappa in (0, 1): A_h is divided by `1 + g D_t^2 / (4 kappa)` with
            `g = sum_h |V_h|_F |A_h|_F` and D_t the diameter of the strict past, so that |I - J_t| < kappa
            for every parameter and history. Strict mask only. None leaves A as it is.
        mask: "strict" attends to s < t, "inclusive" to s <= t.
        position_bias: c by lag t - s, lag 0 first, shape (H, length); None is 0.

    Raises:
        InputError: a wrong rank or shape, a non-finite entry, an unknown mask, kappa outside (0, 1), or a
            contraction with the inclusive mask.

    Source: arXiv:2602.22271; theory, sections 1, 2 (masks) and 4 (contraction).
    """

    query: Any
    key: Any
    value: Any = None
    origin: Any = None
    contraction: float | None = None
    mask: str = "strict"
    position_bias: Any = None

    def __post_init__(self) -> None:
        for name in ARRAY_FIELDS:
            if getattr(self, name) is not None:
                object.__setattr__(self, name, as_float_array(name, getattr(self, name)))
        if self.query.ndim != 3 or 0 in self.query.shape:
            raise InputError(f"query: expected shape (heads, rank, dim), got {self.query.shape}")
        heads, rank, dim = self.query.shape
        expected = {"key": (heads, rank, dim), "value": (heads, dim, dim), "origin": (dim,)}
        for name, shape in expected.items():
            array = getattr(self, name)
            if array is not None and array.shape != shape:
                raise InputError(
                    f"{name}: expected shape {shape} to go with query {self.query.shape}, got {array.shape}"
                )
        bias = self.position_bias
        if bias is not None and (bias.ndim != 2 or bias.shape[0] != heads):
            raise InputError(f"position_bias: expected shape ({heads}, length), lag 0 first, got {bias.shape}")
        if self.mask not in ("strict", "inclusive"):
            raise InputError(f'mask: expected "strict" or "inclusive", got {self.mask!r}')
        if self.contraction is not None:
            if not isinstance(self.contraction, (int, float)) or not 0 < self.contraction < 1:
                raise InputError(f"contraction: expected a number inside (0, 1) or None, got {self.contraction!r}")
            if self.mask != "strict":
                raise InputError(
                    "contraction: the cap holds for the strict mask only (its diameter must not contain the token "
                    'itself); use mask="strict" or contraction=None'
                )

    @property
    def heads(self) -> int:
        return self.query.shape[-3]

    @property
    def rank(self) -> int:
        return self.query.shape[-2]

    @property
    def dim(self) -> int:
        return self.query.shape[-1]

    @property
    def interaction(self) -> Float[Array, "heads dim dim"]:
        """`A_h = W_K^T W_Q / sqrt(r)`, before any contraction."""
        return jnp.einsum("...hri,...hrj->...hij", self.key, self.query) / math.sqrt(self.rank)


def _flatten(attention: Attention) -> tuple[tuple, tuple]:
    return (
        tuple((jax.tree_util.GetAttrKey(name), getattr(attention, name)) for name in ARRAY_FIELDS),
        tuple(getattr(attention, name) for name in STATIC_FIELDS),
    )


def _unflatten(static: tuple, arrays: Iterable) -> Attention:
    # Transformations rebuild the pytree with placeholders or with batched leaves, which no check should see.
    attention = object.__new__(Attention)
    for name, leaf in zip(ARRAY_FIELDS + STATIC_FIELDS, (*arrays, *static), strict=True):
        object.__setattr__(attention, name, leaf)
    return attention


jax.tree_util.register_pytree_with_keys(Attention, _flatten, _unflatten)
assert {field.name for field in fields(Attention)} == {*ARRAY_FIELDS, *STATIC_FIELDS}


def as_float_array(name: str, value: Any) -> jax.Array:
    """`value` as a floating-point array; an InputError if it is none, or holds a NaN or an infinity."""
    try:
        array = jnp.asarray(value)
    except (TypeError, ValueError) as error:
        raise InputError(f"{name}: expected an array of numbers, got {type(value).__name__}") from error
    if not jnp.issubdtype(array.dtype, jnp.floating):
        if not jnp.issubdtype(array.dtype, jnp.integer):
            raise InputError(f"{name}: expected real numbers, got dtype {array.dtype}")
        array = array.astype(float)
    # numpy, not jax.numpy: under jit the latter would trace the check of a constant too.
    if not isinstance(array, jax.core.Tracer) and not np.isfinite(np.asarray(array)).all():
        raise InputError(f"{name}: expected finite numbers, got NaN or infinity")
    return array


def over_sequences(function: Callable, attention: Attention, u: Any) -> Any:
    """`function(attention, u[t, i, b]) -> [..., b]`, compiled, over embeddings of shape (..., length, dim).

    Raises:
        InputError: u is no array of that shape, holds a NaN, or is longer than the position bias.
    """
    u = as_float_array("embeddings", u)
    if u.ndim < 2 or u.shape[-1] != attention.dim or u.shape[-2] == 0:
        raise InputError(f"embeddings: expected shape (..., length >= 1, dim {attention.dim}), got {u.shape}")
    bias = attention.position_bias
    if bias is not None and bias.shape[-1] < u.shape[-2]:
        raise InputError(
            f"embeddings: length {u.shape[-2]} needs a position bias of as many lags, got {bias.shape[-1]}"
        )
    return _over_sequences(function, attention, u)


@partial(jax.jit, static_argnums=0)
def _over_sequences(function: Callable, attention: Attention, u: jax.Array) -> Any:
    batch_last = jnp.moveaxis(u.reshape(-1, *u.shape[-2:]), 0, -1)

    def restore(result: jax.Array) -> jax.Array:
        return jnp.moveaxis(result, -1, 0).reshape(u.shape[:-2] + result.shape[:-1])

    return jax.tree.map(restore, function(attention, batch_last))


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


def causal_mask(length: int, mask: str) -> jax.Array:
    """Which s position t attends to, as (t, s)."""
    return jnp.tril(jnp.ones((length, length), bool), -1 if mask == "strict" else 0)


def shrinkage(attention: Attention, u: jax.Array) -> jax.Array:
    """What the contraction cap multiplies A by at each position, `1 / (1 + g D_t^2 / (4 kappa))`, as [t, b]."""
    if attention.contraction is None:
        return jnp.ones((u.shape[0], 1), u.dtype)
    squared = ((u[:, None] - u[None, :]) ** 2).sum(axis=2)
    farthest = jnp.where(causal_mask(u.shape[0], "inclusive")[..., None], squared, 0).max(axis=1)
    past = jnp.concatenate([jnp.zeros_like(farthest[:1]), jax.lax.cummax(farthest, axis=0)[:-1]])
    interaction = frobenius_norm(attention.interaction)
    value = math.sqrt(attention.dim) / attention.heads if attention.value is None else frobenius_norm(attention.value)
    return 1 / (1 + (value * interaction).sum() * past / (4 * attention.contraction))


def frobenius_norm(matrices: jax.Array) -> jax.Array:
    """Frobenius norm of each matrix, with gradient 0 (not NaN) at the zero matrix."""
    squares = (matrices**2).sum(axis=(-2, -1))
    return jnp.where(squares > 0, jnp.sqrt(jnp.where(squares > 0, squares, 1)), 0)


def weights(attention: Attention, u: jax.Array) -> jax.Array:
    """Attention weights `alpha_ts` as [h, t, s, b]; a row without a past is zero."""
    length = u.shape[0]
    query = contract("hri,ti->hrt", attention.query[..., None], u)
    key = contract("hri,si->hrs", attention.key[..., None], u)
    logits = contract("hrt,hrs->hts", query, key) / math.sqrt(attention.rank)
    logits = logits * shrinkage(attention, u)[:, None]
    if attention.position_bias is not None:
        lag = jnp.maximum(jnp.arange(length)[:, None] - jnp.arange(length), 0)
        logits = logits + attention.position_bias[:, lag, None]
    allowed = causal_mask(length, attention.mask)[..., None]
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


def mean(attention: Attention, u: jax.Array) -> jax.Array:
    """`mu_t` as [t, i, b]."""
    mu = apply_values(attention, head_means(weights(attention, u), u))
    if attention.origin is not None and attention.mask == "strict":
        mu = mu.at[0].add(attention.origin[:, None])
    return mu


def attention_mean(attention: Attention, u: ArrayLike) -> Float[Array, "*batch length dim"]:
    """Mean of each embedding given its past, `mu_t = sum_h V_h sum_s alpha^h_ts u_s`.

    Args: attention; u, embeddings of shape (..., length, dim). Raises: InputError on a wrong shape or a NaN.
    Source: theory, section 1.
    """
    return over_sequences(mean, attention, u)
