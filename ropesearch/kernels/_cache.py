"""Compiled kernels on disk, in a folder of the user.

Why not `njit(cache=True)`: there a kernel counts as fresh while its one file is unchanged, whatever became of other
files whose kernels are compiled into it; two processes that start at once may leave an index that gives one signature
the code of another; a damaged file is an error; anyone's files are run; and the only place that can be named is one for
all packages. It would also start more slowly, see `initialize`.

So here: a folder for every text of the kernels, and in it a file for every kernel, signature and processor, written
whole and led by a digest of all that. It is run only if the folder and the file are the user's own. Where that is not
so, the kernel is compiled; why is logged, for debugging.
"""

import logging
import os
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
from numba.core.codegen import JITCPUCodegen
from numba.core.compiler import CompileResult
from numba.core.runtime.nrt import rtsys

from ropesearch.core.machine import user_cache_folder

KEPT_FOR = 30 * 24 * 3600  # seconds; then the code of another text of the kernels goes
DIGEST = sha256().digest_size

# All of numba's that is not public, next to `Dispatcher._cache` in `_jit`. A name that is no longer there is found when
# this module is imported, and the kernels are then compiled in every process.
reduce: Any = CompileResult._reduce
rebuild: Any = CompileResult._rebuild
dumps: Any = serialize.dumps
processor: Any = JITCPUCodegen.magic_tuple  # its name and its features
# What loaded code needs of numba's runtime. `Cache` of numba calls `target.refresh()`, which does this, and imports all
# that the compiler knows, scipy.linalg with it: several times what a search takes.
initialize: Any = rtsys.initialize

config: Any = numba.config  # typed in part
logger = logging.getLogger("ropesearch.kernels")


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
        try:
            identity = self._identity(signature, target.codegen())
            content = read_own(self._path(identity))
            code = content[DIGEST:]
            if sha256(identity + code).digest() != content[:DIGEST]:
                raise ValueError("damaged, or the file of another kernel")
            initialize(target)
            return rebuild(target, *pickle.loads(code))
        except FileNotFoundError:
            return None
        except Exception as error:  # of the system, of pickle, or of a numba whose insides have changed
            logger.debug("%s is compiled, its file cannot be used: %r", self._function.__qualname__, error)
            return None

    def save_overload(self, signature: Any, compiled: Any) -> None:
        """Keep compiled code for a signature."""
        if compiled.lifted or compiled.library.has_dynamic_globals:  # it holds addresses of this process
            return
        try:
            identity = self._identity(signature, compiled.codegen)
            code = dumps(reduce(compiled))
            if not self._folder.exists():
                self._folder.mkdir(0o700, parents=True, exist_ok=True)
                remove_old_folders(self._folder)
            write_own(self._path(identity), sha256(identity + code).digest() + code)
        except Exception as error:
            logger.debug("%s is not kept: %r", self._function.__qualname__, error)

    def _identity(self, signature: Any, codegen: Any) -> bytes:
        """Kernel, signature and processor."""
        return repr((self._function.__module__, self._function.__qualname__, signature, processor(codegen))).encode()

    def _path(self, identity: bytes) -> Path:
        return self._folder / f"{self._function.__qualname__}-{sha256(identity).hexdigest()[:16]}"


def read_own(path: Path) -> bytes:
    """Content of a file that nobody but the user can have written, in a folder of which the same is true."""
    require_own(path.parent, path.parent.stat())
    with open(path, "rb") as file:
        require_own(path, os.fstat(file.fileno()))
        return file.read()


def write_own(path: Path, content: bytes) -> None:
    """Write a file, whole or not at all, that nobody else can write to, whatever the umask."""
    require_own(path.parent, path.parent.stat())
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
    try:
        with open(
            os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o600), "wb"
        ) as file:
            file.write(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def require_own(path: Path, status: os.stat_result) -> None:
    """Raise PermissionError for what another user owns or can write to. Windows has no such owners."""
    if hasattr(os, "geteuid") and (status.st_uid != os.geteuid() or status.st_mode & 0o022):
        msg = f"{path} is not the user's own, or others can write to it"
        raise PermissionError(msg)


def remove_old_folders(new: Path) -> None:
    """Remove the folders beside a new one that have long stood as they are."""
    for folder in new.parent.glob("kernels-*"):
        with suppress(OSError):  # another process may be at it too
            if time.time() - folder.stat().st_mtime > KEPT_FOR:
                shutil.rmtree(folder, ignore_errors=True)


FOLDER = cache_folder()
if FOLDER is None:
    logger.debug("compiled kernels are not kept: the user has no cache folder, or the source cannot be read")
