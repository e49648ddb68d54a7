import os
import runpy
import subprocess
import sys
import time
from pathlib import Path

import numba
import numpy as np
import pytest
from numba.core import caching, codegen, compiler, serialize
from numba.core.runtime import nrt

from ropesearch.kernels import _cache, _jit

pytestmark = pytest.mark.skipif(bool(numba.config.DISABLE_JIT), reason="nothing is compiled")

LOGGED = """
import logging
logging.basicConfig(format="%(name)s: %(message)s")
logging.getLogger("ropesearch.kernels").setLevel({level!r})
"""
COUNTED = """
from numba.core import event
with event.install_recorder("numba:compile") as compiled:
    from ropesearch import find_extrema
    print(find_extrema([3, 1, 4, 1, 5, 9, 2, 6], "local"))
print(sum(happened.is_start for _, happened in compiled.buffer))
"""
# While the package looks for it, a name of numba is not there; numba itself finds it afterwards, under whatever name.
RENAMED = """
from numba.core.compiler import CompileResult
kept = CompileResult._reduce
del CompileResult._reduce
import ropesearch.kernels._jit
CompileResult._reduce = kept
"""


def start(folder, before="", level="WARNING"):
    """Run COUNTED in a process of its own, after other code; what is logged from a level on goes to stderr."""
    code = LOGGED.format(level=level) + before + COUNTED
    both = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    command = [sys.executable, "-P", "-W", "error", "-c", code]
    return subprocess.Popen(command, env=os.environ | {"NUMBA_CACHE_DIR": str(folder)}, **both)


def finish(process, log=""):
    """(what was found, how many functions were compiled); every line of the log starts with `log`, and there is one."""
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert {line.startswith(log) for line in err.splitlines()} == ({True} if log else set()), err
    found, compiled = out.rsplit("\n", 2)[:2]
    return found, int(compiled)


def test_processes_that_start_at_once_share_a_cache(tmp_path):
    beside_the_source = sorted(Path(_cache.__file__).parent.rglob("*.nb*"))
    results = [finish(process) for process in [start(tmp_path) for _ in range(3)]]
    assert len({found for found, _ in results}) == 1
    assert max(compiled for _, compiled in results) > 0
    assert finish(start(tmp_path)) == (results[0][0], 0)
    (folder,) = (tmp_path / "ropesearch").iterdir()
    assert not [path for path in folder.iterdir() if path.stat().st_size == 0 or path.name.count(".")]  # no leftovers
    assert sorted(Path(_cache.__file__).parent.rglob("*.nb*")) == beside_the_source


def test_without_a_place_to_write_the_kernels_are_compiled_in_silence(tmp_path):
    (tmp_path / "file").touch()
    found, compiled = finish(start(tmp_path / "file"))
    assert compiled > 0
    assert "peaks=array([2, 5])" in found
    assert (tmp_path / "file").read_bytes() == b""


def test_a_numba_with_other_insides_only_costs_time(tmp_path):
    log = "ropesearch.kernels: compiled kernels are not kept: AttributeError"
    found, compiled = finish(start(tmp_path, RENAMED, "DEBUG"), log)
    assert "peaks=array([2, 5])" in found
    assert compiled > 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("place", "name"),
    [
        (compiler.CompileResult, "_reduce"),
        (compiler.CompileResult, "_rebuild"),
        (serialize, "dumps"),
        (caching, "NullCache"),
        (codegen.CPUCodegen, "magic_tuple"),
        (nrt, "rtsys"),
        (type(nrt.rtsys), "initialize"),
    ],
)
def test_each_private_name_of_numba_is_missed_at_the_import(monkeypatch, place, name):
    runpy.run_path(_cache.__file__)
    monkeypatch.delattr(place, name)
    with pytest.raises((ImportError, AttributeError), match=name):  # those that `_jit` expects
        runpy.run_path(_cache.__file__)


def test_a_dispatcher_that_keeps_its_cache_elsewhere_goes_without(monkeypatch, caplog):
    class Dispatcher:
        __slots__ = ("function",)

        def __init__(self, function):
            self.function = function

    monkeypatch.setattr(_jit, "njit", lambda **options: Dispatcher)
    monkeypatch.setattr(_jit, "FOLDER", Path())
    with caplog.at_level("DEBUG", "ropesearch.kernels"):
        assert _jit.kernel(count_up).function is count_up
    assert "compiled kernels are not kept" in caplog.text


def count_up(values):
    total = 0.0
    for j in range(values.size):
        total += j * values[j]
    return total


def run_anew(folder):
    """Run as another process would, with nothing compiled yet; whether the code came from the cache."""
    compiled = numba.njit(count_up)
    compiled._cache = _cache.KernelCache(count_up, folder)
    assert compiled(np.arange(5.0)) == 30.0
    assert compiled(np.arange(5, dtype=np.int32)) == 30.0
    return sum(compiled.stats.cache_hits.values()) / 2


def shorter(path):
    path.write_bytes(path.read_bytes()[:-100])


def emptied(path):
    path.write_bytes(b"")


def one_bit_off(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def of_another_kind(path):
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("damage", [shorter, emptied, one_bit_off])
def test_damaged_files_are_replaced(tmp_path, damage):
    assert run_anew(tmp_path / "new" / "folder") == 0
    paths = list((tmp_path / "new" / "folder").iterdir())
    assert len(paths) == 2  # one for each signature
    assert run_anew(tmp_path / "new" / "folder") == 1
    for path in paths:
        damage(path)
    assert run_anew(tmp_path / "new" / "folder") == 0
    assert run_anew(tmp_path / "new" / "folder") == 1


def test_the_file_of_another_kernel_is_not_run(tmp_path, caplog):
    assert run_anew(tmp_path) == 0
    one, other = tmp_path.iterdir()
    one.write_bytes(other.read_bytes())
    with caplog.at_level("DEBUG", "ropesearch.kernels"):
        assert run_anew(tmp_path) == 0.5
    assert "damaged, or the file of another kernel" in caplog.text
    assert run_anew(tmp_path) == 1


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="files have no such owners here")
@pytest.mark.parametrize("who", ["group", "others"])
def test_what_others_can_write_to_is_not_run(tmp_path, caplog, monkeypatch, who):
    monkeypatch.setattr(_cache, "rebuild", pytest.fail)  # it would be unpickled by then
    writable = 0o020 if who == "group" else 0o002
    folder = tmp_path / "kernels"
    assert run_anew(folder) == 0
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}
    assert folder.stat().st_mode & 0o777 == 0o700
    with caplog.at_level("DEBUG", "ropesearch.kernels"):
        for path in folder.iterdir():
            path.chmod(0o600 | writable)
        assert run_anew(folder) == 0
        assert caplog.text.count("others can write to it") == 2
        assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}  # compiled anew, and replaced
        folder.chmod(0o700 | writable)
        before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
        assert run_anew(folder) == 0
        assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    assert caplog.text.count("others can write to it") == 6  # neither read nor written


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="files have no such owners here")
def test_what_another_user_owns_is_not_run(tmp_path, caplog, monkeypatch):
    assert run_anew(tmp_path) == 0
    monkeypatch.setattr(os, "geteuid", lambda: tmp_path.stat().st_uid + 1)
    monkeypatch.setattr(_cache, "rebuild", pytest.fail)
    with caplog.at_level("DEBUG", "ropesearch.kernels"):
        assert run_anew(tmp_path) == 0
    assert caplog.text.count("is not the user's own") == 4


def test_where_files_have_no_owners_they_are_run(tmp_path, monkeypatch):
    monkeypatch.delattr(os, "geteuid")
    assert run_anew(tmp_path) == 0
    for path in tmp_path.iterdir():
        path.chmod(0o666)
    assert run_anew(tmp_path) == 1


def test_what_cannot_be_replaced_is_left(tmp_path):
    run_anew(tmp_path)
    for path in list(tmp_path.iterdir()):
        of_another_kind(path)
    assert run_anew(tmp_path) == 0
    assert len(list(tmp_path.iterdir())) == 2


def test_every_text_of_the_kernels_has_its_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(_cache, "__file__", str(tmp_path / "_cache.py"))
    monkeypatch.setattr(numba.config, "CACHE_DIR", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    assert _cache.cache_folder() is None  # the text is not to be had
    folders = set()
    for text in ("x = 1", "x = 2"):
        (tmp_path / "other.py").write_text(text)
        os.utime(tmp_path / "other.py", (0, 0))  # as from a reproducible wheel
        folders.add(_cache.cache_folder())
    assert len(folders) == 2
    assert {folder.parent for folder in folders} == {tmp_path / "home" / "ropesearch"}
    monkeypatch.setenv("XDG_CACHE_HOME", "~/.cache")  # as for a user without a home
    assert _cache.cache_folder() is None


def test_folders_long_unchanged_go(tmp_path):
    for name, days in (("kernels-old", 31), ("kernels-young", 29), ("anything", 99)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "code").touch()
        then = time.time() - days * 24 * 3600
        os.utime(tmp_path / name, (then, then))
    run_anew(tmp_path / "kernels-new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["anything", "kernels-new", "kernels-young"]
