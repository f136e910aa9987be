"""The two laws that an emission model samples from, both of sequences that stop at the end
token."""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jaxtyping import Array, Float, Int
from numpyro.distributions import constraints

from probattn import AttentionProcess, path_log_density
from probattn.sequence.tokens import END, counted


class StoppedEmbeddings(dist.Distribution):
    """The attention process up to where a sequence stops; after that embeddings are noise, of no
    attention.

        log p(u) = sum over counted t of [log N(e_t; 0, scale^2 I) + log det J_t]
                   + sum over the others of log N(u_t; 0, scale^2 I)

    What follows the end then bears on nothing, in a posterior and, unlike under the process itself,
    in a mode.

    Args: process; counted, which positions count, shape (num_sequences, length), the first ones of
    each row."""

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
        shape = (*sample_shape, *self.batch_shape, *self.event_shape)
        noise = self.process.scale * jax.random.normal(key, shape)
        return jnp.where(self.counted[..., None], self.process.transform(noise), noise)

    def log_prob(self, value: Any) -> Float[Array, "*shape"]:
        attended = path_log_density(self.process.attention, value, self.process.scale)
        alone = dist.Normal(0, self.process.scale).log_prob(value).sum(-1)
        return jnp.where(self.counted, attended, alone).sum(-1)


class StoppedTokens(dist.Distribution):
    """Tokens (length,), each drawn from its logits, up to and including the first end token; only
    this may follow.

    Args: logits, shape (..., length, vocab_size).
    """

    arg_constraints: ClassVar = {"logits": constraints.real_matrix}
    pytree_data_fields = ("logits",)

    def __init__(self, logits: Any, *, validate_args: bool | None = None):
        self.logits = logits
        super().__init__(logits.shape[:-2], logits.shape[-2:-1], validate_args=validate_args)

    @constraints.dependent_property(is_discrete=True, event_dim=1)
    def support(self) -> constraints.Constraint:
        return constraints.independent(
            constraints.integer_interval(0, self.logits.shape[-1] - 1), 1
        )

    def sample(self, key: Array, sample_shape: tuple[int, ...] = ()) -> Int[Array, "*shape length"]:
        shape = (*sample_shape, *self.batch_shape, *self.event_shape)
        tokens = jax.random.categorical(key, self.logits, shape=shape)
        return jnp.where(counted(tokens), tokens, END)

    def log_prob(self, value: Any) -> Float[Array, "*shape"]:
        """Sum over the positions that count; -inf where a symbol follows the end."""
        rows = jax.nn.log_softmax(self.logits)
        chosen = jnp.take_along_axis(
            jnp.broadcast_to(rows, (*value.shape, rows.shape[-1])), value[..., None], -1
        )[..., 0]
        before_end = counted(value)
        scored = jnp.where(before_end, chosen, 0).sum(-1)
        return jnp.where((before_end | (value == END)).all(-1), scored, -jnp.inf)
