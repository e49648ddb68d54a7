"""One-line errors, how they show a value, and how text from strangers is made safe to print."""

import math
from importlib import import_module


def printable(text: object) -> str:
    r"""Return text as one line that a terminal, a table or a figure can show.

    Names of files and models and the content of files come from strangers. Whatever would end the line, move the
    cursor, change colours or turn the direction of writing is escaped as in `repr`: \n, \x1b, \u202e. So are
    surrogates, which no encoding can write. All else stays, backslashes too.

    Use it wherever such text is printed. It leaves markup alone: tell rich `markup=False`, and matplotlib
    `parse_math=False`.
    """
    text = str(text)
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def shown(value: object) -> str:
    """Return a value as error messages show it: whole floats without .0, long text cut."""
    if isinstance(value, float) and math.isfinite(value) and value == int(value) and abs(value) < 1e15:
        return str(int(value))
    if isinstance(value, list | tuple):
        value = value[:80]  # more would be cut all the same
    try:
        text = repr(value)
    except ValueError:  # Python refuses to print an integer of more than 4300 digits
        text = f"a value of type {type(value).__name__}"
    return text if len(text) <= 80 else text[:77] + "..."


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, cut if it is long, or its class name if it has no message."""
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return line if len(line) <= 500 else line[:497] + "..."


class InputError(ValueError):
    """An argument or the content of a file is invalid.

    Messages name parameters in backticks, as `heads` or `overwrite=True`, and so do those of any OSError that the
    library raises: the command line replaces these with its options. The message is made printable.
    """

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


class ParameterError(InputError):
    """An argument is out of range.

    Attributes
    ----------
    name : str
        The parameter's name.
    value : object
        The value given.
    requirement : str
        What is valid, worded to follow "must be"; it names other parameters in backticks.
    """

    def __init__(self, name: str, value: object, requirement: str, hint: str = "") -> None:
        self.name = name
        self.value = value
        self.requirement = requirement
        super().__init__(f"{name} must be {requirement}, not {shown(value)}{hint}")


class ArgumentTypeError(ParameterError, TypeError):
    """An argument is of a wrong type: a TypeError, and like all wrong input a ValueError too."""


class MissingExtraError(ImportError):
    """A package that belongs to an extra is not installed."""


class DeviceError(OSError):
    """The requested device is not available."""


class ClusterError(OSError):
    """A cluster does not answer or cannot run a search."""


def require_extra(purpose: str, extra: str, *packages: str) -> None:
    """Raise MissingExtraError, which names the extra, unless all of `packages` can be imported."""
    try:
        for package in packages:
            import_module(package)
    except ImportError:
        msg = f"{purpose} needs {' and '.join(packages)}: pip install 'ropesearch[{extra}]'"
        raise MissingExtraError(msg) from None
