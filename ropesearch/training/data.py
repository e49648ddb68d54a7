"""Documents as tokens in one file that is mapped, not read, and the rows that a stage is trained on."""

import bisect
import hashlib
import json
import os
import shutil
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from ropesearch.core.errors import InputError
from ropesearch.core.files import new_folder, read_file, read_versioned, write_whole
from ropesearch.core.progress import Progress
from ropesearch.core.tokens import check_known, encode

from .sources import Source
from .spec import Stage, TrainSpec

FORMAT, VERSION = "ropesearch.tokens", 1
BATCH = 512
"""Documents that are handed to the tokenizer at once; it spreads them over the processors."""
PARTS = 100
"""Values of `source_key` in one source, at most; each has a file of its own while they are gathered."""
POOL = 256
"""Documents to come among which a row looks for one that fills what is left of it; of little data, a quarter."""

Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class TokenFile:
    """Every document of every source as tokens, in one file.

    Attributes
    ----------
    digest : str
        Of contents, tokenizer and reading: the same digest, the same tokens.
    tokens : array of uint16 or uint32, shape (n,)
        Mapped from the disk.
    starts : array of int64, shape (documents + 1,)
        Where each document begins in `tokens`; the last is n.
    sources : tuple of (name, first document, one past the last)
    """

    digest: str
    tokens: npt.NDArray[np.unsignedinteger[Any]]
    starts: Integers
    sources: tuple[tuple[str, int, int], ...]

    @classmethod
    def open(cls, folder: Path) -> "TokenFile":
        """Map the tokens in a folder; raises ValueError or OSError if it is not one of `prepare_tokens`."""
        text = read_file(folder / "index.json").decode()
        index = read_versioned(text, FORMAT, VERSION, ("digest", "dtype", "sources"))
        starts = np.load(folder / "starts.npy")
        tokens = np.memmap(folder / "tokens.bin", dtype=index["dtype"], mode="r", shape=(int(starts[-1]),))
        return cls(index["digest"], tokens, starts, tuple(tuple(source) for source in index["sources"]))

    def document_name(self, document: int) -> str:
        """Name of a document for people: its source, and which of its documents it is, from 0."""
        name, first = next((name, first) for name, first, last in self.sources if document < last)
        return f"document {document - first} of {name}"


def tokens_digest(sources: Sequence[Source], tokenizer: Any, text_key: str, source_key: str | None = None) -> str:
    """Digest of what the tokens follow from."""
    keys = (text_key,) if source_key is None else (text_key, source_key)
    whole = hashlib.sha256(repr((VERSION, *keys, [source.digest() for source in sources])).encode())
    backend = getattr(tokenizer, "backend_tokenizer", None)
    words = backend.to_str() if backend is not None else repr(sorted(tokenizer.get_vocab().items()))
    whole.update(words.encode())
    whole.update(repr((tokenizer.bos_token_id, tokenizer.eos_token_id)).encode())
    return whole.hexdigest()


def prepare_tokens(
    sources: Sequence[Source],
    tokenizer: Any,
    folder: Path,
    digest: str,
    *,
    text_key: str = "text",
    source_key: str | None = None,
    vocabulary: int | None = None,
    progress: Progress | None = None,
) -> None:
    """Write the tokens of every document, whole or not at all.

    A document is what the tokenizer makes of its text, with the special tokens that it adds by itself, and the end of
    text after it where the tokenizer has one.

    Parameters
    ----------
    sources : sequence of Source
    tokenizer : transformers.PreTrainedTokenizerBase
    folder : Path
        The new folder.
    digest : str
        As `tokens_digest` gives it.
    text_key : str
        Column that holds the text.
    source_key : str, optional
        Column whose values divide each source into several: the documents of each value then stand together.
    vocabulary : int, optional
        Tokens that the model knows.
    progress : callable, optional
        Told how many bytes of the files are read, as far as that can be known.

    Raises
    ------
    ValueError
        If a source cannot be read or has no text, or the tokenizer has tokens that the model does not know.
    OSError
        If the folder cannot be written.
    """
    size = len(tokenizer)
    kind = np.dtype(np.uint16 if size <= 2**16 else np.uint32)
    total = sum(file.stat().st_size for source in sources for file in source.files)
    done = 0
    starts, ends = [0], []

    def encoded(source: Source) -> Iterator[tuple[str | None, bytes]]:
        nonlocal done
        for batch in _batches(source.documents(text_key, source_key)):
            for ids, (_, value) in zip(_encoded(tokenizer, [text for text, _ in batch]), batch, strict=True):
                if vocabulary is not None:
                    check_known(ids, vocabulary)
                yield value, np.asarray(ids, dtype=kind).tobytes()
            done += sum(len(text) for text, _ in batch)
            if progress is not None:
                progress(f"tokenizing {source.name}", min(done, total), max(total, done))

    with new_folder(folder) as temporary:
        with (temporary / "tokens.bin").open("wb") as out:
            for source in sources:
                parts = _write_parts(encoded(source), out, temporary if source_key else None)
                if len(parts) > PARTS:
                    msg = f"{source.name}: {source_key!r} has more than {PARTS} values, too many for sources"
                    msg += " (`source_key`)"
                    raise InputError(msg)
                if not parts:
                    msg = f"{source.name} has no text in it"
                    raise InputError(msg)
                for value, sizes in parts.items():
                    name = source.name if value is None else f"{source.name} ({value})"
                    ends.append((name, len(starts) - 1, len(starts) - 1 + len(sizes)))
                    starts += (starts[-1] + np.cumsum(sizes) // kind.itemsize).tolist()
        np.save(temporary / "starts.npy", np.array(starts, dtype=np.int64))
        index = {"format": FORMAT, "version": VERSION, "digest": digest, "dtype": kind.name, "sources": ends}
        write_whole(temporary / "index.json", json.dumps(index) + "\n")
    if progress is not None:
        progress("tokenizing", max(total, done), max(total, done))


def _write_parts(
    documents: Iterator[tuple[str | None, bytes]], out: IO[bytes], scratch: Path | None
) -> dict[str | None, list[int]]:
    """Write documents, those of the same value together; gives the bytes of each, by value, up to one value too many.

    With several values (where there is a folder for it) each gathers in a file of its own, which is then copied.
    """
    files: dict[str | None, IO[bytes]] = {}
    sizes: dict[str | None, list[int]] = {}
    with ExitStack() as opened:
        for value, content in documents:
            if value not in files:
                files[value] = opened.enter_context(TemporaryFile(dir=scratch)) if scratch else out
                sizes[value] = []
                if len(sizes) > PARTS:
                    return sizes
            files[value].write(content)
            sizes[value].append(len(content))
        for file in files.values() if scratch else ():
            file.seek(0)
            shutil.copyfileobj(file, out, 2**24)
    return sizes


def _batches(documents: Iterator[tuple[str, str | None]]) -> Iterator[list[tuple[str, str | None]]]:
    batch: list[tuple[str, str | None]] = []
    for document in documents:
        batch.append(document)
        if len(batch) == BATCH or sum(len(text) for text, _ in batch[-8:]) > 2**22:  # a few long ones are enough too
            yield batch
            batch = []
    if batch:
        yield batch


def _encoded(tokenizer: Any, texts: list[str]) -> Iterator[list[int]]:
    end = tokenizer.eos_token_id
    for ids in encode(tokenizer, texts, return_attention_mask=False):
        yield ids if end is None or (ids and ids[-1] == end) else [*ids, end]


@dataclass(frozen=True)
class Rows:
    """Which pieces of which documents make up each row of a stage.

    Attributes
    ----------
    length : int
        Tokens in every row.
    first : array of int64, shape (rows + 1,)
        Where the pieces of each row begin in `begin` and `size`.
    begin, size : arrays of int64, shape (pieces,)
        Of each piece, its first token in the token file, and how many.
    passes : float
        How often the data was gone through.
    """

    length: int
    first: Integers
    begin: Integers
    size: Integers
    passes: float

    def __len__(self) -> int:
        """How many rows there are."""
        return len(self.first) - 1

    def pieces(self, row: int) -> tuple[Integers, Integers]:
        """First token and size of every piece of a row."""
        own = slice(self.first[row], self.first[row + 1])
        return self.begin[own], self.size[own]

    def tokens(self, file: TokenFile, row: int) -> Integers:
        """Tokens of a row, shape (length,)."""
        pieces = [file.tokens[b : b + n] for b, n in zip(*self.pieces(row), strict=True)]
        return np.concatenate(pieces).astype(np.int64)

    def documents(self, file: TokenFile, row: int) -> list[int]:
        """Documents that a row has pieces of."""
        return [int(i) - 1 for i in np.searchsorted(file.starts, self.pieces(row)[0], side="right")]

    def save(self, path: Path) -> None:
        """Write the rows to an .npz file, whole or not at all."""
        import io

        buffer = io.BytesIO()
        np.savez(buffer, **vars(self))
        write_whole(path, buffer.getvalue(), overwrite=True)

    @classmethod
    def load(cls, path: Path) -> "Rows":
        """Read what `save` has written."""
        with np.load(path) as arrays:
            found = cls(**{name: arrays[name] for name in cls.__dataclass_fields__})
        return replace(found, length=int(found.length), passes=float(found.passes))


def make_rows(file: TokenFile, spec: TrainSpec, number: int) -> Rows:
    """Rows of a stage; the same tokens, spec and number give the same rows.

    Documents come in an order drawn from the seed, source by source so that each keeps its share of the tokens. A
    row takes the next document while it fits; then the largest one among those to come that fits what is left; and
    where none does, the beginning of the next one. So no row has padding, and a document is cut only where it is
    longer than a row, or nothing else fits.

    Parameters
    ----------
    file : TokenFile
    spec : TrainSpec
    number : int
        Which stage, from 0.

    Raises
    ------
    ValueError
        If there are fewer tokens than one row takes.

    References
    ----------
    Upsampling of long documents: Fu et al., arXiv:2402.10171, section 3.
    """
    stage = spec.stages[number]
    total = int(file.starts[-1])
    if total < stage.length:
        msg = f"the data has {total} tokens, which is less than one row of {stage.length}"
        raise InputError(msg)
    order = _Order(file, spec, number)
    return _packed(order, stage, spec.steps(stage) * spec.rows_per_step(stage))


class _Order:
    """Documents without end: each source goes through its own in a new order every time, and all keep their shares."""

    def __init__(self, file: TokenFile, spec: TrainSpec, number: int) -> None:
        self.file, self.spec, self.number = file, spec, number
        self.passes = 0.0
        self.documents = len(file.starts) - 1

    def __iter__(self) -> Iterator[tuple[int, int]]:
        starts = self.file.starts
        shares = [int(starts[last] - starts[first]) for _, first, last in self.file.sources]
        streams = [self._stream(i) for i in range(len(shares))]
        drawn = [0] * len(shares)
        while True:
            # The source that is farthest behind; the first among equals.
            i = min((d / share, i) for i, (d, share) in enumerate(zip(drawn, shares, strict=True)) if share)[1]
            document = next(streams[i])
            size = int(starts[document + 1] - starts[document])
            drawn[i] += size
            self.passes = max(self.passes, drawn[i] / shares[i])
            yield int(starts[document]), size

    def _stream(self, source: int) -> Iterator[int]:
        _, first, last = self.file.sources[source]
        sizes = np.diff(self.file.starts[first : last + 1])
        spec, again = self.spec, 0
        while True:
            random = np.random.default_rng([spec.seed, self.number, source, again])
            chosen = np.flatnonzero(sizes > 0)
            if spec.upsample_long:
                kept = random.random(len(chosen)) < spec.keep_short
                chosen = chosen[kept | (sizes[chosen] >= spec.long_from)]
            yield from (first + random.permutation(chosen)).tolist()
            again += 1


def _packed(order: _Order, stage: Stage, n_rows: int) -> Rows:
    documents = iter(order)
    waiting: deque[tuple[int, int, int]] = deque()  # (size, serial, first token) in the order of coming
    by_size: list[tuple[int, int, int]] = []  # the same, sorted
    serial = 0
    first, begin, size = [0], [], []
    pool = min(POOL, max(order.documents // 4, 1))  # one that reached over a whole pass would take small ones twice
    while len(first) <= n_rows:
        left = stage.length
        while left:
            while len(by_size) < pool:
                start, n = next(documents)
                waiting.append((n, serial, start))
                bisect.insort(by_size, waiting[-1])
                serial += 1
            while not _holds(by_size, waiting[0]):  # taken out of turn before
                waiting.popleft()
            piece = waiting[0]
            if piece[0] > left < stage.length and (place := bisect.bisect(by_size, (left + 1,))):
                piece = by_size[place - 1]
            n, own, start = piece
            by_size.pop(bisect.bisect_left(by_size, piece))
            taken = min(n, left)
            if own == waiting[0][1]:
                waiting.popleft()
                if taken < n:  # its rest is next
                    waiting.appendleft((n - taken, own, start + taken))
                    bisect.insort(by_size, waiting[0])
            begin.append(start)
            size.append(taken)
            left -= taken
        first.append(len(begin))
    as_array = partial(np.array, dtype=np.int64)
    return Rows(stage.length, as_array(first), as_array(begin), as_array(size), order.passes)


def _holds(by_size: list[tuple[int, int, int]], piece: tuple[int, int, int]) -> bool:
    place = bisect.bisect_left(by_size, piece)
    return place < len(by_size) and by_size[place] == piece


def cache_place(cache: str | os.PathLike[str], digest: str) -> Path:
    """Folder of the tokens of a digest."""
    return Path(cache) / f"tokens-{digest[:16]}"
