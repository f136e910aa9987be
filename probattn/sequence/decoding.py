"""Laws that decoding rules make of a sequence process: temperature, top-k and nucleus."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from numbers import Real
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from probattn.checks import as_integer
from probattn.errors import InputError
from probattn.sequence.sampling import CachedStep
from probattn.sequence.sequence_process import SequenceProcess

COLDEST, HOTTEST = 1e-6, 1e6  # of temperatures; powers beyond are 0 or equal in any precision


@dataclass(frozen=True)
class Decoding:
    """A rule by which the next token is drawn from a model's probabilities.

        p'(x_t | x_<t) ~ p(x_t | x_<t)^(1 / temperature)   for tokens that are kept, 0 for others

    The temperature comes first, then `top_k`, then `nucleus`. Of tokens that are equally probable
    those with the smaller id are kept. `Decoding()` changes nothing.

    Args:
        temperature: 1e-6 to 1e6; below 1 it sharpens the law, above 1 it flattens it.
        top_k: how many of the most probable tokens are kept; None is all. 1 is greedy decoding.
        nucleus: 1e-6 to 1: the most probable tokens are kept until together they have at least this
            probability, among those that `top_k` keeps.

    Raises: InputError for values outside these ranges.
    """

    temperature: Any = 1.0
    top_k: Any = None
    nucleus: Any = 1.0

    def __post_init__(self) -> None:
        for name, most in (("temperature", HOTTEST), ("nucleus", 1.0)):
            value = getattr(self, name)
            is_number = isinstance(value, Real) and not isinstance(value, bool)
            if not is_number or not COLDEST <= value <= most:
                raise InputError(
                    f"{name}: expected a number from {COLDEST:g} to {most:g}, got {value!r}"
                )
            object.__setattr__(self, name, float(value))
        if self.top_k is not None:
            as_integer("top_k", self.top_k)

    def logits(self, logits: Float[Array, "... vocab"]) -> Float[Array, "... vocab"]:
        """Logits of the decoded law; -inf for tokens that are not kept, NaN where any is NaN."""
        # Differences from the largest: divided by a small temperature they overflow to -inf alone.
        logits = logits - jax.lax.stop_gradient(logits.max(-1, keepdims=True))
        order = jnp.argsort(logits, axis=-1, descending=True, stable=True)
        logits = logits / self.temperature
        if self.top_k is None and self.nucleus == 1:
            return logits
        rank = jnp.argsort(order, axis=-1)  # of each token, 0 for the most probable
        kept = rank < (logits.shape[-1] if self.top_k is None else self.top_k)
        if self.nucleus < 1:
            rows = jax.nn.softmax(jnp.where(kept, logits, -jnp.inf))
            sorted_rows = jnp.take_along_axis(rows, order, axis=-1)
            before = jnp.cumsum(sorted_rows, axis=-1) - sorted_rows
            kept &= jnp.take_along_axis(before, rank, axis=-1) < self.nucleus
        failed = jnp.isnan(logits).any(-1, keepdims=True)
        return jnp.where(failed, jnp.nan, jnp.where(kept, logits, -jnp.inf))


def decoded(process: Any, rule: Any) -> SequenceProcess:
    """The law of the sequences that a decoding rule draws from a process: a sequence process again.

    So its log probabilities, marginals, random sets and survival are exact where those of the
    process are. The end token is a token like any other, and a rule may leave it out. Then nothing
    bounds the probability of ending from below, and `tightness` claims nothing.

    A mixture over draws of the parameters is decoded draw by draw,
    `ProcessMixture(decoded(process, rule), draws)`. That is not the decoded law of the mixture,
    whose conditionals would have to be known first.

    Args: process, with logits for its next tokens; rule, a `Decoding`.
    Raises: InputError for a mixture, and for a process without exact logits, such as that of an
        emission model.

    Example:

        >>> import jax.numpy as jnp
        >>> from probattn import Decoding, SequenceProcess, decoded
        >>> def always(params, tokens):
        ...     return jnp.broadcast_to(jnp.log(params), (len(tokens), 3))
        >>> process = SequenceProcess(always, jnp.array([0.2, 0.5, 0.3]), length=2, vocab_size=3)
        >>> greedy = decoded(process, Decoding(top_k=1))
        >>> print(jnp.exp(greedy.log_prob(jnp.array([1, 1]))))
        1.0
        >>> two = decoded(process, Decoding(top_k=2))  # 0.5 and 0.3 in proportion, 0 for the end
        >>> print(f"{jnp.exp(two.log_prob(jnp.array([1, 2]))):.4f} {two.survival(2).value:.4f}")
        0.2344 1.0000
    """
    if not isinstance(rule, Decoding):
        raise InputError(f"rule: expected a Decoding, got {rule!r}")
    if type(process) is not SequenceProcess:
        raise InputError(
            f"process: expected a SequenceProcess, whose logits a rule can change, got "
            f"{type(process).__name__}; of a mixture decode the process that is mixed"
        )
    if rule == Decoding():
        return process
    changed = copy.copy(process)
    changed.next_token_logits = _logits(process.next_token_logits, rule)
    if process.cached_step is not None:
        changed.cached_step = _cached_step(process.cached_step, rule)
    if process.end_probability_bound is not None:
        changed.end_probability_bound = _end_bound(
            process.end_probability_bound, rule, process.vocab_size
        )
    return changed


# Equal rules of equal functions are one function, so that programs are compiled once.
@lru_cache(maxsize=128)
def _logits(of: Callable, rule: Decoding) -> Callable:
    return lambda params, tokens: rule.logits(of(params, tokens))


@lru_cache(maxsize=128)
def _cached_step(of: CachedStep, rule: Decoding) -> CachedStep:
    def step(params: Any, cache: Any, previous: Array, position: Array) -> tuple[Any, Array]:
        cache, logits = of.step(params, cache, previous, position)
        return cache, rule.logits(logits)

    return CachedStep(of.start, step)


@lru_cache(maxsize=128)
def _end_bound(of: Callable, rule: Decoding, vocab_size: int) -> Callable:
    """The bound that follows from `of` for a rule that keeps all tokens; 0 for others.

    With p(end) = delta the others share 1 - delta. Powers 1 / temperature of their probabilities
    add up to most if they are equal, for a temperature above 1, or if one of them has it all.
    """

    def bound(params: Any) -> Array:
        delta = jnp.asarray(of(params), float)
        if rule.top_k is not None or rule.nucleus < 1:
            return jnp.zeros_like(delta)
        power = 1 / rule.temperature
        sharing = vocab_size - 1 if power < 1 else 1
        others = sharing * ((1 - delta) / sharing) ** power
        return delta**power / (delta**power + others)

    return bound
