"""Parameters and data that a model draws itself."""

from typing import Any

import numpy as np
from jaxtyping import Array
from numpyro.handlers import seed, substitute, trace
from numpyro.infer import Predictive

from probattn.inference.contract import Model


def new_data(model: Model, params: Any, key: Array, data: Any) -> Any:
    """As many sequences as `data` has, from the law of data at these parameters."""
    given = substitute(seed(model, key), data=params)
    return trace(given).get_trace(num_sequences=len(data))[model.observed]["value"]


def draws_of_prior(
    model: Model, names: Any, key: Array, num_draws: int, num_sequences: int
) -> dict[str, np.ndarray]:
    """The sites of these names, parameters or data, at draws from the prior, (num_draws, ...)."""
    drawn = Predictive(model, num_samples=num_draws, return_sites=list(names))(
        key, num_sequences=num_sequences
    )
    return {name: np.asarray(drawn[name]) for name in names}
