"""Progress of a fit: a bar in a terminal, plain lines elsewhere."""

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bar

from probattn.inference.devices.multihost import is_first

LINE_EVERY = 10.0  # seconds between two lines where there is no terminal


class Progress:
    """A context manager that shows progress: call `update(done, text)` between chunks of work.

    On standard error: a bar in a terminal, elsewhere a line every ten seconds and one at the end.
    Nothing is shown if `show` is False, or in any process but the first.
    """

    def __init__(self, name: str, total: int, show: bool = True):
        self.name, self.total, self.show = name, total, show and is_first()
        self.started = self.said = time.monotonic()
        self.last = ""
        console = Console(stderr=True, highlight=False)
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.completed}/{task.total} {task.fields[text]}", markup=False),
        )
        self.bar = (
            Bar(*columns, console=console, transient=True)
            if self.show and console.is_terminal
            else None
        )

    def __enter__(self) -> "Progress":
        if self.bar is not None:
            self.bar.start()
            self.task = self.bar.add_task(self.name, total=self.total, text="")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.bar is not None:
            self.bar.stop()
        elif self.last and kind is None:
            self._say()

    def update(self, done: int, text: str = "") -> None:
        """Show that `done` of `total` steps are done, with a text behind the numbers."""
        if self.bar is not None:
            self.bar.update(self.task, completed=done, text=text)
            return
        self.last = f"{self.name}: {done}/{self.total}{', ' + text if text else ''}"
        if time.monotonic() - self.said >= LINE_EVERY:
            self._say()

    def _say(self) -> None:
        if self.show:
            print(self.last, file=sys.stderr, flush=True)
        self.last, self.said = "", time.monotonic()

    def time_left(self, done: int) -> str:
        """The time left in words, at the pace so far, once `done` steps are done."""
        seconds = (time.monotonic() - self.started) * (self.total - done) / max(done, 1)
        return f"{seconds:.0f} s left" if seconds < 120 else f"{seconds / 60:.0f} min left"
