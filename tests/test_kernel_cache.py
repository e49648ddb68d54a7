import os
import subprocess
import sys
import time
from pathlib import Path

import numba
import numpy as np
import pytest

from ropesearch.kernels import _cache

pytestmark = pytest.mark.skipif(bool(numba.config.DISABLE_JIT), reason="nothing is compiled")

COUNTED = """
from numba.core import event
with event.install_recorder("numba:compile") as compiled:
    from ropesearch import find_extrema
    print(find_extrema([3, 1, 4, 1, 5, 9, 2, 6], "local"))
print(sum(happened.is_start for _, happened in compiled.buffer))
"""


def start(folder, code=COUNTED, **environment):
    everything = os.environ | {"NUMBA_CACHE_DIR": str(folder)} | environment
    both = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-P", "-W", "error", "-c", code], env=everything, **both)


def finish(process):
    """(what was found, how many functions were compiled)."""
    out, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (0, "")
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
    changed = "from numba.core.compiler import CompileResult as C; del C._reduce" + COUNTED
    assert finish(start(tmp_path, changed))[1] > 0
    assert list(tmp_path.iterdir()) == []


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
