"""The site is built without a warning, broken links among them, and reads well in a browser, on a
phone and on a desk."""

import subprocess
import sys
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe

ROOT = Path(__file__).parent.parent
WIDTHS = {"phone": 375, "desk": 1280}
PAGES = (
    "README",
    "docs/index",
    "docs/comparison",
    "docs/dictionary",
    "docs/api/probattn",
    "docs/api/probattn.models",
    "docs/barrier",
    "notebooks/README",
    "notebooks/02_change_of_variables",
)

# What the theme and Sphinx leave: captions of the sidebar without a level, a drawer without a name,
# code that scrolls and takes no focus.
OF_THE_THEME = {"aria-required-attr", "landmark-unique", "scrollable-region-focusable"}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    out = tmp_path_factory.mktemp("site")
    command = [
        sys.executable,
        "-m",
        "sphinx",
        "-q",
        "-W",
        "--keep-going",
        "-b",
        "html",
        "-c",
        "docs",
        ".",
        str(out),
    ]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr[-3000:]
    return out


def test_it_opens_at_the_landing_page_and_has_everything(site):
    assert "docs/index.html" in (site / "index.html").read_text()
    for page in PAGES:
        assert (site / f"{page}.html").exists()
    interface = (site / "docs/api/probattn.html").read_text()
    for name in ("stability_margin", "AttentionProcess", "barrier_loss"):
        assert f'id="probattn.{name}"' in interface


@pytest.mark.parametrize("where", WIDTHS)
def test_pages_fit_the_screen(site, browser, where):
    tab = browser.new_page(viewport={"width": WIDTHS[where], "height": 900})
    asked = []
    tab.on("request", lambda request: asked.append(request.url))
    for page in PAGES:
        tab.goto((site / f"{page}.html").as_uri())
        assert tab.evaluate("document.documentElement.scrollWidth") <= WIDTHS[where], page
        broken = tab.evaluate(
            "[...document.images].filter(i => i.complete && !i.naturalWidth).map(i => i.src)"
        )
        assert not broken, page
    tab.close()
    assert all(url.startswith(("file:", "data:")) for url in asked)  # nothing is fetched


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everyone_can_read_them(site, browser, scheme):
    tab = browser.new_context(color_scheme=scheme).new_page()
    for page in PAGES:
        tab.goto((site / f"{page}.html").as_uri())
        assert {
            violation["id"] for violation in Axe().run(tab).response["violations"]
        } <= OF_THE_THEME, page
    tab.context.close()


def test_formulas_are_drawn(site, browser):
    tab = browser.new_page()
    tab.goto((site / "notebooks/02_change_of_variables.html").as_uri())
    assert tab.evaluate("document.querySelectorAll('math').length") > 5
    tab.close()
