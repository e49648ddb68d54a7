"""What the figures of the other scripts were measured on."""

import os
import platform

import numba
import numpy as np


def processors():
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def processor_name():
    try:
        with open("/proc/cpuinfo") as lines:
            return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def machine():
    return (
        f"{processor_name()}, {processors()} processors, python {platform.python_version()}, numpy {np.__version__}, "
        f"numba {numba.__version__}"
    )
