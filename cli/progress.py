"""Progress on stderr, for work that takes more than a second."""

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

SILENT_FOR = 1.0  # seconds
BETWEEN_LINES = 5.0  # seconds at least, where stderr is a file; later a tenth of the time it took so far


def announce(what: str, done: int, total: int) -> None:
    """Say on stderr, as a library's `progress`, what begins that may take long and tells of no steps."""
    if done == 0:
        click.echo(f"{what}; a large one takes minutes", err=True)


class ProgressReport:
    """A callable for the library's `progress` argument: a bar on a terminal, now and then a line in a file."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._what: str | None = None
        self._start = time.monotonic()
        self._due = self._start + SILENT_FOR
        self._bars: Progress | None = None
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> "ProgressReport":
        """Start the clock."""
        return self

    def __call__(self, what: str, done: int, total: int) -> None:
        """Take note of progress, and show it if it is time to."""
        now = time.monotonic()
        if what != self._what:
            self._what, self._start = what, now
        if self._quiet or now < self._due:
            return
        if not sys.stderr.isatty():
            took = now - self._start
            left = f", {took / done * (total - done):.0f} s left" if took > 0 and done < total else ""
            click.echo(f"{what}: {done} of {total} ({done / total:.0%}){left}", err=True)
            self._due = now + max(BETWEEN_LINES, took / 10)
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
