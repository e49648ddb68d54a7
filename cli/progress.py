"""Progress on stderr, for work that takes more than a second."""

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

SILENT_FOR = 1.0  # seconds
BETWEEN_LINES = 5.0  # seconds, where stderr is a file


class ProgressReport:
    """A callable for the library's `progress` argument: a bar on a terminal, now and then a line in a file."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._due = time.monotonic() + SILENT_FOR
        self._bars: Progress | None = None
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> "ProgressReport":
        """Start the clock."""
        return self

    def __call__(self, what: str, done: int, total: int) -> None:
        """Take note of progress, and show it if it is time to."""
        if self._quiet or time.monotonic() < self._due:
            return
        if not sys.stderr.isatty():
            click.echo(f"{what}: {done} of {total} ({done / total:.0%})", err=True)
            self._due = time.monotonic() + BETWEEN_LINES
            return
        if self._bars is None:
            from rich.console import Console
            from rich.progress import Progress

            self._bars = Progress(console=Console(stderr=True), transient=True)
            self._bars.start()
        if what not in self._tasks:
            self._tasks[what] = self._bars.add_task(what, total=total)
        self._bars.update(self._tasks[what], completed=done)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Clear the bars away."""
        if self._bars is not None:
            self._bars.stop()
