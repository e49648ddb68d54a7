"""Where training text comes from: JSON lines, Parquet, text, folders of them, or data sets on the hub."""

import gzip
import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ropesearch.core import checks
from ropesearch.core.errors import InputError, first_line, shown
from ropesearch.core.model_source import HUB_NAME, quiet_hub

BUILDERS = {".jsonl": "json", ".json": "json", ".parquet": "parquet", ".txt": "text", ".md": "text"}
COMPRESSED = (".gz", ".zst")
KINDS = "a file or folder of .jsonl (also .gz, .zst), .parquet or .txt, or a data set on the hub such as org/name"
_HUB_DATA = re.compile(HUB_NAME.pattern + r"(:[\w.-]+)?")


@dataclass(frozen=True)
class Source:
    """Text that keeps its share of the tokens.

    Attributes
    ----------
    name : str
        As the user typed it.
    files : tuple of Path
        Its files in the order in which they are read; none for a data set on the hub.
    """

    name: str
    files: tuple[Path, ...]

    @classmethod
    def find(cls, text: str | os.PathLike[str]) -> "Source":
        """Find a source; raises ValueError if there is none, or none of its files can be read."""
        name = os.fspath(text)
        path = Path(name)
        if name and os.path.isdir(path):  # unlike Path.is_dir, never raises for an invalid name
            files = tuple(sorted(file for file in path.rglob("*") if file.is_file() and _builder(file)))
            if not files:
                msg = f"{name} has no text in it: --data takes {KINDS}"
                raise InputError(msg)
            return cls(name, files)
        if name and os.path.exists(path):
            if not _builder(path):
                msg = f"{name} is not text that can be read: --data takes {KINDS}"
                raise InputError(msg)
            return cls(name, (path,))
        if _HUB_DATA.fullmatch(name) and not _builder(path):
            return cls(name, ())
        msg = f"{shown(name) if len(name) > 80 else name or 'an empty path'} does not exist: --data takes {KINDS}"
        raise InputError(msg)

    def documents(self, text_key: str, source_key: str | None = None) -> Iterator[tuple[str, str | None]]:
        """Every document that is not blank, in order, and what it has in the column `source_key`, if there is one.

        Dots in `source_key` lead into columns that have columns. Raises ValueError if a file cannot be read.
        """
        for file in self.files or (Path(self.name),):
            is_text = _builder(file) == "text"
            rows = self._rows(file) if self.files else self._hub
            try:
                for row in rows:
                    text = _value(file, row, "text" if is_text else text_key, "text_key")
                    if text and not text.isspace():
                        # A text file has no columns: it is one source.
                        own = None if source_key is None or is_text else _value(file, row, source_key, "source_key")
                        yield text, own
            except (InputError, MemoryError):
                raise
            except Exception as error:  # of many classes, by what is wrong with the file
                msg = f"{file} cannot be read: {first_line(error)}"
                raise InputError(msg) from None

    def digest(self) -> str:
        """What says that the source is the same: contents of its files, or where a data set on the hub stands."""
        whole = hashlib.sha256()
        for file in self.files:
            with file.open("rb") as content:
                whole.update(hashlib.file_digest(content, "sha256").digest())
        if not self.files:
            whole.update(repr(sorted(map(str, self._hub.cache_files[0].items()))).encode())
        return whole.hexdigest()

    def _rows(self, file: Path) -> Iterator[dict[str, Any]]:
        from datasets import load_dataset

        if not file.stat().st_size:
            return
        # One by one: files of one source may have other columns beside the text.
        builder = str(_builder(file))
        if builder == "json":
            with _opened(file) as content:
                first = content.read(4096).lstrip()[:1]
            if first not in (b"{", b"["):  # a null there would make datasets' reader crash
                msg = f"{file} cannot be read: it begins with neither {{ nor ["
                raise InputError(msg)
        options = {"sample_by": "document"} if builder == "text" else {}
        yield from load_dataset(builder, data_files=str(file), split="train", streaming=True, **options)

    @cached_property
    def _hub(self) -> Any:
        from datasets import load_dataset

        name, _, config = self.name.partition(":")
        try:
            with quiet_hub():
                return load_dataset(name, config or None, split="train")
        except Exception as error:  # of whatever carries the requests
            msg = f"{self.name} does not exist here, and could not be fetched from the hub: {first_line(error)}"
            raise OSError(msg) from None


def find_sources(data: Sequence[str | os.PathLike[str]]) -> tuple[Source, ...]:
    """Find every source; raises ValueError as `Source.find`, or if there is none."""
    if not data:
        raise InputError("data must name text to train on: " + KINDS)
    return tuple(Source.find(text) for text in data)


def _opened(file: Path) -> Any:
    """Open a file for reading its bytes, unpacked."""
    if file.suffix.lower() == ".gz":
        return gzip.open(file)
    if file.suffix.lower() == ".zst":
        import zstandard

        return zstandard.open(file, "rb")
    return file.open("rb")


def _builder(file: Path) -> str | None:
    """Name of what reads a file in `datasets`, by its suffix."""
    suffixes = [suffix.lower() for suffix in file.suffixes]
    last = suffixes[-2:-1] if suffixes and suffixes[-1] in COMPRESSED else suffixes[-1:]
    return BUILDERS.get(last[0]) if last else None


def _value(file: Path, row: dict[str, Any], key: str, option: str) -> str:
    """Text of a row in a column; raises ValueError if there is none."""
    value: Any = row
    for name in [key] if key in row else key.split("."):
        if not isinstance(value, dict) or name not in value:
            columns = ", ".join(row) or "nothing"
            msg = f"{file} has no column {key!r}, only {columns}{checks.nearest(key, row)} (`{option}`)"
            raise InputError(msg)
        value = value[name]
    if not isinstance(value, str):
        msg = f"{file}: {key!r} must be text in every row, not a value of type {type(value).__name__}"
        raise InputError(msg)
    return value
