"""Key-value pairs at every distance: how likely a model finds the value that stands beside a key."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from ropesearch.core.errors import InputError, ParameterError
from ropesearch.decay.passages import leading

from .reader import Reader
from .samples import Record
from .spec import EvaluationSpec
from .statistics import ratio_interval, wilson
from .suite import Sample, Task, TextSuite, digest, in_columns
from .texts import Hay, continuation, encode, require_tokenizer

if TYPE_CHECKING:
    import torch

CONTEXTS = 20
"""Contexts, where no limit is given."""
BANDS = 8
"""Equal bands of distance, from 1 to the length."""
PAIR = "\n{key}:"
KEYS = (
    "Anna", "Ben", "Carla", "David", "Emma", "Frank", "Grace", "Henry", "Irene", "James", "Karen", "Leo", "Maria",
    "Nick", "Olivia", "Peter", "Rachel", "Simon", "Tina", "Victor", "Walter", "Alice", "Brian", "Chloe", "Daniel",
    "Edith", "Felix", "Gloria", "Howard", "Isaac", "Julia", "Kevin", "Laura", "Martin", "Nora", "Oscar", "Paula",
    "Quentin", "Robert", "Sarah", "Thomas", "Ursula", "Vera", "William", "Adam", "Bella", "Colin", "Diana", "Edward",
    "Fiona", "George", "Helen", "Ivan", "Jane", "Karl", "Linda", "Michael", "Nancy", "Owen", "Patrick", "Rosa",
    "Stephen", "Teresa", "Ralph",
)  # fmt: skip
VALUES = (
    "apple", "bread", "chair", "table", "river", "stone", "horse", "tiger", "paper", "glass", "light", "music",
    "water", "fire", "gold", "silver", "iron", "wood", "green", "blue", "white", "black", "orange", "yellow",
    "north", "south", "east", "west", "summer", "winter", "spring", "autumn", "circle", "square", "star", "moon",
    "sun", "cloud", "rain", "snow", "wind", "storm", "field", "forest", "island", "ocean", "bridge", "tower",
    "castle", "garden", "market", "school", "church", "hotel", "train", "plane", "ship", "truck", "wheel", "clock",
    "phone", "radio", "camera", "guitar", "piano", "drum", "knife", "fork", "plate", "bottle", "sugar", "salt",
    "butter", "cheese", "coffee", "milk", "lemon", "cherry", "flower", "rose", "tree", "leaf", "grass", "bird",
    "fish", "dog", "cat", "mouse", "lion", "bear", "wolf", "sheep", "chicken", "eagle", "king", "queen",
)  # fmt: skip


@dataclass(frozen=True)
class Context:
    """What the model reads once, and the questions that follow it one at a time.

    Attributes
    ----------
    tokens : list of int
    questions : list of list of int
        Tokens after the context, of each question.
    values : list of int
        The token that answers each question.
    distances : list of int
        From the value to the last token of the question, in tokens.
    """

    tokens: list[int]
    questions: list[list[int]]
    values: list[int]
    distances: list[int]


class Recall(TextSuite):
    """The suite `recall`.

    A context holds pairs, evenly spread over a text. It is read once; then each key is asked for alone. An answer is
    right if, of all values in the context, the right one is the most likely. Nats are −log of its probability among
    all tokens of the vocabulary.
    """

    def tasks(self, tokenizer: Any, note: Callable[[str], None]) -> list[Task]:
        """One task for each length."""
        spec, tokenizer = self.spec, require_tokenizer(tokenizer)
        question = PAIR.format(key=KEYS[0])
        values = [ids[0] for word in VALUES if len(ids := continuation(tokenizer, question, f" {word}")) == 1]
        values = list(dict.fromkeys(values))
        if len(values) < spec.pairs:
            msg = f"the tokenizer has a single token for {len(values)} of the values: `pairs` must be at most that many"
            raise InputError(msg)
        hay = Hay.read(self.texts, tokenizer, spec.lengths[-1], note)
        tasks = []
        for length in spec.lengths:
            contexts = [_context(tokenizer, hay, values, length, spec, i) for i in range(spec.limit_or(CONTEXTS))]
            samples = [Sample(i, digest(context.tokens), context) for i, context in enumerate(contexts)]
            tasks.append(Task("recall", length, samples, _score, _figures_of(length)))
        return tasks


def _context(
    tokenizer: Any, hay: Hay, values: Sequence[int], length: int, spec: EvaluationSpec, number: int
) -> Context:
    random = np.random.default_rng([spec.seed, length, number])
    keys = random.permutation(KEYS)[: spec.pairs]
    chosen = [values[i] for i in random.permutation(len(values))[: spec.pairs]]
    pairs = [encode(tokenizer, PAIR.format(key=key)) for key in keys]
    end = encode(tokenizer, ".\n")
    before = leading(tokenizer)
    longest = max(map(len, pairs))
    n = length - len(before) - sum(len(pair) + 1 + len(end) for pair in pairs) - longest
    if n < spec.pairs:
        hint = f"; fewer `pairs` than {spec.pairs} take less"
        raise ParameterError("lengths", length, f"at least {length - n + spec.pairs} for its pairs", hint)
    text = hay.piece(float(random.random()), n)
    # Each pair lies somewhere in its own share of the text.
    cuts = [int((i + random.random()) * n / spec.pairs) for i in range(spec.pairs)]
    tokens, places = list(before), list[int]()
    for pair, value, start, stop in zip(pairs, chosen, cuts, [*cuts[1:], n], strict=True):
        tokens += text[0:start] if not places else []
        tokens += pair
        places.append(len(tokens))
        tokens += [value, *end, *text[start:stop]]
    distances = [len(tokens) + len(pair) - 1 - place for pair, place in zip(pairs, places, strict=True)]
    return Context(tokens, pairs, chosen, distances)


def _score(reader: Reader, samples: Sequence[Sample]) -> list[dict[str, Any]]:
    import torch

    found = []
    for sample in samples:
        context: Context = sample.content
        right, nats = ask(reader, torch.tensor(context.tokens), context.questions, context.values)
        n, hits = len(right), sum(right)
        record = {"score": hits / n, "hits": hits, "n": n, "nats": nats, "right": right, "distance": context.distances}
        found.append(record)
    return found


def ask(
    reader: Reader, context: "torch.Tensor", questions: Sequence[Sequence[int]], values: Sequence[int]
) -> tuple[list[int], list[float]]:
    """Read a context once, then ask every question by itself.

    Parameters
    ----------
    reader : Reader
    context : tensor of int64, shape (S,)
    questions : sequence of sequence of int
        Tokens that follow the context.
    values : sequence of int
        The token that answers each question; all of them together are the candidates.

    Returns
    -------
    right : list of int
        1 where the right value is the most likely of the candidates, else 0.
    nats : list of float
        −log of its probability among all tokens.
    """
    import torch

    cache = reader.context(context[None])
    candidates = torch.tensor(sorted(set(values)))
    right, nats = [], []
    for question, value in zip(questions, values, strict=True):
        scores = reader.continue_from(cache, torch.tensor(question))
        right.append(int(candidates[scores[candidates].argmax()] == value))
        nats.append(-float(scores[value]))
    return right, nats


def _figures_of(length: int) -> Callable[[Sequence[Record]], list[dict[str, Any]]]:
    edges = [round(i * length / BANDS) for i in range(BANDS + 1)]

    def figures(records: Sequence[Record]) -> list[dict[str, Any]]:
        bands = []
        for first, last in pairwise(edges):
            own = [_in_band(record, first + 1, last) for record in records]
            if any(n for n, _, _ in own):
                bands.append({"from": first + 1, "to": last, **_of_band(own)})
        row = _of_band([_in_band(record, 1, length) for record in records])
        return [row | {"by_distance": in_columns(bands)}]

    return figures


def _in_band(record: Record, first: int, last: int) -> tuple[int, int, float]:
    """Questions of a context at distances from `first` to `last`, how many were right, and their nats."""
    own = [i for i, distance in enumerate(record["distance"]) if first <= distance <= last]
    return len(own), sum(record["right"][i] for i in own), sum(record["nats"][i] for i in own)


def _of_band(contexts: Sequence[tuple[int, int, float]]) -> dict[str, Any]:
    """Accuracy and nats over contexts, some of them with questions; those of a context hang together."""
    counts, hits, nats = zip(*(context for context in contexts if context[0]), strict=True)
    n = sum(counts)
    several = len(counts) > 1
    share = sum(hits) / n
    low, high = ratio_interval(hits, counts)
    if low == high:  # all contexts alike: what as many single answers would say
        low, high = wilson(share * len(counts), len(counts))
    return {
        "accuracy": share,
        "n": n,
        "interval": [max(low, 0.0), min(high, 1.0)] if several else None,
        "nats": sum(nats) / n,
        "nats_interval": list(ratio_interval(nats, counts)) if several else None,
    }
