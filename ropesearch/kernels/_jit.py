"""The one way this package compiles a kernel."""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

try:
    from ._cache import FOLDER, KernelCache
except (ImportError, AttributeError, OSError):  # a numba whose insides have changed; a source that cannot be read
    FOLDER = None

F = TypeVar("F", bound=Callable[..., Any])

njit: Any = numba.njit  # its type does not name every option
config: Any = numba.config


def inner(function: F) -> F:
    """Compile a function that kernels alone call, sooner: without the wrapper for calls from Python."""
    return kernel(function, from_python=False)


def kernel(function: F, *, from_python: bool = True) -> F:
    """Compile a function of a module at its first call, and keep the machine code on disk.

    Without the GIL, without fastmath; a division by zero gives what it gives in numpy. The wrapper for calls from C is
    left out: nothing needs it, and every kernel compiles sooner.
    """
    compiled = njit(nogil=True, error_model="numpy", no_cfunc_wrapper=True, no_cpython_wrapper=not from_python)(
        function
    )
    if FOLDER is not None and not config.DISABLE_JIT and function.__closure__ is None:  # no key says what that holds
        compiled._cache = KernelCache(function, FOLDER)
    return cast(F, compiled)
