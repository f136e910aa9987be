"""Notebooks executed in the fast setting, solutions too: no exception, no warning, no outputs of
other code, no figure gone stale."""

import re

import nbformat
import pytest

from tools import notebooks

BOOKS = notebooks.notebooks([])


@pytest.mark.parametrize("path", BOOKS, ids=lambda path: path.stem)
def test_it_holds(path):
    notebooks.check(path)


@pytest.mark.parametrize("path", BOOKS, ids=lambda path: path.stem)
def test_it_is_one_of_the_series(path):
    book = nbformat.read(path, 4)
    assert 10 <= len(book.cells) <= 20
    assert "float32" in book.cells[0].source
    assert "pip install" in book.cells[1].source
    assert len(notebooks.SOLUTION.findall("\n".join(cell.source for cell in book.cells))) == 3
    code = "\n".join(cell.source for cell in book.cells if cell.cell_type == "code")
    assert "assert" in code
    # The public interface only.
    assert not re.search(
        r"probattn\.(?!models\b|inference\b)\w+ import|(models|inference)\.\w+ import|"
        r"probattn[\w.]* import _",
        code,
    )
    assert any(
        "image/png" in output.get("data", {})
        for cell in book.cells
        for output in cell.get("outputs", [])
    )


def book_of(code, metadata=None):
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    book.metadata["probattn"] = {"code": notebooks._code(book)} | (metadata or {})
    return book


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import warnings; warnings.warn('old')", "stderr"),
        ("raise ValueError('no')", "ValueError"),
    ],
)
def test_what_is_wrong_is_said(tmp_path, code, words):
    path = tmp_path / "one.ipynb"
    nbformat.write(book_of(code), path)
    with pytest.raises(Exception, match=words):
        notebooks.check(path)


def test_outputs_of_other_code_are_found(tmp_path):
    path = tmp_path / "one.ipynb"
    nbformat.write(book_of("1 + 1", {"code": "of another"}), path)
    with pytest.raises(RuntimeError, match="outputs are of other code"):
        notebooks.check(path)


def test_a_stale_figure_is_found(tmp_path):
    path = tmp_path / "one.ipynb"
    draw = "import matplotlib.pyplot as plt\nplt.plot([{}, 1]);"
    nbformat.write(book_of(draw.format(0)), path)
    notebooks.run(path)
    notebooks.check(path)
    book = nbformat.read(path, 4)
    book.cells[0].source = draw.format(5)
    book.metadata["probattn"] = {"code": notebooks._code(book)}
    nbformat.write(book, path)
    with pytest.raises(RuntimeError, match="figure 1 looks different"):
        notebooks.check(path)
