import fcntl
import hashlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
from concurrent.futures import CancelledError, Executor, Future
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from ropesearch.cli import main

from ropesearch import BaseSet, search_bases
from ropesearch.core.errors import InputError, ParameterError
from ropesearch.search.named import find_base_set
from ropesearch.search.sweep import sweep, sweep_points
from ropesearch.search.sweep_file import read_sweep
from ropesearch.search.workers import process_pool

FIXED = {"bmins": [10000], "bmaxs": [30000], "max_distances": [2000], "head_dim": 16}
POINTS = sweep_points(strides=[1000, 2000], heads=[4, 8], strategies=["peak-valley", "uniform"], **FIXED)
GRID = ["--bmin", "10000", "--bmax", "30000", "--head-dim", "16", "--max-distance", "2000"]
SMALL = [*GRID, "--strides", "1000,2000", "--heads", "4,8", "--strategies", "peak-valley,uniform"]
BY_LAYER = json.loads(BaseSet.of([[1e4, 2e4], [2e4, 1e4]]).to_json())


class Here(Executor):
    """Runs every call at once, in this process."""

    def submit(self, function, /, *args, **kwargs):
        future = Future()
        future.set_result(function(*args, **kwargs))
        return future


class Fails(Executor):
    """Ends every call with an error of the executor's own."""

    def __init__(self, error):
        self.error = error

    def submit(self, function, /, *args, **kwargs):
        future = Future()
        future.set_exception(self.error)
        return future


@pytest.fixture
def run(capsys, tmp_path, monkeypatch):
    """Run the command line in an empty folder, its searches in this process; gives (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("ropesearch.cli.progress.LINES_AFTER", float("inf"))
    monkeypatch.setattr("ropesearch.search.workers.ProcessPoolExecutor", lambda *_, **__: Here())

    def run(*args, command="sweep"):
        code = main([command, *map(str, args)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def show(run):
    """Run `ropesearch show`."""
    return lambda *args: run(*args, command="show")


# Stops itself after a number of calls of fsync, of which there is one for each line of the file; with none, when every
# point is with the workers and they are starting.
STOPPING = """
import os, signal, sys
import ropesearch.search.sweep
from ropesearch.cli import main

def stopping(function, at):
    def call(*args, **options):
        nonlocal at
        result = function(*args, **options)
        at -= 1
        if at == 0:
            os.kill(os.getpid(), signal.SIGSTOP)
        return result
    return call

at = int(sys.argv.pop(1))
if at:
    os.fsync = stopping(os.fsync, at)
else:
    wait = ropesearch.search.sweep.next_done
    ropesearch.search.sweep.next_done = lambda *args: (stopping(lambda: None, 1)(), wait(*args))[1]
sys.exit(main(["sweep", *sys.argv[1:]]))
"""


def start(folder, *args, stop=None, **options):
    """Start a sweep; with `stop`, one that stops itself there."""
    command = ["-m", "ropesearch", "sweep"] if stop is None else ["-c", STOPPING, str(stop)]
    return subprocess.Popen(
        [sys.executable, "-P", *command, *args],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell's background job, as this suite may be one, starts with the signal ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        **options,
    )


def lines(path):
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def unordered(rows):
    """Rows without what differs from run to run: their order and the time they took."""
    return sorted(json.dumps({k: v for k, v in row.items() if k != "seconds"}) for row in rows)


def wait_until_stopped(process):
    """Wait until a process has stopped itself; gives its worker processes."""
    _, status = os.waitpid(process.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status), process.communicate()
    children = psutil.Process(process.pid).children()
    return [child for child in children if any("spawn_main" in word for word in child.cmdline())]


# Points


def test_points_are_every_combination_once_in_the_order_of_the_lists():
    points = sweep_points(
        strides=[2000, 1000, 2000.0], bmins=(10000,), bmaxs=[30000, 40000], heads=np.array([4, 2]), head_dim=16
    )
    assert [(p["stride"], p["bmax"], p["heads"]) for p in points] == [
        (s, b, h) for s in (2000, 1000) for b in (30000, 40000) for h in (4, 2)
    ]
    assert all(p["head_dim"] == 16 and p["max_distance"] == 131072 and p["kv_heads"] == p["heads"] for p in points)


def test_uniform_has_one_point_for_all_strides():
    assert [(p["strategy"], p["stride"], p["heads"]) for p in POINTS] == [
        ("peak-valley", 1000, 4), ("uniform", None, 4), ("peak-valley", 1000, 8), ("uniform", None, 8),
        ("peak-valley", 2000, 4), ("peak-valley", 2000, 8),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        ({"strides": []}, r"strides must be a list of at least one value, not \[\]"),
        ({"strides": 1000}, "strides must be a list of values, not 1000"),
        ({"strategies": "uniform"}, "strategies must be a list of values, not 'uniform'"),
        ({"strides": [1000, 0]}, "stride must be a finite number above 0, not 0"),
        ({"strides": [1000, None]}, "stride must be given: the step of the candidate grid, not None"),
        ({"heads": [4, 22]}, "heads must be at most 21, because `stride` 1000 gives 20 candidates"),
        ({"heads": [32], "kv_heads": 5}, "kv_heads must be a divisor of the 32 heads, not 5"),
        ({"bmaxs": [30000, 9000]}, "bmax must be greater than `bmin`, 10000, not 9000"),
        ({"strategies": ["best"]}, "strategy must be one of peak-valley, uniform, floor, ripple"),
        ({"max_distances": [10]}, "max_distance must be greater than `min_distance`, 1000, not 10"),
        ({"threads": 2}, "every key of a point must be an option of SearchSpec, not 'threads'"),
        ({"order": "random"}, "order must be one of ascending"),
    ],
)
def test_points_that_a_search_would_refuse_are_refused_at_once(changed, line):
    with pytest.raises(InputError, match=line):
        sweep_points(**({"strides": [1000], "bmins": [1e4], "bmaxs": [3e4], "heads": [4]} | changed))


def test_a_point_given_by_hand_is_checked_before_anything_is_written(tmp_path):
    with pytest.raises(InputError, match="every point must have the option bmax"):
        sweep([{"bmin": 10000, "stride": 1000, "heads": 4}], tmp_path / "a.jsonl")
    with pytest.raises(InputError, match="at least one point"):
        sweep([], tmp_path / "a.jsonl")
    with pytest.raises(InputError, match="give only one"):
        sweep(POINTS, tmp_path / "a.jsonl", resume=True, overwrite=True)
    assert list(tmp_path.iterdir()) == []


# Rows


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """The file of an uninterrupted sweep over POINTS."""
    path = tmp_path_factory.mktemp("sweep") / "sweep.jsonl"
    return sweep(POINTS, path, executor=Here()), path


def test_rows_are_the_searches(expected):
    rows, path = expected
    header, *written = lines(path)
    assert list(header) == ["format", "version", "sweep"]
    assert (header["format"], header["version"], header["sweep"]["points"]) == ("ropesearch.sweep", 1, 6)
    assert header["sweep"]["varied"]["heads"] == [4, 8]
    assert unordered(written) == unordered(rows)
    assert [row["point"] for row in rows] == POINTS
    for row in rows:
        assert list(row) == ["point", "base_set", "coverage", "seconds"]
        assert BaseSet.from_json(json.dumps(row["base_set"])) == search_bases(**row["point"])
        assert row["seconds"] >= 0


def test_rows_of_processes(expected, tmp_path):
    seen = []
    with process_pool(2) as pool:
        rows = sweep(POINTS, tmp_path / "a.jsonl", executor=pool, progress=lambda *step: seen.append(step))
    assert seen == [("points", n, 6) for n in range(1, 7)]
    assert unordered(rows) == unordered(expected[0])
    assert unordered(lines(tmp_path / "a.jsonl")) == unordered(lines(expected[1]))
    with pytest.raises(ParameterError, match="workers must be an integer of at least 1, not 0"), process_pool(0):
        pass


HOST = """
import distributed
if __name__ == "__main__":
    with distributed.LocalCluster(2, threads_per_worker=1, host="127.0.0.1", dashboard_address=None) as cluster:
        print(cluster.scheduler_address, flush=True)
        input()
"""


@pytest.mark.slow
def test_rows_of_a_dask_cluster(expected, tmp_path):
    (tmp_path / "host.py").write_text(HOST)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    host = subprocess.Popen([sys.executable, "-P", "host.py"], cwd=tmp_path, text=True, **pipes)
    try:
        address = host.stdout.readline().strip()
        assert address.startswith("tcp://127.0.0.1:")
        process = start(tmp_path, *SMALL, "-o", "a.jsonl", "--scheduler", address, "--json", "--quiet")
        out, err = process.communicate(timeout=100)
        assert (process.returncode, err) == (0, "")
    finally:
        host.communicate("\n", timeout=60)
    assert host.returncode == 0
    assert unordered(json.loads(out)) == unordered(expected[0])
    assert unordered(lines(tmp_path / "a.jsonl")) == unordered(lines(expected[1]))


IMPATIENT = """
import sys
import ropesearch.search.sweep, ropesearch.search.workers
from ropesearch.cli import main
ropesearch.search.sweep.ASK_EVERY = ropesearch.search.workers.ASK_EVERY = 1.0
ropesearch.search.workers.SILENT_FOR = 6.0
ropesearch.search.workers.CONNECT_WITHIN = 3.0
sys.exit(main(["sweep", *sys.argv[1:]]))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("who", "how", "line"),
    [
        ("scheduler", signal.SIGSTOP, "the scheduler does not answer"),
        ("worker", signal.SIGSTOP, "no worker gives a sign of life"),
        ("worker", signal.SIGKILL, "no worker gives a sign of life"),
    ],
)
def test_a_cluster_that_falls_silent_is_noted_and_then_exit_1(tmp_path, who, how, line):
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    python = [sys.executable, "-P"]
    commands = {
        "scheduler": [*python, "-m", "distributed.cli.dask_scheduler", "--no-dashboard", "--host", f"tcp://{address}"],
        "worker": [*python, "-m", "distributed.cli.dask_worker", "--no-nanny", "--no-dashboard", f"tcp://{address}"],
    }
    cluster = {}
    try:
        for (name, command), sign in zip(commands.items(), ("Scheduler at", "Registered to"), strict=True):
            cluster[name] = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
            assert any(sign in line for line in cluster[name].stderr)
        points = ["--bmin", "1e6", "--bmax", "5e6", "--strides", "1000,1001,1002", "--heads", "8"]
        command = [*python, "-c", IMPATIENT, *points, "-o", "a.jsonl", "--scheduler", address]
        sweeping = subprocess.Popen(command, cwd=tmp_path, stdout=-1, stderr=-1, text=True)
        while not ((tmp_path / "a.jsonl").exists() and lines(tmp_path / "a.jsonl")):
            assert sweeping.poll() is None, sweeping.communicate()
        cluster[who].send_signal(how)
        out, err = sweeping.communicate(timeout=60)
    finally:
        for process in cluster.values():
            process.kill()
            process.communicate()
    assert (sweeping.returncode, out) == (1, "")
    assert f"note: {line}; the sweep ends if the cluster stays silent for 6 s\n" in err
    end = err.splitlines()[-1]
    assert re.fullmatch(
        rf"Error: the cluster at {address} has been silent for \d+ s: {line}; .*--resume continues.*", end
    )


def test_a_point_that_cannot_be_searched_is_a_row(run):
    # From 1000 to 1002 there is no peak and no valley.
    args = [*GRID, "--strides", "1000,2000", "--heads", 4, "-o", "a.jsonl", "--max-distances", "1002,2000"]
    code, out, err = run(*args)
    assert code == 0
    assert out.count("failed") == 2
    first = "--bmin 10000 has no peak and no valley from --min-distance 1000 to --max-distance 1002; use a wider window"
    assert err == f"note: 2 of 4 points could not be searched; the first: {first}\nwrote a.jsonl\n"
    failed = [row for row in lines("a.jsonl")[1:] if "error" in row]
    assert [row["point"]["max_distance"] for row in failed] == [1002, 1002]
    before = Path("a.jsonl").read_bytes()
    assert run(*args, "--resume") == (0, out, err)
    assert Path("a.jsonl").read_bytes() == before
    code, out, err = run(*args, "--max-distance", "1002", "--overwrite")
    assert (code, out, err) == (2, "", f"Error: none of the 2 points could be searched; the first: {first}\n")


def test_too_little_memory_is_a_row(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "ropesearch.search.landmarks.require_memory", lambda *_: (_ for _ in ()).throw(MemoryError("too large"))
    )
    rows = sweep(POINTS[:1], tmp_path / "a.jsonl", executor=Here())
    assert rows == [{"point": POINTS[0], "error": "too large"}]


@pytest.mark.parametrize("error", [BrokenProcessPool("a process died"), CancelledError()])
def test_an_executor_that_breaks_down_is_one_line(tmp_path, error):
    with pytest.raises(
        OSError, match=r"the sweep lost its workers.*a\.jsonl keeps the finished rows, and `resume` continues"
    ):
        sweep(POINTS, tmp_path / "a.jsonl", executor=Fails(error))
    assert len(lines(tmp_path / "a.jsonl")) == 1


def test_the_first_rows_do_not_wait_until_every_point_is_submitted(expected, tmp_path, monkeypatch):
    monkeypatch.setattr("ropesearch.search.sweep.AHEAD", 2)
    submitted, seen = [], []

    class Counting(Here):
        def submit(self, *args):
            submitted.append(args)
            return super().submit(*args)

    take = lambda *step: seen.append((step[1], len(submitted)))  # noqa: E731
    rows = sweep(POINTS, tmp_path / "a.jsonl", executor=Counting(), progress=take)
    assert seen == [(1, 3), (2, 4), (3, 5), (4, 6), (5, 6), (6, 6)]
    assert unordered(rows) == unordered(expected[0])


# The file


def test_every_cut_of_the_file_is_completed(expected, tmp_path):
    rows, path = expected
    content = path.read_bytes()
    cut = tmp_path / "cut.jsonl"
    ends = [i + 1 for i, byte in enumerate(content) if byte == 10]
    for size in (0, 1, ends[0] - 1, ends[0], ends[0] + 1, ends[1] - 1, ends[1], ends[3] + 700, len(content) - 1):
        cut.write_bytes(content[:size])
        calls, notes = [], []
        take = partial(append_step, calls)
        result = sweep(POINTS, cut, executor=Here(), resume=True, note=notes.append, progress=take)
        whole = max(sum(end <= size for end in ends) - 1, 0)
        assert calls == [("points", n + 1, 6 - whole) for n in range(6 - whole)]
        torn = size not in (0, *ends)
        assert notes == ([f"{cut} ended in half a line, which was dropped"] if torn else [])
        assert unordered(result) == unordered(rows)
        assert unordered(lines(cut)) == unordered(lines(path))
        assert cut.read_bytes().startswith(content[: max((end for end in ends if end <= size), default=0)])


def test_resume_without_a_file_starts_one_and_takes_points_in_any_order(expected, tmp_path):
    path = tmp_path / "a.jsonl"
    rows = sweep(POINTS[::-1], path, executor=Here(), resume=True)
    assert unordered(rows) == unordered(expected[0])
    before = path.read_bytes()
    assert sweep(POINTS, path, executor=Fails(AssertionError()), resume=True) == rows[::-1]
    assert path.read_bytes() == before


def append_step(calls, *step):
    calls.append(step)


def changed(content, **changes):
    header, _, rest = content.partition("\n")
    return json.dumps(json.loads(header) | changes) + "\n" + rest


def in_row(content, **changes):
    header, first, *rest = content.splitlines()
    return "\n".join([header, json.dumps(json.loads(first) | changes), *rest, ""])


@pytest.mark.parametrize(
    ("edit", "line"),
    [
        (lambda _: "precious", "its first line is not the header of a sweep"),
        (lambda _: "precious\n", "its first line is not the header of a sweep"),
        (lambda c: changed(c, format="ropesearch.base-set"), "its first line is not the header of a sweep"),
        (lambda c: changed(c, version=2), "it has version 2, but this ropesearch resumes only version 1"),
        (lambda c: changed(c, sweep={"digest": ""}), "it was written by another sweep, which differs in "),
        (lambda c: c + "{}\n", "line 8 is not one of its rows"),
        (lambda c: c.replace('"base_set"', '"set"', 1), "line 2 is not one of its rows"),
        (lambda c: c + "\0\n", "line 8 is not one of its rows"),
        (lambda c: in_row(c, base_set={}), "line 2 is not one of its rows: its format must be 'ropesearch.base-set'"),
        (lambda c: in_row(c, base_set=[]), "line 2 is not one of its rows: its format must be 'ropesearch.base-set'"),
        (
            lambda c: in_row(c, base_set=BY_LAYER),
            "line 2 is not one of its rows: a search is of one layer's bases, and ",
        ),
        (lambda c: in_row(c, error=1), "line 2 is not one of its rows: error must be a text, not 1"),
        (lambda c: in_row(c, seconds=None), "line 2 is not one of its rows: seconds must be a number"),
        (lambda c: in_row(c, seconds=float("nan")), "line 2 is not one of its rows: it holds NaN"),
        (lambda c: in_row(c, seconds="x" * 40_000_000), "line 2 is not one of its rows"),
        (lambda c: in_row(c, coverage=1), "line 2 is not one of its rows: coverage must be an object, not 1"),
        (lambda c: in_row(c, coverage={"floor": 1}), "line 2 is not one of its rows: 'floor_distance'"),
        (lambda c: c.replace('"floor": ', '"floor": 1e400, "x": '), "line 2 is not one of its rows: it holds '1e4"),
        (lambda c: c.replace('"head_dim": 16, "b', '"head_dim": 18, "b'), "line 2 is not one of its rows: head_dim"),
        (
            lambda c: c.replace('"seconds"', '"point": 1, "seconds"'),
            "line 2 is not one of its rows: it has the key 'po",
        ),
        (lambda c: c.partition("\n")[0] + "\n\udcff\n", "line 2 is not one of its rows: 'utf-8' codec can't decode"),
    ],
)
def test_a_file_that_cannot_be_resumed_is_exit_2_and_stays(run, expected, edit, line):
    text = edit(expected[1].read_text())
    Path("a.jsonl").write_text(text, errors="surrogateescape")
    code, out, err = run(*SMALL, "-o", "a.jsonl", "--resume")
    assert (code, out) == (2, "")
    assert err.startswith(f"Error: a.jsonl cannot be resumed by this sweep: {line}")
    assert err.count("\n") == 1
    assert Path("a.jsonl").read_text(errors="surrogateescape") == text


def test_what_differs_from_the_sweep_of_the_file_is_named(run):
    assert run(*GRID, "--stride", "1000,2000", "--heads", 4, "-o", "a.jsonl")[0] == 0
    for other, names in [
        (["--stride", "1000", "--heads", 4], "stride"),
        (["--stride", "1000,2000", "--heads", 8, "--count", 5], "heads, kv_heads, count"),
    ]:
        code, _, err = run(*GRID, *other, "-o", "a.jsonl", "--resume")
        assert (code, err.endswith(f"it was written by another sweep, which differs in {names}\n")) == (2, True)


def test_a_file_that_is_there_is_exit_1_and_overwrite_replaces_it(run):
    Path("a.jsonl").write_text("precious" * 10000)
    code, out, err = run(*SMALL, "-o", "a.jsonl")
    line = "a.jsonl already exists; --overwrite replaces it"
    assert (code, out, err) == (1, "", f"Error: {line}\n")
    assert Path("a.jsonl").read_text() == "precious" * 10000
    assert run(*SMALL, "-o", "a.jsonl", "--overwrite")[0] == 0
    assert len(lines("a.jsonl")) == 7


def test_two_sweeps_cannot_write_one_file(run, expected):
    Path("a.jsonl").write_bytes(expected[1].read_bytes())
    with open("a.jsonl", "r+b") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        for option in ("--resume", "--overwrite"):
            assert run(*SMALL, "-o", "a.jsonl", option) == (1, "", "Error: another sweep is writing a.jsonl\n")
    assert Path("a.jsonl").read_bytes() == expected[1].read_bytes()


def test_a_full_disk_leaves_whole_lines(tmp_path):
    code = (
        "import resource, signal, sys; from ropesearch.cli import main; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "from ropesearch import search_bases; search_bases(1e4, 3e4, 1e3, 4, head_dim=16, max_distance=2000);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000)); sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-P", "-c", code, "sweep", *SMALL, "-o", "a.jsonl", "--quiet"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "Error: a.jsonl cannot be written: No space left on device; all earlier rows are complete\n"
    assert 1 < len(lines(tmp_path / "a.jsonl")) < 7


# Kills


def test_kills_lose_nothing_and_repeat_nothing(expected, tmp_path):
    path = tmp_path / "a.jsonl"
    args = [*SMALL, "--workers", "1", "--resume", "--quiet", "--json", "-o", "a.jsonl"]
    kept = b""
    for n, stop in ((1, 1), (3, 2), (4, 1)):  # lines in the file, and how many of them this run writes
        process = start(tmp_path, *args, stop=stop)
        workers = wait_until_stopped(process)
        process.kill()
        process.communicate()
        assert len(workers) == (n > 1)
        assert psutil.wait_procs(workers, timeout=60)[1] == []
        content = path.read_bytes()
        assert content.count(b"\n") == n
        assert content.startswith(kept)
        kept = content
    process = start(tmp_path, *args)
    out, err = process.communicate(timeout=100)
    assert (process.returncode, err) == (0, "")
    assert path.read_bytes().startswith(kept)
    assert unordered(lines(path)) == unordered(lines(expected[1]))
    assert unordered(json.loads(out)) == unordered(expected[0])


@pytest.mark.parametrize(("stop", "n"), [(0, 1), (2, 2)], ids=["workers start", "workers work"])
def test_an_interrupt_is_exit_130_and_the_file_is_whole(tmp_path, stop, n):
    args = [*SMALL, "--workers", "2", "--quiet", "-o", "a.jsonl"]
    process = start(tmp_path, *args, stop=stop, start_new_session=True)
    workers = wait_until_stopped(process)
    assert workers
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the workers too
    process.send_signal(signal.SIGCONT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err.split()) == (130, "", ["Interrupted."])
    assert psutil.wait_procs(workers, timeout=60)[1] == []
    assert len(lines(tmp_path / "a.jsonl")) == n


@pytest.mark.parametrize(("stop", "n"), [(0, 1), (2, 2)], ids=["it starts", "it works"])
def test_a_worker_that_is_killed_is_exit_1_and_the_rest_can_be_resumed(expected, tmp_path, stop, n):
    args = [*SMALL, "--workers", "1", "--quiet", "-o", "a.jsonl"]
    process = start(tmp_path, *args, stop=stop)
    (worker,) = wait_until_stopped(process)
    worker.kill()
    process.send_signal(signal.SIGCONT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err.count("\n")) == (1, "", 1)
    assert re.match(r"Error: the sweep lost its workers: .*[^.]; a\.jsonl keeps the finished rows, and --resume", err)
    whole = lines(tmp_path / "a.jsonl")
    assert n <= len(whole) < 7
    rows = sweep(POINTS, tmp_path / "a.jsonl", executor=Here(), resume=True)
    assert unordered(rows) == unordered(expected[0])
    assert lines(tmp_path / "a.jsonl")[: len(whole)] == whole


# The command line


def test_the_table_and_the_rows(run, expected):
    code, out, err = run(*SMALL, "-o", "a.jsonl")
    assert (code, err) == (0, "wrote a.jsonl\n")
    title, *table = out.splitlines()
    assert title.strip() == "6 points: bmin 10000, bmax 30000, max distance 2000"  # what all share
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in table if line.startswith("│")]
    rows = read_sweep("a.jsonl")
    assert [row[:4] for row in cells] == [
        [str(i), "–" if p["stride"] is None else f"{p['stride']:.0f}", str(p["heads"]), p["strategy"]]
        for i, p in enumerate((row["point"] for row in rows), start=1)
    ]
    floors = [f"{row['coverage']['floor']:.5f}" for row in rows]
    assert [row[4] for row in cells] == [floor + "*" * (floor == max(floors, key=float)) for floor in floors]
    code, out, err = run(*SMALL, "-o", "a.jsonl", "--resume", "--json", "--quiet")
    assert (code, err) == (0, "")
    assert unordered(json.loads(out)) == unordered(expected[0])


def test_rows_sorted_by_a_figure_keep_their_numbers(run, show, expected):
    Path("a.jsonl").write_bytes(expected[1].read_bytes())
    rows = read_sweep("a.jsonl")
    by_floor = sorted(range(6), key=lambda i: -rows[i]["coverage"]["floor"])
    printed = [
        run(*SMALL, "-o", "a.jsonl", "--resume", "--sort", "floor", "--quiet"),
        show("a.jsonl", "--sort", "floor"),
    ]
    for code, out, err in printed:
        assert (code, err) == (0, "")
        numbers = [int(line.split("│")[1]) for line in out.splitlines() if line.startswith("│")]
        assert numbers == [i + 1 for i in by_floor]
    ripples = [json.loads(show("a.jsonl", "--sort", sort, "--json")[1]) for sort in ("mean", "floor")]
    assert [row["coverage"]["mean"] for row in ripples[0]] == sorted(
        (r["coverage"]["mean"] for r in rows), reverse=True
    )


def test_a_row_is_a_base_set_wherever_one_is_wanted(expected, tmp_path, show):
    Path("a.jsonl").write_bytes(expected[1].read_bytes())
    for i, row in enumerate(read_sweep("a.jsonl"), start=1):
        base_set = find_base_set(f"a.jsonl#{i}")
        assert (
            base_set.to_json()
            == BaseSet.from_json(json.dumps(row["base_set"] | {"coverage": row["coverage"]})).to_json()
        )
    assert show("a.jsonl", "--pick", 3, "-o", "b.json") == (0, "", "wrote b.json\n")
    assert BaseSet.load("b.json") == find_base_set("a.jsonl#3")
    assert show("a.jsonl#3", "--json")[1] == Path("b.json").read_text()


def test_a_sweep_that_was_stopped_can_be_read(expected, tmp_path):
    data = expected[1].read_bytes()
    (tmp_path / "cut.jsonl").write_bytes(data[:-10])
    assert len(read_sweep(tmp_path / "cut.jsonl")) == 5
    for content, line in [
        (b"", "is not a sweep file: its first line"),
        (b'{"format": "ropesearch.sweep"}\n', "is not a sweep file: its first line"),
        (data.replace(b'"version": 1', b'"version": 2', 1), "has version 2, but this ropesearch reads only version 1"),
        (data.replace(b'"point"', b'"paint"'), "is not a usable sweep file: line 2 is not a row"),
    ]:
        (tmp_path / "bad.jsonl").write_bytes(content)
        with pytest.raises(InputError, match=line):
            read_sweep(tmp_path / "bad.jsonl")


@pytest.mark.parametrize(
    ("args", "line"),
    [
        (["a.jsonl", "--pick", "7"], "a.jsonl has rows 1 to 6, and no row 7"),
        (["a.jsonl#0"], "a.jsonl has rows 1 to 6, and no row 0"),
        (["a.jsonl", "--coverage"], "--coverage needs one base set: choose it by --pick"),
        (["table2", "--pick", "1"], "--pick is for sweep files, and table2 is none"),
        (["table2", "--sort", "floor"], "--sort is for sweep files, and table2 is none"),
        (["a.jsonl", "--sort", "size"], "Invalid value for '--sort': 'size' is not one of 'floor', 'mean',"),
    ],
)
def test_rows_that_cannot_be_shown(expected, show, args, line):
    Path("a.jsonl").write_bytes(expected[1].read_bytes())
    code, out, err = show(*args)
    assert (code, out) == (2, "")
    assert err.startswith(f"Error: {line}")


def test_ranges_and_letters_in_lists(run):
    code, out, _ = run(*GRID, "--strides", "1k:3k:1k", "--heads", "2:4:2", "--json", "-o", "a.jsonl")
    assert code == 0
    assert [(row["point"]["stride"], row["point"]["heads"]) for row in json.loads(out)] == [
        (stride, heads) for stride in (1000, 2000, 3000) for heads in (2, 4)
    ]
    code, _, err = run(*GRID, "--strides", "3k:1k:1k", "--heads", "4", "-o", "b.jsonl")
    assert (code, err.count("\n")) == (2, 1)
    assert "'3k:1k:1k' is not a valid range: first:last:step, such as 10k:50k:10k" in err


def test_half_a_line_is_noted(run, expected):
    Path("a.jsonl").write_bytes(expected[1].read_bytes()[:-1])
    code, _, err = run(*SMALL, "-o", "a.jsonl", "--resume")
    assert (code, err) == (0, "note: a.jsonl ended in half a line, which was dropped\nwrote a.jsonl\n")


def test_a_preset_fills_in(run):
    code, out, _ = run("--preset", "attention-buckets", "--strides", "500,1000", "--json", "-o", "a.jsonl")
    assert code == 0
    found = [(row["point"]["stride"], row["base_set"]["bases"]) for row in json.loads(out)]
    assert found[0] == (500, [10000, 17500, 18000, 19000, 20000, 25000])
    assert found[1][0] == 1000


@pytest.mark.parametrize(
    ("args", "line"),
    [
        ([], "Missing option '-o' / '--output'."),
        (["-o", "a.jsonl"], "--bmin, --bmax, --heads and --stride must be given"),
        (
            [*SMALL, "-o", "a.jsonl", "--stride", "1000,abc"],
            "Invalid value for '--strides' / '--stride': 'abc' is not a valid float.",
        ),
        ([*SMALL, "-o", "a.jsonl", "--heads", "4,"], "Invalid value for '--heads': '' is not a valid integer."),
        ([*SMALL, "-o", "a.jsonl", "--stride", "1000,0"], "--stride must be a finite number above 0, not 0"),
        ([*SMALL, "-o", "a.jsonl", "--heads", "4,99"], "--heads must be at most 21, because --stride 1000 gives 20"),
        ([*SMALL, "-o", "a.jsonl", "--strategy", "best"], "--strategy must be one of peak-valley, uniform"),
        ([*SMALL, "-o", "a.jsonl", "--workers", "0"], "--workers must be an integer of at least 1, not 0"),
        (
            [*SMALL, "-o", "a.jsonl", "--resume", "--overwrite"],
            "--resume continues a file and --overwrite replaces it",
        ),
        (
            [*SMALL, "-o", "a.jsonl", "--scheduler", "nowhere"],
            "--scheduler must be the address of a Dask scheduler, such as host:8786, not 'nowhere'",
        ),
    ],
)
def test_wrong_input_is_exit_2_one_line_and_nothing_written(run, tmp_path, args, line):
    code, out, err = run(*args)
    assert (code, out) == (2, "")
    assert err.startswith(f"Error: {line}")
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("listens", [False, True])
def test_a_scheduler_that_does_not_answer_is_exit_1(run, tmp_path, monkeypatch, listens):
    monkeypatch.setattr("ropesearch.search.workers.CONNECT_WITHIN", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        if not listens:
            server.close()
        code, out, err = run(*SMALL, "-o", "a.jsonl", "--scheduler", address)
    assert (code, out, err) == (1, "", f"Error: no Dask scheduler answered at {address} within 0.3 s\n")
    assert list(tmp_path.iterdir()) == []


def test_without_the_extra_it_is_exit_1(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    code, out, err = run(*SMALL, "-o", "a.jsonl", "--scheduler", "127.0.0.1:8786")
    line = "--scheduler needs distributed: pip install 'ropesearch[cluster]'"
    assert (code, out, err) == (1, "", f"Error: {line}\n")
    assert list(tmp_path.iterdir()) == []


# The device


def test_an_older_file_is_resumed(expected, tmp_path):
    """Some sweeps wrote the device into every point, and into the digest of the header."""
    rows, path = expected
    header, *written = lines(path)
    for row in written:
        row["point"]["device"] = "cpu"
    texts = sorted(json.dumps(row["point"]) for row in written)
    header["sweep"]["fixed"]["device"] = "cpu"
    header["sweep"]["digest"] = hashlib.sha256("\n".join([*texts, "true"]).encode()).hexdigest()
    old = tmp_path / "old.jsonl"
    old.write_text("".join(json.dumps(line) + "\n" for line in (header, *written[:2])))
    assert unordered(sweep(POINTS, old, executor=Here(), resume=True)) == unordered(rows)
    assert len(lines(old)) == 1 + len(rows)


def test_the_device_shapes_no_point_and_is_looked_for_before_the_work(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    only = [point for point in POINTS if point["strategy"] == "peak-valley"]
    with pytest.raises(OSError, match="device cuda: torch finds no CUDA device here"):
        sweep(only, tmp_path / "a.jsonl", device="cuda")
    with pytest.raises(ParameterError, match="device must be cpu unless `strategy` is peak-valley"):
        sweep(POINTS, tmp_path / "a.jsonl", device="cuda")
    with pytest.raises(InputError, match="must be an option of SearchSpec, not 'device'"):
        sweep([{**only[0], "device": "cuda"}], tmp_path / "a.jsonl")
    assert not list(tmp_path.iterdir())


def test_a_sweep_on_a_device_gives_the_rows_of_the_cpu(expected, tmp_path, monkeypatch):
    find = lambda name: None if name == "cpu" else torch.device("cpu")  # noqa: E731
    monkeypatch.setattr("ropesearch.search.run.find_device", find)
    only = [point for point in POINTS if point["strategy"] == "peak-valley"]
    rows = sweep(only, tmp_path / "a.jsonl", executor=Here(), device="cuda")
    assert unordered(rows) == unordered(row for row in expected[0] if row["point"]["strategy"] == "peak-valley")
