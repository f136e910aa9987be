"""The attention process with priors: a model of real-valued sequences (theory, sections 1 to 6)."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jaxtyping import Array, Bool, Float

from probattn import Attention, AttentionProcess, InputError, path_log_density, stability_margin
from probattn.checks import as_float_array, as_integer
from probattn.models.gauge import ordered_heads
from probattn.models.priors import LogNormal, normal

Params = dict[str, Any]


@dataclass(frozen=True)
class LatentAttention:
    """Bayesian attention on observed embeddings: an attention process with priors.

        u_t = sum_h V_h sum_{s<t} alpha^h_ts u_s + e_t,   e_t ~ N(0, scale^2 I)
        alpha^h_t = softmax_s(u_s^T A_h u_t)

    Call it as a NumPyro model: `model(u)` conditions on embeddings of shape (num_sequences, length,
    dim); `model(num_sequences=n)` generates them; `model(u, batch_size=n)` conditions on a random
    minibatch of n sequences, whose terms count num_sequences / n times.

        site              batch (plate)       event
        each parameter    ()                  its shape below
        embeddings        (num_sequences,)    (length, dim), time first

    Parameters and priors, with d = dim and r = rank. In each parametrisation the entries of the
    interaction A (heads, d, d) have standard deviation 1/sqrt(d). Off the diagonal of a symmetric A
    it is 1/sqrt(2d), which makes its law invariant under rotations.
        full        interaction (heads, d, d) ~ Normal
        factored    query, key (heads, r, d) ~ Normal(0, d^(-1/4)), A = key^T query / sqrt(r)
        symmetric   interaction_entries (d (d + 1) / 2,) ~ Normal, one head;
                    the upper triangle of A, row by row
        value (heads, d, d) ~ Normal(I / heads, 1 / (2 sqrt(d)))
        scale ~ LogNormal(0, 1/2)

    Args:
        dim, length: of the embeddings.
        heads, rank: of the attention; rank is for the factored parametrisation, where None is dim.
        parametrisation: "full", "factored" or "symmetric".
        values: whether there are value maps; without them, V_h = I / heads. None is True, except
            for the symmetric parametrisation, where it is False.
        contraction: cap kappa in (0, 1), under which the density integrates to one for all
            parameters. None restricts the density to its local domain, over which it need not
            integrate to one (theory, section 4).
        branch: as in AttentionProcess, for generating without a cap.

    Raises:
        InputError: a field outside these ranges, and embeddings of a wrong shape or with a NaN.

    Source: theory, sections 1 to 6.

    Example:

        >>> import jax
        >>> from numpyro.infer import Predictive
        >>> from probattn.models import LatentAttention
        >>> model = LatentAttention(dim=2, length=4)
        >>> Predictive(model, num_samples=1)(jax.random.key(0), num_sequences=3)["embeddings"].shape
        (1, 3, 4, 2)
    """

    dim: int
    length: int
    heads: int = 1
    rank: int | None = None
    parametrisation: str = "full"
    values: bool | None = None
    contraction: float | None = 0.9
    branch: str | None = None

    observed: ClassVar[str] = "embeddings"

    def __post_init__(self) -> None:
        for name in ("dim", "length", "heads"):
            as_integer(name, getattr(self, name))
        if self.rank is not None:
            as_integer("rank", self.rank)
        if self.parametrisation not in ("full", "factored", "symmetric"):
            raise InputError(
                'parametrisation: expected "full", "factored" or "symmetric", got '
                f"{self.parametrisation!r}"
            )
        if self.rank is not None and self.parametrisation != "factored":
            raise InputError(
                f'rank: expected None unless parametrisation="factored", got {self.rank}'
            )
        if self.parametrisation == "symmetric" and (self.heads != 1 or self.values):
            raise InputError(
                "parametrisation: symmetric expects one head and no value maps, got "
                f"heads={self.heads}, "
                f"values={self.values}"
            )
        if self.values is None:
            object.__setattr__(self, "values", self.parametrisation != "symmetric")
        zero = jnp.zeros((1, 1, 1))
        AttentionProcess(
            Attention(zero, zero, contraction=self.contraction), 1.0, 1, branch=self.branch
        )  # for its checks of contraction and branch

    def priors(self) -> dict[str, dist.Distribution]:
        """The prior of each parameter, by name."""
        d, heads = self.dim, self.heads
        priors: dict[str, dist.Distribution] = {}
        if self.parametrisation == "full":
            priors["interaction"] = normal(d**-0.5, heads, d, d)
        elif self.parametrisation == "factored":
            priors["query"] = normal(d**-0.25, heads, self.rank or d, d)
            priors["key"] = normal(d**-0.25, heads, self.rank or d, d)
        else:
            row, column = np.triu_indices(d)
            spread = np.where(row == column, d**-0.5, (2 * d) ** -0.5)
            priors["interaction_entries"] = normal(jnp.asarray(spread), len(spread))
        if self.values:
            priors["value"] = normal(0.5 * d**-0.5, heads, d, d, mean=jnp.eye(d) / heads)
        priors["scale"] = LogNormal(0.0, 0.5)
        return priors

    def __call__(
        self,
        embeddings: Any = None,
        num_sequences: int | None = None,
        batch_size: int | None = None,
    ) -> Array:
        if embeddings is not None:
            embeddings = self._checked(embeddings)
            if embeddings.ndim != 3:
                raise InputError(
                    f"embeddings: expected shape (num_sequences, {self.length}, {self.dim}), "
                    f"got {embeddings.shape}"
                )
            if num_sequences not in (None, len(embeddings)):
                raise InputError(
                    f"num_sequences: expected {len(embeddings)} to go with the embeddings, got "
                    f"{num_sequences}"
                )
            num_sequences = len(embeddings)
        elif num_sequences is None or num_sequences < 1:
            raise InputError(
                "num_sequences: expected at least 1 when no embeddings are given, got "
                f"{num_sequences!r}"
            )
        params = {name: numpyro.sample(name, prior) for name, prior in self.priors().items()}
        with numpyro.plate("sequences", num_sequences, subsample_size=batch_size) as rows:
            if embeddings is not None and batch_size is not None:
                embeddings = embeddings[rows]
            # Checked again, since a handler may have given them.
            return self._checked(numpyro.sample("embeddings", self.process(params), obs=embeddings))

    def interaction(self, params: Params) -> Float[Array, "*batch heads dim dim"]:
        """The interaction matrices A, whatever the parametrisation."""
        return self.attention(params).interaction

    def attention(self, params: Params) -> Attention:
        """The attention map at given parameters; leading axes of these make a batch of maps."""
        value = params["value"] if self.values else None
        if self.parametrisation == "factored":
            return Attention(params["query"], params["key"], value, contraction=self.contraction)
        if self.parametrisation == "full":
            return Attention.from_interaction(
                params["interaction"], value=value, contraction=self.contraction
            )
        row, column = np.triu_indices(self.dim)
        entries = jnp.asarray(params["interaction_entries"])
        interaction = jnp.zeros((*entries.shape[:-1], 1, self.dim, self.dim), entries.dtype)
        interaction = (
            interaction.at[..., 0, row, column].set(entries).at[..., 0, column, row].set(entries)
        )
        return Attention.from_interaction(interaction, contraction=self.contraction, symmetric=True)

    def process(self, params: Params) -> AttentionProcess:
        """The law of one embedding path at given parameters."""
        return AttentionProcess(
            self.attention(params), params["scale"], self.length, branch=self.branch
        )

    def log_likelihood(self, params: Params, embeddings: Any) -> Float[Array, "..."]:
        """Log density of each sequence, in nats; embeddings of shape (..., length, dim)."""
        return _log_likelihood(self, params, self._checked(embeddings))

    def margins(
        self, params: Params, embeddings: Any, kind: str = "sigma_min"
    ) -> Float[Array, "... length"]:
        """Stability margin of `kind` of each position."""
        return stability_margin(self.attention(params), self._checked(embeddings), kind)

    @property
    def has_boundary(self) -> bool:
        """Whether the density is 0 for some parameters: without a cap."""
        return self.contraction is None

    def outside_domain(self, params: Params, embeddings: Any) -> Bool[Array, "... length"]:
        """Whether a position is outside the local domain (`det J_t <= 0`), where the density is 0.

        For a symmetric A the domain is smaller: see `path_log_density`.
        """
        return jnp.isneginf(
            path_log_density(self.attention(params), self._checked(embeddings), params["scale"])
        )

    def quantities(self, params: Params, embeddings: Any) -> dict[str, Array]:
        """Identified quantities.

            interaction        A of each head (heads, dim, dim), in ascending order of norm
            scale              sigma
            log_likelihood     of all sequences together, in nats
            smallest_margin    over all positions

        Source: theory, section 6.
        """
        return {
            "interaction": ordered_heads(self.interaction(params)),
            "scale": jnp.asarray(params["scale"], float),
            "log_likelihood": self.log_likelihood(params, embeddings).sum(),
            "smallest_margin": self.margins(params, embeddings).min(),
        }

    def _checked(self, embeddings: Any) -> Array:
        """`embeddings` as a floating-point array of shape (..., length, dim), or an InputError."""
        embeddings = as_float_array("embeddings", embeddings)
        if (
            embeddings.ndim < 2
            or embeddings.shape[-2:] != (self.length, self.dim)
            or math.prod(embeddings.shape) == 0
        ):
            raise InputError(
                f"embeddings: expected shape (num_sequences >= 1, {self.length}, {self.dim}), "
                f"got {embeddings.shape}"
            )
        return embeddings


@jax.jit(static_argnums=0)
def _log_likelihood(model: LatentAttention, params: Params, embeddings: Array) -> Array:
    return model.process(params).log_prob(embeddings)
