import errno
import io
import os
import resource
import signal
import stat
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from ropesearch.core import files, machine
from ropesearch.core.errors import InputError, printable
from ropesearch.core.files import check_output, new_folder, read_file, read_json, reserved, write_whole
from ropesearch.core.machine import available_memory, readable_size, require_memory


def test_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "a.txt"
    write_whole(path, "one")
    assert path.read_text() == "one"

    def broken():
        yield b"two"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_whole(path, broken(), overwrite=True)
    assert path.read_text() == "one"
    write_whole(path, [b"t", b"wo"], overwrite=True)
    assert path.read_text() == "two"
    assert list(tmp_path.iterdir()) == [path]


def test_permissions_are_those_of_any_new_file(tmp_path):
    write_whole(tmp_path / "a", b"")
    (tmp_path / "b").touch()
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode


def test_a_file_that_is_replaced_keeps_its_permissions(tmp_path):
    for mode in (0o600, 0o640, 0o666):
        path = tmp_path / "a"
        path.touch()
        path.chmod(mode)
        write_whole(path, "new", overwrite=True)
        assert stat.S_IMODE(path.stat().st_mode) == mode


def test_of_two_that_write_one_new_file_only_one_succeeds(tmp_path):
    def meanwhile():
        yield b"one"
        write_whole(tmp_path / "file", "other")

    with pytest.raises(FileExistsError, match="file already exists; `overwrite=True` replaces it"):
        write_whole(tmp_path / "file", meanwhile())
    assert (tmp_path / "file").read_text() == "other"
    assert os.listdir(tmp_path) == ["file"]


def test_without_hard_links_a_new_file_is_written_all_the_same(tmp_path, monkeypatch):
    def no_links(*_):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    write_whole(tmp_path / "file", "one")
    assert (tmp_path / "file").read_text() == "one"
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EROFS])
def test_errors_of_the_disk_name_the_file(tmp_path, monkeypatch, number):
    def failing(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(OSError, match=f"^{tmp_path}/file cannot be written: {os.strerror(number)}$"):
        write_whole(tmp_path / "file", "one")
    assert os.listdir(tmp_path) == []


def test_a_full_disk_names_the_folder_that_is_written(tmp_path):
    with pytest.raises(OSError, match=f"^{tmp_path}/out cannot be written: No space"), new_folder(tmp_path / "out"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(FileNotFoundError, match="input"), new_folder(tmp_path / "out"):
        Path("input").read_text()
    assert os.listdir(tmp_path) == []


def test_a_surrogate_is_escaped(tmp_path):
    write_whole(tmp_path / "file", "a\udcff.json\n")
    assert (tmp_path / "file").read_bytes() == b"a\\udcff.json\n"


WRITES_UNTIL_KILLED = """
import sys, time
from pathlib import Path
from ropesearch.core.files import new_folder, write_whole

def slowly():
    yield b"half"
    print("writing", flush=True)
    time.sleep(60)

if sys.argv[1] == "file":
    write_whole("file", slowly())
with new_folder("folder") as temporary:
    (temporary / "half").write_bytes(b"half")
    for part in slowly():
        pass
"""


@pytest.mark.skipif(os.name == "nt", reason="there are no locks there")
@pytest.mark.parametrize("what", ["file", "folder"])
def test_what_a_killed_process_left_is_removed_and_nothing_else(tmp_path, what):
    code = [sys.executable, "-P", "-c", WRITES_UNTIL_KILLED, what]
    writers = [subprocess.Popen(code, cwd=tmp_path, stdout=subprocess.PIPE) for _ in range(2)]
    try:
        for writer in writers:
            assert writer.stdout.readline() == b"writing\n"
        (tmp_path / ".ropesearch-mine.tmp").touch()  # not a name of ours
        (tmp_path / ".ropesearch-0123456789ab.tmp").symlink_to("elsewhere")
        assert len(list(tmp_path.iterdir())) == 4
        writers[0].send_signal(signal.SIGKILL)
        writers[0].wait()
        write_whole(tmp_path / "other", "content")
        left = sorted(path.name for path in tmp_path.iterdir())
        assert len(left) == 4  # that of the writer at work
        assert {"other", ".ropesearch-mine.tmp", ".ropesearch-0123456789ab.tmp"} < set(left)
    finally:
        for writer in writers:
            writer.kill()
            writer.communicate()
    with new_folder(tmp_path / "another"):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        {"other", "another", ".ropesearch-mine.tmp", ".ropesearch-0123456789ab.tmp"}
    )


HELD = """
import sys
from ropesearch.core.files import reserved
with reserved("out.json", "evaluation"):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.mark.skipif(os.name == "nt", reason="there are no locks there")
@pytest.mark.parametrize("end", ["finished", "killed"])
def test_a_place_is_held_by_one_process_until_that_ends(tmp_path, end):
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    other = subprocess.Popen([sys.executable, "-P", "-c", HELD], cwd=tmp_path, text=True, **pipes)
    assert other.stdout.readline() == "held\n"
    path = tmp_path / "out.json"
    with pytest.raises(BlockingIOError, match=rf"^another evaluation is writing {path}$"), reserved(path, "evaluation"):
        pytest.fail("two hold it")
    write_whole(path, "by a third")  # which leaves the place alone
    with reserved(tmp_path / "other.json", "evaluation"):
        pass
    if end == "killed":
        other.kill()
    other.communicate("")
    with reserved(path, "evaluation"), pytest.raises(BlockingIOError), reserved(path, "evaluation"):
        pytest.fail("two hold it")
    assert [file.name for file in tmp_path.iterdir()] == ["out.json"]


def test_a_leftover_that_is_removed_the_moment_it_is_made_is_made_again(tmp_path, monkeypatch):
    held = files._hold
    seen = []

    def removed_once(temporary):
        seen.append(temporary)
        if len(seen) == 1:
            temporary.unlink()
        return held(temporary)

    monkeypatch.setattr(files, "_hold", removed_once)
    write_whole(tmp_path / "file", "one")
    assert (tmp_path / "file").read_text() == "one"
    assert len(seen) == 2
    assert os.listdir(tmp_path) == ["file"]


def test_what_is_read_is_a_regular_file_of_a_bounded_size(tmp_path):
    (tmp_path / "file").write_bytes(b"12345")
    assert read_file(tmp_path / "file", 5) == read_file(tmp_path / "file", None) == b"12345"
    with pytest.raises(InputError, match=r"file is too large: it may have at most 4 bytes$"):
        read_file(tmp_path / "file", 4)
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", "/dev/zero", "/dev/full"):
        with pytest.raises(InputError, match=f"^{path} is not a regular file$"):
            read_file(path)
    for path, error in [(tmp_path, IsADirectoryError), (tmp_path / "none", FileNotFoundError)]:
        with pytest.raises(error) as raised:
            read_file(path)
        assert raised.value.filename == path


def test_a_pipe_of_the_shell_is_read_to_its_end(tmp_path):
    code = "from ropesearch.core.files import read_file; print(read_file('/dev/stdin'))"
    command = f'(sleep 0.3; echo one; sleep 0.3; echo two) | {sys.executable} -P -c "{code}"'
    done = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("b'one\\ntwo\\n'\n", "")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('{"a": [1, {"b": 1e400}]}', "it holds '1e400', which JSON does not allow"),
        ('{"a": -1e999}', "it holds '-1e999', which JSON does not allow"),
        ('{"a": NaN}', "it holds NaN, which JSON does not allow"),
        ('[{"a": 1, "b": 2, "a": 3}]', "it has the key 'a' twice"),
        ("[" * 10**5, "it is not JSON, or it is cut off: "),
        ("[" + "1," * 500_000 + "1]", "it holds more than 500000 values"),
        ("9" * 5000, "it is not JSON, or it is cut off: "),
    ],
)
def test_json_that_is_refused(text, why):
    with pytest.raises(InputError) as raised:
        read_json(text)
    assert str(raised.value).startswith(why)
    assert "\n" not in str(raised.value)


def test_text_from_strangers_is_made_printable():
    assert printable("plain – text, 漢字 with \\ and ' and $x$ [b]") == "plain – text, 漢字 with \\ and ' and $x$ [b]"
    assert printable("a\nb\x1b[31m\r\t\x00\x7f\x9b") == r"a\nb\x1b[31m\r\t\x00\x7f\x9b"
    assert printable("\ud800\udcff\u202e\u2028\ufeff") == r"\ud800\udcff\u202e\u2028\ufeff"
    assert printable(Path("a\nb")) == r"a\nb"
    assert str(InputError("two\nlines")) == r"two\nlines"


def test_a_symbolic_link_stays_one(tmp_path):
    (tmp_path / "file").write_text("one")
    (tmp_path / "link").symlink_to("file")
    write_whole(tmp_path / "link", "two", overwrite=True)
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_text() == "two"


def test_outputs_that_are_refused(tmp_path):
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe")
    for name, error, message in [
        ("file", FileExistsError, "already exists"),
        ("pipe", FileExistsError, "is not a regular file"),
        ("nowhere/file", FileNotFoundError, "the folder .*nowhere for file does not exist"),
        ("file/file", NotADirectoryError, "is not a folder"),
        ("", IsADirectoryError, "is a folder"),
        (f"{'x' * 300}/file", FileNotFoundError, "does not exist"),
    ]:
        with pytest.raises(error, match=message):
            check_output(tmp_path / name)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_to(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(PermissionError, match="cannot be written"):
        check_output(tmp_path / "file")


def test_memory():
    assert readable_size(999) == "999 bytes"
    assert readable_size(1_234_567_890) == "1.2 GB"
    available = available_memory()
    assert available is not None
    assert 0 < available < psutil.virtual_memory().total
    require_memory(1000, "this")
    with pytest.raises(MemoryError, match=r"this needs 1 EB of memory, but only .* is free"):
        require_memory(10**18, "this")


def test_without_limits_what_the_system_says_is_available_is(in_cgroups, monkeypatch):
    in_cgroups("0::/")
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    said = "MemTotal:       16000000 kB\nMemFree:         1000000 kB\nMemAvailable:    2345678 kB\nCached:   9 kB\n"
    monkeypatch.setattr(machine, "open", {"/proc/meminfo": io.StringIO(said)}.__getitem__, raising=False)
    assert available_memory() == 2345678 * 1024


def test_a_limit_of_the_address_space_counts(monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda _: (10**6, 10**6))
    with pytest.raises(MemoryError, match="this needs 2 MB of memory, but only 0 bytes is free"):
        require_memory(2 * 10**6, "this")


def test_a_folder_is_written_whole_or_not_at_all(tmp_path):
    with new_folder(tmp_path / "out") as temporary:
        (temporary / "file").write_text("content")
        assert not (tmp_path / "out").exists()
    assert (tmp_path / "out" / "file").read_text() == "content"


def test_a_folder_that_cannot_be_written_leaves_nothing(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "file").touch()

    def interrupted():
        with new_folder(tmp_path / "other") as temporary:
            (temporary / "file").write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    with pytest.raises(FileExistsError, match="out already exists"), new_folder(tmp_path / "out"):
        pytest.fail("it was given a folder to fill")
    with pytest.raises(FileExistsError), new_folder(tmp_path / "late"):
        (tmp_path / "late").mkdir()  # by somebody else
    (tmp_path / "late").rmdir()
    (tmp_path / "link").symlink_to("nowhere")
    with pytest.raises(FileExistsError), new_folder(tmp_path / "link"):
        pytest.fail("it was given a folder to fill")
    with pytest.raises(NotADirectoryError), new_folder(tmp_path / "out" / "file" / "out"):
        pytest.fail("it was given a folder to fill")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "out"]


# What cgroups leave


def cgroup(folder, **files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_text(content)


@pytest.fixture
def in_cgroups(tmp_path, monkeypatch):
    """Let the process be in cgroups under a folder, as lines of /proc/self/cgroup say; gives that folder."""

    def enter(*lines):
        (tmp_path / "self").write_text("".join(f"{line}\n" for line in lines))
        monkeypatch.setattr(machine, "CGROUPS", tmp_path / "cgroup")
        monkeypatch.setattr(machine, "OWN_CGROUPS", tmp_path / "self")
        return tmp_path / "cgroup"

    return enter


def test_the_memory_limit_of_every_cgroup_above_counts(in_cgroups):
    root = in_cgroups("0::/box/job")
    cgroup(root)
    cgroup(root / "box", memory__max="3000000\n", memory__current="2500000\n", memory__stat="inactive_file 400000\n")
    cgroup(root / "box" / "job", memory__max="max\n", memory__current="100\n", memory__stat="")
    assert machine.available_memory() == 900000
    with pytest.raises(MemoryError, match="this needs 1 MB of memory, but only 900 kB is free"):
        require_memory(10**6, "this")


def test_the_memory_limit_of_version_1_counts(in_cgroups):
    root = in_cgroups("4:memory:/job", "3:cpu,cpuacct:/job")
    job = root / "memory" / "job"
    cgroup(root / "memory", memory__limit_in_bytes=f"{2**63 - 4096}", memory__usage_in_bytes="5")
    cgroup(job, memory__limit_in_bytes="2000000", memory__usage_in_bytes="500000", memory__stat="total_inactive_file 9")
    assert machine.available_memory() == 1500009
    cgroup(root / "cpu" / "job", cpu__cfs_quota_us="50000", cpu__cfs_period_us="100000")
    assert machine.processors() == 1


@pytest.mark.parametrize(("limit", "left"), [("100000 100000", 1), ("150000 100000", 2), ("max 100000", 8), ("x", 8)])
def test_the_processors_of_a_cgroup_count(in_cgroups, monkeypatch, limit, left):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)))
    root = in_cgroups("0::/")
    cgroup(root, cpu__max=limit)
    assert machine.processors() == left
    assert machine.threads(None) == left
    assert machine.threads(100) == left


def test_a_cgroup_whose_path_only_the_host_knows_is_the_root_here(in_cgroups):
    root = in_cgroups("0::/kubepods/pod1/abc")
    cgroup(root, cpu__max="100000 100000")
    assert machine.processors() == 1


@pytest.mark.skipif(sys.platform != "linux", reason="other systems keep caches elsewhere")
def test_an_empty_cache_home_counts_as_unset(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    for unset in (lambda: monkeypatch.setenv("XDG_CACHE_HOME", ""), lambda: monkeypatch.delenv("XDG_CACHE_HOME")):
        unset()
        assert machine.user_cache_folder() == tmp_path / ".cache" / "ropesearch"
