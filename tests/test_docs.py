"""Examples of docstrings run under the check of shapes and types, and so do the code blocks of the
pages."""

import doctest
import re
from pathlib import Path

import pytest

import probattn
import probattn.inference
import probattn.models

ROOT = Path(__file__).parent.parent
PAGES = (ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs" / "how-to").glob("*.md")))
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
