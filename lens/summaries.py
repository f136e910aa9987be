"""Numbers of each layer and of each token of a measured text, as page and command show them.

Blocks that are NaN are left out of all of them; `doubts` says how many there are.
"""

from dataclasses import dataclass

import numpy as np
import xarray as xr
from jaxtyping import Float
from scipy.stats import rankdata

from probattn.lens.support import support_tokens

BAND_LEVELS = (0.1, 0.5, 0.9)  # quantiles over the positions of a layer
SUPPORT_SHOWN = 5  # support tokens of a layer, where the text has as many

Three = tuple[float, float, float]


@dataclass(frozen=True)
class LayerSummary:
    """One layer over the positions of a text.

    Args:
        layer: its number, from 0.
        sigma_min, sigma_max, log_det: quantiles at BAND_LEVELS, NaN where no block has a number.
        smallest: the smallest sigma_min, and `position` and `token` where it is.
        beyond: share of blocks with a negative determinant.
    """

    layer: int
    sigma_min: Three
    sigma_max: Three
    log_det: Three
    smallest: float
    position: int | None
    token: str
    beyond: float


@dataclass(frozen=True)
class TokenSummary:
    """One token over the layers.

    Args:
        rank: median over layers of the share of the layer's tokens with a smaller margin.
        sigma_min, sigma_max: medians over layers.
        beyond: share of layers in which its determinant is negative.
        loss, entropy: of the law of the token that follows, in nats.
        first: attention to the first token, mean over heads and layers.
        supports: in how many layers it is a support token.
    """

    position: int
    token: str
    rank: float
    sigma_min: float
    sigma_max: float
    beyond: float
    loss: float
    entropy: float
    first: float
    supports: int


def by_layer(found: xr.Dataset) -> list[LayerSummary]:
    """A summary of each layer of a dataset of `lens`."""
    return [_of_layer(found.isel(layer=row)) for row in range(found.sizes["layer"])]


def _of_layer(found: xr.Dataset) -> LayerSummary:
    margin = found["sigma_min"].values
    known = ~np.isnan(margin)
    at = int(np.nanargmin(margin)) if known.any() else None
    return LayerSummary(
        int(found["layer"]),
        _quantiles(margin),
        _quantiles(found["sigma_max"].values),
        _quantiles(found["log_det"].values),
        float("nan") if at is None else float(margin[at]),
        None if at is None else int(found["position"][at]),
        "" if at is None else str(found["token"].values[at]),
        _share(found["sign"].values < 0, known),
    )


def by_token(found: xr.Dataset) -> list[TokenSummary]:
    """A summary of each token of a dataset of `lens`."""
    found = found.transpose("layer", "head", "position", ...)
    known = ~np.isnan(found["sigma_min"].values)
    beyond, ranks = found["sign"].values < 0, margin_ranks(found)
    first = found["first"].mean("head").values
    supports = _supports(found)
    return [
        TokenSummary(
            int(found["position"][at]),
            str(found["token"].values[at]),
            _median(ranks[:, at]),
            _median(found["sigma_min"].values[:, at]),
            _median(found["sigma_max"].values[:, at]),
            _share(beyond[:, at], known[:, at]),
            float(found["loss"][at]),
            float(found["entropy"][at]),
            _mean(first[:, at]),
            int(supports[at]),
        )
        for at in range(found.sizes["position"])
    ]


def margin_ranks(found: xr.Dataset) -> Float[np.ndarray, "layer position"]:
    """Share of the tokens of a layer with a smaller sigma_min, itself counted half."""
    margin = found["sigma_min"].transpose("layer", "position").values
    number = (~np.isnan(margin)).sum(1, keepdims=True)
    return (rankdata(margin, axis=1, nan_policy="omit") - 0.5) / np.maximum(number, 1)


def shown_support(found: xr.Dataset) -> xr.Dataset | None:
    """The support tokens of the layers without a NaN; None if there is no such layer."""
    margin = found["sigma_min"].transpose("layer", "position").values
    whole = found.isel(layer=np.flatnonzero(~np.isnan(margin).any(1)))
    if not whole.sizes["layer"]:
        return None
    return support_tokens(whole, min(SUPPORT_SHOWN, found.sizes["position"]))


def _supports(found: xr.Dataset) -> np.ndarray:
    """In how many layers each position is among the support tokens that are shown, (position,)."""
    support = shown_support(found)
    if support is None:
        return np.zeros(found.sizes["position"], int)
    at = support["position"].values[..., None] == found["position"].values
    return at.sum((0, 1))


def doubts(found: xr.Dataset) -> list[str]:
    """What a reader must know before the numbers: blocks that are NaN or singular, lost losses."""
    margin, said = found["sigma_min"].values, []
    if number := int(np.isnan(margin).sum()):
        said.append(
            f"{number:,} of {margin.size:,} blocks are NaN, since the forward pass overflows "
            "there. They are left out of every figure."
        )
    if number := int((found["sign"].values == 0).sum()):
        said.append(f"{number:,} of {margin.size:,} blocks are singular: det J = 0.")
    if number := int(np.isnan(found["loss"].values[:-1]).sum()):
        said.append(f"The loss of the next token is NaN at {number:,} positions.")
    return said


def in_short(found: xr.Dataset) -> list[str]:
    """The two or three numbers of a text that one would ask for first, as sentences."""
    layers = by_layer(found)
    known = ~np.isnan(found["sigma_min"].values)
    if not known.any():
        return []
    least = min((one for one in layers if one.position is not None), key=lambda one: one.smallest)
    most = max(layers, key=lambda one: -1 if np.isnan(one.beyond) else one.beyond)
    share = _share(found["sign"].values < 0, known)
    said = [
        f"The smallest sigma_min is {least.smallest:.3g}, in layer {least.layer} at position "
        f"{least.position}, “{least.token.strip()}”; the median of all blocks is "
        f"{_median(found['sigma_min'].values):.3g}, and of sigma_max "
        f"{_median(found['sigma_max'].values):.3g}.",
        f"{100 * share:.1f}\N{NO-BREAK SPACE}% of the blocks have a negative determinant"
        + (
            f", most in layer {most.layer} ({100 * most.beyond:.0f}\N{NO-BREAK SPACE}%)."
            if share
            else "."
        ),
    ]
    if np.isfinite(found["loss"].values).any():
        loss = float(np.nanmean(found["loss"].values))
        said.append(f"The mean loss of the model on the text is {loss:.2f} nats per token.")
    return said


def _quantiles(values: np.ndarray) -> Three:
    """Quantiles at BAND_LEVELS of what is finite: log |det J| of a singular block is not."""
    finite = values[np.isfinite(values)]
    low, middle, high = np.quantile(finite, BAND_LEVELS) if finite.size else (np.nan,) * 3
    return float(low), float(middle), float(high)


def _median(values: np.ndarray) -> float:
    return _quantiles(values)[1]


def _mean(values: np.ndarray) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if finite.size else float("nan")


def _share(which: np.ndarray, known: np.ndarray) -> float:
    return float(which[known].mean()) if known.any() else float("nan")
