"""What decides what: how far the posterior moves with the power of its prior, path and likelihood.

    p_alpha(theta | x)  ~  prior(theta)^alpha  path(theta, x)  likelihood(theta, x)

and likewise with the power on the path or the likelihood. At alpha = 1 it is the posterior, whose
draws are weighed for alphas nearby.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from arviz_base import dict_to_dataset
from arviz_stats import psense

from probattn.errors import InputError
from probattn.inference.contract import (
    AttentionModel,
    TokenModel,
    is_generalised,
    require,
)
from probattn.inference.data.ngram import token_counts
from probattn.inference.evaluation.cross_validation import LEAST_FOR_LOO
from probattn.inference.evaluation.geometry import singular_values
from probattn.inference.evaluation.sequence_statistics import SOME, figures_at
from probattn.inference.fitting.datatree import log_prior_of_draws
from probattn.inference.fitting.fit import Fit, over_draws

MOVED = 0.05  # sensitivity above which a part of the density is said to decide a quantity
AWAY = 8  # with four chains, every other shift is by whole chains


@dataclass(frozen=True, eq=False)
class PowerScaling:
    """How sensitive quantities of a posterior are to the power of each part of its density.

    Args:
        method: of the fit.
        sensitivity: by quantity and part ("prior", "path", "likelihood"; "path" only where it is a
            factor beside the likelihood), the distance between the quantity's laws at two powers
            near 1, over the difference of the powers' logs to base 2.
        chance: by part, the sensitivity that 95 of 100 quantities stay below where nothing depends
            on anything: it is that to the part's values at *other* draws, far away in the chains.
            It grows with the number of parameters, and falls with that of the draws.

    Source: Kallioinen et al., Statistics and Computing 34, 57 (2024), as implemented in ArviZ.
    """

    method: str
    sensitivity: Mapping[str, Mapping[str, float]]
    chance: Mapping[str, float]

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts of the density."""
        return tuple(self.chance)

    def limit(self, part: str) -> float:
        """The sensitivity above which a quantity surely moves with this part."""
        return max(MOVED, self.chance[part])

    def decided_by(self, part: str) -> list[str]:
        """The quantities that surely move with this part, the most sensitive first."""
        each = {name: values[part] for name, values in self.sensitivity.items()}
        found = {name: value for name, value in each.items() if value > self.limit(part)}
        return sorted(found, key=lambda name: -found[name])


def power_scaling(fit: Fit, tokens: Any) -> PowerScaling:
    """Sensitivities of a posterior's predictions, margins and sizes of parameters.

    The quantities: of the first 100 held-out sequences the loss, the entropy of the next token,
    margins and determinants; the largest singular value of an interaction; and the root mean square
    of each parameter.

    Args:
        fit: a posterior of a token model whose likelihood is no estimate, with at least 25 draws.
        tokens: held-out tokens (num_sequences, length).

    Raises: InputError for another fit. Source: as `PowerScaling`."""
    if not fit.sampled or fit.estimated or np.prod(fit.shape) < LEAST_FOR_LOO:
        raise InputError(
            f"power_scaling: expected at least {LEAST_FOR_LOO} draws of Markov chains, of a model "
            f"whose likelihood is no estimate, got {fit!r}"
        )
    parts = {
        "prior": sum(log_prior_of_draws(fit).values()),
        "path": fit.draw_log_factors(fit.data).sum(-1),
        "likelihood": fit.draw_log_prob(fit.data).sum(-1),
    }
    if not is_generalised(fit.model):
        del parts["path"]
    quantities = _quantities(fit, tokens)
    found = {part: _sensitivities(quantities, value) for part, value in parts.items()}
    chance = {part: _chance_of(quantities, value) for part, value in parts.items()}
    each = {name: {part: found[part][name] for part in parts} for name in quantities}
    return PowerScaling(fit.method, each, chance)


def _sensitivities(quantities: Mapping[str, np.ndarray], part: Any) -> dict[str, float]:
    """Of each quantity to the power of a part, whose log is `part`, (chains, draws)."""
    groups = {"posterior": quantities, "log_prior": {"part": np.asarray(part)}}
    # ArviZ's "prior" is whatever is in the group log_prior.
    tree = xr.DataTree.from_dict({name: dict_to_dataset(one) for name, one in groups.items()})
    return {name: float(value) for name, value in psense(tree).items()}


def _chance_of(quantities: Mapping[str, np.ndarray], part: Any) -> float:
    """The 95 % quantile of sensitivities to the values of a part at draws that are far away."""
    found = [
        sensitivity
        for other in _of_others(part)
        for sensitivity in _sensitivities(quantities, other).values()
    ]
    return float(np.quantile(found, 0.95))


def _of_others(part: Any) -> Iterator[np.ndarray]:
    """The same values at draws that are an eighth of all draws away, two eighths, and so on."""
    flat = np.ravel(part)
    for share in range(1, AWAY):
        yield np.roll(flat, share * flat.size // AWAY).reshape(np.shape(part))


def _quantities(fit: Fit, tokens: Any) -> dict[str, np.ndarray]:
    """Numbers that the model's symmetries do not change, at each draw, (chains, draws)."""
    model = require("power_scaling", fit.model, TokenModel)
    tokens = np.asarray(tokens)[:SOME]
    draws = fit.flat_draws()
    found = {"held-out loss": -fit.draw_log_prob(tokens).sum(-1) / token_counts(tokens).sum()}
    found |= over_draws(figures_at, model, draws, tokens)
    found.pop("positions outside the domain", None)  # mostly none: hardly a law that could move
    if isinstance(model, AttentionModel):
        found["sharpness of attention"] = singular_values(fit, most_draws=None).max((1, 2))
    for name, value in draws.items():
        found[f"size of {name}"] = np.sqrt((value**2).mean(tuple(range(1, value.ndim))))
    return {name: np.asarray(value, float).reshape(fit.shape) for name, value in found.items()}
