"""Shared by all tests: jobs and precisions, shape checking, the kept compiled programs, and the
browser.

`tests/where.py` says where each test runs; `pytest --job=NAME` chooses, and JAX_ENABLE_X64 the
precision."""

import gc
import os
import re
import shutil
from pathlib import Path

from platformdirs import user_cache_path

# Compiled programs are kept between runs; workers and processes share them. The folder can be
# thrown away at any time.
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", str(user_cache_path("probattn", appauthor=False) / "tests")
)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=2")
os.environ.setdefault("MPLBACKEND", "agg")
# Most of the suite's time goes to compiling programs that run once or twice: they are not
# optimised, but for some files.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

import jax
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import sync_playwright

from tests import where

KEPT = Path(os.environ["JAX_COMPILATION_CACHE_DIR"])
MOST_KEPT = 4e9  # bytes
UNREADABLE = "Error (reading|writing) persistent compilation cache entry"
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-sync",
]
UNOPTIMISED = os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] == "1"
PRECISION = "float64" if jax.config.jax_enable_x64 else "float32"
HERE = Path(__file__).parent


def pytest_addoption(parser):
    parser.addoption(
        "--job",
        default="default",
        choices=["default", "fast", *where.JOBS, "all"],
        help="see tests/where.py",
    )


def pytest_configure(config):
    config.addinivalue_line("filterwarnings", f"default:{UNREADABLE}")


def pytest_collection_modifyitems(config, items):
    """Leave out what runs elsewhere, limit the rest, and begin with the longest files."""
    wanted, chosen, others = config.getoption("job"), [], []
    for item in items:
        name = where.name_of(item.path.relative_to(HERE).as_posix(), item.name)
        job = where.job_of(name)
        if where.runs(name, wanted, PRECISION):
            item.add_marker(pytest.mark.timeout(where.LIMITS[job]))
            chosen.append(item)
        else:
            others.append(item)
    config.hook.pytest_deselected(items=others)
    order = {path: number for number, path in enumerate(where.LONGEST)}
    items[:] = sorted(
        chosen, key=lambda item: order.get(item.path.relative_to(HERE).as_posix(), len(order))
    )


def pytest_warning_recorded(warning_message):
    """Compiled programs that cannot be read are no failure: all that was kept goes, and is made
    again."""
    if re.match(UNREADABLE, str(warning_message.message)):
        throw_away()


def pytest_sessionfinish(session):
    """Of several processes of one run the first looks whether too much is kept."""
    if hasattr(session.config, "workerinput") or not KEPT.exists():
        return
    if sum(path.stat().st_size for path in KEPT.iterdir() if path.is_file()) > MOST_KEPT:
        throw_away()


def throw_away():
    """The kept programs; the folder stays, since others may be writing to it."""
    for path in KEPT.iterdir():
        path.unlink(missing_ok=True)


@pytest.fixture(autouse=True, scope="module")
def compiled_programs(request):
    """Each holds several memory maps, of which Linux gives a process 65,530; past them jaxlib
    crashes."""
    path = request.path.relative_to(HERE).as_posix()
    jax.config.update("jax_disable_most_optimizations", UNOPTIMISED and path not in where.OPTIMISED)
    yield
    jax.clear_caches()
    gc.collect()


@pytest.fixture(scope="module")
def browser():
    """Headless Chromium. Without one the test skips; with PROBATTN_BROWSER=required, as in
    `.ci/run`, it fails."""
    chromium = next(
        filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
    )
    if chromium is None:
        if os.environ.get("PROBATTN_BROWSER") == "required":
            pytest.fail("no Chromium was found; install Debian's package chromium")
        pytest.skip("no Chromium was found")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def assert_reads_well(browser):
    """A function that looks at a page of a window's width: it has no horizontal scroll, and keeps
    the rules of WCAG A and AA."""

    def look(file, width):
        page = browser.new_context(viewport={"width": width, "height": 800}).new_page()
        page.goto(file.as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") == width
        found = Axe().run(page)
        assert found.violations_count == 0, found.generate_report()
        page.context.close()

    return look


def pytest_report_header(config):
    return f"jax {jax.__version__}, {PRECISION}, {jax.devices()}, job {config.getoption('job')}"
