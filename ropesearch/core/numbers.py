"""Numbers as people write them: 30k, 1m, 5e6; lengths in tokens count in 1024s, as in a 128k context."""

import math
from fractions import Fraction

_LETTERS = {"k": 1, "m": 2}


def read_number(text: str, *, binary: bool = False) -> int | float:
    """Read a number, with k or m after it for thousands or millions.

    Parameters
    ----------
    text : str
        Such as 30k, 1.5M, 5e6 or 131072.
    binary : bool
        Whether k and m stand for 1024 and 1024², as they do for lengths in tokens.

    Returns
    -------
    int or float
        An int where the text names one, as 5e6 and 1.5k do.

    Raises
    ------
    ValueError
        If the text is no number.
    """
    word = text.strip().lower()
    power = _LETTERS.get(word[-1:], 0)
    digits = word[:-1].rstrip() if power else word
    try:
        value = float(digits)
    except ValueError:
        msg = f"not a number: {text!r}"
        raise ValueError(msg) from None
    if not power or not math.isfinite(value) or value == 0:  # as a fraction, 1e-999999999 would take all memory
        return int(value) if value.is_integer() else value
    exact = Fraction(digits) * (1024 if binary else 1000) ** power
    return int(exact) if exact.denominator == 1 else float(exact)


def read_range(text: str, *, binary: bool = False) -> list[int | float]:
    """Read a number, or first:last:step as all the numbers of that range; the last is one of them if a step ends there.

    Raises
    ------
    ValueError
        If it is neither, or the range has no number or more than a million.
    """
    parts = [read_number(part, binary=binary) for part in text.split(":")]
    if len(parts) == 1:
        return parts
    n = 0
    if len(parts) == 3 and all(map(math.isfinite, parts)):
        first, last, step = (Fraction(repr(part)) for part in parts)  # as typed: 0.1 is a tenth
        n = int((last - first) // step + 1) if step > 0 else 0
    if not 0 < n <= 1_000_000:
        msg = f"not a range: {text!r}"
        raise ValueError(msg)
    whole = math.lcm(first.denominator, step.denominator)  # in such parts, all values are integers
    begin, width = int(first * whole), int(step * whole)
    values = range(begin, begin + n * width, width)
    return [value // whole if value % whole == 0 else value / whole for value in values]
