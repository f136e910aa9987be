"""Shared by all tests: shape checking, precision, and the tolerances that follow from it.

`make test` runs the suite twice, with JAX_ENABLE_X64 unset and set.
"""

import gc
import importlib
import os
import shutil
from pathlib import Path

os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=2")
os.environ.setdefault("MPLBACKEND", "agg")
# Two workers and two runs compile the same functions; the cache lets the second one load them. Processes inherit it.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parent.parent / ".cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
# Most of the suite's time goes to compiling programs that run once or twice. Files that sample for long have theirs
# optimised, and so has the second pass.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "0" if os.environ.get("JAX_ENABLE_X64") == "1" else "1")

import jax
import pytest
from jaxtyping import install_import_hook
from playwright.sync_api import sync_playwright

FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync"]

with install_import_hook(["probattn"], "beartype.beartype"):
    for package in ("probattn", "probattn.models", "probattn.inference"):
        module = importlib.import_module(package)
        for name in module.__all__:  # what is not loaded under the hook is not checked
            getattr(module, name)

# Pages, figures and stores of fits are the same in float64, where fits, densities and processes are tested, and so are processes of
# one job, which choose their own precision: the second pass leaves them out.
IN_ONE_PASS = (
    "test_browser",
    "test_compare",
    "test_detection",
    "test_diagnose",
    "test_generation_figure",
    "test_learning_curve",
    "test_posterior_look",
    "test_posterior_store",
    "test_processes",
    "test_report",
)
collect_ignore = [f"inference/{name}.py" for name in IN_ONE_PASS] if jax.config.jax_enable_x64 else []


UNOPTIMISED = os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] == "1"
OPTIMISED = ("test_calibration", "test_diagnose", "test_fits", "test_microcanonical", "test_report")


def pytest_collection_modifyitems(items):
    """The longest file first: what one worker begins last, the other one waits for."""
    items.sort(key=lambda item: item.path.name != "test_notebooks.py")


@pytest.fixture(autouse=True, scope="module")
def compiled_programs(request):
    """Each holds several memory maps, of which Linux gives a process 65,530; past them jaxlib crashes."""
    jax.config.update("jax_disable_most_optimizations", UNOPTIMISED and request.path.stem not in OPTIMISED)
    yield
    jax.clear_caches()
    gc.collect()


@pytest.fixture(scope="module")
def browser():
    """Headless Chromium. Without one the test skips; with PROBATTN_BROWSER=required, as in `.ci/run`, it fails."""
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        if os.environ.get("PROBATTN_BROWSER") == "required":
            pytest.fail("no Chromium was found; install Debian's package chromium")
        pytest.skip("no Chromium was found")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def float64():
    """For bars that float32 cannot meet, such as 1e-10 against automatic differentiation."""
    if not jax.config.jax_enable_x64:
        pytest.skip("needs float64: runs in the second pass of `make test`, under JAX_ENABLE_X64=1")


def pytest_report_header():
    return f"jax {jax.__version__}, {'float64' if jax.config.jax_enable_x64 else 'float32'}, {jax.devices()}"
