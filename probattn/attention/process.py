"""The law of an embedding path, as a NumPyro distribution (theory, sections 1 to 5)."""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax.typing import ArrayLike
from jaxtyping import Array, Float
from numpyro.distributions import constraints

from probattn.attention.attention import Attention
from probattn.attention.jacobian import path_log_density
from probattn.attention.transform import AttentionTransform
from probattn.attention.uniqueness import require_strict
from probattn.checks import as_integer, as_key, as_scale
from probattn.errors import InputError


class AttentionProcess(dist.Distribution):
    """Law of embedding paths u: each embedding is the weighted mean of its past plus noise.

        u_t = mu_t(u_t; u_<t) + e_t,   e_t ~ N(0, scale^2 I)
        log p(u) = sum_t [ log N(e_t; 0, scale^2 I) + log det J_t ]

    A path has shape (length, dim). `log_prob` is -inf outside the local domain: where some
    `det J_t <= 0`, or, for an attention declared symmetric, where some linear matrix inequality
    does not hold. The density integrates to one where a certificate holds (`certified`), and always
    under the contraction cap. Without a certificate the implicit equation may have several
    solutions: the density over the local domain then integrates to E[(roots + 1) / 2], and `sample`
    refuses unless `branch` says which solution to take.

    Args:
        attention: with the strict mask; a batch of maps makes a batch of processes.
        scale: standard deviation sigma > 0 of the noise, broadcast against that batch.
        length: number T >= 1 of embeddings.
        branch: None or "fixed_point", as in `AttentionTransform`. If parameters are traced (inside
            jit, or drawn from a prior) only the cap certifies them.

    Raises:
        InputError: at construction an inclusive mask, a scale that is not positive, batches that do
            not broadcast, a length below 1 or beyond the position bias; in `sample` an attention
            without a certificate, unless a branch is named; in `log_prob` a value of another length
            or dim, or a NaN.

    Source: arXiv:2602.22271; theory, sections 1 to 5.

    Example:

        >>> import jax
        >>> import jax.numpy as jnp
        >>> from probattn import Attention, AttentionProcess
        >>> attention = Attention.from_interaction([[[0.5]]], contraction=0.9)
        >>> process = AttentionProcess(attention, scale=1.0, length=3)
        >>> process.sample(jax.random.key(0), (10,)).shape
        (10, 3, 1)
        >>> # all embeddings are 0, so S_t = 0 and J_t = I: 3 log N(0; 0, 1)
        >>> print(process.log_prob(jnp.zeros((3, 1))).round(4))
        -2.7568
    """

    arg_constraints: ClassVar = {"scale": constraints.positive}
    support = constraints.real_matrix
    reparametrized_params: ClassVar = ["scale"]
    pytree_data_fields = ("attention", "scale")
    pytree_aux_fields = ("branch",)

    def __init__(
        self,
        attention: Attention,
        scale: ArrayLike,
        length: int,
        *,
        branch: str | None = None,
        validate_args: bool | None = None,
    ):
        attention = AttentionTransform(attention, branch).attention  # checked
        length = as_integer("length", length)
        bias = attention.position_bias
        if bias is not None and bias.shape[-1] < length:
            raise InputError(
                f"length: {length} needs a position bias of as many lags, got {bias.shape[-1]}"
            )
        scale = as_scale(scale, attention.batch_shape)
        batch_shape, event_shape = self.infer_shapes(attention, scale.shape, length)
        self.attention, self.scale, self.branch = attention, scale, branch
        super().__init__(batch_shape, event_shape, validate_args=validate_args)

    @staticmethod
    def infer_shapes(
        attention: Attention, scale: tuple[int, ...] = (), length: int = 1, **_: Any
    ) -> tuple:
        """Batch and event shape of the process.

        Args: attention, whose leaves need only have shapes; scale, the shape of the scale; length.
        """
        require_strict(attention)
        return np.broadcast_shapes(attention.batch_shape, scale), (length, attention.dim)

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """Shape of the batch of processes.

        It is read off the arrays at each access, since vmap may have added or hidden an axis.
        """
        return np.broadcast_shapes(self.attention.batch_shape, jnp.shape(self.scale))

    @property
    def transform(self) -> AttentionTransform:
        """The map from noise to embeddings."""
        return AttentionTransform(self.attention, self.branch)

    def sample(
        self, key: Array, sample_shape: tuple[int, ...] = ()
    ) -> Float[Array, "*shape length dim"]:
        """Draws of shape `sample_shape + batch_shape + (length, dim)`.

        They are differentiable in attention and scale. Where the solver does not converge, an
        embedding and all later ones are NaN; on the fixed-point branch that is common. Raises:
        InputError where a draw may not be unique and no branch is named.
        """
        noise = jax.random.normal(
            as_key(key), (*sample_shape, *self.batch_shape, *self.event_shape)
        )
        return self.transform(self.scale[..., None, None] * noise)

    def log_prob(self, value: ArrayLike) -> Float[Array, "*shape"]:
        """Log density in nats of embeddings (..., length, dim), shape (...).

        Raises: InputError on another shape or a NaN.
        """
        if jnp.shape(value)[-2:] != self.event_shape:
            raise InputError(
                "embeddings: expected shape (..., length, dim) with (length, dim) = "
                f"{self.event_shape}, got {jnp.shape(value)}"
            )
        return path_log_density(self.attention, value, self.scale).sum(-1)
