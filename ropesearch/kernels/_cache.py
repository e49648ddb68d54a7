"""Compiled kernels on disk, in a folder of the user.

numba's own cache lies beside the source, where a user may not write and where an uninstall leaves it behind. A kernel
counts there as fresh while its one file is unchanged, whatever became of other files whose kernels are compiled into
it; the index can name the code of another signature after two processes started at once; a damaged file is an error.

So here: a folder for every text of the kernels, and in it a file for every kernel, signature and processor, written
whole and led by its digest. Where a file or the folder cannot be used, the kernel is compiled, and nothing is said.
"""

import pickle
import shutil
import sys
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

import llvmlite
import numba
from numba.core import serialize
from numba.core.caching import NullCache
from numba.core.compiler import CompileResult

from ropesearch.core.machine import user_cache_folder

KEPT_FOR = 30 * 24 * 3600  # seconds; then the code of another text of the kernels goes
DIGEST = sha256().digest_size

# numba types some of these in part, and calls none of them public: one that is not there is found at the import.
config: Any = numba.config
reduce: Any = CompileResult._reduce
rebuild: Any = CompileResult._rebuild
dumps: Any = serialize.dumps


def cache_folder() -> Path | None:
    """Where the code of these kernels lies, under this Python and numba; None if there is no such place."""
    sources = sorted(Path(__file__).parent.glob("*.py"))
    place = Path(config.CACHE_DIR, "ropesearch") if config.CACHE_DIR else user_cache_folder()
    if not sources or place is None:
        return None
    text = sha256(repr((numba.__version__, llvmlite.__version__, sys.version)).encode())
    for path in sources:
        text.update(path.name.encode() + path.read_bytes())
    return place / f"kernels-{text.hexdigest()[:16]}"


class KernelCache(NullCache):
    """The code of one kernel, as numba asks for it and hands it over."""

    def __init__(self, function: Callable[..., Any], folder: Path) -> None:
        self._function = function
        self._folder = folder

    def load_overload(self, signature: Any, target: Any) -> Any:
        """Compiled code for a signature, or None."""
        target.refresh()
        with suppress(Exception):
            content = self._path(signature, target.codegen()).read_bytes()
            if sha256(content[DIGEST:]).digest() == content[:DIGEST]:
                return rebuild(target, *pickle.loads(content[DIGEST:]))
        return None

    def save_overload(self, signature: Any, compiled: Any) -> None:
        """Keep compiled code for a signature."""
        if compiled.lifted or compiled.library.has_dynamic_globals:  # it holds addresses of this process
            return
        with suppress(Exception):
            code = dumps(reduce(compiled))
            if not self._folder.exists():
                self._folder.mkdir(parents=True, exist_ok=True)
                remove_old_folders(self._folder)
            path = self._path(signature, compiled.codegen)
            temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
            try:
                temporary.write_bytes(sha256(code).digest() + code)
                temporary.replace(path)
            finally:
                temporary.unlink(missing_ok=True)

    def _path(self, signature: Any, codegen: Any) -> Path:
        module, name = self._function.__module__, self._function.__qualname__
        which = repr((module, name, signature, codegen.magic_tuple()))  # the last: processor and its features
        return self._folder / f"{name}-{sha256(which.encode()).hexdigest()[:16]}"


def remove_old_folders(new: Path) -> None:
    """Remove the folders beside a new one that have long stood as they are."""
    for folder in new.parent.glob("kernels-*"):
        with suppress(OSError):  # another process may be at it too
            if time.time() - folder.stat().st_mtime > KEPT_FOR:
                shutil.rmtree(folder, ignore_errors=True)


FOLDER = cache_folder()
