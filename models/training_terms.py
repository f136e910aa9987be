"""What a transformer's training adds to its cross-entropy: the barrier, smoothing and the z-loss.

Letters in shapes: n sequence, t position, v token, i and j component of an embedding.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from probattn import Attention, barrier_loss, jacobian_blocks
from probattn.attention.barrier import hinge
from probattn.attention.determinant import sign_and_log_det
from probattn.models.layers import Layers
from probattn.sequence.tokens import counted


def barrier_penalty(
    model: Any, params: dict[str, Any], tokens: Array, clean: Array, layers: Layers
) -> Array:
    """The mean penalty of a position, without its weight; those of several layers add up.

    Args:
        model: a TransformerLM; its placement, variant, threshold and barrier_sequences are used.
        tokens: (n, t).
        clean: the embedding path without noise (n, t, i), which the auxiliary attention reads.
        layers: what `forward` read in each layer.
    """
    some = slice(model.barrier_sequences)
    where = counted(tokens[some])
    if model.placement == "stream":
        total = sum(
            jnp.where(where, _of_stream(model, attention, x[some], scale[some]), 0).sum()
            for attention, x, scale in layers
        )
        return total / jnp.maximum(where.sum(), 1)
    placed = [(attention, x) for attention, x, _ in layers]
    if model.placement == "auxiliary":
        placed = [(model.auxiliary_attention(params), clean)]
    losses = [
        barrier_loss(
            attention, x[some], 1.0, model.variant, threshold=model.threshold, counted=where
        )
        for attention, x in placed
    ]
    return jnp.stack(losses).sum()


def stream_blocks(attention: Attention, x: Array, scale: Array) -> Array:
    """The blocks of a layer's attention with its residual, by the stream: [n, t, i, j].

        d (h_t + attention(n(h))_t) / d h_t = I + (I - J_t) (I - x_t x_t^T / d) / scale_t

    with J_t the block of the attention on its own input x = n(h) = h / scale.

    Args: attention, of a layer, inclusive; x, its input (n, t, i); scale, root mean squares of h,
    (n, t, 1). Source: theory, section 2, and the chain rule.
    """
    derivative = jnp.eye(attention.dim) - jacobian_blocks(attention, x)
    along = jnp.einsum("ntij,ntj->nti", derivative, x)
    centred = derivative - along[..., None] * x[..., None, :] / attention.dim
    return jnp.eye(attention.dim) + centred / scale[..., None]


def _of_stream(model: Any, attention: Attention, x: Array, scale: Array) -> Array:
    """The penalty of each position [n, t], "one_sided" or "hinge"."""
    blocks = stream_blocks(attention, x, scale)
    if model.variant == "hinge":
        return hinge(jnp.linalg.svd(blocks, compute_uv=False)[..., -1], model.threshold)
    return jnp.maximum(-sign_and_log_det(blocks)[1], 0)


def smoothing_and_z_loss(model: Any, logits: Array, tokens: Array) -> Array:
    """What label smoothing and the z-loss add to the loss of each sequence, in nats, (n,).

        sum_t [ s (log p(x_t) - mean_v log p(v)) + z log(sum_v exp(logit_v))^2 ]

    summed over the positions up to and including the first end token, with s the share of label
    smoothing and z the weight of the z-loss.
    """
    log_total = jax.nn.logsumexp(logits, axis=-1)  # [n, t]
    rows = logits - log_total[..., None]  # [n, t, v]
    chosen = jnp.take_along_axis(rows, tokens[..., None], axis=-1)[..., 0]
    each = model.label_smoothing * (chosen - rows.mean(-1)) + model.z_loss * log_total**2
    return jnp.where(counted(tokens), each, 0).sum(-1)
