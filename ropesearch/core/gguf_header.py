"""The header of a .gguf file: what it says of the model, and which tensors it holds.

The package gguf reads headers too, but believes the sizes in them, and never ends on one that claims a list of 10^18.
"""

import mmap
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import InputError

MAGIC = b"GGUF"
NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
"""Formats of `struct`, by the number of a type; 8 is a text, and 9 a list."""
DEEPEST = 4
"""How deep lists may hold lists; real files hold none."""


@dataclass(frozen=True)
class GgufHeader:
    """What a header says.

    Attributes
    ----------
    fields : dict
        Numbers and texts by key; lists are left out.
    tensors : tuple of str
        Names.
    """

    fields: dict[str, Any]
    tensors: tuple[str, ...]


def read_header(path: Path) -> GgufHeader:
    """Read the header of a .gguf file, version 2 or 3.

    Raises
    ------
    OSError
        If the file cannot be read.
    ValueError
        If it is no .gguf file, or claims more than it holds; the message names it.
    """
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_size < 24:
            msg = f"{path.name} is no .gguf file, or is cut off"
            raise InputError(msg)
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            try:
                return _Walk(content).header()
            except (struct.error, IndexError, UnicodeDecodeError, KeyError):
                msg = f"{path.name} is no .gguf file, or is cut off"
                raise InputError(msg) from None


class _Walk:
    """A walk through the bytes of a header."""

    def __init__(self, content: mmap.mmap) -> None:
        self.content, self.place, self.order = content, 0, "<"

    def header(self) -> GgufHeader:
        if self._bytes(4) != MAGIC:
            raise IndexError
        if self.content[4:6] == b"\0\0":  # the version in the other order of bytes
            self.order = ">"
        if self._number("I") not in (2, 3):
            raise IndexError
        n_tensors, n_fields = self._number("Q"), self._number("Q")
        fields: dict[str, Any] = {}
        for _ in range(n_fields):
            name, kind = self._text(), self._number("I")
            value = self._value(kind)
            if value is not None:
                fields[name] = value
        return GgufHeader(fields, tuple(self._tensor() for _ in range(n_tensors)))

    def _bytes(self, n: int) -> bytes:
        if n > len(self.content) - self.place:
            raise IndexError
        self.place += n
        return self.content[self.place - n : self.place]

    def _number(self, kind: str) -> Any:
        return struct.unpack(self.order + kind, self._bytes(struct.calcsize("=" + kind)))[0]

    def _text(self) -> str:
        return self._bytes(self._number("Q")).decode()

    def _value(self, kind: int, depth: int = 0) -> Any:
        """Return a number or a text; a list is passed over, which gives None."""
        if kind == 8:
            return self._text()
        if kind != 9:
            return self._number(NUMBERS[kind])
        inner, n = self._number("I"), self._number("Q")
        if inner in NUMBERS:
            self._skip(n * struct.calcsize("=" + NUMBERS[inner]))
        elif depth == DEEPEST or n > len(self.content):
            raise IndexError
        else:
            for _ in range(n):
                if inner == 8:
                    self._skip(self._number("Q"))
                else:
                    self._value(inner, depth + 1)
        return None

    def _skip(self, n: int) -> None:
        if n > len(self.content) - self.place:
            raise IndexError
        self.place += n

    def _tensor(self) -> str:
        name, n_dims = self._text(), self._number("I")
        self._skip(8 * n_dims + 12)  # sizes, then type and place
        return name
