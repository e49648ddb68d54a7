"""Arguments of public functions into what the floors above need, or one line that says what is wrong."""

import math
import operator
import os
from collections.abc import Iterable
from importlib import import_module
from typing import Any

LARGEST_INTEGER = 2**31 - 1


class InputError(ValueError):
    """Something the caller gave cannot be used: an argument, or the content of a file."""


class ParameterError(InputError):
    """An argument is out of its range.

    Attributes
    ----------
    name : str
        The parameter's name.
    value : object
        What was given.
    requirement : str
        What would be right, to be read after "must be".
    """

    def __init__(self, name: str, value: object, requirement: str, hint: str = "") -> None:
        self.name = name
        self.value = value
        self.requirement = requirement
        super().__init__(f"{name} must be {requirement}, not {shown(value)}{hint}")


class MissingExtraError(ImportError):
    """A package that only an extra of this one brings is not installed."""


def require_extra(purpose: str, extra: str, *packages: str) -> None:
    """Raise MissingExtraError, which names the extra, unless all of its packages that are needed can be imported."""
    try:
        for package in packages:
            import_module(package)
    except ImportError:
        msg = f"{purpose} needs {' and '.join(packages)}: pip install 'ropesearch[{extra}]'"
        raise MissingExtraError(msg) from None


class DeviceError(OSError):
    """A device that was asked for is not there."""


def shown(value: object) -> str:
    """Value as an error line shows it: whole floats without their .0, long text cut."""
    if isinstance(value, float) and math.isfinite(value) and value == int(value) and abs(value) < 1e15:
        return str(int(value))
    try:
        text = repr(value)
    except ValueError:  # Python writes out no integer of more than 4300 digits
        text = f"a value of type {type(value).__name__}"
    return text if len(text) <= 80 else text[:77] + "..."


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
    """`value` as an int from `least` to `most`; a bool or a float is none."""
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
        raise ParameterError("min_distance", first, f"less than max_distance, {last}")
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


def threads(value: Any) -> int:
    """`value` as a number of threads, cut to what the machine lends this process; None stands for all of that."""
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS and Windows
    lent = len(affinity(0)) if affinity else os.cpu_count() or 1
    return lent if value is None else min(integer("threads", value, 1), lent)
