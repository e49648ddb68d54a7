"""Files: inputs read within limits; outputs checked before the work starts, then written whole or not at all.

A new file or folder is made beside its place as `.ropesearch-….tmp`, and renamed when it is complete. The process that
writes it holds a lock on it, which the system frees when the process ends, however it ends. So whoever checks an output
in that folder next can tell what a killed process left behind, and removes it.
"""

import errno
import json
import os
import re
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

from . import checks
from .errors import InputError, shown
from .machine import readable_size, require_memory

MOST_BYTES = 2**30
"""How large an input file may be, where nothing smaller is said."""
MOST_VALUES = 500_000
"""How many values a JSON file may hold; a decay of 200 layers of 128 heads has 440 000."""

_TEMPORARY = re.compile(r"\.ropesearch-[0-9a-f]{12}\.tmp")
_PIPES_OF_THE_SHELL = ("/dev/stdin", "/dev/fd/", "/proc/self/fd/")
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)


def check_output(path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
    """Raise an OSError now if `path` could not be written later.

    Raises
    ------
    FileExistsError
        If the file exists and `overwrite` is false, or it is not a regular file.
    FileNotFoundError, NotADirectoryError, IsADirectoryError
        If the folder does not exist, or `path` is a folder.
    PermissionError, OSError
        If the folder cannot be written to.
    """
    target = Path(path)
    if os.path.isdir(target):  # unlike Path.is_dir, never raises for an invalid name
        msg = f"{target} is a folder, not a file to write"
        raise IsADirectoryError(msg)
    if os.path.exists(target) and not os.path.isfile(target):
        msg = f"{target} is not a regular file"
        raise FileExistsError(msg)
    if os.path.exists(target) and not overwrite:
        msg = f"{target} already exists; `overwrite=True` replaces it"
        raise FileExistsError(msg)
    _check_parent(target)


def write_whole(
    path: str | os.PathLike[str], content: str | bytes | Iterable[bytes], *, overwrite: bool = False
) -> None:
    """Write `content` to a file beside `path`, then rename it, so that a partial file never appears.

    A file that is replaced keeps its permissions. A character that UTF-8 cannot hold, a surrogate, is escaped.

    Raises
    ------
    OSError
        As `check_output`, or if the disk is full; the message names `path`.
    """
    with written(path, content, overwrite=overwrite):
        pass


@contextmanager
def written(
    path: str | os.PathLike[str], content: str | bytes | Iterable[bytes], *, overwrite: bool = False
) -> Iterator[None]:
    """Write a file as `write_whole` does, and hold it: until the end, `remove_leftovers` leaves it alone."""
    check_output(path, overwrite=overwrite)
    target = Path(path).resolve()  # replaces the file that a symbolic link points to, not the link
    if isinstance(content, str):
        content = content.encode(errors="backslashreplace")
    with ExitStack() as stack:
        with naming(path):
            temporary = stack.enter_context(_temporary(target, _new_file))
            with temporary.open("r+b") as file:
                if target.exists():
                    temporary.chmod(target.stat().st_mode & 0o777)
                file.writelines([content] if isinstance(content, bytes) else content)
                file.flush()
                os.fsync(file.fileno())
            _put(temporary, target, overwrite=overwrite)
        yield


def _put(temporary: Path, target: Path, *, overwrite: bool) -> None:
    """Give a file its name; without `overwrite`, unless another process has just given it to one of its own."""
    if overwrite:
        temporary.replace(target)
        return
    try:
        os.link(temporary, target)
    except FileExistsError:
        check_output(target)  # raises
        raise
    except OSError:  # a file system without hard links
        check_output(target)
        temporary.replace(target)


def read_file(path: str | os.PathLike[str], most: int | None = MOST_BYTES) -> bytes:
    """Return the content of an input file of at most `most` bytes; None for one that may be of any size.

    Devices and named pipes are refused: they may never end. A pipe that the shell made, as in `<(command)`, is read.

    Raises
    ------
    OSError
        If the file does not exist or cannot be read.
    ValueError
        If it is too large, or is not a regular file; the message names it.
    MemoryError
        If it does not fit in memory.
    """
    if "\0" in os.fspath(path):
        msg = f"no file can be called {path}"
        raise InputError(msg)
    try:
        with open(path, "rb", opener=_open_without_waiting) as file:
            found = os.fstat(file.fileno())
            if stat.S_ISFIFO(found.st_mode) and os.fspath(path).startswith(_PIPES_OF_THE_SHELL):
                os.set_blocking(file.fileno(), True)
            elif not stat.S_ISREG(found.st_mode):
                msg = f"{path} is not a regular file"
                raise InputError(msg)
            require_memory(found.st_size if most is None else min(found.st_size, most), f"reading {path}")
            if most is None:
                return file.read()
            content = b"" if found.st_size > most else file.read(most + 1)
    except OSError as error:
        error.filename = path
        raise
    if max(found.st_size, len(content)) > most:
        msg = f"{path} is too large: it may have at most {readable_size(most)}"
        raise InputError(msg)
    return content


def _open_without_waiting(path: str, flags: int) -> int:
    """Open a file; a named pipe without waiting for one who writes to it."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def check_size_of_json(text: str, most_values: int = MOST_VALUES) -> None:
    """Raise InputError if a JSON text holds more values than that; millions of them would take seconds to parse."""
    if text.count(",") >= most_values:  # each but the first has one before it
        msg = f"it holds more than {most_values} values"
        raise InputError(msg)


def read_json(text: str) -> Any:
    """Parse JSON of at most `MOST_VALUES` values.

    Raises
    ------
    ValueError
        If it is not JSON or holds more, or a key twice, NaN or a number that is not finite; the message is one line.
    """
    check_size_of_json(text)
    try:
        return json.loads(
            text, parse_constant=_refuse_constant, parse_float=_finite, object_pairs_hook=_without_repeats
        )
    except InputError:
        raise
    except (ValueError, RecursionError) as error:
        msg = f"it is not JSON, or it is cut off: {error}"
        raise InputError(msg) from None


def _finite(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        _refuse_constant(shown(text))
    return value


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            msg = f"it has the key {shown(key)} twice"
            raise InputError(msg)
        found[key] = value
    return found


def read_versioned(text: str, expected: str, newest: int, keys: Iterable[str]) -> dict[str, Any]:
    """Parse a JSON file that names its format and version.

    Raises
    ------
    ValueError
        As `read_json`, or if it has another format or a version above `newest`, or lacks one of `keys`; the message
        is one line.
    """
    return check_versioned(read_json(text), expected, newest, keys)


def check_versioned(content: Any, expected: str, newest: int, keys: Iterable[str]) -> dict[str, Any]:
    """Return the content of a JSON file that names its format and version; raises as `read_versioned`."""
    if not isinstance(content, dict) or content.get("format") != expected:
        found = content.get("format") if isinstance(content, dict) else content
        hint = "; it looks like a model's config" if isinstance(content, dict) and "model_type" in content else ""
        msg = f"its format must be {expected!r}, not {shown(found)}{hint}"
        raise InputError(msg)
    missing = [key for key in ("version", *keys) if key not in content]
    if "version" in content:  # checked first: a newer version may have other keys
        version = checks.integer("version", content["version"], 1)
        if version > newest:
            reads = f"this ropesearch reads versions up to {newest}; a newer ropesearch may read it"
            msg = f"it has version {version}, but {reads}"
            raise InputError(msg)
    if missing:
        msg = f"it has no key {missing[0]!r}"
        raise InputError(msg)
    return content


def _refuse_constant(name: str) -> None:
    msg = f"it holds {name}, which JSON does not allow"
    raise InputError(msg)


def check_new_folder(path: str | os.PathLike[str]) -> None:
    """Raise an OSError now if the folder `path` could not be created later; an existing one is never replaced."""
    target = Path(path)
    if os.path.lexists(target):
        msg = f"{target} already exists and is never replaced: name another folder, or remove it first"
        raise FileExistsError(msg)
    _check_parent(target)


@contextmanager
def new_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary folder to fill, renamed to `path` at the end; after an error neither remains.

    Raises
    ------
    OSError
        As `check_new_folder`, or if the disk is full; the message names `path`.
    """
    check_new_folder(path)
    with naming(path, *_NO_ROOM), _temporary(Path(path), Path.mkdir) as temporary:
        yield temporary
        check_new_folder(path)
        try:
            temporary.rename(path)
        except OSError:
            check_new_folder(path)  # by another process, this moment
            raise


def _check_parent(target: Path) -> None:
    folder = target.parent
    if not os.path.exists(folder):
        msg = f"the folder {folder} for {target.name} does not exist"
        raise FileNotFoundError(msg)
    if not os.path.isdir(folder):
        msg = f"{folder} is not a folder"
        raise NotADirectoryError(msg)
    remove_leftovers(folder)
    probe = _temporary_path(target)
    with naming(target):
        probe.touch(exist_ok=False)
        probe.unlink(missing_ok=True)


@contextmanager
def naming(path: str | os.PathLike[str], *numbers: int) -> Iterator[None]:
    """Make errors of the system name the file that is to be written; if `numbers` are given, only those errors."""
    try:
        yield
    except OSError as error:
        if error.errno is None or (numbers and error.errno not in numbers):
            raise
        msg = f"{path} cannot be written: {error.strerror}"
        raise type(error)(msg) from None


def _temporary_path(target: Path) -> Path:
    return target.with_name(f".ropesearch-{os.urandom(6).hex()}.tmp")


def _new_file(path: Path) -> None:
    path.touch(exist_ok=False)


@contextmanager
def _temporary(target: Path, create: Callable[[Path], None]) -> Iterator[Path]:
    """Yield a new temporary file or folder beside `target`, locked until it is gone."""
    handle = None
    while handle is None:
        temporary = _temporary_path(target)
        create(temporary)
        handle = _hold(temporary)
    try:
        yield temporary
    finally:
        _remove(temporary)
        if handle >= 0:
            os.close(handle)


def _hold(temporary: Path) -> int | None:
    """Open and lock a temporary file or folder: a handle, −1 where there are no locks, None if it was just removed."""
    if os.name == "nt":
        return -1
    try:
        handle = os.open(temporary, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        if _lock(handle) and temporary.exists():
            return handle
    except OSError:  # a file system without locks
        return handle
    os.close(handle)
    return None


@contextmanager
def reserved(path: str | os.PathLike[str], purpose: str) -> Iterator[None]:
    """Keep every other process out of the blocks for the same `path`, to the end of this one.

    The place is held by a file that `remove_leftovers` removes if this process is killed.

    Raises
    ------
    OSError
        If another process is in such a block; the message says that another `purpose` is writing `path`.
    """
    if os.name == "nt":
        yield
        return
    target = Path(path)
    place = target.with_name(f".ropesearch-{sha256(os.fsencode(target.name)).hexdigest()[:12]}.tmp")
    with ExitStack() as stack:
        while True:
            with naming(path):
                file = stack.enter_context(open(place, "ab"))
            lock_or_refuse(file.fileno(), path, purpose)
            if place.exists() and os.path.samestat(os.fstat(file.fileno()), place.stat()):
                break  # otherwise it was removed between opening and locking
        stack.callback(place.unlink, missing_ok=True)
        yield


def lock_or_refuse(handle: int, path: str | os.PathLike[str], purpose: str) -> None:
    """Lock an open file until it is closed, or raise an OSError if another process holds it."""
    if os.name == "nt":
        return
    try:
        free = _lock(handle)
    except OSError:  # a file system without locks
        return
    if not free:
        msg = f"another {purpose} is writing {path}"
        raise BlockingIOError(msg)


def remove_leftovers(
    folder: Path, names: re.Pattern[str] = _TEMPORARY, needed: Callable[[str], bool] = lambda name: False
) -> None:
    """Remove files and folders of this user that no process holds.

    Parameters
    ----------
    folder : Path
        Where they are.
    names : pattern
        What their whole names match.
    needed : callable
        Asked, once nobody else holds it any more, whether a file of that name is still needed.
    """
    if os.name == "nt":
        return
    own = os.geteuid()
    with suppress(OSError), os.scandir(folder) as entries:
        found = [
            Path(entry.path)
            for entry in entries
            if names.fullmatch(entry.name) and entry.stat(follow_symlinks=False).st_uid == own
        ]
        for path in found:
            with suppress(OSError):
                handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
                try:
                    if _lock(handle) and not needed(path.name) and os.path.samestat(os.fstat(handle), os.stat(path)):
                        _remove(path)
                finally:
                    os.close(handle)


def _lock(handle: int) -> bool:
    """Lock an open file or folder; false if another process holds it."""
    import fcntl

    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _remove(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
