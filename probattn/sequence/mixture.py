"""A mixture of sequence processes, such as a posterior over their parameters makes (theory, section
8)."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from numpyro.distributions import Distribution

from probattn.errors import InputError
from probattn.sequence.sequence_process import SequenceProcess


class ProcessMixture(SequenceProcess):
    """Law of sequences whose parameters are one of several draws, each as probable: again a causal
    process.

        P(x_1 ... x_n) = mean over draws of P_theta(x_1 ... x_n)
        P(x_t | x_<t) = sum over draws of w_theta(x_<t) p_theta(x_t | x_<t),
        w_theta(x_<t) proportional to P_theta(x_<t)

    Its conditionals reweight the draws by how probable each found the prefix. Averages of per-token
    conditionals with equal weights are another law. Everything a SequenceProcess offers is offered
    of the mixture; `sample` takes a draw for each sequence and walks under it.

    Args:
        process: of one value of the parameters; its own value is not used.
        draws: its parameters with one more axis in front, (num_draws, ...).

    Raises:
        InputError: draws of another structure or shape than the process's parameters, or none.

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
        >>> print(f"{second:.2f}")  # not 0.50: the first throw tells something of which coin it is
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
                f"{wanted} with one number of "
                f"draws, at least 1, got {got}"
            )
        for name in SequenceProcess.pytree_aux_fields:
            setattr(self, name, getattr(process, name))
        self.params, self.template = draws, process
        Distribution.__init__(self, (), (process.length,), validate_args=validate_args)

    @property
    def num_draws(self) -> int:
        return jax.tree.leaves(self.params)[0].shape[0]

    @property
    def enumerable(self) -> bool:
        return self.template.enumerable

    @property
    def _numbered(self) -> tuple[Any, Array]:
        return self.params, jnp.arange(self.num_draws)

    def score(self, tokens: Int[Array, "n positions"]) -> Float[Array, " n"]:
        per_draw = jax.lax.map(lambda draw: self.template.at(*draw).score(tokens), self._numbered)
        return jax.nn.logsumexp(per_draw, axis=0) - jnp.log(self.num_draws)

    def conditionals(self, tokens: Int[Array, "n length"]) -> Float[Array, "n length vocab"]:
        """Rows of the mixture; after a prefix that no draw finds possible, the plain average of the
        draws' rows."""

        def weigh(
            sums: tuple[Array, Array, Array], draw: Any
        ) -> tuple[tuple[Array, Array, Array], None]:
            joint, prefix, plain = sums
            rows = self.template.at(*draw).conditionals(tokens)
            chosen = jnp.take_along_axis(rows, tokens[..., None], axis=-1)[..., 0]
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
            joint - jnp.where(possible, prefix[..., None], 0),
            plain - jnp.log(self.num_draws),
        )

    def components(self, key: Array, number: int) -> tuple[Any, int | None]:
        for_choice, for_each = jax.random.split(key)
        chosen = jax.random.randint(for_choice, (number,), 0, self.num_draws)

        def one(params: Any, key: Array) -> Any:
            found, axis = self.template.at(params).components(key, 1)
            return found if axis is None else jax.tree.map(lambda leaf: leaf[0], found)

        params = jax.tree.map(lambda leaf: leaf[chosen], self.params)
        return jax.vmap(one)(params, jax.random.split(for_each, number)), 0

    def end_bound(self) -> Array:
        """The least bound of all draws."""
        return jax.lax.map(lambda params: self.template.at(params).end_bound(), self.params).min()
