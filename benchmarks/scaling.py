"""How the time of a search grows: candidates, distances, heads and head_dim, each doubled in turn, the rest as it was.

The exponent is the slope of a straight line through log(time) over log(size): 1 is proportional, below it a part
of the time does not depend on the size.

    python benchmarks/scaling.py [--runs 5] [--doublings 3] [--extrema dominant] [--matching coincidence]
"""

import argparse
import statistics
import time

import numpy as np
from machine import machine

from ropesearch import search_bases

BMIN, BMAX = 1e6, 5e6
START = {"candidates": 256, "distances": 65536, "heads": 16, "head_dim": 64}


def seconds(sizes, runs, **options):
    """Median time of a search, after one that is not counted."""
    taken = []
    for _ in range(runs + 1):
        start = time.perf_counter()
        search_bases(
            BMIN,
            BMAX,
            (BMAX - BMIN) / sizes["candidates"],
            sizes["heads"],
            head_dim=sizes["head_dim"],
            max_distance=1000 + sizes["distances"] - 1,
            **options,
        )
        taken.append(time.perf_counter() - start)
    return statistics.median(taken[1:])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--doublings", type=int, default=3)
    parser.add_argument("--extrema", default="dominant")
    parser.add_argument("--matching", default="coincidence")
    options = parser.parse_args()
    print(machine())
    print(f"{options.extrema}, {options.matching}; medians of {options.runs} runs, in s; from", end=" ")
    print(", ".join(f"{size} {name}" for name, size in START.items()))
    factors = [2**k for k in range(options.doublings + 1)]
    print(f"{'':12}" + "".join(f"{f'× {factor}':>9}" for factor in factors) + "   exponent")
    for name in START:
        times = [
            seconds(
                START | {name: START[name] * factor},
                options.runs,
                extrema=options.extrema,
                matching=options.matching,
            )
            for factor in factors
        ]
        slope = np.polyfit(np.log(factors), np.log(times), 1)[0]
        print(f"{name:12}" + "".join(f"{t:9.3f}" for t in times) + f"   {slope:8.2f}")


if __name__ == "__main__":
    main()
