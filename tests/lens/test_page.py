"""The page of a measured text: every token in it, numbers that are those of the dataset, and what
is missing said."""

import html
import re

import numpy as np
import pytest
import xarray as xr
from lens_pages import STRANGE, measured, with_tokens
from scipy.stats import spearmanr

from probattn.lens import page_of, save_page, support_tokens
from probattn.lens.layer_correlation import layer_correlations
from probattn.lens.summaries import by_layer, by_token, doubts, in_short


@pytest.fixture(scope="module")
def found():
    return with_tokens(measured(), STRANGE)


@pytest.fixture(scope="module")
def page(found):
    return page_of(found, "A <i>title</i>")


def test_every_token_is_there_and_obeyed_by_nobody(page):
    spans = re.findall(r'<span class="token m\d" title="[^"]*">(.*?)</span>', page)
    assert [html.unescape(span) for span in spans] == STRANGE
    cells = re.findall(r'<td class="token-text"><code><bdi>(.*?)</bdi></code></td><td', page)
    seen = [token if token.strip() else "␣" for token in STRANGE]
    assert [html.unescape(cell) for cell in cells] == seen
    assert "<b>" not in page
    assert "<h1>A &lt;i&gt;title&lt;/i&gt;</h1>" in page
    assert "</span><br>" in page  # a new line begins where the text has one


def test_it_has_no_script_and_fetches_nothing(page):
    assert "<script" not in page
    assert "javascript:" not in page
    sources = re.findall(r'(?:src|srcset|href)="([^"]{5})', page)
    assert len(sources) == 7
    assert {*sources} == {"data:"}
    assert not re.search(r"https?://|url\(|@import", page)


def test_control_characters_are_shown(found):
    page = page_of(with_tokens(found, ["\x1b[0m", "\u202eabc", *STRANGE[2:]]))
    assert "\\x1b[0m" in page
    assert "\\u202eabc" in page


def test_a_dataset_from_a_file_gives_the_same_page(found, page, tmp_path):
    found.to_netcdf(tmp_path / "found.nc", engine="h5netcdf")
    with xr.open_dataset(tmp_path / "found.nc", engine="h5netcdf") as read:
        assert page_of(read, "A <i>title</i>") == page
    save_page(found, tmp_path / "page.html", "A <i>title</i>")
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == page


def test_the_order_of_dimensions_is_free(found, page):
    assert page_of(found.transpose("position", "head", "layer"), "A <i>title</i>") == page


def test_numbers_of_layers_and_tokens_from_their_definitions(found):
    margin, sign = found["sigma_min"].values, found["sign"].values
    layers, tokens = by_layer(found), by_token(found)
    support = support_tokens(found, 5)["position"].values
    for row, one in enumerate(layers):
        np.testing.assert_allclose(one.sigma_min[1], np.median(margin[row]))
        np.testing.assert_allclose(one.sigma_max[2], np.quantile(found["sigma_max"][row], 0.9))
        assert one.smallest == margin[row].min() == margin[row, one.position]
        assert one.beyond == (sign[row] < 0).mean()
    for at, one in enumerate(tokens):
        smaller = (margin < margin[:, [at]]).sum(1)
        np.testing.assert_allclose(one.rank, np.median((smaller + 0.5) / margin.shape[1]))
        np.testing.assert_allclose(one.first, found["first"].values[..., at].mean(), rtol=1e-6)
        assert one.supports == (support == at).any(1).sum()
    assert sum(one.supports for one in tokens) == 5 * len(layers)


def test_layer_correlations_are_those_of_scipy(found):
    by_name = {one.name: one for one in layer_correlations(found)}
    for row in range(found.sizes["layer"]):
        margin = found["sigma_min"].values[row]
        for name, other in (
            ("loss of the next token", found["loss"].values),
            ("attention to itself", found["own"].values[row].mean(0)),
            ("position", np.arange(len(margin))),
            ("length of the stream", found["norm"].values[row]),
        ):
            known = ~np.isnan(other)
            expected = spearmanr(margin[known], other[known]).statistic
            np.testing.assert_allclose(by_name[name].values[row], expected, atol=1e-6)


def test_position_is_counted_from_the_beginning_of_a_window():
    found = measured(12, window=4)
    place = np.tile(np.arange(4), 3)
    expected = spearmanr(found["sigma_min"].values[0], place).statistic
    position = next(one for one in layer_correlations(found) if one.name == "position")
    np.testing.assert_allclose(position.values[0], expected)
    assert "in 3 windows, each by itself" in page_of(found)


def test_what_is_constant_has_no_correlation(found):
    same = found.assign(entropy=found["entropy"] * 0)
    one = next(one for one in layer_correlations(same) if one.name.startswith("entropy"))
    assert np.isnan(one.values).all()
    assert np.isnan(one.quartiles).all()
    page_of(same)


@pytest.mark.parametrize("rows", [[0], [0, 1]])
def test_nan_is_said_and_left_out(found, rows):
    damaged = found.copy(deep=True)
    for name in ("sigma_min", "sigma_max", "log_det", "sign"):
        damaged[name][rows, 3] = np.nan
    number = len(rows)
    assert doubts(damaged)[0].startswith(f"{number} of 24 blocks are NaN")
    page = page_of(damaged)
    assert f"{number} of 24 blocks are NaN" in page
    assert "Grey: NaN." in page
    assert ("NaN in every layer</span>" in page) == (number == 2)
    assert ("Every layer has a NaN" in page) == (number == 2)
    kept = np.delete(found["sigma_min"].values[0], 3)
    np.testing.assert_allclose(by_layer(damaged)[0].sigma_min[1], np.median(kept))


def test_a_page_of_nothing_but_nan(found):
    nothing = found.copy(deep=True)
    for name in ("sigma_min", "sigma_max", "log_det", "sign", "loss", "entropy", "first", "own"):
        nothing[name][:] = np.nan
    assert "24 of 24 blocks are NaN" in page_of(nothing)
    assert in_short(nothing) == []


def test_singular_blocks_are_said(found):
    singular = found.copy(deep=True)
    singular["sigma_min"][0, 2], singular["sign"][0, 2] = 0.0, 0.0
    singular["log_det"][0, 2] = -np.inf
    assert doubts(singular) == ["1 of 24 blocks are singular: det J = 0."]
    page_of(singular)


def test_one_layer_and_one_token():
    assert "1 layer of it at 1 token of one text" in page_of(measured(1, layers=[1]))


def test_ids_stand_apart():
    assert ">3</span> <span" in page_of(measured(4))


def test_many_tokens_have_no_names_in_the_heat_map_and_marks_are_one_picture(found):
    many = found.isel(position=np.arange(1600) % 12).assign_coords(position=np.arange(1600))
    many["sign"][:] = -1.0
    assert len(page_of(many)) < 5_000_000


def test_one_token_has_no_correlations_and_a_space_is_seen(found, tmp_path):
    page = page_of(with_tokens(found.isel(position=slice(0, 1)), [" "]))
    assert "Too few tokens to rank: a correlation needs 3 or more." in page
    assert "<code><bdi>␣</bdi></code>" in page
    save_page(found, tmp_path / "new" / "page.html")
    assert (tmp_path / "new" / "page.html").is_file()
