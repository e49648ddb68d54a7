"""Arguments of public functions into what the floors above need, or one line that says what is wrong."""

import math
import operator
from collections.abc import Iterable
from typing import Any

from .errors import ParameterError

LARGEST_INTEGER = 2**31 - 1


def number(name: str, value: Any, requirement: str, *, above: float = -math.inf, least: float = -math.inf) -> float:
    """`value` as a finite float greater than `above` and not less than `least`."""
    if isinstance(value, bool | str | bytes):
        raise ParameterError(name, value, requirement)
    try:
        result = float(value)
    except (TypeError, ValueError, OverflowError):
        raise ParameterError(name, value, requirement) from None
    if not (math.isfinite(result) and result > above and result >= least):
        raise ParameterError(name, value, requirement)
    return result


def integer(name: str, value: Any, least: int, most: int = LARGEST_INTEGER) -> int:
    """`value` as an int from `least` to `most`; bools and floats are rejected."""
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
    """`value` as a RoPE base: a finite number above 1."""
    return number(name, value, "a finite number above 1", above=1.0)


def head_dim(value: Any) -> int:
    """`value` as the number of channels of one head: even, at least 2."""
    result = integer("head_dim", value, 2)
    if result % 2:
        raise ParameterError("head_dim", value, "even")
    return result


def kv_heads(value: Any, heads: int) -> int:
    """`value` as a number of KV heads that divides `heads`; None stands for one per head."""
    if value is None:
        return heads
    result = integer("kv_heads", value, 1)
    if heads % result:
        raise ParameterError("kv_heads", value, f"a divisor of the {heads} heads")
    return result


def distances(min_distance: Any, max_distance: Any) -> tuple[int, int]:
    """First and last distance of a window: 0 ≤ first < last."""
    first = integer("min_distance", min_distance, 0)
    last = integer("max_distance", max_distance, 1)
    if first >= last:
        raise ParameterError("min_distance", first, f"less than `max_distance`, {last}")
    return first, last


def truth(name: str, value: Any) -> bool:
    """`value` as a bool; nothing else will do."""
    if type(value).__name__ not in ("bool", "bool_"):  # numpy's is called either, by version; nothing imports it here
        raise ParameterError(name, value, "true or false")
    return bool(value)


def choice(name: str, value: Any, choices: Iterable[str]) -> str:
    """`value` as one of `choices`."""
    names = list(choices)
    if not isinstance(value, str) or value not in names:
        raise ParameterError(name, value, "one of " + ", ".join(names), nearest(value, names))
    return str(value)


def nearest(value: Any, choices: Iterable[str]) -> str:
    """The end of an error line that asks for the nearest of `choices`, or nothing where none is near."""
    import difflib

    found = difflib.get_close_matches(str(value).lower(), choices, n=1)
    return f"; did you mean {found[0]}?" if found else ""
