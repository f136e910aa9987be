"""What `probattn.inference` asks of a model, as protocols: a model meets one by having its members.

    NumPyroModel    anything NumPyro can call with data           fits and samplers
    Model           its likelihood of each sequence is known      diagnose, leave_one_out
    TokenModel      a model whose data are tokens                 predict, learning_curve
    AttentionModel  a model with one attention map and margins    margins_of, singular_values
    PathModel       both; its embeddings are a function           compare, robustness
    ParticleModel   both; its embeddings are latent               compare, particle_log_prob

No base class is needed. A model is hashable and equal to another of the same fields, as a frozen
dataclass is: it is a static argument of compiled functions, which are made once for equal models.
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

from jax import Array

from probattn import Attention, InputError

NumPyroModel = Callable[..., Any]
"""`model(data)` conditions on data and `model(num_sequences=n)` generates them. With minibatches
it also takes `batch_size=` and subsamples its plate."""
Params = dict[str, Any]  # parameters by the names of their sites, in constrained coordinates


@runtime_checkable
class Model(Protocol):
    """A NumPyro model whose likelihood of each sequence is known."""

    @property
    def observed(self) -> str:
        """The name of the site that data are given for."""

    def __call__(self, *args: Any, **settings: Any) -> Any: ...

    def log_likelihood(self, params: Params, data: Any, /) -> Array:
        """`log p(sequence | params)` of each sequence, (num_sequences,)."""


@runtime_checkable
class IdentifiedModel(Protocol):
    """A model that names what its symmetries leave alone; `diagnose` judges chains by that."""

    def quantities(self, values: Params, data: Any, /) -> dict[str, Array]:
        """Identified quantities by name, of values of all sites."""


@runtime_checkable
class BoundedModel(Protocol):
    """A model whose density is 0 outside a domain; the message of a failed fit says where."""

    def outside_domain(self, params: Params, data: Any, /) -> Array:
        """Whether det J_t <= 0, (num_sequences, length)."""


@runtime_checkable
class TokenModel(Model, Protocol):
    """A model of token sequences, padded with the end token, id 0."""

    @property
    def vocab_size(self) -> int: ...

    @property
    def length(self) -> int: ...

    @property
    def path_has_start(self) -> bool:
        """Whether position 0 of the embedding path is the start, and position t token t - 1."""

    def priors(self) -> Mapping[str, Any]:
        """The prior of each parameter by name."""

    def process(self, params: Params) -> Any:
        """The law over sequences at these parameters, a `SequenceProcess`."""


@runtime_checkable
class AttentionModel(Model, Protocol):
    """A model that attends by one attention map."""

    def attention(self, params: Params) -> Attention:
        """The attention map whose Jacobian blocks the margins are of."""

    def margins(self, params: Params, data: Any, /) -> Array:
        """sigma_min(J_t) of each position, (num_sequences, length), NaN after the end."""


@runtime_checkable
class PathModel(TokenModel, AttentionModel, Protocol):
    """A token model whose embeddings are a function of the tokens and the parameters."""

    @property
    def dim(self) -> int: ...

    @property
    def scale(self) -> Any:
        """Standard deviation of the noise in the law of the path."""

    def path(self, params: Params, tokens: Any, /) -> Array:
        """The embeddings, (num_sequences, length, dim)."""

    def root_mean_square(self, params: Params, tokens: Any, /) -> Array:
        """Of the embeddings that count, the unit in which noise on them is measured."""

    def noisy_log_likelihood(self, params: Params, tokens: Any, noise: Any, /) -> Array:
        """`log_likelihood` with noise (num_sequences, length, dim) added to the embeddings."""


@runtime_checkable
class ParticleModel(TokenModel, AttentionModel, Protocol):
    """A token model whose embeddings are latent: its likelihood is estimated by particles."""

    @property
    def num_particles(self) -> int: ...

    @property
    def latents(self) -> tuple[str, ...]:
        """The names of the sites that hold the embeddings of the training sequences."""

    @property
    def law(self) -> Any:
        """The model without what does not change its law: coordinates, number of particles."""

    def process(self, params: Params, *, num_particles: Any = None, key: Any = None) -> Any:
        """The law over sequences, with so many particles and random numbers of this key."""

    def emitted(self, values: Params, tokens: Any, /) -> Array:
        """Log probability of the tokens given their embeddings, summed."""


@runtime_checkable
class GenerativeModel(Protocol):
    """A model that also returns the embeddings and margins of what it generates."""

    def generate(self, params: Params, num_sequences: int, *, key: Array) -> Any:
        """Sequences with their embeddings, a `Generation`."""


@runtime_checkable
class LayeredModel(TokenModel, Protocol):
    """A transformer with a barrier, as the robustness study trains and disturbs it."""

    @property
    def law(self) -> Any:
        """The model without what only training sees: noise, dropout, the barrier."""

    def path(self, params: Params, tokens: Any, /) -> Array:
        """What the first layer reads, (num_sequences, length, dim)."""

    def logits_at(self, params: Params, u: Array) -> Array:
        """Next-token logits when the first layer reads u, (num_sequences, length, vocab_size)."""

    def attentions(self, params: Params, u: Array) -> Any:
        """Each layer's attention map with what it reads."""

    def auxiliary_attention(self, params: Params) -> Attention:
        """The attention beside the layers that a barrier may be placed on."""


def require[Kind](asker: str, model: Any, kind: type[Kind]) -> Kind:
    """`model` itself if it is of this kind.

    Raises: InputError that names the members it lacks, and who asks for them."""
    if isinstance(model, kind):
        return model
    members = (name for name in dir(kind) if not name.startswith("_"))
    lacking = ", ".join(name for name in members if not hasattr(model, name))
    who = getattr(model, "__name__", type(model).__name__)
    raise InputError(
        f"{asker}: expected a {kind.__name__} (see probattn.inference.{kind.__name__}), got {who}, "
        f"which lacks {lacking}"
    )
