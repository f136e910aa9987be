"""When sequences end: survival, and tightness of the law (theory, section 8)."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from probattn.checks import as_integer, as_key
from probattn.errors import InputError
from probattn.sequence.enumeration import fold_sequences
from probattn.sequence.estimate import (
    MOST_ENUMERATED,
    Estimate,
    choose_exact,
    exact_estimate,
    mean_weight,
)
from probattn.sequence.sampling import draw


def symbols(process: Any) -> tuple[int, ...]:
    """All tokens but the end token, in ascending order."""
    return tuple(token for token in range(process.vocab_size) if token != process.end_token)


def survival(
    process: Any,
    n: Any,
    *,
    method: str = "auto",
    num_samples: int = 10_000,
    key: Array | None = None,
) -> Estimate:
    """`P(no end among the first n tokens)`; 1 for a process without an end token.

    By Monte Carlo, draws take symbols only, and the weight of a draw is the product of the
    probabilities of not ending at each step: its standard error is far below that of counting
    draws. `tightness().survival_bound(n)` is an upper bound for any n.

    Args: n, from 0 to length; the others as for `marginal`. Raises: InputError on n out of range.
    Source: theory, section 8.
    """
    if as_integer("n", n, 0) > process.length:
        raise InputError(
            f"n: expected at most the {process.length} positions of the process, got {n}"
        )
    alphabet = symbols(process)
    if n == 0 or process.end_token is None:
        return exact_estimate(jnp.ones(()), 1)
    sequences = len(alphabet) ** (n - 1)
    if choose_exact(process, method, sequences, "survival"):
        return exact_estimate(_exact_survival(process, n), sequences)
    allowed = jnp.broadcast_to(
        jnp.arange(process.vocab_size) != process.end_token, (n, process.vocab_size)
    )
    key = jax.random.key(0) if key is None else as_key(key)
    return mean_weight(draw(process, key, as_integer("num_samples", num_samples, 2), n, allowed)[1])


@partial(jax.jit, static_argnums=1)
def _exact_survival(process: Any, n: int) -> Array:
    alphabet = jnp.asarray(symbols(process))

    def fold(total: Array, tokens: Array, log_prefix: Array, rows: Array) -> Array:
        return total + jnp.exp(log_prefix[:, -1:] + rows[:, -1, alphabet]).sum()

    return fold_sequences(process, [alphabet] * (n - 1), fold, jnp.zeros(()))


@dataclass(frozen=True)
class Tightness:
    """Whether a process is known to be tight, that is, to end with probability one.

    Args:
        tight: whether `P(no end among the first n) -> 0` is proved. False is no proof of the
            contrary.
        delta: a lower bound on the probability of ending at each step, for every prefix; 0 where no
            bound is known.
        horizon: the number of steps for which delta is known; None is all steps.
        reason: why the process is tight, or why that is not known, in words.
    """

    tight: bool
    delta: float
    horizon: int | None
    reason: str

    def survival_bound(self, n: int) -> float:
        """The bound `P(no end among the first n) <= (1 - delta)^n`.

        Beyond the horizon it is the bound at the horizon.
        """
        return (1 - self.delta) ** (n if self.horizon is None else min(n, self.horizon))


def tightness(process: Any) -> Tightness:
    """Whether the process is known to be tight, by a bound delta on the probability of ending.

    If every step ends with probability at least delta > 0, then
    `P(no end among the first n) <= (1 - delta)^n` and the law is tight. The model gives such a
    bound as `end_probability_bound`; bounded logits have one. A model that ends at `length`
    (`open_ended=False`) has no limit to speak of, and a bound up to there. Without a bound
    tightness is not claimed, since finitely many positions prove no limit; delta is then the least
    probability of ending over all prefixes within `length`, if these can be enumerated. Source:
    theory, section 8.
    """
    if process.end_token is None:
        return Tightness(False, 0.0, None, "no end token: a law on infinite sequences")
    if process.end_probability_bound is not None:
        delta = float(process.end_bound())
        if delta > 0 and not process.open_ended:
            return Tightness(
                False,
                delta,
                process.length,
                f"every step ends with probability at least {delta:.3g}, but the model is a law on "
                f"sequences of at most {process.length} tokens and says nothing beyond",
            )
        if delta > 0:
            return Tightness(
                True, delta, None, f"every step ends with probability at least {delta:.3g}"
            )
        return Tightness(
            False,
            0.0,
            None,
            f"the model's bound on the probability of ending is {delta:.3g}: not above 0",
        )
    reason = "the model gives no bound on the probability of ending (end_probability_bound)"
    if not process.enumerable:
        return Tightness(False, 0.0, None, f"{reason}, and its conditionals are estimates")
    sequences = len(symbols(process)) ** (process.length - 1)
    if sequences > MOST_ENUMERATED:
        return Tightness(False, 0.0, None, f"{reason}, and its histories are too many to enumerate")
    least = float(_least_end_probability(process))
    if least == 0:
        return Tightness(
            False, 0.0, None, f"{reason}, and after some history the end has probability 0"
        )
    return Tightness(
        False,
        least,
        process.length,
        (
            f"{reason}: the least probability of ending, {least:.3g}, is known for "
            f"{process.length} positions only"
        ),
    )


@jax.jit
def _least_end_probability(process: Any) -> Array:
    """Least probability of ending over all prefixes of positive probability within `length`."""

    def fold(least: Array, tokens: Array, log_prefix: Array, rows: Array) -> Array:
        end = jnp.where(log_prefix > -jnp.inf, jnp.exp(rows[..., process.end_token]), 1)
        return jnp.minimum(least, end.min())

    return fold_sequences(
        process, [jnp.asarray(symbols(process))] * (process.length - 1), fold, jnp.ones(())
    )
