"""Which fits may be compared: those of one density, training data and vocabulary."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from probattn.errors import InputError
from probattn.inference.contract import (
    AttentionModel,
    NumPyroModel,
    ParticleModel,
    TokenModel,
    require,
)
from probattn.inference.fitting.fit import Fit


def refuse_incomparable(fits: Mapping[str, Fit], mix_densities: bool) -> tuple[str, ...]:
    """How the densities of the fits differ from that of the first, a phrase for each that does.

    Raises: InputError if any differs and `mix_densities` is False, and for fits of different
    training sequences or vocabulary sizes.
    """
    (name_of_first, first), *others = fits.items()
    models = {
        name: require(f"compare: {name}", fit.model, TokenModel) for name, fit in fits.items()
    }
    for name, fit in fits.items():
        require(f"compare: {name}", fit.model, AttentionModel)
    for name, fit in others:
        if not np.array_equal(fit.data, first.data):
            raise InputError(
                f"compare: {name} was fitted to other training sequences than {name_of_first}"
            )
        if models[name].vocab_size != models[name_of_first].vocab_size:
            raise InputError(
                f"compare: {name} and {name_of_first} have vocabularies of different sizes"
            )
    apart = {name: first.density.differences(fit.density) for name, fit in others}
    mixed = tuple(
        f"{name_of_first} and {name} differ in {', '.join(what)}"
        for name, what in apart.items()
        if what
    )
    if mixed and not mix_densities:
        raise InputError(
            f"compare: fits of different densities ({'; '.join(mixed)}): a MAP and a posterior "
            "are comparable only under the same one. To compare them all the same, as laws of the "
            "same tokens, set `mix_densities=True`"
        )
    return mixed


def symbols_of(symbols: Sequence[str] | None, vocab_size: int) -> list[str]:
    """A symbol for each token, by default its id.

    Raises: InputError for another number of them."""
    found = [str(token) for token in range(vocab_size)] if symbols is None else list(symbols)
    if len(found) != vocab_size:
        raise InputError(
            f"symbols: expected {vocab_size}, one for each token of the model, got {len(found)}"
        )
    return found


def law_of(model: NumPyroModel) -> Any:
    """The law of a model; its coordinates and number of particles are not part of it."""
    return model.law if isinstance(model, ParticleModel) else model
