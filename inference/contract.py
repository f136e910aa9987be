"""The protocols of models that `probattn.inference` works with.

    protocol        the models that meet it                       asked for by

    NumPyroModel    anything NumPyro can call with data           fits and samplers
    Model           its likelihood of each sequence is known      diagnose, leave_one_out
    TokenModel      a model whose data are tokens                 predict, learning_curve
    AttentionModel  a model with one attention map and margins    margins_of, singular_values
    PathModel       both; its embeddings are a function           compare, robustness
    ParticleModel   both; its embeddings are latent               compare, particle_log_prob

A model meets a protocol by having its members; no base class is needed. It must be hashable, and
equal to another model with the same fields, as a frozen dataclass is: it is a static argument of
compiled functions, which equal models share.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from jax import Array
from numpyro.primitives import Messenger

from probattn import Attention, InputError

NumPyroModel = Callable[..., Any]
"""`model(data)` conditions on data, `model(num_sequences=n)` generates data.

A model with minibatches also takes `batch_size=` and subsamples its plate."""
Params = dict[str, Any]  # parameters by site name, in constrained coordinates


@runtime_checkable
class Model(Protocol):
    """A NumPyro model whose likelihood of each sequence is known."""

    @property
    def observed(self) -> str:
        """The name of the site that is conditioned on the data."""

    def __call__(self, *args: Any, **settings: Any) -> Any:
        """Run the model: `model(data)` conditions, `model(num_sequences=n)` generates."""

    def log_likelihood(self, params: Params, data: Any, /) -> Array:
        """`log p(sequence | params)` of each sequence in nats, (num_sequences,)."""


@runtime_checkable
class IdentifiedModel(Protocol):
    """A model that computes identified quantities, by which `diagnose` judges chains."""

    def quantities(self, values: Params, data: Any, /) -> dict[str, Array]:
        """Identified quantities by name, computed from the values of all sites."""


@runtime_checkable
class CalibratedModel(IdentifiedModel, Protocol):
    """A model that `simulation_based_calibration` draws parameters and data from."""

    @property
    def observed(self) -> str:
        """The name of the site that data are given for."""

    def __call__(self, *args: Any, **settings: Any) -> Any:
        """Run the model: `model(num_sequences=n)` generates."""


@runtime_checkable
class BoundedModel(Protocol):
    """A model whose density may be 0 outside a domain; a failed fit names the position outside."""

    @property
    def has_boundary(self) -> bool:
        """Whether parameters outside the domain exist: without a cap, and with a barrier."""

    def outside_domain(self, params: Params, data: Any, /) -> Array:
        """Whether det J_t <= 0 at each position, boolean (num_sequences, length)."""


@runtime_checkable
class FactoredModel(Protocol):
    """A model whose joint density may have more terms of a sequence than its likelihood."""

    @property
    def has_factor(self) -> bool:
        """Whether it has.

        Its posterior is then a generalised one: tokens are drawn and scored by another law than is
        fitted."""

    def log_factors(self, params: Params, data: Any, /) -> Array:
        """Log of each sequence's terms beside `log_likelihood`, (num_sequences,)."""


@runtime_checkable
class SymmetricModel(Protocol):
    """A model that names its symmetries, by which the sampler learns its metric."""

    def metric_blocks(self) -> Sequence[Mapping[str, int]]:
        """Parameters that share a precision matrix, as {site: number of leading axes} each.

        The matrix has a row for each entry of the leading axes of all sites of a block. All
        entries of the trailing axes, as many for each site, share it."""


@runtime_checkable
class CondensedModel(Protocol):
    """A model that computes its density faster from another form of the data."""

    def condensed(self, data: Any, /) -> Any:
        """The data in a form that the model takes in their place, with the same density.

        The data themselves where no form is faster."""


@runtime_checkable
class TokenModel(Model, Protocol):
    """A model of token sequences, padded with the end token, id 0."""

    @property
    def vocab_size(self) -> int:
        """Number of tokens, the end token included."""

    @property
    def length(self) -> int:
        """Positions of a sequence, padding included."""

    @property
    def path_has_start(self) -> bool:
        """Whether position 0 of the embedding path holds the start, and position t token t - 1."""

    def priors(self) -> Mapping[str, Any]:
        """The prior distributions of the parameters, by name."""

    def process(self, params: Params) -> Any:
        """The law of sequences at these parameters, a `SequenceProcess`."""


@runtime_checkable
class LabelledModel(TokenModel, Protocol):
    """A token model that says which of its parameters have a row for each token."""

    @property
    def token_sites(self) -> tuple[str, ...]:
        """Names of the parameters whose first axis is the vocabulary."""


@runtime_checkable
class AttentionModel(Model, Protocol):
    """A model with one attention map."""

    def attention(self, params: Params) -> Attention:
        """The attention map that has the Jacobian blocks J_t."""

    def margins(self, params: Params, data: Any, /, kind: str = "sigma_min") -> Array:
        """The margin of each position, (num_sequences, length); NaN after the end.

        `kind` is that of `probattn.stability_margin`: "sigma_min" or "log_det" at least.

        A model with latent embeddings returns the mean of each margin given the tokens."""


@runtime_checkable
class PathModel(TokenModel, AttentionModel, Protocol):
    """A token model whose embeddings are a function of the tokens and the parameters."""

    @property
    def dim(self) -> int:
        """Dimension of the embeddings."""

    @property
    def scale(self) -> Any:
        """Standard deviation of the residuals in the law of the path."""

    def path(self, params: Params, tokens: Any, /) -> Array:
        """The embedding paths, (num_sequences, length, dim)."""

    def root_mean_square(self, params: Params, tokens: Any, /) -> Array:
        """Root mean square of the embeddings at positions that count; the unit of the noise."""

    def noisy_log_likelihood(self, params: Params, tokens: Any, noise: Any, /) -> Array:
        """`log_likelihood` with `root_mean_square * noise` added to the embedding paths.

        Args: noise, (num_sequences, length, dim)."""


@runtime_checkable
class ParticleModel(TokenModel, AttentionModel, Protocol):
    """A token model whose embeddings are latent: its likelihood is estimated by particles."""

    @property
    def num_particles(self) -> int:
        """Particles by which a sequence is scored."""

    @property
    def latents(self) -> tuple[str, ...]:
        """The names of the sites that hold the embeddings of the training sequences."""

    @property
    def law(self) -> Any:
        """The model with defaults for the fields that do not change its law.

        Those fields are the coordinates and the number of particles."""

    def process(self, params: Params, *, num_particles: Any = None, key: Any = None) -> Any:
        """The law of sequences, estimated with `num_particles` particles and this random key."""

    def emitted(self, values: Params, tokens: Any, /) -> Array:
        """Log probability of all tokens given their embeddings, summed over the sequences."""


@runtime_checkable
class GenerativeModel(Protocol):
    """A model that also returns the embeddings and margins of what it generates."""

    def generate(self, params: Params, num_sequences: int, *, key: Array) -> Any:
        """Sequences with their embeddings, a `Generation`."""


@runtime_checkable
class CandidateModel(GenerativeModel, Protocol):
    """A model that decodes by a rule, and knows the margin of every token that might come next."""

    def generate(
        self, params: Params, num_sequences: int, *, key: Array, decoding: Any = ...
    ) -> Any:
        """Sequences with their embeddings, drawn by a `Decoding` rule, a `Generation`."""

    def candidates(self, params: Params, tokens: Any, /) -> Any:
        """Probability and margin of every token at every step, `Candidates`."""


@runtime_checkable
class LayeredModel(TokenModel, Protocol):
    """A transformer with a barrier, which the robustness study trains and disturbs."""

    @property
    def law(self) -> Any:
        """The model without what acts in training alone: noise, dropout, the barrier."""

    @property
    def bilinear(self) -> bool:
        """Whether the Jacobian blocks of the heads are those of `attentions`."""

    def loss(
        self, params: Params, tokens: Any, key: Array | None = None, strength: Any = 1.0
    ) -> Array:
        """What training minimises, the mean of a token in nats, without the prior."""

    def path(self, params: Params, tokens: Any, /) -> Array:
        """The input of the first layer, (num_sequences, length, dim)."""

    def logits_at(self, params: Params, u: Array) -> Array:
        """Next-token logits for the first layer's input u, (num_sequences, length, vocab_size)."""

    def attentions(self, params: Params, u: Array) -> Any:
        """For each layer, its attention map and the input of that map, (..., length, dim)."""

    def auxiliary_attention(self, params: Params) -> Attention:
        """The attention map outside the layers on which a barrier may be placed."""


def handlers_of(model: Any) -> list[Messenger]:
    """The NumPyro handlers around a model, such as `reparam`, from the outside in."""
    return [model, *handlers_of(model.fn)] if isinstance(model, Messenger) and model.fn else []


def name_of(model: Any) -> str:
    """The name of a function, or of the class of a model; of a handler, with what it is around."""
    if handlers_of(model):
        return f"{type(model).__name__}({name_of(model.fn)})"
    return getattr(model, "__name__", type(model).__name__)


def require[Kind](asker: str, model: Any, kind: type[Kind]) -> Kind:
    """Return `model` if it meets the protocol `kind`.

    Args: asker, the function that needs such a model, named in the message.
    Raises: InputError that names the members that `model` lacks."""
    if isinstance(model, kind):
        return model
    members = (name for name in dir(kind) if not name.startswith("_"))
    lacking = ", ".join(name for name in members if not hasattr(model, name))
    raise InputError(
        f"{asker}: expected a {kind.__name__} (see probattn.inference.{kind.__name__}), got "
        f"{name_of(model)}, which lacks {lacking}"
    )


def is_generalised(model: NumPyroModel) -> bool:
    """Whether the model's posterior is a generalised one.

    That is, whether its joint density has more terms of a sequence than the law of tokens."""
    return isinstance(model, FactoredModel) and model.has_factor
