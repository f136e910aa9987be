"""Do new data of a model look like data that were seen? From the prior, and from a fit."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from probattn.checks import as_integer, as_key
from probattn.errors import FitError
from probattn.inference.contract import TokenModel, require
from probattn.inference.evaluation.many_comparisons import holm
from probattn.inference.evaluation.sequence_statistics import (
    figures_at,
    figures_of_tokens,
    shares_of_tokens,
)
from probattn.inference.fitting.fit import Fit, over_draws
from probattn.inference.fitting.simulated_data import new_data
from probattn.sequence.tokens import check_tokens

CHECK_DRAWS = 600  # so that a p-value can be small enough to survive the correction


@dataclass(frozen=True, eq=False)
class PredictiveCheck:
    """Statistics of data that were seen, and of as many sequences from each of many draws.

    Args:
        source: "prior", or the method of the fit whose draws the new data are from.
        sequences: number of sequences of each data set.
        figures: by name, numbers (2, draws): of the data that were seen and of new data. Figures of
            the tokens alone are the same for all draws in the first row.
        shares: by name, shares of kinds of the data that were seen, (kinds,).
        new_shares: by name, those of new data, (draws, kinds).
        examples: sequences of new data, (draws, length), one of each draw.

    Source: Gelman, Meng and Stern (1996) for figures that depend on parameters.
    """

    source: str
    sequences: int
    figures: Mapping[str, Float[np.ndarray, "2 draws"]]
    shares: Mapping[str, Float[np.ndarray, " kinds"]]
    new_shares: Mapping[str, Float[np.ndarray, "draws kinds"]]
    examples: np.ndarray

    @property
    def number(self) -> int:
        """Number of draws, each with a data set of its own."""
        return len(self.examples)

    def distances(self) -> dict[str, Float[np.ndarray, " data_sets"]]:
        """How far the shares of each data set are from what is usual, the seen data first.

        It is the total variation between them and the mean shares of all *other* data sets, so that
        all data sets are treated alike."""
        found = {}
        for name, seen in self.shares.items():
            each = np.concatenate([seen[None], self.new_shares[name]])
            others = (each.sum(0) - each) / (len(each) - 1)
            found[name] = np.abs(each - others).sum(-1) / 2
        return found

    def p_values(self) -> dict[str, float]:
        """By name, the probability of new data as far from what is usual as those that were seen.

        Of figures two-sided, of shares by their distance. The smallest that n draws can give is
        2 / (n + 1), of shares 1 / (n + 1).
        """
        found = {}
        for name, (seen, new) in self.figures.items():
            tails = (new >= seen).sum(), (new <= seen).sum()
            found[name] = min(1.0, 2 * (1 + min(tails)) / (1 + len(new)))
        for name, distance in self.distances().items():
            found[name] = (1 + (distance[1:] >= distance[0]).sum()) / len(distance)
        return {name: float(p) for name, p in found.items()}

    def adjusted(self) -> dict[str, float]:
        """The p-values by Holm's correction for their number."""
        p = self.p_values()
        return dict(zip(p, holm(list(p.values())).tolist(), strict=True))


def prior_check(
    model: Any, tokens: Any, *, key: Array, num_draws: int = CHECK_DRAWS
) -> PredictiveCheck:
    """Compare data of the prior with data that were seen: what does it hold for possible.

    A p-value near 0 says that the prior hardly expects such data. That need not be a fault of it,
    as long as it does not rule them out.

    Args:
        model: a token model.
        tokens: data that were seen, (num_sequences, length).
        key: random key.
        num_draws: data sets of the prior, each of as many sequences.

    Raises: InputError for another model, tokens that it refuses, what is no key or a number below
    2; FitError for a figure that is not finite."""
    model = require("prior_check", model, TokenModel)
    as_integer("num_draws", num_draws, 2)
    for_params, for_data = jax.random.split(as_key(key))
    keys = jax.random.split(for_params, len(priors := model.priors()))
    params = {
        name: np.asarray(prior.sample(key, (num_draws,)))
        for (name, prior), key in zip(priors.items(), keys, strict=True)
    }
    return _check("prior", model, params, tokens, for_data)


def posterior_check(
    fit: Fit, tokens: Any, *, key: Array, num_draws: int = CHECK_DRAWS
) -> PredictiveCheck:
    """Compare new data of a fit with data that were seen.

    On held-out data p-values of a good model are uniform, but for draws that depend on one another.
    On the data of the fit itself they come out too large.

    Args:
        fit: of a token model, by any method; a MAP has one draw, which gives all new data.
        tokens: data that were seen, (num_sequences, length), best held out.
        key: random key.
        num_draws: draws at most, evenly spaced, each of which gives one new data set.

    Raises: InputError for another model, tokens that it refuses, what is no key or a number below
    2; FitError for a figure that is not finite."""
    model = require("posterior_check", fit.model, TokenModel)
    as_integer("num_draws", num_draws, 2)
    draws = fit.flat_draws(num_draws)
    if len(next(iter(draws.values()))) == 1:
        draws = {name: np.repeat(value, num_draws, axis=0) for name, value in draws.items()}
    return _check(fit.method, model, draws, tokens, as_key(key))


def _check(
    source: str, model: TokenModel, draws: Mapping[str, np.ndarray], tokens: Any, key: Array
) -> PredictiveCheck:
    seen = jnp.asarray(check_tokens(tokens, model.vocab_size, model.length, rank=2))
    figures, shares, examples = over_draws(_at_draw, model, draws, seen, key=key)
    figures = {name: figures[name].T for name in figures_of_tokens(seen) | figures}
    for name, value in figures.items():
        if not np.isfinite(value).all():
            raise FitError(
                f"{name}: not finite at {(~np.isfinite(value)).any(0).sum()} of {value.shape[1]} "
                "draws of the parameters"
            )
    own = shares_of_tokens(seen, model.vocab_size)
    return PredictiveCheck(
        source=source,
        sequences=len(seen),
        figures=figures,
        shares={name: np.asarray(value) for name, value in own.items()},
        new_shares=shares,
        examples=examples,
    )


def _at_draw(model: TokenModel, params: Any, key: Array, seen: Array) -> Any:
    """Figures (2,) of the seen and of new data, shares of the new ones, and one of them."""
    new = new_data(model, params, key, seen)
    both = [figures_of_tokens(data) | figures_at(model, params, data) for data in (seen, new)]
    figures = {name: jnp.stack([value, both[1][name]]) for name, value in both[0].items()}
    return figures, shares_of_tokens(new, model.vocab_size), new[0]
