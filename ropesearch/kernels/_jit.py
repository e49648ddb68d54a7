"""The one way this package compiles a kernel."""

import logging
from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

logger = logging.getLogger("ropesearch.kernels")

try:
    from ._cache import FOLDER, KernelCache
except (ImportError, AttributeError, OSError) as error:  # numba's insides have changed; a source cannot be read
    logger.debug("compiled kernels are not kept: %r", error)
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
        if hasattr(compiled, "_cache"):
            compiled._cache = KernelCache(function, FOLDER)
        else:
            logger.debug("compiled kernels are not kept: numba keeps its cache elsewhere")
    return cast(F, compiled)
