"""The page, its JSON and its figures against the numbers of the comparison."""

import base64
import dataclasses
import json
import re
from importlib.resources import files
from xml.etree import ElementTree

import jsonschema
import numpy as np
import pytest
from PIL import Image

from probattn.inference import compare, learning_curve
from probattn.inference.report.captions import CAPTIONS, SECTIONS, alternative
from probattn.inference.report.sentences import findings, warnings_of
from probattn.inference.report.style import COLOURS, fit_styles


@pytest.fixture(scope="module")
def comparison(fits, corpus):
    found = compare(
        {"map": fits["map"], "posterior": dataclasses.replace(fits["posterior"], planned=60)},
        corpus.heldout,
        symbols=corpus.symbols,
        learning_curve=learning_curve(
            {"map": [fits["map"]], "posterior": [fits["posterior"]]}, corpus.heldout
        ),
        about={"command": "<b>x</b>"},
    )
    return found


@pytest.fixture(scope="module")
def page(comparison, tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    comparison.save_html(folder / "report.html")
    assert [path.name for path in folder.iterdir()] == ["report.html"]
    return (folder / "report.html").read_text()


def test_json_holds_every_number_and_is_what_the_schema_says(comparison, tmp_path):
    comparison.save_json(tmp_path / "report.json")
    found = json.loads((tmp_path / "report.json").read_text(), parse_constant=pytest.fail)
    schema = json.loads(
        files("probattn.inference.report")
        .joinpath("templates/report.schema.json")
        .read_text("utf-8")
    )
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(found, schema, cls=jsonschema.Draft202012Validator)
    assert set(found) == set(schema["properties"])
    assert [entry["name"] for entry in found["scores"]] == ["map", "posterior", "unigram", "bigram"]
    assert found["scores"][0]["per_token"]["value"] == comparison.scores[0].per_token.value
    assert found["diagnostics"][0]["rhat"] == comparison.diagnostics[0].rhat
    assert np.shape(found["traces"]["posterior"]) == (2, 40)
    assert list(found["traces"]) == ["posterior"]
    assert found["unfinished"] == {"posterior": [40, 60]}
    assert len(found["margins"]["map"]["by_position"][0]) == 5
    loss, error = comparison.curve.losses("map")
    assert found["learning_curve"]["losses"]["map"] == [{"value": loss[0], "error": error[0]}]


def test_the_page_is_self_contained_and_says_what_the_numbers_say(comparison, page):
    assert "<script" not in page
    assert not re.findall(r'(?:src|href|srcset)="(?!data:)', page)
    assert "<b>x</b>" not in page  # escaped
    text = re.sub(r"<[^>]+>", "", page)
    for answer in comparison.answers:
        for value in (*answer.values.values(), *answer.differences.values()):
            assert str(value) in text
    for finding in (*warnings_of(comparison), *findings(comparison)):
        assert finding.text.replace("&", "&amp;").replace("'", "&#39;").replace(">", "&gt;") in text
    order = (
        "is unfinished: 40 of 60 draws",
        "What was fitted",
        "Does it converge?",
        "Is the prior sane?",
        "Do the fits look like the data?",
        "In short",
        "What was found",
        "What depends on what?",
    )
    places = [text.index(words) for words in order]
    assert places == sorted(places)
    assert page.count('class="flag">unfinished') > 3
    (schema,) = re.findall(r"<code>(probattn/\S+\.json)</code>", page)
    *package, folder, name = schema.split("/")
    assert files(".".join(package)).joinpath(folder, name).is_file()


def test_every_figure_has_words_for_those_who_do_not_see_it(comparison, page):
    images = re.findall(r'<img src="data:image/svg\+xml;base64,([^"]+)" alt="([^"]+)"', page)
    dark = re.findall(r'srcset="data:image/svg\+xml;base64,([^"]+)"', page)
    drawn = comparison.figures()
    assert len(images) == len(dark) == len(drawn)
    for data in (*dark, *(data for data, _ in images)):
        ElementTree.fromstring(base64.b64decode(data))
    assert all(len(words) > 30 for _, words in images)
    assert [name for names in SECTIONS.values() for name in names if name in drawn] == list(drawn)
    assert set(CAPTIONS) >= set(drawn)
    assert f"posterior {comparison.reliability['posterior'].calibration_error:.3f}" in alternative(
        comparison, "calibration"
    )


def test_figures_show_the_numbers(comparison):
    drawn = comparison.figures()
    assert list(drawn) == [
        "traces",
        "prior_check",
        "posterior_check",
        "calibration",
        "scores",
        "learning_curve",
        "mode_against_draws",
        "uncertainty",
        "detection",
        "noise",
        "power_scaling",
        "margins",
        "support_tokens",
        "spectrum",
    ]
    labels = {text.get_text() for text in drawn["scores"].axes[0].get_yticklabels()}
    assert labels == {"map", "posterior", "unigram", "bigram"}
    annotated = {text.get_text() for text in drawn["scores"].axes[0].texts}
    assert annotated == {f"{score.loss:.3f}" for score in comparison.scores}
    assert [ax.get_title(loc="left") for ax in drawn["detection"].axes] == [
        "the others are shuffled",
        "the others are reversed",
    ]
    bars = drawn["support_tokens"].axes[0].patches
    np.testing.assert_allclose(
        [bar.get_height() for bar in bars], comparison.examples[0].probability["posterior"]
    )
    traces = [line.get_ydata() for line in drawn["traces"].axes[0].lines]
    np.testing.assert_allclose(traces, comparison.to_json()["traces"]["posterior"])
    for name, figure in drawn.items():
        for ax in figure.axes:
            if name.endswith("_check"):  # histograms and shares, named by their titles
                assert ax.get_title(loc="left"), name
                continue
            if name not in ("support_tokens", "scores", "uncertainty", "power_scaling"):
                assert ax.get_ylabel(), name
            if name != "support_tokens":
                assert ax.get_xlabel(), name


def test_dark_figures_have_light_ink_and_no_paper(comparison):
    light, dark = comparison.figures(), comparison.figures(dark=True)
    assert list(light) == list(dark)
    for name in light:
        one, other = light[name].axes[0], dark[name].axes[0]
        assert one.xaxis.label.get_color() != other.xaxis.label.get_color() == "#e8e8e8"
        assert other.get_facecolor()[3] == 0


def test_figures_are_written_as_png_and_svg(comparison, tmp_path):
    comparison.save_figures(tmp_path / "figures")
    names = set(comparison.figures())
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {
        f"{n}.{kind}" for n in names for kind in ("png", "svg")
    }
    with Image.open(tmp_path / "figures" / "margins.png") as image:
        assert image.size[0] == 7 * 300
        assert round(image.info["dpi"][0]) == 300
    first = (tmp_path / "figures" / "margins.svg").read_bytes()
    comparison.save_figures(tmp_path / "figures")
    assert (
        tmp_path / "figures" / "margins.svg"
    ).read_bytes() == first  # the same numbers, the same file


def test_fits_have_the_colours_of_their_methods_and_are_told_apart():
    methods = {
        "m": "map",
        "p": "posterior",
        "again": "posterior",
        "third": "posterior",
        "bigram": "baseline",
    }
    found = fit_styles(methods)
    assert [found[name]["color"] for name in ("m", "p", "bigram")] == [
        COLOURS[k] for k in ("map", "posterior", "baseline")
    ]
    assert len({style["color"] for style in found.values()}) == 5
    assert len({style["marker"] for style in found.values()}) == 5
