"""The passages that a model reads to be measured: of texts that come with ropesearch, or of the caller's own."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ropesearch.core import checks
from ropesearch.core.errors import InputError, ParameterError
from ropesearch.core.tokens import encode

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, eq=False)
class Passage:
    """What is read of a text."""

    name: str
    tokens: int  # of the whole text
    start: int
    ids: "torch.Tensor"  # (S,)


def shipped_texts() -> dict[str, str]:
    """Return the two English texts that come with the package, written for it: a narrative and an essay.

    Returns
    -------
    dict of str
        Text by name; some 5 500 tokens each.
    """
    folder = Path(__file__).parent / "texts"
    return {path.stem: path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.txt"))}


def read_passages(tokenizer: Any, texts: Mapping[str, Any], length: int, vocabulary: int) -> list[Passage]:
    """Return the first `length` tokens of every text, or of both halves of a single text that is long enough.

    `texts` holds texts or their token ids by name, and the model knows the tokens 0 … `vocabulary` − 1.
    """
    import torch

    if not isinstance(texts, Mapping) or not texts:
        raise ParameterError("texts", texts, "a mapping of at least one name to a text")
    passages = []
    for name, text in texts.items():
        first, ids = _tokens(tokenizer, text)
        largest = max(first + ids, default=0)
        if largest >= vocabulary:
            msg = f"the text {name} has the token {largest}; the model knows the tokens 0 to {vocabulary - 1}"
            raise InputError(msg)
        total = len(first) + len(ids)
        if total < length:
            msg = f"the text {name} has {total} tokens, fewer than the length {length}"
            raise InputError(msg)
        halves = len(texts) == 1 and len(first) + len(ids) // 2 >= length
        for start in (0, len(ids) // 2) if halves else (0,):
            passage = (first + ids[start : start + length])[:length]
            passages.append(Passage(str(name), total, start, torch.tensor(passage)))
    return passages


def leading(tokenizer: Any) -> list[int]:
    """What a tokenizer puts before every text: a <s>, or nothing."""
    alone = encode(tokenizer, "")
    return alone[:1] if alone[:1] == [tokenizer.bos_token_id] else []


def _tokens(tokenizer: Any, text: Any) -> tuple[list[int], list[int]]:
    """What the tokenizer puts before every text, such as a <s>, and the tokens of this one."""
    if not isinstance(text, str):
        return [], [checks.integer("every token", token, 0) for token in np.asarray(text).ravel().tolist()]
    if tokenizer is None:
        raise InputError("the model has no tokenizer that loads; without one, texts must be token ids")
    return leading(tokenizer), encode(tokenizer, text, add_special_tokens=False)
