"""A needle in a haystack: one sentence at every depth of a text, and a question that it answers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ropesearch.core.errors import ParameterError
from ropesearch.decay.passages import leading

from .reader import Reader
from .samples import Record
from .statistics import wilson
from .suite import Sample, Task, TextSuite, digest
from .texts import Hay, continuation, encode, require_tokenizer

NEEDLES = 5
"""Needles at each depth, where no limit is given."""
CITIES = (
    "Paris", "London", "Berlin", "Madrid", "Rome", "Vienna", "Prague", "Dublin", "Oslo", "Helsinki",
    "Athens", "Lisbon", "Warsaw", "Cairo", "Tokyo", "Sydney", "Toronto", "Chicago", "Boston", "Denver",
)  # fmt: skip
SENTENCE = "\nThe secret number of {city} is {number}.\n"
QUESTION = "\nQuestion: What is the secret number of {city}?\nAnswer: The secret number of {city} is"


@dataclass(frozen=True)
class Prompt:
    """What the model reads, and what it is to go on with."""

    tokens: list[int]
    answer: str
    depth: float
    distance: int  # from the last token of the needle to the last of the prompt


class Needle(TextSuite):
    """The suite `needle`.

    Prompt and answer together have exactly the length asked for, in tokens.

    References
    ----------
    HARPE, arXiv:2412.07171, Figure 2; the sentences are our own.
    """

    def tasks(self, tokenizer: Any, note: Callable[[str], None]) -> list[Task]:
        """One task for each length, with all depths."""
        spec, tokenizer = self.spec, require_tokenizer(tokenizer)
        hay = Hay.read(self.texts, tokenizer, spec.lengths[-1], note)
        return [Task("needle", n, self._samples(tokenizer, hay, n), _scorer(tokenizer), _figures) for n in spec.lengths]

    def _samples(self, tokenizer: Any, hay: Hay, length: int) -> list[Sample]:
        spec = self.spec
        depths = [i / max(spec.depths - 1, 1) for i in range(spec.depths)] if spec.depths > 1 else [0.5]
        samples: list[Sample] = []
        for repeat in range(spec.limit_or(NEEDLES)):
            for depth in depths:
                number = len(samples)
                random = np.random.default_rng([spec.seed, length, number])
                # Of one repeat, all depths have the same text: only the place of the needle differs.
                start = float(np.random.default_rng([spec.seed, repeat]).random())
                prompt = _prompt(tokenizer, hay, length, depth, start, random)
                samples.append(Sample(number, digest(prompt.tokens), prompt))
        return samples


def _prompt(tokenizer: Any, hay: Hay, length: int, depth: float, start: float, random: np.random.Generator) -> Prompt:
    city, answer = str(random.choice(CITIES)), str(random.integers(10000, 100000))
    before = leading(tokenizer)
    needle = encode(tokenizer, SENTENCE.format(city=city, number=answer))
    question = encode(tokenizer, QUESTION.format(city=city))
    n = (
        length
        - len(before)
        - len(needle)
        - len(question)
        - len(continuation(tokenizer, QUESTION.format(city=city), f" {answer}"))
    )
    if n < 1:
        raise ParameterError("lengths", length, f"at least {length - n + 1}: a needle and its question take that much")
    text = hay.piece(start, n)
    place = round(depth * n)
    tokens = [*before, *text[:place], *needle, *text[place:], *question]
    return Prompt(tokens, answer, depth, n - place + len(question))


def _scorer(tokenizer: Any) -> Callable[[Reader, Sequence[Sample]], list[dict[str, Any]]]:
    def score(reader: Reader, samples: Sequence[Sample]) -> list[dict[str, Any]]:
        import torch

        # Prompts of one length can differ by a token or two, where one number takes more of them than another.
        found: dict[int, dict[str, Any]] = {}
        for size in {len(sample.content.tokens) for sample in samples}:
            alike = [sample for sample in samples if len(sample.content.tokens) == size]
            ids = torch.tensor([sample.content.tokens for sample in alike])
            longest = max(len(encode(tokenizer, f" {sample.content.answer}")) for sample in alike)
            for sample, tokens in zip(alike, reader.greedy(ids, longest + 1), strict=True):
                said = tokenizer.decode(tokens.tolist())
                found[sample.number] = _judged(sample.content, said)
        return [found[sample.number] for sample in samples]

    return score


def _judged(prompt: Prompt, said: str) -> dict[str, Any]:
    rest = said.strip()
    right = rest.startswith(prompt.answer) and not rest[len(prompt.answer) : len(prompt.answer) + 1].isdigit()
    return {
        "depth": prompt.depth,
        "distance": prompt.distance,
        "expected": prompt.answer,
        "answer": said,
        "score": float(right),
    }


def _figures(records: Sequence[Record]) -> list[dict[str, Any]]:
    rows = []
    for depth in sorted({record["depth"] for record in records}):
        scores = [record["score"] for record in records if record["depth"] == depth]
        n, hits = len(scores), sum(scores)
        rows.append({"depth": depth, "accuracy": hits / n, "n": n, "interval": list(wilson(hits, n))})
    return rows
