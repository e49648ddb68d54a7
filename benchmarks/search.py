"""How long the default search takes, whole, beside the waveforms alone as numpy computes them.

The numpy program holds one base and one frequency at a time: what one writes first. Both run in turn in one
process, the search once before so that nothing is compiled while it is timed; the ratio is taken pair by pair.

    python benchmarks/search.py [--runs 3]
"""

import argparse
import os
import platform
import resource
import statistics
import subprocess
import sys
import time

import numba
import numpy as np

from ropesearch import inv_freq, search_bases
from ropesearch.core.grid import candidate_bases

TABLE_2 = (1e6, 5e6, 30000, 32)


def waveforms_by_numpy():
    distances = np.arange(1000, 131073, dtype=np.float64)
    for base in [1e6, *candidate_bases(1e6, 5e6, 30000)]:
        total = np.zeros_like(distances)
        for theta in inv_freq(base, 128):
            total += np.cos(distances * theta)
        total *= 2 / np.sqrt(128)


def seconds(function):
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def peak_memory():
    """Of a process that runs the default search and nothing else, in MB."""
    code = f"from ropesearch import search_bases; search_bases(*{TABLE_2})"
    subprocess.run([sys.executable, "-P", "-c", code], check=True)
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    runs = parser.parse_args().runs
    print(f"python {platform.python_version()}, numpy {np.__version__}, numba {numba.__version__}, ", end="")
    print(f"{platform.machine()}, {len(os.sched_getaffinity(0))} processors")
    seconds(lambda: search_bases(*TABLE_2))
    pairs = []
    for _ in range(runs):
        ours = statistics.median(seconds(lambda: search_bases(*TABLE_2)) for _ in range(5))
        pairs.append((ours, seconds(waveforms_by_numpy)))
    print(f"{runs} pairs, medians:")
    print(f"  the whole default search              {statistics.median(a for a, _ in pairs):8.3f} s")
    print(f"  its waveforms alone, by a numpy loop  {statistics.median(b for _, b in pairs):8.3f} s")
    ratios = [b / a for a, b in pairs]
    print(f"  ratio                                 {statistics.median(ratios):8.0f}   ", end="")
    print(f"({min(ratios):.0f} to {max(ratios):.0f})")
    print(f"  peak memory of the search             {peak_memory():8.0f} MB")


if __name__ == "__main__":
    main()
