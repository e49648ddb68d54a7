"""Output files: checked before the work starts, then written whole or not at all."""

import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from . import checks
from .errors import InputError, shown


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

    Raises
    ------
    OSError
        As `check_output`, or if the disk is full.
    """
    check_output(path, overwrite=overwrite)
    target = Path(path).resolve()  # replaces the file that a symbolic link points to, not the link
    temporary = _temporary_path(target)
    if isinstance(content, str):
        content = content.encode()
    try:
        with temporary.open("xb") as file:
            file.writelines([content] if isinstance(content, bytes) else content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def read_versioned(text: str, expected: str, newest: int, keys: Iterable[str]) -> dict[str, Any]:
    """Parse a JSON file that names its format and version.

    Raises
    ------
    ValueError
        If it is not JSON, holds NaN or an infinity, has another format or a version above `newest`, or lacks one of
        `keys`; the message is one line.
    """
    try:
        content = json.loads(text, parse_constant=_refuse_constant)
    except InputError:
        raise
    except (ValueError, RecursionError) as error:
        msg = f"it is not JSON, or it is cut off: {error}"
        raise InputError(msg) from None
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
        As `check_new_folder`.
    """
    check_new_folder(path)
    target = Path(path)
    temporary = _temporary_path(target)
    try:
        temporary.mkdir()
        yield temporary
        check_new_folder(path)
        temporary.rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _check_parent(target: Path) -> None:
    folder = target.parent
    if not os.path.exists(folder):
        msg = f"the folder {folder} for {target.name} does not exist"
        raise FileNotFoundError(msg)
    if not os.path.isdir(folder):
        msg = f"{folder} is not a folder"
        raise NotADirectoryError(msg)
    probe = _temporary_path(target)
    try:
        probe.touch(exist_ok=False)
    except OSError as error:
        msg = f"{target} cannot be written: {error.strerror or error}"
        raise type(error)(msg) from None
    probe.unlink()


def _temporary_path(target: Path) -> Path:
    return target.with_name(f".ropesearch-{os.urandom(6).hex()}.tmp")
