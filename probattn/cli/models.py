"""The models that the commands know by name, and the protocol that each of them meets."""

from enum import StrEnum
from typing import TYPE_CHECKING, Any

from probattn.errors import InputError

if TYPE_CHECKING:
    from probattn.inference.contract import LayeredModel, Model, ParticleModel, PathModel
    from probattn.models import EmissionModel, LanguageModel, LatentAttention, TransformerLM

    # Never called: with these, the type checker verifies that each model meets its protocol.
    def _language(model: LanguageModel) -> PathModel:
        return model

    def _emission(model: EmissionModel) -> ParticleModel:
        return model

    def _transformer(model: TransformerLM) -> LayeredModel:
        return model

    def _latent(model: LatentAttention) -> Model:
        return model


class ModelName(StrEnum):
    """Models of tokens that `fit` takes by name."""

    language = "language"
    emission = "emission"


class CalibratedModel(StrEnum):
    """Models that `calibrate` takes by name."""

    latent = "latent"
    language = "language"
    emission = "emission"


class Barrier(StrEnum):
    """How the density of a language model's path is part of what is fitted."""

    factor = "factor"
    normalised = "normalised"


class Coordinates(StrEnum):
    """Coordinates that an emission model is sampled in."""

    embedding = "embedding"
    noise = "noise"


def build_model(name: ModelName, vocab_size: int, length: int, **options: Any) -> Any:
    """Build the model of that name; options that are None are left at their defaults.

    Raises: InputError for an option that belongs to the other model."""
    from probattn.models import EmissionModel, LanguageModel

    foreign = {
        ModelName.language: {"coordinates": "emission", "num_particles": "emission"},
        ModelName.emission: {"barrier_weight": "language", "barrier": "language"},
    }
    given = {option: value for option, value in options.items() if value is not None}
    for option, owner in foreign[name].items():
        if option in given:
            raise InputError(
                f"{option}: is an option of the {owner} model, not of --model {name.value}; leave "
                f"--{option.replace('_', '-')} out"
            )
    given |= {name: str(given[name]) for name in ("coordinates", "barrier") if name in given}
    return {ModelName.language: LanguageModel, ModelName.emission: EmissionModel}[name](
        vocab_size, length, **given
    )


def small_model(
    name: CalibratedModel,
    dim: int | None,
    length: int | None,
    barrier_weight: float,
    barrier: str = "factor",
) -> Any:
    """Build a model that is small enough to be fitted hundreds of times.

    Args: dim, length, None for a default that depends on the model.
    Raises: InputError for a barrier weight with another model than the language model."""
    from probattn.models import EmissionModel, LanguageModel, LatentAttention

    if barrier_weight and name is not CalibratedModel.language:
        raise InputError(
            "barrier_weight: is an option of the language model; leave --barrier-weight out"
        )
    if name is CalibratedModel.latent:
        return LatentAttention(dim=dim or 2, length=length or 8, values=False)
    if name is CalibratedModel.language:
        return LanguageModel(
            3,
            length or 4,
            dim or 2,
            barrier_weight=barrier_weight,
            contraction=0.9,
            barrier=barrier,
        )
    return EmissionModel(3, length or 4, dim or 1)
