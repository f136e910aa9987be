"""The page in a real browser: headless Chromium, on a phone and on a desk, light and dark, on
screen and on paper.

Without Chromium these tests skip; with PROBATTN_BROWSER=required, as in `.ci/run`, they fail.
"""

import pytest
from axe_playwright_python.sync_playwright import Axe

from probattn.inference import compare, learning_curve

WIDTHS = {"phone": 375, "desk": 1280}


@pytest.fixture(scope="module")
def page_file(fits, corpus, tmp_path_factory):
    unfinished = fits["posterior"].thinned(20)
    found = compare(
        {"map": fits["map"], "a posterior with a rather long name": unfinished},
        corpus.heldout,
        symbols=corpus.symbols,
        learning_curve=learning_curve({"map": [fits["map"]]}, corpus.heldout),
        about={"command": "probattn compare " + "runs/with/a/long/path/" * 8},
    )
    path = tmp_path_factory.mktemp("page") / "report.html"
    found.save_html(path)
    return path


def opened(browser, path, width, scheme):
    """The page and what the console said while it loaded."""
    page = browser.new_context(
        viewport={"width": width, "height": 800}, color_scheme=scheme
    ).new_page()
    said = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("requestfailed", lambda request: said.append(request.url[:80]))
    page.goto(path.as_uri())
    return page, said


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("where", WIDTHS)
def test_the_page_reads_well(browser, page_file, where, scheme):
    page, said = opened(browser, page_file, WIDTHS[where], scheme)
    assert said == []
    widest, window = page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
    assert widest <= window == WIDTHS[where]  # no horizontal scroll
    images = page.evaluate(
        "[...document.images].map(i => [i.naturalWidth, i.alt.length, i.currentSrc.slice(-80)])"
    )
    assert len(images) == 13
    assert all(width > 0 and words > 30 for width, words, _ in images)
    found = Axe().run(
        page
    )  # its rules hold those of WCAG A and AA, contrast and alternative texts among them
    assert found.violations_count == 0, found.generate_report()
    page.context.close()


def test_a_fault_in_contrast_or_width_would_be_found(browser, page_file):
    page, _ = opened(browser, page_file, WIDTHS["phone"], "light")
    page.add_style_tag(
        content=".soft { color: #aaa !important } table { width: 900px } "
        ".wide { overflow: visible }"
    )
    page.evaluate("document.querySelector('img').removeAttribute('alt')")
    broken = {violation["id"] for violation in Axe().run(page).response["violations"]}
    assert {"color-contrast", "image-alt"} <= broken
    assert page.evaluate("document.documentElement.scrollWidth") > WIDTHS["phone"]
    page.context.close()


def test_dark_readers_see_dark_figures_and_paper_is_light(browser, page_file):
    source = "document.querySelector('#margins img').currentSrc"
    light, _ = opened(browser, page_file, WIDTHS["desk"], "light")
    dark, _ = opened(browser, page_file, WIDTHS["desk"], "dark")
    on_light, on_dark = light.evaluate(source), dark.evaluate(source)
    assert on_light != on_dark
    dark.emulate_media(media="print", color_scheme="dark")
    dark.wait_for_function(f"{source} !== {on_dark!r}")
    assert dark.evaluate(source) == on_light
    assert dark.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert dark.pdf(format="A4").startswith(b"%PDF")
    for page in (light, dark):
        page.context.close()
