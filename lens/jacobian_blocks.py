"""The derivative of an attention layer at each position with respect to its own embedding.

With q and k as they enter the dot product, c = 1 / sqrt(r), v the values and O_h the output map of
head h, the derivative of what attention writes at position t is

    D_t = sum_h O_h [Cov_alpha(v, c k) dq_t/du
                     + alpha_tt c (v_t - v_bar)(q_t^T dk_t/du) + alpha_tt dv_t/du]

where u = n(x) is the normalised stream and v_bar the mean of the values. Where a position does not
attend to itself, the first term alone is left. Position encodings, biases and norms of queries and
keys enter through dq/du and dk/du only, so that one formula serves every family; without any of
them it is that of theory, section 2. Three readings are made of it:

    stream   I + D_t dn/dx                               of x + attention(n(x))
    mixing   I - sum_h Cov_alpha(u, c k) dq_t/du / H     of u_t minus the mean of its strict past
    theory   I - D_t                                     of u_t - attention(u)_t

The stream's depends on the function that the layer is, and on nothing else. Where attention and MLP
read the same stream (parallel residuals), there is no attention block, and the stream's is that of
the whole layer. The mixing's log |det| depends on the function alone, too. The theory's changes
where a gain moves from the norm into the weights behind it, though the network stays what it is.

Letters in shapes: h head, g key head, m head of those that share a key head, n chosen position, t
and s position, r and a component of a head, i and j component of the stream.
"""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from probattn.lens.forward import (
    AttentionParts,
    attention_input,
    attention_parts,
    encoded,
    keys,
    mlp_output,
    queries,
)
from probattn.lens.transformer import Configuration, Layer, Norm

READINGS = ("stream", "mixing", "theory")


@partial(jax.jit, static_argnames=("config", "window", "reading"))
@jax.default_matmul_precision("highest")
def attention_blocks(
    config: Configuration,
    layer: Layer,
    x: Float[Array, "t i"],
    at: Any,
    window: int | None = None,
    reading: str = "stream",
) -> Float[Array, "n i j"]:
    """The blocks of one layer at some positions.

    Args:
        config, layer: of a Transformer.
        x: the stream that enters the layer.
        at: the positions, integers (n,).
        window: the most positions that one sees, itself included; None is all.
        reading: "stream", "mixing" or "theory".
    """
    parts = attention_parts(config, layer, x, window=window)
    identity = jnp.eye(config.width, dtype=x.dtype)
    if reading == "mixing":
        return identity - _mixing(config, layer, parts, at, window)
    derivative = _derivative(config, layer, parts, at)
    if reading == "theory":
        return identity - derivative

    def through_norm(x: Array, rows: Array) -> Array:
        """Derivatives by u, (i, j), as derivatives by x."""
        _, pull = jax.vjp(lambda x: attention_input(config, layer, x), x)
        return jax.vmap(lambda row: pull(row)[0])(rows)

    blocks = identity + jax.vmap(through_norm)(x[at], derivative)
    if config.parallel:
        blocks += jax.vmap(jax.jacfwd(lambda x: mlp_output(config, layer, x)))(x[at])
    return blocks


def _derivative(config: Configuration, layer: Layer, parts: AttentionParts, at: Any) -> Array:
    """D_t at the chosen positions, (n, i, j)."""
    c, g = 1 / math.sqrt(config.head_size), config.key_heads
    alpha = parts.alpha[:, at].reshape(g, -1, len(at), parts.alpha.shape[-1])  # (g, m, n, s)
    own = parts.alpha[:, at, at].reshape(g, -1, len(at))  # alpha_tt, (g, m, n)
    covariance, mean = _covariance(alpha, parts.value, c * parts.key)
    before = queries(config, layer, parts.normalised)[:, at]  # (h, n, r)
    to_query = _through(config, layer.query_norm, before, _heads(covariance), at)  # (h, n, a, r)
    # (h, n, a, j): the derivative of what each head has gathered.
    gathered = jnp.einsum("hnar,hrj->hnaj", to_query, _rows(layer.query.weight, config.heads))
    before = jnp.repeat(keys(config, layer, parts.normalised)[:, at], config.heads // g, axis=0)
    to_key = _through(config, layer.key_norm, before, c * parts.query[:, at, None], at)
    # (h, n, j): q_t^T dk_t/du
    toward_key = jnp.einsum(
        "gmnr,grj->gmnj",
        to_key[:, :, 0].reshape(g, -1, *to_key.shape[1::2]),
        _rows(layer.key.weight, g),
    )
    apart = own[..., None] * (parts.value[:, None, at] - mean)  # (g, m, n, a)
    of_value = _rows(layer.value.weight, g)  # (g, a, j)
    gathered += _heads(
        jnp.einsum("gmna,gmnj->gmnaj", apart, toward_key)
        + jnp.einsum("gmn,gaj->gmnaj", own, of_value)
    )
    flat = jnp.moveaxis(gathered, 0, 1).reshape(len(at), -1, config.width)  # (n, h a, j)
    return layer.output.weight @ flat


def _mixing(
    config: Configuration, layer: Layer, parts: AttentionParts, at: Any, window: int | None
) -> Array:
    """The derivative of the heads' mean of the strict past, (n, i, j)."""
    c, g, length = 1 / math.sqrt(config.head_size), config.key_heads, len(parts.normalised)
    query = parts.query[:, at].reshape(g, -1, len(at), config.head_size)
    lag = at[:, None] - jnp.arange(length)  # (n, s)
    seen = lag > 0 if window is None else (lag > 0) & (lag < window)
    scores = c * jnp.einsum("gmnr,gsr->gmns", query, parts.key)
    scores = jnp.where(seen, scores, jnp.finfo(scores.dtype).min)
    alpha = jnp.where(seen, jax.nn.softmax(scores), 0)  # the first position has no past
    u = jnp.broadcast_to(parts.normalised, (g, *parts.normalised.shape))
    covariance, _ = _covariance(alpha, u, c * parts.key)  # (g, m, n, i, r)
    before = queries(config, layer, parts.normalised)[:, at]
    to_query = _through(config, layer.query_norm, before, _heads(covariance), at)
    rows = _rows(layer.query.weight, config.heads)
    return jnp.einsum("hnir,hrj->nij", to_query, rows) / config.heads


def _covariance(alpha: Array, left: Array, right: Array) -> tuple[Array, Array]:
    """Covariances (g, m, n, a, r) under the rows of weights, and the means of left (g, m, n, a).

    Args: alpha (g, m, n, s), left (g, s, a), right (g, s, r).
    """
    mean = jnp.einsum("gmns,gsa->gmna", alpha, left)
    other = jnp.einsum("gmns,gsr->gmnr", alpha, right)
    second = jnp.einsum("gmns,gsa,gsr->gmnar", alpha, left, right)
    return second - jnp.einsum("gmna,gmnr->gmnar", mean, other), mean


def _through(
    config: Configuration, norm: Norm | None, before: Array, rows: Array, at: Any
) -> Array:
    """Rows (h, n, a, r) of a derivative by queries or keys, by what they are before encoding."""
    _, pull = jax.vjp(lambda x: encoded(config, norm, x, at), before)
    return jax.vmap(lambda row: pull(row)[0], in_axes=2, out_axes=2)(rows)


def _heads(x: Array) -> Array:
    """(g, m, ...) as (h, ...)."""
    return x.reshape(-1, *x.shape[2:])


def _rows(weight: Array, heads: int) -> Array:
    """A map to all heads, (h r, j), as (h, r, j)."""
    return weight.reshape(heads, -1, weight.shape[-1])
