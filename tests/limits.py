"""Commands under limits, and at sizes that no model has: `python tests/limits.py FOLDER` prints a table.

Linux only. Limits of a control group are tried where this user may make one.
"""

import json
import os
import resource
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

from forked import Ended, Forked

RUN = [sys.executable, "-P", "-m", "ropesearch"]
TABLE2 = ["search", "--preset", "table2", "--quiet"]
LARGEST = ["search", "--bmin", "1e4", "--bmax", "1e8", "--stride", "1e5", "--heads", "128", "--max-distance", "1m"]
TOO_LARGE = ["waveform", "1e4", "--max-distance", "100m", "--json", "--quiet"]
POINTS = (25_000, 50_000, 100_000)


def main(place: str) -> None:
    """Try all, and print a line for each."""
    folder = Path(place)
    folder.mkdir()
    os.chdir(folder)
    os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    show("search, table2", TABLE2)
    show("search, table2, on one processor", TABLE2, lambda: os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}))
    show("search, 128 heads, 1M tokens, 1000 bases", [*LARGEST, "--quiet"])
    for megabytes in (500, 1000, 4000):
        show(f"search, table2, {megabytes} MB of address space", TABLE2, lambda m=megabytes: limit(m))
    show("waveform, 100M tokens, 1000 MB of address space", TOO_LARGE, lambda: limit(1000))
    for megabytes in (200, 400):
        with control_group(megabytes) as join:
            if join is not None:
                show(f"search, table2, control group of {megabytes} MB", TABLE2, join)
                show(f"waveform, 100M tokens, control group of {megabytes} MB", TOO_LARGE, join)
    for n in POINTS:
        points_of_a_sweep(n)


def show(name: str, arguments: list[str], before: Callable[[], object] = lambda: None) -> None:
    """Run a command in a process of its own and print how it ended."""

    def body() -> int:
        before()
        os.execv(RUN[0], [*RUN, *arguments])

    show_end(name, Forked(body).wait(give_up_after=300))


def limit(megabytes: int) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (megabytes * 10**6, megabytes * 10**6))


@contextmanager
def control_group(megabytes: int) -> Iterator[Callable[[], object] | None]:
    """Give a function that puts a process under a limit of memory; None where that cannot be done."""
    places = {"/sys/fs/cgroup/memory": "memory.limit_in_bytes", "/sys/fs/cgroup": "memory.max"}  # versions 1 and 2
    for place, file in places.items():
        group = Path(place, f"ropesearch-{os.getpid()}")
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            if (group / file).exists():
                (group / file).write_text(str(megabytes * 10**6))
                yield lambda joined=group: (joined / "cgroup.procs").write_text(str(os.getpid()))
                return
        finally:
            group.rmdir()
    yield None


def points_of_a_sweep(n: int) -> None:
    """Print how long a sweep of so many points takes to its first row, and to find all rows in its file again."""
    from ropesearch import uniform_bases
    from ropesearch.search.sweep import sweep, sweep_points

    path = f"{n}.jsonl"

    def first_row() -> int:
        def stop(*_: object) -> None:
            raise KeyboardInterrupt

        with ThreadPoolExecutor(1) as pool, suppress(KeyboardInterrupt):
            sweep(points(), path, executor=pool, overwrite=True, progress=stop)
        return 0

    def points() -> list[dict[str, object]]:
        lists = {"strides": [1000 + i / 8 for i in range(n)], "bmins": [1e4], "bmaxs": [3e4], "heads": [2]}
        return sweep_points(**lists, head_dim=16, max_distances=[2000])

    def resume() -> int:
        return len(sweep(points(), path, resume=True)) != n

    started = Forked(first_row).wait(give_up_after=300)
    base_set = json.loads(uniform_bases(1e4, 3e4, 2, head_dim=16).to_json())
    with open(path, "r+") as file:
        header = file.readline()
        file.seek(0)
        file.truncate()
        file.write(header)
        for point in points():
            found = base_set | {"strategy": point["strategy"]}
            file.write(json.dumps({"point": point, "base_set": found, "coverage": {}, "seconds": 0.1}) + "\n")
    resumed = Forked(resume).wait(give_up_after=300)
    for name, ended in (("first row", started), ("all rows found", resumed)):
        show_end(f"sweep, {n} points, {name}", ended)


def show_end(name: str, ended: Ended) -> None:
    how = "done" if ended.code == 0 else f"{ended.code}, {ended.err.strip()}"
    print(f"{name:48}{ended.seconds:6.1f} s{ended.megabytes:5.0f} MB   {how}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
