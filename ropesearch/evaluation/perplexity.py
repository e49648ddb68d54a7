"""Perplexity in a sliding window, by length and by position in the document."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ropesearch.core.errors import InputError

from .reader import Reader
from .samples import Record
from .spec import EvaluationSpec
from .statistics import ratio_interval
from .suite import Sample, Task, TextSuite, digest, in_columns
from .texts import Texts, encode, require_tokenizer

FIRST_BAND = 7
"""Bands of positions grow by √2: band k holds those whose square has k + 1 binary digits; the first, all below 16."""
NAMED = 3
"""Documents that a note names."""


@dataclass(frozen=True)
class Window:
    """What is scored at once: the last `scored` of `tokens`, which begin at position `start` of a document."""

    document: str
    tokens: list[int]
    start: int
    scored: int


class Perplexity(TextSuite):
    """The suite `perplexity`.

    A window of L tokens moves over each document by the stride. The first window scores all its tokens but the first;
    each later one its last `stride`. What is left at the end, less than a stride, is not scored.

    References
    ----------
    Press et al., arXiv:2108.12409, appendix B; HARPE, arXiv:2412.07171, Table 3.
    """

    def __init__(self, spec: EvaluationSpec, texts: Texts) -> None:
        if not texts.sources:
            raise InputError("`data` must name documents: perplexity has none of its own")
        super().__init__(spec, texts)

    def tasks(self, tokenizer: Any, note: Callable[[str], None]) -> list[Task]:
        """One task for each length, over the same documents."""
        spec = self.spec
        documents = self._documents(require_tokenizer(tokenizer), note)
        return [Task("perplexity", n, _windows(documents, n, spec), _score, _figures) for n in spec.lengths]

    def _documents(self, tokenizer: Any, note: Callable[[str], None]) -> dict[str, list[int]]:
        spec = self.spec
        least = max(spec.min_tokens or 0, spec.lengths[-1])
        found: dict[str, list[int]] = {}
        short: list[tuple[str, int]] = []
        for name, text in self.texts.documents():
            ids = encode(tokenizer, text, special=True)
            if len(ids) >= least:
                found[name] = ids
            else:
                short.append((name, len(ids)))
            if len(found) == spec.limit:
                break
        if not found:
            name, longest = max(short, key=lambda each: each[1])
            msg = f"no document has {least} tokens; the longest, {name}, has {longest}"
            raise InputError(msg)
        if short:
            names = ", ".join(f"{name} ({n})" for name, n in short[:NAMED])
            more = f" and {len(short) - NAMED} more" if len(short) > NAMED else ""
            note(f"left out as shorter than {least} tokens: {names}{more}")
        if spec.limit is not None and len(found) < spec.limit:
            note(f"{len(found)} documents have {least} tokens, fewer than the limit of {spec.limit}")
        return found


def _windows(documents: Mapping[str, list[int]], length: int, spec: EvaluationSpec) -> list[Sample]:
    windows = []
    for name, ids in documents.items():
        end = length if spec.truncate else len(ids)
        for start in range(0, end - length + 1, spec.stride):
            scored = spec.stride if start else length - 1
            windows.append(Window(name, ids[start : start + length], start, scored))
    samples = [Sample(i, digest(window.tokens), window) for i, window in enumerate(windows)]
    # First windows first: all of a batch are then to score the same number of tokens.
    return sorted(samples, key=lambda sample: sample.content.start > 0)


def _score(reader: Reader, samples: Sequence[Sample]) -> list[dict[str, Any]]:
    import torch

    windows: list[Window] = [sample.content for sample in samples]
    ids = torch.tensor([window.tokens for window in windows])
    # The first window of a document scores more of its tokens than the others.
    most = max(window.scored for window in windows)
    nats = -reader.log_probabilities(ids, most).double().numpy()
    found = []
    for window, row in zip(windows, nats, strict=True):
        own = row[most - window.scored :]
        place = window.start + len(window.tokens) - window.scored
        bands: dict[int, list[float]] = defaultdict(lambda: [0, 0.0])
        for band, first, last in _bands(place, place + len(own) - 1):
            part = own[first - place : last - place + 1]
            bands[band] = [len(part), float(part.sum())]
        found.append(
            {
                "document": window.document,
                "start": window.start,
                "n": len(own),
                "nll": float(own.sum()),
                "bands": {str(band): sums for band, sums in bands.items()},
            }
        )
    return found


def band_of(position: int) -> int:
    """Band that a position, from 1, falls in."""
    return max((position * position).bit_length() - 1, FIRST_BAND)


def band_range(band: int) -> tuple[int, int]:
    """First and last position of a band."""
    first = 1 if band == FIRST_BAND else math.isqrt((1 << band) - 1) + 1
    return first, math.isqrt((1 << (band + 1)) - 1)


def _bands(first: int, last: int) -> Iterator[tuple[int, int, int]]:
    """Bands of the positions from `first` to `last`, each with its own first and last among them."""
    for band in range(band_of(first), band_of(last) + 1):
        start, end = band_range(band)
        yield band, max(start, first), min(end, last)


def _figures(records: Sequence[Record]) -> list[dict[str, Any]]:
    documents: dict[str, list[Record]] = defaultdict(list)
    bands: dict[int, dict[str, list[float]]] = defaultdict(dict)
    for record in records:
        documents[record["document"]].append(record)
        for band, (n, nll) in record["bands"].items():
            own = bands[int(band)].setdefault(record["document"], [0, 0.0])
            own[0] += n
            own[1] += nll
    sums = [sum(record["nll"] for record in own) for own in documents.values()]
    counts = [sum(record["n"] for record in own) for own in documents.values()]
    by_position = []
    for band in sorted(bands):
        n, nll = zip(*bands[band].values(), strict=True)
        first, last = band_range(band)
        figure, interval = perplexity(nll, n)
        by_position.append({"from": first, "to": last, "perplexity": figure, "n": len(n), "interval": interval})
    figure, interval = perplexity(sums, counts)
    tokens = int(sum(counts))
    row = {"perplexity": figure, "n": len(documents), "interval": interval, "tokens": tokens}
    return [row | {"by_position": in_columns(by_position)}]


def perplexity(nll: Sequence[float], n: Sequence[float]) -> tuple[float, list[float] | None]:
    """Perplexity over documents, and its interval; None of a single one."""
    figure = math.exp(min(sum(nll) / sum(n), 700.0))  # e^700 is still a number
    low, high = np.exp(np.minimum(ratio_interval(nll, n), 700.0))
    return figure, [float(low), float(high)] if len(n) > 1 else None
