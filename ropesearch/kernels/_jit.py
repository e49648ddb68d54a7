"""The one way this package compiles a kernel."""

from collections.abc import Callable
from typing import Any, TypeVar, cast

from numba import njit

F = TypeVar("F", bound=Callable[..., Any])


def kernel(function: F) -> F:
    """Compile `function` at its first call, without the GIL and without fastmath, and keep the result on disk."""
    try:
        return cast(F, njit(nogil=True, cache=True)(function))
    except RuntimeError:  # numba found no folder that it may write its cache to: compile in every process
        return cast(F, njit(nogil=True)(function))
