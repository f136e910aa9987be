"""A mixture of sequence processes, for instance over draws of a posterior (theory, section 8)."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from numpyro.distributions import Distribution

from probattn.checks import in_default_float, is_float
from probattn.errors import InputError
from probattn.sequence.sequence_process import SequenceProcess


class ProcessMixture(SequenceProcess):
    """Law of sequences under equally probable draws of the parameters: again a causal process.

        P(x_1 ... x_n) = mean over draws of P_theta(x_1 ... x_n)
        P(x_t | x_<t) = sum over draws of w_theta(x_<t) p_theta(x_t | x_<t),
        w_theta(x_<t) proportional to P_theta(x_<t)

    A conditional weighs each draw of the parameters by the probability of the prefix under it.
    Averages of per-token conditionals with equal weights are another law. The mixture has all
    methods of a SequenceProcess; `sample` takes one draw of the parameters for each sequence.

    Args:
        process: the process at any one value of the parameters; that value is not used.
        draws: its parameters with one more axis in front, (num_draws, ...).

    Raises:
        InputError: draws of another structure or shape than the parameters of the process, or no
            draws.

    Source: theory, section 8.

    Example:

        >>> import jax.numpy as jnp
        >>> from probattn import ProcessMixture, SequenceProcess
        >>> def coin(params, tokens):
        ...     return jnp.broadcast_to(jnp.stack([jnp.zeros(()), params]), (len(tokens), 2))
        >>> process = SequenceProcess(coin, jnp.zeros(()), length=2, vocab_size=2, end_token=None)
        >>> # two coins, each with one side likelier
        >>> mixture = ProcessMixture(process, jnp.array([2.0, -2.0]))
        >>> second = jnp.exp(mixture.next_token_log_probs(jnp.array([1, 1])))[1, 1]
        >>> print(f"{second:.2f}")  # not 0.50: the first throw is evidence of which coin it is
        0.79
    """

    pytree_data_fields = ("template",)

    def __init__(self, process: SequenceProcess, draws: Any, *, validate_args: bool | None = None):
        draws = jax.tree.map(jnp.asarray, draws)
        expected: Any
        expected, found = jax.tree.structure(process.params), jax.tree.structure(draws)
        if expected != found:
            raise InputError(
                f"draws: expected the parameters of the process, {expected}, got {found}"
            )
        numbers = {np.shape(leaf)[:1] for leaf in jax.tree.leaves(draws)}
        wanted = [np.shape(leaf) for leaf in jax.tree.leaves(process.params)]
        got = [np.shape(leaf) for leaf in jax.tree.leaves(draws)]
        if [shape[1:] for shape in got] != wanted or len(numbers) != 1 or numbers & {(), (0,)}:
            raise InputError(
                "draws: expected leaves (num_draws, *shape) of the parameters' shapes "
                f"{wanted} with one number of draws, at least 1, got {got}"
            )
        for name in SequenceProcess.pytree_aux_fields:
            setattr(self, name, getattr(process, name))
        self.template = process
        self.params = jax.tree.map(  # integers may stand for floats
            lambda draw, own: jnp.asarray(draw, float) if is_float(own) else in_default_float(draw),
            draws,
            process.params,
        )
        Distribution.__init__(self, (), (process.length,), validate_args=validate_args)

    @property
    def num_draws(self) -> int:
        """Number of draws of the parameters."""
        return jax.tree.leaves(self.params)[0].shape[0]

    @property
    def enumerable(self) -> bool:
        """Whether conditionals are exact, as in the process that is mixed."""
        return self.template.enumerable

    @property
    def _numbered(self) -> tuple[Any, Array]:
        """The draws with their numbers, as arguments of `SequenceProcess.at`."""
        return self.params, jnp.arange(self.num_draws)

    def score(self, tokens: Int[Array, "n positions"]) -> Float[Array, " n"]:
        """`log_prob` of the mixture, unchecked and not compiled."""
        # [draws, n]
        per_draw = jax.lax.map(lambda draw: self.template.at(*draw).score(tokens), self._numbered)
        return jax.nn.logsumexp(per_draw, axis=0) - jnp.log(self.num_draws)

    def conditionals(self, tokens: Int[Array, "n length"]) -> Float[Array, "n length vocab"]:
        """Log probabilities of each next token, unchecked and not compiled.

        After a prefix with probability 0 under every draw, they are the average over the draws.
        """

        def weigh(
            sums: tuple[Array, Array, Array], draw: Any
        ) -> tuple[tuple[Array, Array, Array], None]:
            # Log sums over the draws so far: of P(x_<t) p(x_t | x_<t), [n, t, v]; of P(x_<t),
            # [n, t]; of p(x_t | x_<t), [n, t, v].
            joint, prefix, plain = sums
            rows = self.template.at(*draw).conditionals(tokens)
            chosen = jnp.take_along_axis(rows, tokens[..., None], axis=-1)[..., 0]
            # log P(x_<t) under this draw, [n, t]
            before = jnp.pad(jnp.cumsum(chosen, axis=-1)[:, :-1], ((0, 0), (1, 0)))
            joint = jnp.logaddexp(joint, before[..., None] + rows)
            return (joint, jnp.logaddexp(prefix, before), jnp.logaddexp(plain, rows)), None

        shape = (*tokens.shape, self.vocab_size)
        nothing = jnp.full(shape, -jnp.inf)
        (joint, prefix, plain), _ = jax.lax.scan(
            weigh, (nothing, nothing[..., 0], nothing), self._numbered
        )
        possible = (prefix > -jnp.inf)[..., None]
        return jnp.where(
            possible,
            # The inner `where` avoids the NaN of -inf - (-inf).
            joint - jnp.where(possible, prefix[..., None], 0),
            plain - jnp.log(self.num_draws),
        )

    def components(self, key: Array, number: int) -> tuple[Any, int | None]:
        """Parameters for `number` draws of sequences, one random draw of the parameters for each.

        Returns: the first argument of a cached step, with the sequences on axis 0; and that axis.
        """
        for_choice, for_each = jax.random.split(key)
        chosen = jax.random.randint(for_choice, (number,), 0, self.num_draws)

        def one(params: Any, key: Array) -> Any:  # components of the template for one sequence
            found, axis = self.template.at(params).components(key, 1)
            return found if axis is None else jax.tree.map(lambda leaf: leaf[0], found)

        params = jax.tree.map(lambda leaf: leaf[chosen], self.params)
        return jax.vmap(one)(params, jax.random.split(for_each, number)), 0

    def end_bound(self) -> Array:
        """Least probability of ending at any step: the least bound of all draws."""
        return jax.lax.map(lambda params: self.template.at(params).end_bound(), self.params).min()
