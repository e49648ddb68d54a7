"""How long work says where it stands."""

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is."""


def counter(progress: Progress | None, what: str, total: int) -> Callable[[], None]:
    """Return a function that reports one step more at each call."""
    done = 0

    def report() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(what, done, total)

    return report
