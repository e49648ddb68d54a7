"""What a suite gives: tasks, each with its samples, how to score them, and what records become as a row."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Protocol

from .reader import Reader
from .samples import Record
from .spec import EvaluationSpec
from .texts import Texts


@dataclass(frozen=True)
class Sample:
    """One thing to score.

    Attributes
    ----------
    number : int
        The same for the same document, key or needle under every model and scheme: differences are taken in pairs.
    prompt : str
        Digest of what the model reads.
    content : object
        Whatever the task's `score` needs.
    """

    number: int
    prompt: str
    content: Any


@dataclass(frozen=True)
class Task:
    """Samples that become one row, or one at each depth.

    Attributes
    ----------
    name : str
    length : int or None
        In tokens.
    samples : sequence of Sample
    score : callable
        Takes the reader and a batch of samples, and returns for each what its record holds beside the sample's key.
    figures : callable
        Takes the records of all samples in order, and returns the figures of each row: `perplexity` or `accuracy`,
        `n`, `interval`, and what else the row holds.
    """

    name: str
    length: int | None
    samples: Sequence[Sample]
    score: Callable[[Reader, Sequence[Sample]], list[dict[str, Any]]]
    figures: Callable[[Sequence[Record]], list[dict[str, Any]]]


class Suite(Protocol):
    """One of SUITES, made for a spec."""

    def tasks(self, tokenizer: Any, note: Callable[[str], None]) -> Sequence[Task]:
        """Tasks for a model's tokenizer; `note` is told, in one line, what is left out."""
        ...

    def describe(self) -> Mapping[str, Any]:
        """What the samples are made of, for the results file and for resuming: names and digests of texts."""
        ...


def in_columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Rows with the same keys, as one list for each key: the form of bands in a row of results."""
    return {key: [row[key] for row in rows] for key in rows[0]}


class TextSuite:
    """What the suites that read the user's texts have in common."""

    def __init__(self, spec: EvaluationSpec, texts: Texts) -> None:
        self.spec, self.texts = spec, texts

    def describe(self) -> Mapping[str, Any]:
        """Digests of the texts."""
        return self.texts.digests()


def digest(tokens: Sequence[int]) -> str:
    """Digest of token ids, the same on every machine."""
    return sha256(",".join(map(str, tokens)).encode()).hexdigest()[:16]
