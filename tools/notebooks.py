"""Notebooks: executed anew with their outputs kept, or executed in a fast setting to see that they
still hold.

    python tools/notebooks.py run [NAME ...]      execute in full, keep the outputs in the notebook
    python tools/notebooks.py check [NAME ...]    execute with PROBATTN_FAST=1, solutions too;
                                                  keep nothing

Both fail on an exception and on anything written to stderr, warnings among it. `check` also fails
where the kept outputs are of other code, and where a figure of a notebook that knows no fast
setting looks different now."""

import base64
import hashlib
import io
import math
import os
import re
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from queue import Empty
from typing import Any

import matplotlib.image
import nbformat
import numpy as np
from nbclient import NotebookClient

FOLDER = Path(__file__).parent.parent / "notebooks"
FAST = "PROBATTN_FAST"
MOST_DIFFERENT = (
    0.02  # root mean square of a figure's pixels, of 1, that another version of a font may change
)
SOLUTION = re.compile(r"<details>.*?```python\n(.*?)```.*?</details>", re.S)


def notebooks(names: list[str]) -> list[Path]:
    """The notebooks whose names begin with one of those given; all without any."""
    return [
        path
        for path in sorted(FOLDER.glob("*.ipynb"))
        if not names or path.name.startswith(tuple(names))
    ]


def run(path: Path) -> None:
    """Execute in full and keep the outputs, with what they are outputs of."""
    book = nbformat.read(path, 4)
    started = time.perf_counter()
    _execute(book, fast=False)
    book.metadata = {
        "kernelspec": _KERNEL,
        "language_info": {"name": "python"},
        "probattn": {"code": _code(book)},
    }
    for number, cell in enumerate(book.cells):
        cell.id, cell.metadata = f"cell-{number}", {}
    nbformat.write(book, path)
    print(f"{path.name}: {time.perf_counter() - started:.0f} s")


def check(path: Path) -> None:
    """Execute a copy in the fast setting. Raises: RuntimeError that says what is wrong."""
    kept = nbformat.read(path, 4)
    if kept.metadata.get("probattn", {}).get("code") != _code(kept):
        raise RuntimeError(f"{path.name}: its outputs are of other code; run `make notebooks`")
    book = nbformat.read(path, 4)
    solutions = [
        code
        for cell in book.cells
        if cell.cell_type == "markdown"
        for code in SOLUTION.findall(cell.source)
    ]
    book.cells += [nbformat.v4.new_code_cell(code) for code in solutions]
    _execute(book, fast=True)
    if FAST in _sources(kept):
        return
    before, after = _figures(kept), _figures(book)[: len(_figures(kept))]
    if len(before) != len(after):
        raise RuntimeError(
            f"{path.name}: {len(before)} figures were kept, {len(after)} are drawn now"
        )
    for number, (one, other) in enumerate(zip(before, after, strict=True), 1):
        if one.shape != other.shape or np.sqrt(((one - other) ** 2).mean()) > MOST_DIFFERENT:
            raise RuntimeError(
                f"{path.name}: figure {number} looks different now; look at it, and run `make "
                "notebooks`"
            )


_KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


def _execute(book: nbformat.NotebookNode, fast: bool) -> None:
    # Not what a test suite set for itself: figures go into the notebook, on as many devices as a
    # reader has.
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in ("MPLBACKEND", "XLA_FLAGS", FAST)
    }
    client = NotebookClient(
        book, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(FOLDER)}}
    )
    client.on_notebook_start = lambda notebook: _look_often(client)
    client.execute(env=environment | ({FAST: "1"} if fast else {}))
    for cell in book.cells:
        for output in cell.get("outputs", []):
            if output.output_type == "stream" and output.name == "stderr":
                raise RuntimeError(
                    f"a cell wrote to stderr: {output.text}\nthe cell: {cell.source}"
                )


def _look_often(client: NotebookClient) -> None:
    """Look for messages of the kernel every second: the event that one has come gets lost at times,
    and is waited for until the timeout."""
    for channel in (client.kc.shell_channel, client.kc.iopub_channel):
        channel.get_msg = partial(_next_message, channel.get_msg)


async def _next_message(get: Callable[..., Any], timeout: float | None = None) -> Any:
    end = time.monotonic() + (math.inf if timeout is None else timeout)
    while True:
        try:
            return await get(timeout=max(0.0, min(1.0, end - time.monotonic())))
        except Empty:
            if time.monotonic() >= end:
                raise


def _sources(book: nbformat.NotebookNode) -> str:
    return "\n\n".join(cell.source for cell in book.cells if cell.cell_type == "code")


def _code(book: nbformat.NotebookNode) -> str:
    return hashlib.sha256(_sources(book).encode()).hexdigest()


def _figures(book: nbformat.NotebookNode) -> list[np.ndarray]:
    images = [
        output.data["image/png"]
        for cell in book.cells
        for output in cell.get("outputs", [])
        if "image/png" in output.get("data", {})
    ]
    return [
        matplotlib.image.imread(io.BytesIO(base64.b64decode(image)), "png")[..., :3]
        for image in images
    ]


def main() -> None:
    what, names = sys.argv[1], sys.argv[2:]
    for path in notebooks(names):
        {"run": run, "check": check}[what](path)


if __name__ == "__main__":
    main()
