"""Tokens emitted by latent embeddings, as a sequence process (theory, section 9)."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int
from numpyro.distributions import Distribution

from probattn.attention.attention import Attention
from probattn.attention.batching import map_in_batches
from probattn.attention.process import AttentionProcess
from probattn.checks import as_float_array, as_integer, as_key, as_scale
from probattn.emission.particle_filter import Emission, Filtered, run_filter
from probattn.errors import InputError
from probattn.sequence.estimate import Estimate
from probattn.sequence.sampling import CachedStep
from probattn.sequence.sequence_process import SequenceProcess
from probattn.sequence.tokens import END, as_tokens, counted

PARTICLES_AT_ONCE = 12_800  # particles of all sequences in one vectorised batch; bounds memory


class EmissionProcess(SequenceProcess):
    """Law of tokens that latent embeddings emit: a sequence process with estimated conditionals.

        P(x) = integral of p(u) prod_t softmax(O u_t + b)[x_t] du,   u ~ AttentionProcess

    Draws are exact: first a path of embeddings, then its tokens. Probabilities come from a particle
    filter with a fixed key. `log_prob` is from guided particles, and its exponential is unbiased.
    Next-token rows are from guided particles of the past, each moved on by the prior. So `log_prob`
    and the rows agree up to their errors, which `filter` and `next_token` report. Marginals,
    survival and random sets are by Monte Carlo over exact draws, with standard errors;
    `method="exact"` is refused.

    Args:
        emission: an `Emission`: attention (strict mask, with the contraction cap), scale, readout
            (V, d) and bias (V,).
        length: positions T >= 1.
        num_particles: number of particles of the filter, at least 2.
        key: random key of the filter; None is `jax.random.key(0)`. Another key gives another,
            independent estimate.

    Raises:
        InputError: at construction an attention without the cap, shapes that do not fit together,
            or a number out of range.

    Source: theory, section 9.
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
    open_ended = True  # embeddings and tokens go on by the same law at any position

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
            as_integer("length", length),
            as_integer("num_particles", num_particles, 2),
        )
        emission = _checked(emission, length)
        self.next_token_logits, self.batched = None, True
        self.params = emission
        self.key = jax.random.key(0) if key is None else as_key(key)
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
        """Log probabilities of sequences with errors, and the embeddings given their tokens.

        Args:
            tokens: ids of shape (..., n), n <= length.
            bootstrap: propose embeddings from the prior alone; for comparison.
            predict: also give the next-token rows.

        Returns:
            A Filtered with the leading axes of the tokens. log_prob is -inf where a symbol follows
            the end. For fewer than `length` tokens without an end it is that of the cylinder, all
            sequences that start so.

        Raises:
            InputError: ids out of range, or more than `length` of them.
        """
        tokens = as_tokens(tokens, self.vocab_size)
        if tokens.shape[-1] > self.length:
            raise InputError(
                f"tokens: expected at most {self.length} positions, got shape {tokens.shape}"
            )
        shape = tokens.shape[:-1]
        filtered = _filter(self, tokens.reshape(-1, tokens.shape[-1]), bootstrap, predict)
        possible = _padded_after_end(tokens).reshape(-1)
        filtered = filtered._replace(log_prob=jnp.where(possible, filtered.log_prob, -jnp.inf))
        return jax.tree.map(lambda leaf: leaf.reshape(*shape, *leaf.shape[1:]), filtered)

    def next_token(self, tokens: Any) -> Estimate:
        """`p(x_t | x_<t)` for every token and position, with standard errors.

        Args: tokens, ids of shape (..., n), n <= length. Returns an Estimate of shape
        (..., n, vocab_size). Raises: InputError as in `filter`.
        """
        filtered = self.filter(tokens, predict=True)
        value, error = jnp.moveaxis(filtered.next_token, -3, 0)  # from (..., 2, n, vocab_size)
        ended = ~counted(as_tokens(tokens, self.vocab_size), END)[..., None]
        certain = (jnp.arange(self.vocab_size) == END).astype(value.dtype)
        return Estimate(
            jnp.where(ended, certain, value),
            jnp.where(ended, 0, error),
            f"Monte Carlo: {self.num_particles:,} particles",
            jnp.nanmin(filtered.effective_sample_size),
        )

    def score(self, tokens: Int[Array, "n positions"]) -> Float[Array, " n"]:
        """`log_prob`, unchecked and not compiled; -inf for ids out of range or after the end."""
        possible = (
            _padded_after_end(tokens) & (tokens >= 0).all(-1) & (tokens < self.vocab_size).all(-1)
        )
        inside = jnp.clip(tokens, 0, self.vocab_size - 1)
        return jnp.where(possible, _filter(self, inside, False, False).log_prob, -jnp.inf)

    def conditionals(self, tokens: Int[Array, "n length"]) -> Float[Array, "n length vocab"]:
        """Estimated rows of `next_token_log_probs`, unchecked and not compiled."""
        rows = _filter(self, tokens, False, True).next_token[:, 0]  # the means, without errors
        return self.absorb(tokens, jnp.log(rows))

    def at(self, params: Any, number: Any = 0) -> "EmissionProcess":
        """The process at other parameters.

        `number` is folded into the key, so that processes with different numbers have independent
        errors.
        """
        changed: Any = super().at(jax.tree.map(lambda leaf: jnp.asarray(leaf, float), params))
        changed.key = jax.random.fold_in(self.key, number)
        return changed

    def components(self, key: Array, number: int) -> tuple[Any, int]:
        """Logits (number, length, vocab_size) of as many draws of embeddings, and their axis, 0.

        Given its logits the tokens of a draw are independent.
        """
        u = AttentionProcess(self.params.attention, self.params.scale, self.length).sample(
            key, (number,)
        )
        return u @ self.params.readout.T + self.params.bias, 0


# The step by which `draw` samples tokens. Its parameters are the logits (length, vocab_size) of one
# draw from `components`; the row at the position does not depend on earlier tokens: no cache.
_AT_EMBEDDINGS = CachedStep(
    lambda logits: (), lambda logits, cache, previous, position: (cache, logits[position])
)


@jax.jit(static_argnums=(2, 3))
def _filter(process: EmissionProcess, tokens: Array, bootstrap: bool, predict: bool) -> Filtered:
    """Results of the filter for tokens [sequence, position]; each sequence has its own key."""

    def one(inputs: tuple[Array, Array]) -> Filtered:
        return run_filter(process.params, *inputs, process.num_particles, bootstrap, predict)

    keys = jax.random.split(process.key, len(tokens))
    batch_size = max(1, PARTICLES_AT_ONCE // process.num_particles)
    return map_in_batches(one, (tokens, keys), batch_size)


def _padded_after_end(tokens: Array) -> Array:
    """Whether nothing but the end token follows the end, (...) for tokens (..., n)."""
    return (counted(tokens) | (tokens == END)).all(-1)


def _checked(emission: Emission, length: int) -> Emission:
    """The emission with its fields as arrays. Raises: InputError as in `EmissionProcess`."""
    attention = emission.attention
    if not isinstance(attention, Attention):
        raise InputError(f"emission: expected one Attention, got {type(attention).__name__}")
    if attention.batch_shape:
        raise InputError(
            f"emission: expected one Attention, got a batch {attention.batch_shape}; take one draw "
            "of the parameters, use particle_log_prob for all of them, or jax.vmap"
        )
    if attention.contraction is None:
        raise InputError(
            "attention: expected a contraction cap; without it the density of the embeddings need "
            "not integrate to one, and tokens have no probability; use contraction=0.9"
        )
    attention = AttentionProcess(attention, 1.0, length).attention  # checked
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
