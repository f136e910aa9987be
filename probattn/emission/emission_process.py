"""Tokens emitted by latent embeddings, as a sequence process (theory, section 9)."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int
from numpyro.distributions import Distribution

from probattn.attention.attention import Attention
from probattn.attention.batching import map_in_batches
from probattn.attention.process import AttentionProcess
from probattn.checks import as_float_array, as_scale, whole_number
from probattn.emission.particle_filter import Emission, Filtered, run_filter
from probattn.errors import InputError
from probattn.sequence.estimate import Estimate
from probattn.sequence.sampling import CachedStep
from probattn.sequence.sequence_process import SequenceProcess
from probattn.sequence.tokens import END, as_tokens, counted

AT_ONCE = 12_800  # particles of all sequences that are filtered side by side, which bounds memory


class EmissionProcess(SequenceProcess):
    """Law of tokens that latent embeddings emit: again a causal process, whose conditionals are
    estimates.

        P(x) = integral of p(u) prod_t softmax(O u_t + b)[x_t] du,   u ~ AttentionProcess

    Draws are exact: embeddings of the process, then tokens. Probabilities come from a particle
    filter with a fixed key: `log_prob` from its guided form, whose exponential is unbiased;
    next-token rows from guided particles of the past, each moved on by the prior. So `log_prob` and
    the rows agree up to their errors, which `filter` and `next_token` give. Marginals, survival and
    random sets are by Monte Carlo over exact draws, with standard errors; "exact" is refused.

    Args:
        emission: attention (strict mask, with the contraction cap), scale, readout (V, d), bias
            (V,).
        length: positions T >= 1.
        num_particles: of the filter, at least 2.
        key: of its draws; None is `jax.random.key(0)`. Another key gives another, independent
            estimate.

    Raises: InputError on an attention without the cap, on shapes that do not go together, on counts
    out of range. Source: theory, section 9.
    """

    pytree_data_fields = ("params", "key")
    pytree_aux_fields = (
        "length",
        "vocab_size",
        "end_token",
        "num_particles",
        "cached_step",
        "end_probability_bound",
    )
    enumerable = False

    def __init__(
        self,
        emission: Emission,
        *,
        length: int,
        num_particles: int = 200,
        key: Array | None = None,
        validate_args: bool | None = None,
    ):
        length, num_particles = (
            whole_number("length", length),
            whole_number("num_particles", num_particles, 2),
        )
        emission = _checked(emission, length)
        self.next_token_logits, self.batched = None, True
        self.params, self.key = emission, jax.random.key(0) if key is None else key
        self.length, self.vocab_size, self.end_token = length, emission.bias.shape[-1], END
        self.num_particles, self.cached_step, self.end_probability_bound = (
            num_particles,
            _AT_EMBEDDINGS,
            None,
        )
        Distribution.__init__(self, (), (length,), validate_args=validate_args)

    def __repr__(self) -> str:
        return (
            f"EmissionProcess({self.length} positions, {self.vocab_size} tokens, "
            f"{self.num_particles} particles)"
        )

    def filter(self, tokens: Any, *, bootstrap: bool = False, predict: bool = False) -> Filtered:
        """Filter sequences: log probabilities with errors, effective sample sizes, embeddings given
        tokens.

        Args:
            tokens: ids of shape (..., n), n <= length.
            bootstrap: propose embeddings from the prior alone; for comparison.
            predict: give next-token rows too.

        Returns: a Filtered with the leading axes of the tokens. Where a symbol follows the end
            log_prob is -inf; of fewer than `length` tokens without an end it is that of all
            sequences that start so.
        """
        tokens = as_tokens(tokens, self.vocab_size)
        if tokens.shape[-1] > self.length:
            raise InputError(
                f"tokens: expected at most {self.length} positions, got shape {tokens.shape}"
            )
        shape = tokens.shape[:-1]
        filtered = _filter(self, tokens.reshape(-1, tokens.shape[-1]), bootstrap, predict)
        possible = _stops(tokens).reshape(-1)
        filtered = filtered._replace(log_prob=jnp.where(possible, filtered.log_prob, -jnp.inf))
        return jax.tree.map(lambda leaf: leaf.reshape(*shape, *leaf.shape[1:]), filtered)

    def next_token(self, tokens: Any) -> Estimate:
        """`p(x_t | x_<t)` for every token and position, with standard errors; shape (..., length,
        vocab_size)."""
        filtered = self.filter(tokens, predict=True)
        value, error = jnp.moveaxis(filtered.next_token, -3, 0)
        ended = ~counted(as_tokens(tokens, self.vocab_size), END)[..., None]
        certain = (jnp.arange(self.vocab_size) == END).astype(value.dtype)
        return Estimate(
            jnp.where(ended, certain, value),
            jnp.where(ended, 0, error),
            f"Monte Carlo: {self.num_particles:,} particles",
            jnp.nanmin(filtered.effective_sample_size),
        )

    def score(self, tokens: Int[Array, "n positions"]) -> Float[Array, " n"]:
        possible = _stops(tokens) & (tokens >= 0).all(-1) & (tokens < self.vocab_size).all(-1)
        inside = jnp.clip(tokens, 0, self.vocab_size - 1)
        return jnp.where(possible, _filter(self, inside, False, False).log_prob, -jnp.inf)

    def conditionals(self, tokens: Int[Array, "n length"]) -> Float[Array, "n length vocab"]:
        rows = _filter(self, tokens, False, True).next_token[:, 0]
        return self.absorb(tokens, jnp.log(rows))

    def at(self, params: Any, number: Any = 0) -> "EmissionProcess":
        changed: Any = super().at(params)
        changed.key = jax.random.fold_in(self.key, number)
        return changed

    def components(self, key: Array, number: int) -> tuple[Any, int]:
        """Embeddings for `number` draws: given these, tokens are independent."""
        u = AttentionProcess(self.params.attention, self.params.scale, self.length).sample(
            key, (number,)
        )
        return u @ self.params.readout.T + self.params.bias, 0


# What `draw` walks under: the logits that the embeddings of one draw give, (length, vocab).
_AT_EMBEDDINGS = CachedStep(
    lambda logits: (), lambda logits, cache, previous, position: (cache, logits[position])
)


@jax.jit(static_argnums=(2, 3))
def _filter(process: EmissionProcess, tokens: Array, bootstrap: bool, predict: bool) -> Filtered:
    def one(inputs: tuple[Array, Array]) -> Filtered:
        return run_filter(process.params, *inputs, process.num_particles, bootstrap, predict)

    keys = jax.random.split(process.key, len(tokens))
    side_by_side = max(1, AT_ONCE // process.num_particles)
    return map_in_batches(one, (tokens, keys), side_by_side)


def _stops(tokens: Array) -> Array:
    """Whether only the end follows the end, (...)."""
    return (counted(tokens) | (tokens == END)).all(-1)


def _checked(emission: Emission, length: int) -> Emission:
    attention = emission.attention
    if not isinstance(attention, Attention) or attention.batch_shape:
        raise InputError(
            "emission: expected one Attention, got "
            f"{getattr(attention, 'batch_shape', type(attention).__name__)} as its "
            "batch; take one draw of the parameters, use particle_log_prob for all of them, or "
            "jax.vmap"
        )
    if attention.contraction is None:
        raise InputError(
            "attention: expected a contraction cap; without it the law of the embeddings need "
            "not integrate to one, and "
            "tokens have no probability; use contraction=0.9"
        )
    AttentionProcess(attention, 1.0, length)
    scale = as_scale(emission.scale)
    readout, bias = (
        as_float_array("readout", emission.readout),
        as_float_array("bias", emission.bias),
    )
    if (
        readout.ndim != 2
        or len(readout) < 2
        or readout.shape[1] != attention.dim
        or bias.shape != readout.shape[:1]
    ):
        raise InputError(
            f"readout, bias: expected shapes (vocab_size >= 2, {attention.dim}) and "
            f"(vocab_size,), got {readout.shape} and {bias.shape}"
        )
    return Emission(attention, scale, readout, bias)
