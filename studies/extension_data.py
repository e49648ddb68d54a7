"""The text of the study: a Markov chain with keys and values in it, and questions at every distance.

A token is a word: t0…t63 are text, k0…k127 keys, v0…v31 values. In every four tokens there may be one event of two: a
key that is new and the value it is bound to, or a key that was bound before and its value again. Who reads the second
must look the value up where the key stood first. No key is bound twice.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

TEXT, KEYS, VALUES = 64, 128, 32
VOCABULARY = TEXT + KEYS + VALUES
FIRST_KEY, FIRST_VALUE = TEXT, TEXT + KEYS
CHUNK = 4
"""Tokens in which there is one event at most."""
EVENTS = 0.8
"""Probability of an event in a chunk."""
NEW = 0.65
"""Probability that an event binds a new key; else one that is open is asked for, and then never again."""
FOLLOWERS = 8
"""Tokens that may follow a token of text."""
SHORTEST_PERIOD = 4
BANDS = 7
"""Equal bands of distance, which together are seven eighths of the length."""
ASKED = 32
"""Tokens of length for each question: half of the chunks in the last quarter ask one."""

Ids = npt.NDArray[np.int64]
Random = np.random.Generator


@dataclass(frozen=True)
class Questions:
    """Sequences that end in questions.

    Attributes
    ----------
    ids : array of int64, shape (N, L)
    places : array of int64, shape (N, Q)
        Where the key that is asked for stands; its value is the next token.
    distances : array of int64, shape (N, Q)
        From the value that was bound to the key that asks for it, in tokens.
    """

    ids: Ids
    places: Ids
    distances: Ids

    @property
    def last(self) -> int:
        """Tokens at the end of a sequence among which all answers are."""
        return self.ids.shape[1] // 4

    def first(self, n: int) -> "Questions":
        """Only the first `n` sequences."""
        return Questions(self.ids[:n], self.places[:n], self.distances[:n])

    def answers(self) -> Ids:
        """Values that are right, shape (N, Q)."""
        return np.take_along_axis(self.ids, self.places + 1, 1)

    def bands(self) -> Ids:
        """Band of each distance, from 0."""
        return (self.distances - 1) * 8 // self.ids.shape[1]


def words() -> list[str]:
    """Every word, in the order of its token."""
    return [*(f"t{i}" for i in range(TEXT)), *(f"k{i}" for i in range(KEYS)), *(f"v{i}" for i in range(VALUES))]


def make_tokenizer() -> Any:
    """Tokenizer that splits at spaces; a word is a token."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words())}, unk_token="t0"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=made, unk_token="t0", pad_token="t0")


def write_documents(path: Path, rows: Ids) -> None:
    """Write each row as a document of a .jsonl file."""
    known = np.array(words())
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".part")
    with temporary.open("w") as file:
        file.writelines(json.dumps({"text": " ".join(row)}) + "\n" for row in known[rows])
    temporary.rename(path)


def training_rows(n: int, length: int, language: int, random: Random) -> Ids:
    """Rows to train on, shape (n, length): every second one random tokens over and over, the others text with events.

    `language` is the seed of the Markov chain. The period of repeated tokens is log-uniform, up to half the length.
    """
    rows = _with_events(n, length, language, random)
    periods = np.exp(random.uniform(np.log(SHORTEST_PERIOD), np.log(length // 2 + 1), n // 2)).astype(int)
    for row, period in zip(rows[1::2], periods, strict=True):
        row[:] = np.resize(random.integers(0, VOCABULARY, period), length)
    return rows


def markov_text(n: int, length: int, language: int, random: Random) -> Ids:
    """Text alone, shape (n, length), each row from its own first token."""
    chain = np.random.default_rng([language, 0])
    followers = np.argsort(chain.random((TEXT, TEXT)), axis=1)[:, :FOLLOWERS]
    bounds = np.cumsum(chain.dirichlet(np.ones(FOLLOWERS), TEXT), axis=1)
    bounds[:, -1] = 1.0
    text = np.empty((n, length), dtype=np.int64)
    text[:, 0] = random.integers(0, TEXT, n)
    for i in range(1, length):
        before = text[:, i - 1]
        which = (random.random((n, 1)) >= bounds[before]).sum(1)
        text[:, i] = followers[before, which]
    return text


def _with_events(n: int, length: int, language: int, random: Random) -> Ids:
    rows = markov_text(n, length, language, random)
    every = np.arange(n)
    keys = np.argsort(random.random((n, KEYS)), axis=1)  # in the order in which each row binds them
    values = random.integers(0, VALUES, (n, KEYS))  # of each key
    bound = np.zeros(n, dtype=np.int64)
    waiting = np.zeros((n, KEYS), dtype=np.int64)  # keys that are bound and not yet asked for
    n_waiting = np.zeros(n, dtype=np.int64)
    for chunk in range(length // CHUNK):
        event = random.random(n) < EVENTS
        new = (random.random(n) < NEW) | (n_waiting == 0)
        new &= bound < KEYS
        event &= new | (n_waiting > 0)
        which = (random.random(n) * n_waiting).astype(int)
        old = waiting[every, which]
        key = np.where(new, keys[every, np.minimum(bound, KEYS - 1)], old)
        # One that is new goes to the end of those that wait; one that is asked for gives its place to the last.
        put, take = event & new, event & ~new
        waiting[put, n_waiting[put]] = key[put]
        waiting[take, which[take]] = waiting[take, n_waiting[take] - 1]
        n_waiting += put.astype(int) - take
        bound += put
        place = CHUNK * chunk + random.integers(0, CHUNK - 1, n)
        rows[every[event], place[event]] = FIRST_KEY + key[event]
        rows[every[event], place[event] + 1] = FIRST_VALUE + values[every, key][event]
    return rows


def make_questions(n: int, length: int, language: int, random: Random) -> Questions:
    """Make `n` sequences whose last quarter asks length / 32 questions, as many in each band of distance.

    Each key is bound once and asked for once. Keys that are not asked for are bound between, as far as there are
    chunks and keys.
    """
    n_asked = length // ASKED
    ids = markov_text(n, length, language, random)
    places, distances = np.empty((2, n, n_asked), dtype=np.int64)
    for row in range(n):
        bands = (np.arange(n_asked) + row * n_asked) % BANDS
        while (found := _lay_out(length, bands, random)) is None:
            pass
        asks, binds = found
        keys = FIRST_KEY + random.permutation(KEYS)
        values = FIRST_VALUE + random.integers(0, VALUES, KEYS)
        for at in (asks, binds[:n_asked]):
            ids[row, at], ids[row, at + 1] = keys[:n_asked], values[:n_asked]
        others = binds[n_asked:][: KEYS - n_asked]
        ids[row, others] = keys[n_asked : n_asked + len(others)]
        ids[row, others + 1] = values[n_asked : n_asked + len(others)]
        places[row], distances[row] = asks, asks - binds[:n_asked] - 1
    return Questions(ids, places, distances)


def _lay_out(length: int, bands: Ids, random: Random) -> tuple[Ids, Ids] | None:
    """Where questions stand, and where keys are bound: theirs, in the same order, then others; None if it failed."""
    chunks, n = length // CHUNK, len(bands)
    eighth = chunks // 8
    starts = CHUNK * np.arange(chunks) + random.integers(0, CHUNK - 1, chunks)
    late = random.permutation(np.arange(chunks - eighth, chunks))[: n - n // 2]
    early = random.permutation(np.arange(chunks - 2 * eighth, chunks - eighth))[: n // 2]
    # Only a question in the last eighth has the farthest band before it.
    far = bands == BANDS - 1
    late, rest = late[: far.sum()], random.permutation(np.concatenate([late[far.sum() :], early]))
    asks = np.empty(n, dtype=np.int64)
    asks[far], asks[~far] = late, rest
    free = np.ones(chunks, dtype=bool)
    free[asks] = False
    binds = np.empty(n, dtype=np.int64)
    for i in random.permutation(n):
        distance = starts[asks[i]] - starts - 1
        fitting = np.flatnonzero(free & (distance >= 1) & ((distance - 1) * 8 // length == bands[i]))
        if not len(fitting):
            return None
        binds[i] = random.choice(fitting)
        free[binds[i]] = False
    others = np.flatnonzero(free & (random.random(chunks) < EVENTS))
    return starts[asks], np.concatenate([starts[binds], starts[random.permutation(others)]])


def by_band(questions: Questions, right: npt.NDArray[np.bool_]) -> list[list[int]]:
    """Right answers and questions of each band of distance."""
    bands = questions.bands()
    return [[int(right[bands == band].sum()), int((bands == band).sum())] for band in range(BANDS)]


def accuracy(bands: Iterable[Iterable[int]]) -> float:
    """Mean over bands of the share of right answers; a band without questions does not count."""
    return float(np.mean([hits / n for hits, n in bands if n]))
