"""Check and convert arguments of public functions, or raise an error that says in one line what is wrong."""

import math
import operator
import sys
from collections.abc import Callable, Iterable
from typing import Any, TypeVar, cast

from .errors import ArgumentTypeError, ParameterError

T = TypeVar("T")
Check = Callable[[str, Any], Any]
"""Takes the name and the value of an option, and returns the value, checked and of the option's own type."""

LARGEST_INTEGER = 2**31 - 1
LARGEST_HEAD_DIM = 2**13
"""Far beyond any model's; a file that asks for more would keep a command busy for minutes."""
DEFAULT_MIN_DISTANCE = 1000
"""Of a search, in tokens."""


def number(name: str, value: Any, requirement: str, *, above: float = -math.inf, least: float = -math.inf) -> float:
    """Return `value` as a finite float, greater than `above` and at least `least`."""
    if isinstance(value, bool | str | bytes):
        raise ParameterError(name, value, requirement)
    try:
        result = float(value)
    except (TypeError, ValueError, OverflowError):
        raise ParameterError(name, value, requirement) from None
    if not (math.isfinite(result) and result > above and result >= least):
        raise ParameterError(name, value, requirement)
    return result


def positive(name: str, value: Any) -> float:
    """Return `value` as a finite float above 0."""
    return number(name, value, "a finite number above 0", above=0.0)


def not_negative(name: str, value: Any) -> float:
    """Return `value` as a finite float of at least 0."""
    return number(name, value, "a finite number of at least 0", least=0.0)


def integer(name: str, value: Any, least: int, most: int = LARGEST_INTEGER) -> int:
    """Return `value` as an int from `least` to `most`; bools and floats are rejected."""
    requirement = f"an integer of at least {least}"
    try:
        if isinstance(value, bool):
            raise TypeError
        result = operator.index(value)
    except TypeError:
        raise ParameterError(name, value, requirement) from None
    if result < least:
        raise ParameterError(name, value, requirement)
    if result > most:
        raise ParameterError(name, value, f"at most {most}")
    return result


def base(name: str, value: Any) -> float:
    """Return `value` as a RoPE base: a finite number above 1."""
    return number(name, value, "a finite number above 1", above=1.0)


def instance(name: str, value: Any, kind: type[T] | tuple[type[Any], ...], requirement: str) -> T:
    """Return `value` if it is of a type; the error says in words what it should be."""
    if not isinstance(value, kind):
        raise ArgumentTypeError(name, value, requirement)
    return cast("T", value)


def head_dim(value: Any) -> int:
    """Return `value` as the number of channels per head: even, at least 2."""
    result = integer("head_dim", value, 2, LARGEST_HEAD_DIM)
    if result % 2:
        raise ParameterError("head_dim", value, "even")
    return result


def kv_heads(value: Any, heads: int) -> int:
    """Return `value` as a number of KV heads that divides `heads`; None means one per head."""
    if value is None:
        return heads
    result = integer("kv_heads", value, 1)
    if heads % result:
        raise ParameterError("kv_heads", value, f"a divisor of the {heads} heads")
    return result


def distances(min_distance: Any, max_distance: Any) -> tuple[int, int]:
    """Return the first and last distance of a window: 0 ≤ first < last."""
    first = integer("min_distance", min_distance, 0)
    last = integer("max_distance", max_distance, 1)
    if first >= last:
        if first == DEFAULT_MIN_DISTANCE:  # nobody gave that one
            raise ParameterError("max_distance", last, f"greater than `min_distance`, {first}")
        raise ParameterError("min_distance", first, f"less than `max_distance`, {last}")
    return first, last


def is_number(value: Any) -> bool:
    """Whether a value from a file is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def is_whole(value: Any) -> bool:
    """Whether a value from a file is a number of tokens, steps or the like."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 10**15


def text(name: str, value: Any) -> str:
    """Return `value` if it is a text that is not empty."""
    if not isinstance(value, str) or not value:
        raise ParameterError(name, value, "a name")
    return value


def optional(check: Check) -> Check:
    """Return a check that lets None through."""
    return lambda name, value: None if value is None else check(name, value)


def truth(name: str, value: Any) -> bool:
    """Return `value` if it is a bool; nothing else is accepted."""
    if type(value).__name__ not in ("bool", "bool_"):  # numpy's own has either name, by version
        raise ParameterError(name, value, "true or false")
    return bool(value)


def choice(name: str, value: Any, choices: Iterable[str]) -> str:
    """Return `value` if it is one of `choices`."""
    names = list(choices)
    if not isinstance(value, str) or value not in names:
        raise ParameterError(name, value, "one of " + ", ".join(names), nearest(value, names))
    return str(value)


def nearest(value: Any, choices: Iterable[str]) -> str:
    """Return a hint such as "; did you mean yarn?" for the closest of `choices`, or "" if none is close."""
    import difflib

    found = difflib.get_close_matches(str(value).lower(), choices, n=1)
    return f"; did you mean {found[0]}?" if found else ""
