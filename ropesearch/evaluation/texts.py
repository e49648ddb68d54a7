"""Texts that evaluations read: documents of the user's, or those that come with the package."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ropesearch.core.arrays import Counts
from ropesearch.core.errors import InputError
from ropesearch.core.tokens import encode as read_tokens
from ropesearch.decay.passages import shipped_texts
from ropesearch.training.sources import Source, find_sources

Data = Sequence[str | os.PathLike[str]]


@dataclass(frozen=True)
class Texts:
    """Documents from `data`, or the two that come with ropesearch where there is none."""

    sources: tuple[Source, ...]
    text_key: str

    @classmethod
    def find(cls, data: Data, text_key: str) -> "Texts":
        """Find the sources; raises ValueError if one does not exist or holds nothing that can be read."""
        return cls(find_sources(data) if data else (), text_key)

    def documents(self) -> Iterator[tuple[str, str]]:
        """Name and text of every document, in order."""
        if not self.sources:
            yield from shipped_texts().items()
        short = [Path(source.name).name for source in self.sources]
        for source in self.sources:
            name, found = Path(source.name).name, 0
            if short.count(name) > 1:
                name = source.name
            for text, _ in source.documents(self.text_key):
                yield f"{name} {found}", text
                found += 1
            if not found:
                msg = f"{source.name} has no text in it"
                raise InputError(msg)

    def digests(self) -> dict[str, str]:
        """Digest of the content of every source, by name."""
        return {source.name: source.digest() for source in self.sources} or {"texts of ropesearch": "own"}


def require_tokenizer(tokenizer: Any) -> Any:
    """Return the tokenizer; raises ValueError if the model has none."""
    if tokenizer is None:
        raise InputError("the model has no tokenizer that loads, and an evaluation needs one")
    return tokenizer


def encode(tokenizer: Any, text: str, *, special: bool = False) -> list[int]:
    """Token ids of a text; with `special`, also what the tokenizer puts before every text, such as a <s>."""
    return read_tokens(tokenizer, text, add_special_tokens=special)


def continuation(tokenizer: Any, before: str, text: str) -> list[int]:
    """Token ids of a text where it follows another: some tokenizers put a space before a text that stands alone."""
    first, whole = encode(tokenizer, before), encode(tokenizer, before + text)
    return whole[len(first) :] if whole[: len(first)] == first else encode(tokenizer, text)


@dataclass(frozen=True)
class Hay:
    """Text to hide something in, as tokens: all documents in a row, begun anew where they end."""

    tokens: Counts

    @classmethod
    def read(cls, texts: Texts, tokenizer: Any, enough: int, note: Callable[[str], None]) -> "Hay":
        """Read documents until there are `enough` tokens; `note` is told if there are fewer."""
        tokens: list[int] = []
        for _, text in texts.documents():
            tokens += encode(tokenizer, text)
            if len(tokens) >= enough:
                break
        else:
            note(f"the text has {len(tokens)} tokens, and is repeated to {enough}")
        return cls(np.array(tokens, dtype=np.int64))

    def piece(self, start: float, n: int) -> list[int]:
        """Return `n` tokens from the place `start` on, a share of the hay from 0 to less than 1."""
        first = int(start * len(self.tokens))
        return [int(token) for token in np.take(self.tokens, range(first, first + n), mode="wrap")]
