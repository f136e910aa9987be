"""A measured text as one HTML page without scripts, which fetches nothing."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from probattn.inference.data.array_file import with_folder, write_text
from probattn.inference.devices.environment import versions
from probattn.inference.report.html import data_uri, render
from probattn.inference.report.style import DARK, STYLE
from probattn.lens.figures import draw_all
from probattn.lens.layer_correlation import LEAST_TOKENS, layer_correlations
from probattn.lens.summaries import (
    SUPPORT_SHOWN,
    TokenSummary,
    by_layer,
    by_token,
    doubts,
    in_short,
    shown_support,
)
from probattn.lens.support import as_measured
from probattn.visible_text import visible_symbol

TITLE = "What attention layers do at each token"
SHADES = ("m4", "m3", "m2", "m1", "m0")  # of fifths of the rank, the smallest margins first


def save_page(found: Any, path: Any, title: str = TITLE) -> None:
    """Write `page_of` to `path`, whose folder is made; the file is never partial."""
    write_text(with_folder(path), page_of(found, title))


def page_of(found: Any, title: str = TITLE) -> str:
    """The page of a text: its tokens by margin, every block, support tokens, and what it is not.

    Args: found, of `lens`, also from a NetCDF file; title, of the page. Raises: InputError for
    anything else.
    """
    generated_from = as_measured(found).attrs.get("generated_from", found.sizes["position"])
    tokens = [
        vars(one)
        | {"shade": _shade(one), "place": _place(one), "made": one.position >= generated_from}
        | {"seen": visible_symbol(one.token)}
        for one in by_token(found)
    ]
    support = shown_support(found)
    return render(
        "lens.html",
        package="probattn.lens",
        title=title,
        looked_at=looked_at(found),
        reading=found.attrs["reading"],
        note=found.attrs["note"],
        doubts=doubts(found),
        in_short=in_short(found),
        tokens=tokens,
        often=_often(tokens),
        numbered=_are_ids(found),
        unknown=any(one["shade"] == "none" for one in tokens),
        layers=by_layer(found),
        support=[] if support is None else _rows(support),
        support_layers=0 if support is None else support.sizes["layer"],
        support_shown=min(SUPPORT_SHOWN, found.sizes["position"]),
        others=layer_correlations(found),
        least_tokens=LEAST_TOKENS,
        figures=_figures(found),
        generated="generated_from" in found.attrs,
        grown="noise_size" in found,
        disturbed=found.attrs.get("disturbed"),
        missing=bool(np.isnan(found["sigma_min"].values).any()),
        versions=versions(),
    )


def looked_at(found: xr.Dataset) -> str:
    """What was measured, as a sentence."""
    layers, tokens = found.sizes["layer"], found.sizes["position"]
    windows = len(np.unique(found["window"]))
    cut = f", in {windows} windows, each by itself" if windows > 1 else ""
    return (
        f"A pretrained model of the family {found.attrs['family']}, of width "
        f"{found.attrs['width']:,}: {_number(layers, 'layer')} of it at "
        f"{_number(tokens, 'token')} of one text{cut}.{_continuation(found)}"
    )


def _continuation(found: xr.Dataset) -> str:
    first = found.attrs.get("generated_from")
    if first is None:
        return ""
    return f" The model itself wrote the tokens from position {first} on, after those before it."


def _number(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _shade(token: TokenSummary) -> str:
    if np.isnan(token.rank):
        return "none"
    return SHADES[min(int(len(SHADES) * token.rank), len(SHADES) - 1)]


def _place(token: TokenSummary) -> str:
    return f"position {token.position}, rank {token.rank:.2f}, sigma_min {token.sigma_min:.3g}"


def _are_ids(found: xr.Dataset) -> bool:
    """Whether tokens have no text but their ids, as those of a model without a tokenizer."""
    pairs = zip(found["token"].values, found["token_id"].values, strict=True)
    return all(str(text) == str(one) for text, one in pairs)


def _often(tokens: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The tokens that are support tokens of the most layers."""
    often = sorted(tokens, key=lambda one: -one["supports"])[:SUPPORT_SHOWN]
    return [one for one in often if one["supports"] > 1]


def _rows(support: xr.Dataset) -> list[dict[str, Any]]:
    return [
        {
            "layer": int(one["layer"]),
            "tokens": [
                {"token": str(token), "position": int(position), "margin": float(margin)}
                for token, position, margin in zip(
                    *(one[name].values for name in ("token", "position", "margin")), strict=True
                )
            ],
        }
        for one in (support.isel(layer=row) for row in range(support.sizes["layer"]))
    ]


def _figures(found: xr.Dataset) -> Mapping[str, dict[str, str]]:
    light, dark = draw_all(found), draw_all(found, dark=True)
    layers = _number(found.sizes["layer"], "layer")
    alternatives = {
        "blocks": f"Heat map of sigma_min of {layers} at "
        f"{_number(found.sizes['position'], 'token')}; the sentences on top and the tables of "
        "tokens and layers have its numbers.",
        "layers": f"Singular values, log determinant and share of negative determinants of "
        f"{layers}; the table below has the numbers.",
        "others": "Rank correlations of sigma_min with six other things, for each layer; the "
        "table below has their quartiles.",
    }
    if "noise_size" in found:
        most = found["noise_size"].isel(position=-1).max()
        alternatives["growth"] = (
            f"Heat map of relative noise in {layers} from position {found.attrs['disturbed']} on; "
            f"at the last token it is at most {float(most):.2g} times that at the start."
        )
    return {
        name: {
            "light": data_uri(light[name], STYLE),
            "dark": data_uri(dark[name], DARK),
            "alternative": alternative,
        }
        for name, alternative in alternatives.items()
    }
