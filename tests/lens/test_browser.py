"""The page of a measured text in a real browser, on a phone and on a desk, light and dark.

Without Chromium these tests skip; with PROBATTN_BROWSER=required, as in `.ci/run`, they fail.
"""

import pytest
from axe_playwright_python.sync_playwright import Axe
from lens_pages import STRANGE, measured, with_tokens

from probattn.lens import save_page

WIDTHS = {"phone": 375, "desk": 1280}


@pytest.fixture(scope="module")
def page_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "lens.html"
    save_page(with_tokens(measured(48), [*STRANGE, "x" * 200, *STRANGE * 3][:48]), path)
    return path


def opened(browser, path, width, scheme):
    """The page and what the console said while it loaded."""
    page = browser.new_context(
        viewport={"width": width, "height": 800}, color_scheme=scheme
    ).new_page()
    said = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: said.append(request.url[:80]))
    page.goto(path.as_uri())
    own = path.as_uri()[:80]
    return page, [one for one in said if one != own and not one.startswith("data:")]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("where", WIDTHS)
def test_the_page_reads_well(browser, page_file, where, scheme):
    page, said = opened(browser, page_file, WIDTHS[where], scheme)
    assert said == []
    page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    widest, window = page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
    assert widest <= window == WIDTHS[where]  # no horizontal scroll
    images = page.evaluate("[...document.images].map(i => [i.naturalWidth, i.alt.length])")
    assert len(images) == 3
    assert all(width > 0 and words > 30 for width, words in images)
    found = Axe().run(page)  # contrast and alternative texts among its rules
    assert found.violations_count == 0, found.generate_report()
    page.context.close()


def test_paper_has_the_tables_and_the_shades(browser, page_file):
    page, _ = opened(browser, page_file, WIDTHS["desk"], "dark")
    page.emulate_media(media="print", color_scheme="dark")
    shown = "getComputedStyle(document.querySelector('{}')).{}"
    assert page.evaluate(shown.format("body", "backgroundColor")) == "rgb(255, 255, 255)"
    assert page.evaluate(shown.format(".token.m3", "backgroundColor")) == "rgb(246, 192, 132)"
    assert page.evaluate(
        "document.querySelector('details td').checkVisibility({contentVisibilityAuto: true})"
    )
    assert page.pdf(format="A4").startswith(b"%PDF")
    page.context.close()
