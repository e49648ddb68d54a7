"""Output files: refused before the work if they cannot be written, then written whole or not at all."""

import os
from collections.abc import Iterable
from pathlib import Path


def check_output(path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
    """Raise the OSError that writing `path` would end with.

    Raises
    ------
    FileExistsError
        If the file exists and `overwrite` is false.
    FileNotFoundError, NotADirectoryError, IsADirectoryError
        If the folder is not there, or `path` is a folder or no regular file.
    PermissionError, OSError
        If the folder cannot be written to.
    """
    target = Path(path)
    if os.path.isdir(target):  # unlike Path.is_dir, no error for a name that cannot be
        msg = f"{target} is a folder, not a file to write"
        raise IsADirectoryError(msg)
    if os.path.exists(target) and not os.path.isfile(target):
        msg = f"{target} is no regular file"
        raise FileExistsError(msg)
    if os.path.exists(target) and not overwrite:
        msg = f"{target} exists already; overwrite (--overwrite) replaces it"
        raise FileExistsError(msg)
    folder = target.parent
    if not os.path.exists(folder):
        msg = f"the folder {folder} of {target.name} does not exist"
        raise FileNotFoundError(msg)
    if not os.path.isdir(folder):
        msg = f"{folder} is not a folder"
        raise NotADirectoryError(msg)
    probe = _beside(target)
    try:
        probe.touch(exist_ok=False)
    except OSError as error:
        msg = f"{target} cannot be written: {error.strerror or error}"
        raise type(error)(msg) from None
    probe.unlink()


def write_whole(
    path: str | os.PathLike[str], content: str | bytes | Iterable[bytes], *, overwrite: bool = False
) -> None:
    """Write `content` to a file beside `path`, then rename it: at no time is there half a file.

    Raises
    ------
    OSError
        As `check_output`, or if the disk is full.
    """
    check_output(path, overwrite=overwrite)
    target = Path(path).resolve()  # through a symbolic link: the file it names is replaced, not the link
    temporary = _beside(target)
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


def _beside(target: Path) -> Path:
    return target.with_name(f".ropesearch-{os.urandom(6).hex()}.tmp")
