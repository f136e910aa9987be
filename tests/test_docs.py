"""Examples of docstrings run under the check of shapes and types, and so do the code blocks of the pages."""

import dataclasses
import doctest
import re
from pathlib import Path

import jax
import pytest

import probattn
import probattn.inference
import probattn.models

ROOT = Path(__file__).parent.parent
PAGES = (ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs" / "how-to").glob("*.md")))
BLOCK = re.compile(r"^```python\n(.*?)^```", re.S | re.M)

pytestmark = pytest.mark.skipif(jax.config.jax_enable_x64, reason="pages and examples are written in float32")


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


def run_blocks(page):
    namespace: dict = {}
    for block in BLOCK.findall(page.read_text()):
        exec(compile(block, page.name, "exec"), namespace)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_code_blocks_of_pages(page, capsys):
    run_blocks(page)


# What the README's fits take is minutes each; here they end when they have hardly begun.
SMALL = {
    "fit_map": {"num_steps": 50},
    "fit_ensemble": {"num_steps": 50, "num_members": 2},
    "sample_posterior": {"num_warmup": 4, "num_samples": 4, "max_tree_depth": 2, "num_starts": 1},
    "resume_posterior": {"num_samples": 8},
    "simulation_based_calibration": {"num_simulations": 20, "num_draws": 9, "num_warmup": 20, "max_tree_depth": 2},
}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of fits that have not converged, and particles that are too few
def test_code_blocks_of_the_readme(monkeypatch, tmp_path):
    for name, small in SMALL.items():
        whole = getattr(probattn.inference, name)
        monkeypatch.setattr(
            probattn.inference, name, lambda *args, whole=whole, small=small, **kw: whole(*args, **(kw | small))
        )
    corpora = probattn.inference.load_corpus

    def few_words(source, train_size):
        corpus = corpora(source, train_size=min(train_size, 30))
        return dataclasses.replace(corpus, heldout=corpus.heldout[:60])

    monkeypatch.setattr(probattn.inference, "load_corpus", few_words)
    monkeypatch.chdir(tmp_path)
    run_blocks(ROOT / "README.md")
    assert (tmp_path / "report.html").exists()
    assert (tmp_path / "support.png").exists()
