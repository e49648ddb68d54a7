"""What this process may use: memory, processors, a cache folder. Checked before the work starts."""

import os
import sys
from pathlib import Path
from typing import Any

from . import checks
from .errors import shown

CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUPS = Path("/proc/self/cgroup")
UNITS = ["bytes", "kB", "MB", "GB", "TB", "PB", "EB"]


def readable_size(n_bytes: float) -> str:
    """Return a size in decimal units, such as '1.3 GB'."""
    power = 0
    while n_bytes >= 1000 and power < len(UNITS) - 1:
        n_bytes /= 1000
        power += 1
    return f"{shown(round(float(n_bytes), 1))} {UNITS[power]}"


def available_memory() -> int | None:
    """Return how many bytes this process may still allocate, or None if the system does not say."""
    limits = [*_memory_of_system(), *_memory_of_cgroups(), *_address_space()]
    return min(limits, default=None)


def require_memory(n_bytes: int, purpose: str) -> None:
    """Raise MemoryError, with the size in its message, unless `n_bytes` more are available."""
    available = available_memory()
    if available is not None and n_bytes > available:
        msg = f"{purpose} needs {readable_size(n_bytes)} of memory, but only {readable_size(max(available, 0))} is free"
        raise MemoryError(msg)


def processors() -> int:
    """Return how many processors this process may use, by its affinity and its cgroup quotas."""
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS and Windows
    lent = len(affinity(0)) if affinity else os.cpu_count() or 1
    return min(lent, *_processors_of_cgroups(), lent)


def threads(value: Any) -> int:
    """Return `value` as a number of threads, at most one per available processor; None means one per processor."""
    return processors() if value is None else min(checks.integer("threads", value, 1), processors())


def user_cache_folder() -> Path | None:
    """Return this package's folder in the user's cache, or None for a user without a cache."""
    place = _cache_home()
    return place / "ropesearch" if place is not None and place.is_absolute() else None


def _cache_home() -> Path | None:
    if sys.platform == "win32":
        local = os.environ.get("LOCALAPPDATA")
        return Path(local) if local else None
    home = os.path.expanduser("~")  # "~" itself for a user without a home
    if sys.platform == "darwin":
        return Path(home, "Library", "Caches")
    return Path(os.environ.get("XDG_CACHE_HOME") or Path(home, ".cache"))


def _memory_of_system() -> list[int]:
    try:
        with open("/proc/meminfo") as lines:
            return [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    except OSError:
        if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
            return [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    return []


def _address_space() -> list[int]:
    """Return what `ulimit -v` leaves, as a list of at most one size."""
    if sys.platform == "win32":
        return []
    import resource

    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY:
        return []
    try:
        with open("/proc/self/statm") as statm:
            limit -= int(statm.read().split()[0]) * resource.getpagesize()
    except OSError:
        pass
    return [limit]


def _memory_of_cgroups() -> list[int]:
    """Return what the memory limit of each cgroup leaves; its reclaimable file cache counts as free."""
    left = []
    for folder in _cgroups("memory"):
        version_2 = (folder / "memory.max").exists()
        limit = _number(folder / ("memory.max" if version_2 else "memory.limit_in_bytes"))
        used = _number(folder / ("memory.current" if version_2 else "memory.usage_in_bytes"))
        if limit is None or used is None or limit >= 2**60:  # version 1 writes "none" as a number near 2^63
            continue
        name = "inactive_file" if version_2 else "total_inactive_file"
        left.append(limit - used + _statistics(folder / "memory.stat").get(name, 0))
    return left


def _processors_of_cgroups() -> list[int]:
    """Return the processors that the quota of each cgroup allows, rounded up."""
    found = []
    for folder in _cgroups("cpu"):
        try:
            quota, period = map(int, (folder / "cpu.max").read_text().split())  # "max" means no quota
        except (OSError, ValueError):
            quota, period = (_number(folder / f"cpu.cfs_{what}_us") or 0 for what in ("quota", "period"))  # version 1
        if quota > 0 and period > 0:
            found.append(-(-quota // period))
    return found


def _cgroups(controller: str) -> list[Path]:
    """Return the folders of this process's cgroups, version 2 or 1, from its own up to the root."""
    try:
        lines = OWN_CGROUPS.read_text().splitlines()
    except OSError:
        return []
    folders = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        root = CGROUPS / controller if controllers else CGROUPS
        own = root / path.lstrip("/")
        # A container may see its own cgroup as the root; then the path that the host uses does not exist.
        inside = [folder for folder in (own, *own.parents) if folder.is_relative_to(root) and folder.is_dir()]
        folders += inside
    return folders


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def _statistics(path: Path) -> dict[str, int]:
    try:
        lines = [line.split() for line in path.read_text().splitlines()]
        return {name: int(value) for name, value in lines}
    except (OSError, ValueError):
        return {}
