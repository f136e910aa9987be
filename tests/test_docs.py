"""Examples of docstrings and the code of the pages run under the check of shapes and types."""

import dataclasses
import doctest
import re
from pathlib import Path

import pytest

import probattn
import probattn.inference
import probattn.models

ROOT = Path(__file__).parent.parent
PAGES = (ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs" / "how-to").glob("*.md")))
# Their code takes minutes as it stands: it runs with fewer held-out sequences, steps and draws.
LONG_PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
SMALL = {
    "fit_map": {"num_steps": 60},
    "fit_laplace": {"num_samples": 10},
    "fit_ensemble": {"num_steps": 60, "num_members": 2},
    "sample_posterior": {
        "num_chains": 2,
        "num_warmup": 10,
        "num_samples": 10,
        "max_tree_depth": 2,
        "start": "random",
    },
    "resume_posterior": {"num_samples": 12},
    "simulation_based_calibration": {"num_simulations": 20},
}
BLOCK = re.compile(r"^```python\n(.*?)^```", re.S | re.M)


def examples():
    """Every public object with an example in its docstring, by name."""
    for package in (probattn, probattn.models, probattn.inference):
        for name in ("", *package.__all__):
            what = getattr(package, name) if name else package
            if ">>>" in (getattr(what, "__doc__", None) or ""):
                yield pytest.param(what.__doc__, id=f"{package.__name__}.{name}".strip("."))


@pytest.mark.parametrize("text", list(examples()))
def test_examples_of_docstrings(text):
    found = doctest.DocTestParser().get_doctest(text, {}, "example", None, 0)
    said: list[str] = []
    doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(found, out=said.append)
    assert not said, "".join(said)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_code_blocks_of_pages(page, capsys):
    namespace: dict = {}
    for block in BLOCK.findall(page.read_text()):
        exec(compile(block, page.name, "exec"), namespace)


@pytest.mark.parametrize(
    "page",
    [page for page in LONG_PAGES if BLOCK.search(page.read_text())],
    ids=lambda page: page.stem,
)
@pytest.mark.filterwarnings("ignore")  # few draws and particles: of divergences, of small samples
def test_code_of_the_long_pages_runs_with_small_settings(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name, settings in SMALL.items():
        monkeypatch.setattr(
            probattn.inference, name, small(getattr(probattn.inference, name), settings)
        )
    load = probattn.inference.load_corpus

    def few(*given, **settings):
        corpus = load(*given, **settings)
        return dataclasses.replace(corpus, heldout=corpus.heldout[:20])

    monkeypatch.setattr(probattn.inference, "load_corpus", few)
    namespace: dict = {}
    for block in BLOCK.findall(page.read_text()):
        exec(compile(block, page.name, "exec"), namespace)


def small(function, settings):
    """The function with these settings, whatever the page asks for."""
    return lambda *given, **asked: function(*given, **{**asked, **settings})
