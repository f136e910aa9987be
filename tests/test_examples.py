"""The training loops under examples: five lines apart from their plain twins, and they run."""

import difflib
import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"
PAIRS = [
    ("optax", "barrier"),
    ("optax", "own_heads"),
    ("flax_nnx", "barrier"),
    ("equinox", "barrier"),
]


def changed_lines(folder, name):
    """Lines that the example has and its plain twin has not, blank ones apart."""
    plain, other = (
        (EXAMPLES / folder / f"{one}.py").read_text().splitlines() for one in ("plain", name)
    )
    return [
        line[2:]
        for line in difflib.ndiff(plain, other)
        if line.startswith("+ ") and line[2:].strip()
    ]


@pytest.mark.parametrize(("folder", "name"), PAIRS)
def test_at_most_five_lines_differ_and_the_docs_show_them(folder, name):
    lines = changed_lines(folder, name)
    assert 2 <= len(lines) <= 5
    page = (EXAMPLES.parent / "docs" / "barrier.md").read_text()
    shown = page[page.index(f"examples/{folder}/{name}.py") :]
    for line in lines:
        assert f"+{line}" in shown


@pytest.mark.parametrize(
    ("folder", "name"), [*PAIRS, ("optax", "plain"), ("flax_nnx", "plain"), ("equinox", "plain")]
)
def test_it_runs_and_learns(folder, name):
    script = (
        (EXAMPLES / folder / f"{name}.py")
        .read_text()
        .replace("STEPS = 32, 32, 16, 300", "STEPS = 32, 32, 16, 200")
    )
    script = script.replace("Path(__file__)", f"Path({str(EXAMPLES / folder / name)!r})")
    run = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", script],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"JAX_ENABLE_X64": "0"},
        timeout=300,
    )
    assert run.returncode == 0, run.stderr
    losses = [float(line.split()[2]) for line in run.stdout.splitlines()]
    assert len(losses) == 2
    assert losses[1] < losses[0] < 3.5
