"""How long-running work reports its progress."""

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Called with the kind of work, how much is done, and the total."""


def counter(progress: Progress | None, what: str, total: int) -> Callable[[], None]:
    """Return a function that reports one more step at each call."""
    done = 0

    def report() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(what, done, total)

    return report
