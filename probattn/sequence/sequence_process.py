"""The sequence process: one law over token sequences, as a NumPyro distribution (theory, section
8)."""

import copy
import math
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jaxtyping import Array, Float, Int
from numpyro.distributions import constraints

from probattn.checks import whole_number
from probattn.errors import InputError
from probattn.sequence.causality import check_causal, is_traced
from probattn.sequence.marginals import conditional, marginal
from probattn.sequence.random_set import (
    capacity,
    containment,
    inclusion_probabilities,
    sample_set,
    set_law,
)
from probattn.sequence.sampling import CachedStep, draw
from probattn.sequence.termination import survival, tightness
from probattn.sequence.tokens import as_tokens, counted


class SequenceProcess(dist.Distribution):
    """Law of token sequences x (length,) under a causal model, padded with the end token.

        P(x_1 ... x_n) = prod_t p(x_t | x_<t)
        p(. | x_<t) = softmax(next_token_logits(params, x)[t])

    Once the end token has come it follows with probability one. A sequence without it scores as the
    prefix event (the cylinder) of all sequences that start so. Prefix laws are consistent, hence
    one law with a marginal for every finite set of positions; with `end_token=None` it is a law on
    infinite sequences, of which `length` positions are seen.

    Shapes: batch (), event (length,); parameters carry no batch (use `jax.vmap` over the
    construction, a plate, or `ProcessMixture`). Positions count from 0, as they index an array of
    tokens.

    Args:
        next_token_logits: causal and hashable; `next_token_logits(params, tokens)` of tokens
            (length,) gives real logits (length, vocab_size), row t from the tokens before t only.
            Pass the same function again rather
            than a new lambda: what is compiled for it is kept.
        params: any pytree of arrays.
        length: positions T >= 1.
        vocab_size: number of tokens V >= 2.
        end_token: its id, or None.
        batched: whether next_token_logits also takes tokens (n, length), in one pass.
        cached_step: of a model that can reuse keys and values; without one `sample` costs a whole
            pass per position.
        end_probability_bound: `end_probability_bound(params)` gives delta with p(end | x_<t) >=
            delta whatever came before; it is what `tightness` rests on.

    Raises:
        InputError: at construction sizes out of range, logits of another shape or that see their
            own token or later ones (found by changing those), a cached step that disagrees; in
            `log_prob` ids out of range.

    Source: arXiv:2602.22271; theory, section 8.

    Example:

        >>> import jax.numpy as jnp
        >>> from probattn import SequenceProcess
        >>> # each token is as probable as any other, whatever came before
        >>> def fair(params, tokens):
        ...     return jnp.zeros((len(tokens), 4)) + params
        >>> process = SequenceProcess(fair, jnp.zeros(4), length=3, vocab_size=4)
        >>> # of all sequences that start so: 1/16
        >>> print(jnp.exp(process.log_prob(jnp.array([2, 3]))))
        0.0625
        >>> print(process.survival(3).value)  # (3/4)^3
        0.421875
    """

    arg_constraints: ClassVar[dict] = {}
    enumerable: Any = True  # whether `conditionals` are exact, so that sums over paths are
    pytree_data_fields: ClassVar[tuple[str, ...]] = ("params",)
    pytree_aux_fields: ClassVar[tuple[str, ...]] = (
        "next_token_logits",
        "length",
        "vocab_size",
        "end_token",
        "batched",
        "cached_step",
        "end_probability_bound",
    )

    def __init__(
        self,
        next_token_logits: Callable,
        params: Any,
        *,
        length: int,
        vocab_size: int,
        end_token: int | None = 0,
        batched: bool = False,
        cached_step: CachedStep | None = None,
        end_probability_bound: Callable | None = None,
        validate_args: bool | None = None,
    ):
        length, vocab_size = (
            whole_number("length", length),
            whole_number("vocab_size", vocab_size, 2),
        )
        if end_token is not None and whole_number("end_token", end_token, 0) >= vocab_size:
            raise InputError(
                f"end_token: expected an id 0 to {vocab_size - 1} or None, got {end_token}"
            )
        # Of traced parameters the check is a program of its own, which a caller that knows its
        # function can do without.
        if validate_args is not False or not is_traced(params):
            check_causal(next_token_logits, params, length, vocab_size, batched, cached_step)
        self.next_token_logits: Any = next_token_logits
        self.params = params
        self.length, self.vocab_size, self.end_token = length, vocab_size, end_token
        self.batched, self.cached_step, self.end_probability_bound = (
            batched,
            cached_step,
            end_probability_bound,
        )
        super().__init__((), (length,), validate_args=validate_args)

    @constraints.dependent_property(is_discrete=True, event_dim=1)
    def support(self) -> constraints.Constraint:
        return constraints.independent(constraints.integer_interval(0, self.vocab_size - 1), 1)

    def __repr__(self) -> str:
        over = (
            "infinite sequences, no end token"
            if self.end_token is None
            else f"end token {self.end_token}"
        )
        sampling = "a whole pass" if self.cached_step is None else "a cached step"
        return (
            f"{type(self).__name__}({self.length} positions, {self.vocab_size} tokens, {over}; "
            f"sampling takes {sampling} per position)"
        )

    def sample(self, key: Array, sample_shape: tuple[int, ...] = ()) -> Int[Array, "*shape length"]:
        """Draws of shape `sample_shape + (length,)`: one scan over the positions."""
        return draw(self, key, math.prod(sample_shape))[0].reshape(*sample_shape, self.length)

    def log_prob(self, value: Any) -> Float[Array, "*shape"]:
        """Log probability of each sequence or prefix of n <= length tokens, in nats; -inf where a
        symbol follows the end.

        Args: value, ids of shape (..., n). Returns shape (...): one forward pass for all of them.
        """
        tokens = as_tokens(value, self.vocab_size)
        if tokens.shape[-1] > self.length:
            raise InputError(
                f"tokens: expected at most {self.length} positions, got shape {tokens.shape}"
            )
        return _score(self, tokens.reshape(-1, tokens.shape[-1])).reshape(tokens.shape[:-1])

    def next_token_log_probs(self, tokens: Any) -> Float[Array, "*shape length vocab"]:
        """`log p(x_t | x_<t)` for every x_t and t, in nats; after the end token it is 0 for the
        end, -inf else.

        Args: tokens, ids of shape (..., length). Returns shape (..., length, vocab_size).
        """
        tokens = as_tokens(tokens, self.vocab_size)
        if tokens.shape[-1] != self.length:
            raise InputError(f"tokens: expected shape (..., {self.length}), got {tokens.shape}")
        rows = _conditionals(self, tokens.reshape(-1, self.length))
        return rows.reshape(*tokens.shape, self.vocab_size)

    def conditionals(self, tokens: Int[Array, "n length"]) -> Float[Array, "n length vocab"]:
        """The rows of `next_token_log_probs`, unchecked and not compiled: what the exact sums are
        made of."""
        return self.absorb(tokens, jax.nn.log_softmax(self._logits(tokens)))

    def absorb(self, tokens: Int[Array, "n length"], rows: Float[Array, "n length vocab"]) -> Array:
        """Rows after the end token: the end with probability one."""
        if self.end_token is None:
            return rows
        ended = jnp.where(jnp.arange(self.vocab_size) == self.end_token, 0, -jnp.inf).astype(
            rows.dtype
        )
        return jnp.where(counted(tokens, self.end_token)[..., None], rows, ended)

    def at(self, params: Any, number: Any = 0) -> "SequenceProcess":
        """The process at other parameters; `number` tells apart the randomness of those that
        estimate."""
        changed = copy.copy(self)
        changed.params = params
        return changed

    def at_logits(self, logits: Float[Array, "*shape length vocab"]) -> "SequenceProcess":
        """The law where the logits at the tokens to be scored are known: it scores those tokens and
        no others."""
        known = self.at(logits)
        known.next_token_logits, known.batched, known.cached_step = _known, True, None
        return known

    def end_bound(self) -> Any:
        """What the model claims to be the least probability of ending."""
        bound: Any = self.end_probability_bound
        return bound(self.params)

    def components(self, key: Array, number: int) -> tuple[Any, int | None]:
        """What `number` draws walk under, the first argument of a cached step, and its axis, None
        if all share it."""
        return self.params, None

    def score(self, tokens: Int[Array, "n positions"]) -> Float[Array, " n"]:
        """`log_prob`, unchecked and not compiled; what follows the positions given is hidden by
        causality."""
        positions = tokens.shape[-1]
        padded = jnp.pad(tokens, ((0, 0), (0, self.length - positions)))
        logits = self._logits(padded)[:, :positions]
        inside = jnp.clip(tokens, 0, self.vocab_size - 1)
        chosen = jnp.take_along_axis(logits, inside[..., None], axis=-1)[..., 0] - jax.nn.logsumexp(
            logits, axis=-1
        )
        scored = jnp.where(counted(tokens, self.end_token), chosen, 0).sum(-1)
        possible = inside == tokens
        if self.end_token is not None:
            possible &= counted(tokens, self.end_token) | (tokens == self.end_token)
        return jnp.where(possible.all(-1), scored, -jnp.inf)

    def _logits(self, tokens: Int[Array, "n length"]) -> Float[Array, "n length vocab"]:
        apply = (
            self.next_token_logits if self.batched else jax.vmap(self.next_token_logits, (None, 0))
        )
        return apply(self.params, tokens)

    # Its laws, each where its idea is.
    marginal = marginal
    conditional = conditional
    survival = survival
    tightness = tightness
    containment = containment
    capacity = capacity
    set_law = set_law
    inclusion_probabilities = inclusion_probabilities
    sample_set = sample_set


def _known(logits: Any, tokens: Any) -> Any:
    return logits


_score = jax.jit(lambda process, tokens: process.score(tokens))
_conditionals = jax.jit(lambda process, tokens: process.conditionals(tokens))
