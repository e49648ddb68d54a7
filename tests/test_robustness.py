"""The commands keep their word where memory is short, processors are few, assertions off, or a kill comes."""

import json
import os
import resource
import shutil
import subprocess
import sys

import pytest

from ropesearch import PRESETS, BaseSet, search_bases

COMMAND = [sys.executable, "-P", "-m", "ropesearch"]
SMALL = ["search", "--bmin", "10000", "--bmax", "30000", "--stride", "1000", "--heads", "8"]
SMALL += ["--head-dim", "32", "--max-distance", "2000"]


def run(command, timeout=120, **options):
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, **options)


@pytest.fixture(scope="module")
def small():
    done = run([*COMMAND, *SMALL, "--json", "--quiet"])
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.skipif(sys.platform != "linux", reason="the limit means something else, or nothing, there")
@pytest.mark.parametrize(
    "environment",
    [
        pytest.param({}, id="cached"),
        pytest.param({"NUMBA_CACHE_DIR": os.devnull}, id="compiling", marks=pytest.mark.slow),
    ],
)
def test_under_a_limit_of_4_gb_of_address_space(environment):
    limit = 4 * 10**9
    done = run(
        [*COMMAND, "search", "--preset", "table2", "--json", "--quiet"],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
        env=os.environ | environment,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert BaseSet.from_json(done.stdout).bases == search_bases(**PRESETS["table2"]).bases


def test_more_threads_than_processors_are_cut_with_a_note(small):
    done = run([*COMMAND, *SMALL, "--json", "--threads", "5000"])
    assert (done.returncode, done.stdout) == (0, small)
    processors = len(os.sched_getaffinity(0))
    assert done.stderr.endswith(f"note: --threads 5000 is cut to {processors}, one for each processor\n")
    assert run([*COMMAND, *SMALL, "--json", "--threads", "5000", "--quiet"]).stderr == ""


def test_more_workers_than_processors_are_cut_with_a_note(tmp_path):
    done = run([*COMMAND, "sweep", *SMALL[1:], "-o", "rows.jsonl", "--workers", "5000"], cwd=tmp_path)
    assert done.returncode == 0
    processors = len(os.sched_getaffinity(0))
    assert f"note: --workers 5000 is cut to {processors}, one for each processor\n" in done.stderr


def test_without_assertions_the_result_is_the_same(small):
    done = run([sys.executable, "-O", *COMMAND[1:], *SMALL, "--json", "--quiet"])
    assert (done.returncode, done.stdout, done.stderr) == (0, small, "")


def test_on_one_processor_the_result_is_the_same(small):
    one = min(os.sched_getaffinity(0))
    done = run([*COMMAND, *SMALL, "--json", "--quiet"], preexec_fn=lambda: os.sched_setaffinity(0, {one}))
    assert (done.returncode, done.stdout, done.stderr) == (0, small, "")


def test_warnings_that_are_errors_change_nothing(small):
    done = run([sys.executable, "-P", "-W", "error", "-m", "ropesearch", *SMALL, "--json", "--quiet"])
    assert (done.returncode, done.stdout, done.stderr) == (0, small, "")


def test_a_locale_without_characters_changes_nothing_but_the_table(small):
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = run([*COMMAND, *SMALL, "--quiet"], env=os.environ | plain)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.isascii()
    assert run([*COMMAND, *SMALL, "--json", "--quiet"], env=os.environ | plain).stdout == small


@pytest.mark.skipif(not hasattr(os, "fork"), reason="streams are closed before the start")
@pytest.mark.parametrize("closed", [[1], [2], [0, 1, 2]], ids=str)
def test_a_closed_stream_stops_no_work(tmp_path, small, closed):
    done = run([*COMMAND, *SMALL, "-o", "a.json"], cwd=tmp_path, preexec_fn=lambda: [os.close(fd) for fd in closed])
    assert done.returncode == 0
    assert (tmp_path / "a.json").read_text() == small


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no device that is full")
def test_a_stdout_that_is_full_is_one_line_and_a_full_stderr_none(small):
    with open("/dev/full", "w") as full:
        command = [*COMMAND, "waveform", "1e4", "--max-distance", "16"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
        assert (done.returncode, done.stderr) == (1, "Error: stdout cannot be written: No space left on device\n")
        done = subprocess.run([*COMMAND, *SMALL, "--json"], stdout=subprocess.PIPE, stderr=full, text=True)
        assert (done.returncode, done.stdout) == (0, small)


IN_THREADS_AND_FORKS = """
import multiprocessing, sys
from concurrent.futures import ThreadPoolExecutor
from ropesearch import search_bases, waveform

def search(i):
    found = search_bases(1e4, 3e4, 1000, 8, head_dim=32, max_distance=2000, threads=1 + i % 3)
    return found.to_json(), waveform(1e4, 32, 300).tobytes()

with ThreadPoolExecutor(8) as pool:
    found = set(pool.map(search, range(24)))
with multiprocessing.get_context("fork").Pool(2) as pool:
    found |= set(pool.map(search, range(4)))
assert len(found) == 1, len(found)
sys.stdout.write(found.pop()[0])
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_many_threads_and_processes_forked_after_them_find_the_same(small):
    done = run([sys.executable, "-P", "-c", IN_THREADS_AND_FORKS])
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["bases"] == json.loads(small)["bases"]


def test_a_read_only_file_system_is_one_line(tmp_path, small):
    (tmp_path / "there").mkdir()
    alone = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    mount = "mount -t tmpfs -o ro none there"
    if shutil.which("unshare") is None or run([*alone, mount], cwd=tmp_path).returncode != 0:
        pytest.skip("mounting needs a namespace of its own")
    done = run([*alone, f'{mount} && exec "$@"', "sh", *COMMAND, *SMALL, "-o", "there/a.json"], cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "Error: there/a.json cannot be written: Read-only file system\n"


# Writes a file again and again, each time killed a line of code later, until it is not killed any more.
KILLED_EVERYWHERE = """
import os, pathlib, signal, sys
from ropesearch.core.files import write_whole

def blocks():
    for letter in (b"n", b"e", b"w"):
        yield letter * 100_000

def killed_after(lines):
    left = lines
    def trace(frame, event, _):
        nonlocal left
        if event == "call" and "ropesearch" not in frame.f_code.co_filename and frame.f_code is not blocks.__code__:
            return None
        if event == "line":
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace
    return trace

path = pathlib.Path("file")
for old in (None, b"old"):
    for lines in range(1, 1000):
        for name in os.listdir():
            os.unlink(name)
        if old is not None:
            path.write_bytes(old)
        child = os.fork()
        if child == 0:
            sys.settrace(killed_after(lines))
            write_whole("file", blocks(), overwrite=True)
            sys.settrace(None)
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        content = path.read_bytes() if path.exists() else None
        killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        print(lines, killed, content in (old, b"".join(blocks())), content != old, *set(os.listdir()) - {"file"})
        if not killed:
            break
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_killed_at_any_line_of_writing_leaves_the_old_file_or_the_new(tmp_path):
    done = run([sys.executable, "-P", "-c", KILLED_EVERYWHERE], cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    rows = [line.split(" ") for line in done.stdout.splitlines()]
    assert [row[1] for row in rows].count("False") == 2  # the last of each, which came to its end
    assert len(rows) > 40
    for _, killed, whole, is_new, *leftovers in rows:
        assert whole == "True"
        assert all(name.startswith(".ropesearch-") and name.endswith(".tmp") for name in leftovers)
        assert killed == "True" or (is_new == "True" and not leftovers)
    assert any(killed == "True" and is_new == "True" for _, killed, _, is_new, *_ in rows)


# Runs a command again and again, each time killed before the next of what it does to files in this folder (opening,
# linking, renaming, removing one), and once at the choice of bases; until it is not killed any more.
KILLED_AT_FILES = """
import os, signal, sys
import ropesearch.search.run
from ropesearch.cli import main

ropesearch.search.run.search_bases(1e4, 3e4, 1e4, 2, head_dim=32, max_distance=2000)  # kernels: loaded once, for all

def killed():
    os.kill(os.getpid(), signal.SIGKILL)

def killed_at_choice():
    ropesearch.search.run.choose = lambda *_: killed()

def killed_at_file(n):
    left, here = n, os.getcwd()
    def count(event, args):
        nonlocal left
        if event not in ("open", "os.link", "os.rename", "os.remove") or not isinstance(args[0], str | os.PathLike):
            return
        if os.path.dirname(os.path.abspath(args[0])) == here:
            left -= 1
            if left == 0:
                killed()
    sys.addaudithook(count)

for n in range(100):
    child = os.fork()
    if child == 0:
        killed_at_file(n) if n else killed_at_choice()
        os._exit(main(sys.argv[1:]))
    status = os.waitpid(child, 0)[1]
    killed_so = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    print(killed_so, *sorted(os.listdir()))
    for name in os.listdir():
        os.rename(name, os.path.join("..", f"{n}-{name}"))
    if not killed_so:
        break
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_killed_at_any_step_of_a_search_there_is_no_file_or_a_whole_one(tmp_path, small):
    (tmp_path / "work").mkdir()
    arguments = [*SMALL, "-o", "bases.json", "--quiet"]
    done = run([sys.executable, "-P", "-W", "ignore", "-c", KILLED_AT_FILES, *arguments], cwd=tmp_path / "work")
    assert (done.returncode, done.stderr) == (0, "")
    steps = [line.split() for line in done.stdout.splitlines() if line.startswith(("True", "False"))]
    assert [killed for killed, *_ in steps] == ["True"] * (len(steps) - 1) + ["False"]
    assert len(steps) > 5
    whole_and_hidden = 0
    for n, (killed, *names) in enumerate(steps):
        contents = {name: (tmp_path / f"{n}-{name}").read_text() for name in names}
        assert contents.pop("bases.json", small) == small
        assert all(name.startswith(".ropesearch-") and name.endswith(".tmp") for name in contents)
        assert killed == "True" or names == ["bases.json"]
        whole_and_hidden += small in contents.values()
    assert whole_and_hidden == 2  # killed when all was written but the name; and when it had both names
    assert "bases.json" not in steps[0]
