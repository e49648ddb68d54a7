"""Whether a size fits, asked before the work and not found out in its middle."""

import os
import sys

from .checks import shown

UNITS = ["bytes", "kB", "MB", "GB", "TB", "PB", "EB"]


def readable_size(n_bytes: float) -> str:
    """Return a size in decimal units, such as '1.3 GB'."""
    power = 0
    while n_bytes >= 1000 and power < len(UNITS) - 1:
        n_bytes /= 1000
        power += 1
    return f"{shown(round(float(n_bytes), 1))} {UNITS[power]}"


def available_memory() -> int | None:
    """Bytes that this process may still take, or None where the system does not tell."""
    limits = []
    try:
        with open("/proc/meminfo") as lines:
            limits += [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    except OSError:
        if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
            limits.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    if sys.platform != "win32":
        import resource

        address_space, _ = resource.getrlimit(resource.RLIMIT_AS)
        if address_space != resource.RLIM_INFINITY:
            try:
                with open("/proc/self/statm") as statm:
                    address_space -= int(statm.read().split()[0]) * resource.getpagesize()
            except OSError:
                pass
            limits.append(address_space)
    return min(limits, default=None)


def require_memory(n_bytes: int, purpose: str) -> None:
    """Raise MemoryError, with the size in its line, if `n_bytes` more cannot be had."""
    available = available_memory()
    if available is not None and n_bytes > available:
        msg = f"{purpose} needs {readable_size(n_bytes)} of memory, and {readable_size(max(available, 0))} are free"
        raise MemoryError(msg)
