"""Token ids out of a tokenizer that a stranger may have made."""

from collections.abc import Iterable
from typing import Any

from .errors import InputError, first_line


def encode(tokenizer: Any, text: Any, **options: Any) -> list[Any]:
    """Token ids of a text, or of each of several; options are those of the tokenizer.

    Raises
    ------
    ValueError
        If the tokenizer fails over them, as one does that has no token for a word that it does not know.
    """
    try:
        ids: list[Any] = tokenizer(text, verbose=False, **options).input_ids
    except BaseException as error:
        raise_unless_failed(error)
        msg = f"the tokenizer cannot read a text: {first_line(error)}"
        raise InputError(msg) from None
    return ids


def check_known(ids: Iterable[int], vocabulary: int) -> None:
    """Raise InputError if there is a token among these that a model with that many does not know."""
    largest = max(ids, default=0)
    if largest >= vocabulary:
        msg = f"the tokenizer has a token {largest}, and the model knows {vocabulary}: they do not belong together"
        raise InputError(msg)


def raise_unless_failed(error: BaseException) -> None:
    """Raise again what is no failure of tokenizers: a panic in Rust, which it is written in, is no Exception."""
    failed = isinstance(error, Exception) and not isinstance(error, MemoryError)
    if not failed and type(error).__name__ != "PanicException":
        raise error
