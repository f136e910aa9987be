"""How the margins of one text go with simpler things that are known of its tokens, layer by layer.

Layers of one text share its tokens, so that their spread is no error; `rank_correlation` has
intervals over texts.
"""

from dataclasses import dataclass

import numpy as np
import xarray as xr

from probattn.lens.rank_correlation import partial_spearman

LEAST_TOKENS = 3  # below, a rank correlation says nothing


@dataclass(frozen=True)
class LayerCorrelation:
    """Spearman's correlation of sigma_min with something else, within each layer.

    Args: name, of the other; values, by layer (layer,), NaN where one of the two is constant or
        fewer than LEAST_TOKENS positions have both.
    """

    name: str
    values: np.ndarray

    @property
    def known(self) -> np.ndarray:
        """The values of the layers that have one."""
        return self.values[~np.isnan(self.values)]

    @property
    def comparable(self) -> bool:
        """Whether there is a value in any layer."""
        return self.known.size > 0

    @property
    def quartiles(self) -> tuple[float, float, float]:
        """Lower quartile, median and upper quartile over layers; NaN if no layer has a value."""
        low, middle, high = (
            np.quantile(self.known, (0.25, 0.5, 0.75)) if self.known.size else (np.nan,) * 3
        )
        return float(low), float(middle), float(high)


def layer_correlations(found: xr.Dataset) -> list[LayerCorrelation]:
    """Rank correlations of sigma_min with what one would look at first.

    Loss and entropy are of the law of the next token; attention is the mean over heads; position is
    counted from the beginning of the window; length is that of the stream that enters the layer.
    """
    margin = found["sigma_min"].transpose("layer", "position").values
    window = found["window"].values
    place = np.arange(len(window)) - np.searchsorted(window, window)
    others = {
        "loss of the next token": found["loss"].values,
        "entropy of the next token": found["entropy"].values,
        "attention to the first token": _of_heads(found["first"]),
        "attention to itself": _of_heads(found["own"]),
        "position": place,
        "length of the stream": found["norm"].transpose("layer", "position").values,
    }
    return [
        LayerCorrelation(name, _by_layer(margin, np.broadcast_to(other, margin.shape)))
        for name, other in others.items()
    ]


def _of_heads(weights: xr.DataArray) -> np.ndarray:
    return weights.mean("head").transpose("layer", "position").values


def _by_layer(margin: np.ndarray, other: np.ndarray) -> np.ndarray:
    return np.array([_spearman(*rows) for rows in zip(margin, other, strict=True)])


def _spearman(one: np.ndarray, other: np.ndarray) -> float:
    """Correlation of the ranks of two rows where both are numbers; equal values share a rank."""
    both = ~(np.isnan(one) | np.isnan(other))
    if both.sum() < LEAST_TOKENS:
        return float("nan")
    return partial_spearman(one[both], other[both])
