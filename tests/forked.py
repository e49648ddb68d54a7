"""A command in a process of its own, forked from one that has loaded what all commands need.

It starts in milliseconds, and its time and memory are those of its work alone.
"""

import gc
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass

GIVE_UP_AFTER = 60


@dataclass(frozen=True)
class Ended:
    """How a process ended; `seconds` are those of the processor, and `megabytes` the most it held."""

    code: int
    out: str
    err: str
    seconds: float
    wall: float
    megabytes: float


class Forked:
    """A process that has begun."""

    def __init__(self, body: Callable[[], int]) -> None:
        """Fork one that ends with what `body` returns, or with 99 and a traceback."""
        self._out, self._err = os.memfd_create("out"), os.memfd_create("err")
        gc.freeze()  # or its first collection would touch, and so copy, all that this process has
        self._began = time.perf_counter()
        self.pid = os.fork()
        if self.pid == 0:
            code = 99
            try:
                os.dup2(self._out, 1)
                os.dup2(self._err, 2)
                code = body()
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)

    def wait(self, kill_after: float | None = None, give_up_after: float = GIVE_UP_AFTER) -> Ended:
        """Wait until it ends, or kill it after some seconds; one that has to be given up ends with 124."""
        handle = os.pidfd_open(self.pid)
        killed = not select.select([handle], [], [], give_up_after if kill_after is None else kill_after)[0]
        if killed:
            os.kill(self.pid, signal.SIGKILL)
        os.close(handle)
        _, status, used = os.wait4(self.pid, 0)
        out, err = (os.pread(file, 10**6, 0).decode(errors="replace") for file in (self._out, self._err))
        os.close(self._out)
        os.close(self._err)
        return Ended(
            124 if killed and kill_after is None else os.waitstatus_to_exitcode(status),
            out,
            err,
            round(used.ru_utime + used.ru_stime, 2),
            round(time.perf_counter() - self._began, 2),
            used.ru_maxrss / 1000,
        )


def complaint(ended: Ended) -> str | None:
    """What is wrong with how a command was refused: it must print one line on stderr, and exit with 1 or 2."""
    lines = [line for line in ended.err.splitlines() if not line.startswith(("note: ", "wrote "))]
    if ended.code not in (1, 2):
        return f"it ended with {ended.code}: {ended.err}"
    if len(lines) != 1 or not lines[0].startswith("Error: ") or not lines[0].isprintable():
        return f"its error is not one line: {ended.err}"
    return None
