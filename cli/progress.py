"""Progress on stderr: bars on a terminal; elsewhere a line at the start, at every tenth and at the end."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING

from ropesearch.core.errors import printable
from ropesearch.core.progress import Progress

from .output import echo, on_terminal

if TYPE_CHECKING:
    from rich import progress as rich_progress
    from rich.console import Console

BARS_AFTER = 1.0  # seconds from the start of the command
LINES_AFTER = 5.0  # seconds that one piece of work has taken

Clock = Callable[[], float]


def announce(what: str, done: int, total: int) -> None:
    """Say on stderr, as a library's `progress`, that work begins which may take long and tells of no steps."""
    if done == 0:
        echo(f"{printable(what)}; a large one takes minutes\n", err=True)


@contextmanager
def progress_on_stderr(*, quiet: bool) -> Iterator[Progress]:
    """Give a callable for the `progress` argument of the library."""
    if quiet:
        yield lambda what, done, total: None
    elif on_terminal():
        with Bars(time.monotonic) as bars:
            yield bars
    else:
        yield Lines(time.monotonic)


@contextmanager
def announcing_progress(*, quiet: bool) -> Iterator[Progress]:
    """Give a callable that announces work of one step, and shows how far other work is."""
    with progress_on_stderr(quiet=quiet) as shown:
        one = (lambda what, done, total: None) if quiet else announce
        yield lambda what, done, total: (one if total == 1 else shown)(what, done, total)


class Lines:
    """Lines in a file or a pipe, about work that takes more than a few seconds."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._what: str | None = None

    def __call__(self, what: str, done: int, total: int) -> None:
        """Take note of progress, and print a line if one is due."""
        now = self._clock()
        if what != self._what:
            # The first step says nothing about the others: kernels compile in it.
            self._what, self._start, self._first, self._tenth = what, now, done, -1
        took, tenth = now - self._start, 10 * done // total
        ends_unseen = done == total and self._tenth < 0
        if took < LINES_AFTER or tenth == self._tenth or done == self._first or ends_unseen:
            return
        self._tenth = tenth
        time_left = took / (done - self._first) * (total - done)
        end = f"{time_left:.0f} s left" if done < total else f"{took:.0f} s in all"
        echo(f"{printable(what)}: {100 * done // total} % ({done} of {total}), {end}\n", err=True)


class Bars:
    """Bars on a terminal, cleared away at the end."""

    def __init__(self, clock: Clock, console: "Console | None" = None) -> None:
        self._clock = clock
        self._start = clock()
        self._console = console
        self._bars: rich_progress.Progress | None = None
        self._tasks: dict[str, rich_progress.TaskID] = {}

    def __enter__(self) -> "Bars":
        """Show nothing yet."""
        return self

    def __call__(self, what: str, done: int, total: int) -> None:
        """Move the bar of this work, once the command has run for a moment."""
        if self._clock() - self._start < BARS_AFTER:
            return
        if self._bars is None:
            from rich import progress
            from rich.console import Console

            self._bars = progress.Progress(console=self._console or Console(stderr=True), transient=True)
            self._bars.start()
        if what not in self._tasks:
            from rich.markup import escape

            self._tasks[what] = self._bars.add_task(escape(printable(what)), total=total)
        self._bars.update(self._tasks[what], completed=done)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Clear the bars away."""
        if self._bars is not None:
            self._bars.stop()
