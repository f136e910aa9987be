"""Distributions for an emission model: embeddings and tokens of sequences that stop at the end."""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jaxtyping import Array, Float, Int
from numpyro.distributions import constraints

from probattn import AttentionProcess, path_log_density
from probattn.checks import in_default_float
from probattn.sequence.tokens import END, counted


class StoppedEmbeddings(dist.Distribution):
    """The attention process up to the end of each sequence; embeddings after the end are noise.

        log p(u) = sum over counted t of [log N(e_t; 0, scale^2 I) + log det J_t]
                   + sum over the others of log N(u_t; 0, scale^2 I)

    So embeddings after the end affect neither the posterior of the parameters nor their mode. Under
    the process itself they would affect the mode, through log det J_t.

    Args:
        process: the law of one embedding path.
        counted: which positions count, (num_sequences, length): in each row the first ones.

    Source: theory, section 9.
    """

    arg_constraints: ClassVar[dict] = {}
    support = constraints.real_matrix
    pytree_data_fields = ("process", "counted")

    def __init__(
        self, process: AttentionProcess, counted: Any, *, validate_args: bool | None = None
    ):
        self.process, self.counted = process, counted
        super().__init__(counted.shape[:-1], process.event_shape, validate_args=validate_args)

    def sample(
        self, key: Array, sample_shape: tuple[int, ...] = ()
    ) -> Float[Array, "*shape length dim"]:
        """Draws of embedding paths."""
        shape = (*sample_shape, *self.batch_shape, *self.event_shape)
        noise = self.process.scale * jax.random.normal(key, shape)
        return jnp.where(self.counted[..., None], self.process.transform(noise), noise)

    def log_prob(self, value: Any) -> Float[Array, "*shape"]:
        """Log density of each embedding path, in nats."""
        value = in_default_float(value)
        # [..., t]
        attended = path_log_density(self.process.attention, value, self.process.scale)
        alone = dist.Normal(0, self.process.scale).log_prob(value).sum(-1)
        return jnp.where(self.counted, attended, alone).sum(-1)


class StoppedTokens(dist.Distribution):
    """Independent tokens (length,) up to the first end token, after which only that may follow.

    Args: logits, shape (..., length, vocab_size).
    """

    arg_constraints: ClassVar = {"logits": constraints.real_matrix}
    pytree_data_fields = ("logits",)

    def __init__(self, logits: Any, *, validate_args: bool | None = None):
        self.logits = in_default_float(logits)
        super().__init__(logits.shape[:-2], logits.shape[-2:-1], validate_args=validate_args)

    @constraints.dependent_property(is_discrete=True, event_dim=1)
    def support(self) -> constraints.Constraint:
        return constraints.independent(
            constraints.integer_interval(0, self.logits.shape[-1] - 1), 1
        )

    def sample(self, key: Array, sample_shape: tuple[int, ...] = ()) -> Int[Array, "*shape length"]:
        """Draws of tokens, padded with the end token."""
        shape = (*sample_shape, *self.batch_shape, *self.event_shape)
        tokens = jax.random.categorical(key, self.logits, shape=shape)
        return jnp.where(counted(tokens), tokens, END)

    def log_prob(self, value: Any) -> Float[Array, "*shape"]:
        """Log probability in nats of the tokens that count; -inf if a symbol follows the end."""
        rows = jax.nn.log_softmax(self.logits)
        # [..., t], the log probability of each token
        chosen = jnp.take_along_axis(
            jnp.broadcast_to(rows, (*value.shape, rows.shape[-1])), value[..., None], -1
        )[..., 0]
        before_end = counted(value)
        scored = jnp.where(before_end, chosen, 0).sum(-1)
        return jnp.where((before_end | (value == END)).all(-1), scored, -jnp.inf)
