"""Errors that end as one line, and how such a line shows a value."""

import math
from importlib import import_module


def shown(value: object) -> str:
    """Value as an error line shows it: whole floats without their .0, long text cut."""
    if isinstance(value, float) and math.isfinite(value) and value == int(value) and abs(value) < 1e15:
        return str(int(value))
    try:
        text = repr(value)
    except ValueError:  # Python writes out no integer of more than 4300 digits
        text = f"a value of type {type(value).__name__}"
    return text if len(text) <= 80 else text[:77] + "..."


def first_line(error: Exception) -> str:
    """The first line of what another package's error says, or its class where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


class InputError(ValueError):
    """Something the caller gave cannot be used: an argument, or the content of a file.

    Its line names parameters in backticks, as `heads` or `overwrite=True`, and so does that of an OSError raised here:
    the command line puts its options in their place.
    """


class ParameterError(InputError):
    """An argument is out of its range.

    Attributes
    ----------
    name : str
        The parameter's name.
    value : object
        What was given.
    requirement : str
        What would be right, to be read after "must be"; it names other parameters in backticks.
    """

    def __init__(self, name: str, value: object, requirement: str, hint: str = "") -> None:
        self.name = name
        self.value = value
        self.requirement = requirement
        super().__init__(f"{name} must be {requirement}, not {shown(value)}{hint}")


class MissingExtraError(ImportError):
    """A package that only an extra of this one brings is not installed."""


class DeviceError(OSError):
    """A device that was asked for is not there."""


class ClusterError(OSError):
    """A cluster does not answer, or cannot run what it is given."""


def require_extra(purpose: str, extra: str, *packages: str) -> None:
    """Raise MissingExtraError, which names the extra, unless all of its packages that are needed can be imported."""
    try:
        for package in packages:
            import_module(package)
    except ImportError:
        msg = f"{purpose} needs {' and '.join(packages)}: pip install 'ropesearch[{extra}]'"
        raise MissingExtraError(msg) from None
