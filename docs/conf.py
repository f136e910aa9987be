"""How Sphinx makes the site (`make docs`) of the whole checkout: its links are those that a code
host follows.

Pages and notebooks are as they are committed, formulas are MathML: nothing is fetched, and a file
system is server enough."""

import re

import latex2mathml.converter
from docutils.nodes import SkipNode

import probattn
import probattn.inference
import probattn.lens
import probattn.models

project = "probattn"
version = release = probattn.__version__
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # they are committed with their outputs, which `make notebooks` makes
root_doc = "docs/index"
include_patterns = [
    "*.md",
    "docs/**",
    "notebooks/**",
    "examples/README.md",
    "benchmarks/README.md",
    "studies/**/*.md",
]
html_theme = "furo"
html_title = "probattn"
html_theme_options = {"navigation_with_keys": True}
html_math_renderer = "mathml"
html_static_path = ["_static"]
html_copy_source = False
html_show_sphinx = False
html_show_copyright = False
default_role = "code"
autodoc_typehints = "none"  # they stand in the signature
autodoc_member_order = "alphabetical"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
python_use_unqualified_type_names = True
suppress_warnings = ["config.cache"]

SECTION = re.compile(r"(Args|Raises|Returns|Attributes|Yields|Source):$")
MARKS = re.compile(r"(?<![\\*])(\||\*)(?!\*)(?<!^\*(?= ))")  # not those of **bold**, nor of a list


def readable(app, what, name, obj, options, lines):
    """Docstrings as they are written: what is indented is a formula or a table, kept as it
    stands."""
    found, in_section, in_block = [], False, False
    for line in lines:
        indent = len(line) - len(line.lstrip())
        if not line.strip():
            found.append(line)
        elif indent == 0:
            if in_block and found[-1].strip():
                found.append("")
            in_section, in_block = bool(SECTION.match(line)), False
            found.append(_escaped(line))
        elif in_section or _of_bullet(found):
            found.append(_escaped(line))
        else:
            if not in_block:
                language = "pycon" if line.lstrip().startswith(">>>") else "none"
                found += ["", f".. code-block:: {language}", ""]
                in_block = True
            found.append(line)
    lines[:] = found


def _of_bullet(before):
    last = next((line for line in reversed(before) if line.strip()), "")
    return last.lstrip().startswith(("* ", "\\* ")) or (
        last.startswith("  ") and not last.startswith("   ")
    )


def _escaped(line):
    """Bars and stars of formulas, outside of code, are no markup."""
    parts = line.split("`")
    parts[::2] = [MARKS.sub(r"\\\1", part) for part in parts[::2]]
    return "``".join(parts) if len(parts) % 2 else "`".join(parts)


def _inline(translator, node):
    translator.body.append(latex2mathml.converter.convert(node.astext()))
    raise SkipNode


def _display(translator, node):
    translator.body.append(
        '<div class="formula" tabindex="0" role="group" aria-label="formula">'
        + latex2mathml.converter.convert(node.astext(), display="block")
        + "</div>"
    )
    raise SkipNode


def landing(app, error):
    """The folder opens at the landing page."""
    if error is None and app.builder.name == "html":
        page = (
            '<!doctype html><meta charset="utf-8"><title>probattn</title><meta '
            'http-equiv="refresh" content="0; url=docs/index.html">'
        )
        (app.outdir / "index.html").write_text(page + '<a href="docs/index.html">probattn</a>\n')


def setup(app):
    app.add_html_math_renderer("mathml", (_inline, None), (_display, None))
    app.connect("autodoc-process-docstring", readable, priority=400)
    app.connect("build-finished", landing)
    app.add_css_file("site.css")
