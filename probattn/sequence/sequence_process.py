"""The sequence process: a law of token sequences, as a NumPyro distribution (theory, section 8)."""

import copy
import math
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jaxtyping import Array, Float, Int
from numpyro.distributions import constraints

from probattn.checks import as_integer, as_key, in_default_float
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
from probattn.sequence.set_process import (
    coverage_time,
    hitting_time,
    set_law_by,
    set_size_law,
    visited_by,
)
from probattn.sequence.termination import survival, tightness
from probattn.sequence.tokens import as_tokens, counted


class SequenceProcess(dist.Distribution):
    """Law of token sequences under a causal model, padded with the end token.

        P(x_1 ... x_n) = prod_t p(x_t | x_<t)
        p(. | x_<t) = softmax(next_token_logits(params, x)[t])

    After the end token only the end token follows, with probability one. The log probability of
    tokens without it is that of their cylinder, the set of all sequences with this prefix. The laws
    of prefixes are consistent, so that there is one law, with a marginal for every finite set of
    positions. With `end_token=None` it is a law on infinite sequences, of which the first `length`
    positions are modelled.

    Shapes: batch (), event (length,); parameters carry no batch (use `jax.vmap` over the
    construction, a plate, or `ProcessMixture`). Positions count from 0, as they index an array of
    tokens.

    Args:
        next_token_logits: causal and hashable; `next_token_logits(params, tokens)` of tokens
            (length,) gives real logits (length, vocab_size), row t from the tokens before t only.
            Pass the same function each time, not a new lambda: programs are compiled once for each
            function.
        params: any pytree of arrays; floats are kept in JAX's default float, and logits are
            brought to it.
        length: number of positions T >= 1.
        vocab_size: number of tokens V >= 2.
        end_token: the id of the end token, or None.
        batched: whether next_token_logits also takes tokens (n, length), in one pass.
        cached_step: a CachedStep that gives the same logits one position at a time; without one
            `sample` takes a whole pass for each position.
        end_probability_bound: `end_probability_bound(params)` gives delta with p(end | x_<t) >=
            delta for every prefix; `tightness` uses it.
        open_ended: whether the model has conditionals beyond `length` too, and the bound holds
            there. A model with a table of positions has none: it is a law on sequences of at most
            `length` tokens.

    Raises:
        InputError: at construction, sizes out of range, logits of another shape, logits that depend
            on their own token or a later one (found by changing these tokens), or a cached step
            that disagrees; in `log_prob`, ids out of range.

    Source: arXiv:2602.22271; theory, section 8.

    Example:

        >>> import jax.numpy as jnp
        >>> from probattn import SequenceProcess
        >>> # all tokens are equally probable, whatever came before
        >>> def fair(params, tokens):
        ...     return jnp.zeros((len(tokens), 4)) + params
        >>> process = SequenceProcess(fair, jnp.zeros(4), length=3, vocab_size=4)
        >>> # of all sequences that start with tokens 2, 3: 1/16
        >>> print(jnp.exp(process.log_prob(jnp.array([2, 3]))))
        0.0625
        >>> print(process.survival(3).value)  # (3/4)^3
        0.421875
    """

    arg_constraints: ClassVar[dict] = {}
    enumerable: Any = True  # whether `conditionals` are exact, and so are sums over sequences
    pytree_data_fields: ClassVar[tuple[str, ...]] = ("params",)
    pytree_aux_fields: ClassVar[tuple[str, ...]] = (
        "next_token_logits",
        "length",
        "vocab_size",
        "end_token",
        "batched",
        "cached_step",
        "end_probability_bound",
        "open_ended",
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
        open_ended: bool = True,
        validate_args: bool | None = None,
    ):
        length, vocab_size = (
            as_integer("length", length),
            as_integer("vocab_size", vocab_size, 2),
        )
        if end_token is not None and as_integer("end_token", end_token, 0) >= vocab_size:
            raise InputError(
                f"end_token: expected an id 0 to {vocab_size - 1} or None, got {end_token}"
            )
        params = in_default_float(params)
        # With traced parameters the check compiles a program of its own; validate_args=False skips
        # it, for callers that know that their function is causal.
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
        self.open_ended = open_ended
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
        return draw(self, as_key(key), math.prod(sample_shape))[0].reshape(
            *sample_shape, self.length
        )

    def log_prob(self, value: Any) -> Float[Array, "*shape"]:
        """Log probability of each sequence or prefix of n <= length tokens, in nats.

        It is -inf where a symbol follows the end. All sequences take one forward pass together.

        Args: value, ids of shape (..., n). Returns: shape (...). Raises: InputError on tokens of
        another shape, type or range.
        """
        tokens = as_tokens(value, self.vocab_size)
        if tokens.shape[-1] > self.length:
            raise InputError(
                f"tokens: expected at most {self.length} positions, got shape {tokens.shape}"
            )
        return _score(self, tokens.reshape(-1, tokens.shape[-1])).reshape(tokens.shape[:-1])

    def next_token_log_probs(self, tokens: Any) -> Float[Array, "*shape length vocab"]:
        """`log p(x_t | x_<t)` of every token at every position, in nats.

        After the end token it is 0 for the end token and -inf for symbols.

        Args: tokens, ids of shape (..., length). Returns: shape (..., length, vocab_size). Raises:
        InputError on tokens of another shape, type or range.
        """
        tokens = as_tokens(tokens, self.vocab_size)
        if tokens.shape[-1] != self.length:
            raise InputError(f"tokens: expected shape (..., {self.length}), got {tokens.shape}")
        rows = _conditionals(self, tokens.reshape(-1, self.length))
        return rows.reshape(*tokens.shape, self.vocab_size)

    def conditionals(self, tokens: Int[Array, "n length"]) -> Float[Array, "n length vocab"]:
        """`next_token_log_probs`, unchecked and not compiled, as exact sums use it."""
        return self.absorb(tokens, jax.nn.log_softmax(self._logits(tokens)))

    def absorb(self, tokens: Int[Array, "n length"], rows: Float[Array, "n length vocab"]) -> Array:
        """`rows` with those after the end token replaced: the end has probability one there."""
        if self.end_token is None:
            return rows
        ended = jnp.where(jnp.arange(self.vocab_size) == self.end_token, 0, -jnp.inf).astype(
            rows.dtype
        )
        return jnp.where(counted(tokens, self.end_token)[..., None], rows, ended)

    def at(self, params: Any, number: Any = 0) -> "SequenceProcess":
        """The process at other parameters.

        Args: number, for subclasses that estimate probabilities: different numbers give independent
        random numbers.
        """
        changed = copy.copy(self)
        changed.params = in_default_float(params)
        return changed

    def at_logits(self, logits: Float[Array, "*shape length vocab"]) -> "SequenceProcess":
        """The process with logits that were computed before, to score the tokens they belong to.

        Its `log_prob` is right for these tokens only, which must have the leading axes of `logits`.
        """
        known = self.at(logits)
        known.next_token_logits, known.batched, known.cached_step = _known, True, None
        return known

    def end_bound(self) -> Any:
        """The model's lower bound on the probability of ending at any step."""
        bound: Any = self.end_probability_bound
        return bound(self.params)

    def components(self, key: Array, number: int) -> tuple[Any, int | None]:
        """The first argument of a cached step for `number` draws, and its axis over the draws.

        The axis is None where all draws share it, as here.
        """
        return self.params, None

    def score(self, tokens: Int[Array, "n positions"]) -> Float[Array, " n"]:
        """`log_prob`, unchecked and not compiled."""
        positions = tokens.shape[-1]
        # Padding changes nothing: logits of a position depend on earlier tokens only.
        padded = jnp.pad(tokens, ((0, 0), (0, self.length - positions)))
        logits = self._logits(padded)[:, :positions]
        inside = jnp.clip(tokens, 0, self.vocab_size - 1)
        # [n, positions]
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
        return in_default_float(apply(self.params, tokens))

    # Methods that are defined in the modules of their topics.
    marginal = marginal
    conditional = conditional
    survival = survival
    tightness = tightness
    containment = containment
    capacity = capacity
    set_law = set_law
    inclusion_probabilities = inclusion_probabilities
    sample_set = sample_set
    visited_by = visited_by
    set_size_law = set_size_law
    set_law_by = set_law_by
    hitting_time = hitting_time
    coverage_time = coverage_time


def _known(logits: Any, tokens: Any) -> Any:
    """`next_token_logits` whose parameters are the logits themselves."""
    return logits


_score = jax.jit(lambda process, tokens: process.score(tokens))
_conditionals = jax.jit(lambda process, tokens: process.conditionals(tokens))
