"""What the figures of the other scripts were measured on, and what they share."""

import os
import platform
import time

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


def seconds(function, *arguments, **options):
    start = time.perf_counter()
    function(*arguments, **options)
    return time.perf_counter() - start


def dgemm_rate(size=2048):
    """Floating-point operations per second of a product of two large float64 matrices."""
    a, b = np.random.default_rng(0).random((2, size, size))
    rate = 2 * size**3 / min(seconds(np.matmul, a, b) for _ in range(3))
    time.sleep(0.2)  # BLAS's threads go on spinning for a while, in the way of what is timed next
    return rate
