"""The search beside its dgemm floor, both in one process, in turn.

The floor is candidates × distances × 2·head_dim floating-point operations at the rate of a large float64 matrix product
on the same processors: what the waveforms alone would cost as one plain matrix product. Shared machines drift, so
there are many short rounds; shown are the medians, the medians of the rounds' ratios, and the best of each.

    python benchmarks/floor.py [--rounds 40]
    python benchmarks/floor.py --large      4000 candidates and b_min, 1 048 576 distances, 128 heads: minutes

For the large searches each line is a process of its own, and its peak memory is shown.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from machine import dgemm_rate, machine, processors, seconds

from ropesearch import inv_freq, search_bases
from ropesearch.curves.waveforms import Sampler
from ropesearch.kernels.extrema import strict_extrema_of_waveforms

HEAD_DIM = 128
DEFAULT = {"bmin": 1e6, "bmax": 5e6, "stride": 30000, "heads": 32}
LARGE = {"bmin": 1e6, "bmax": 5e6, "stride": 1000, "heads": 128, "max_distance": 1048576}
RULES = [
    {},
    {"extrema": "local"},
    {"extrema": "local", "matching": "distance"},
]


def frequencies(options):
    steps = int((options["bmax"] - options["bmin"]) // options["stride"])
    return inv_freq([options["bmin"] + i * options["stride"] for i in range(steps + 1)], HEAD_DIM)


def floor(options):
    n_distances = options.get("max_distance", 131072) - 1000 + 1
    return len(frequencies(options)) * n_distances * 2 * HEAD_DIM / dgemm_rate()


def strict_extrema_of(theta, last=131072):
    """All waveforms and all their strict extrema, as bits, one after another."""
    sampler = Sampler(HEAD_DIM, 1000, last)
    maxima, minima = np.empty((2, 16, (last - 1000) // 64 + 1), np.uint64)
    level = np.empty(16, np.bool_)
    window = sampler.scale, sampler.first, sampler.size, sampler.room
    for start in range(0, len(theta), 16):
        strict_extrema_of_waveforms(theta[start : start + 16], *window, maxima, minima, level)


def waveforms_and_extrema(theta):
    """`strict_extrema_of` in as many threads as there are processors."""
    with ThreadPoolExecutor(processors()) as pool:
        list(pool.map(strict_extrema_of, np.array_split(theta, processors())))


def default(rounds):
    theta = frequencies(DEFAULT)
    search_bases(**DEFAULT)
    waveforms_and_extrema(theta)
    taken = [
        (floor(DEFAULT), seconds(search_bases, **DEFAULT), seconds(waveforms_and_extrema, theta)) for _ in range(rounds)
    ]
    print(f"{len(theta)} bases × 130073 distances, head_dim {HEAD_DIM}; {rounds} rounds")
    print(f"{'':40}{'median':>9}{'× floor':>9}{'best':>9}{'× floor':>9}")
    columns = np.transpose(taken)
    for name, column in zip(
        ("the dgemm floor", "the whole default search", "waveforms and all strict extrema"), columns, strict=True
    ):
        ratios = column / columns[0]
        print(
            f"{name:40}{statistics.median(column):9.4f}{statistics.median(ratios):9.2f}"
            f"{min(column):9.4f}{min(column) / min(columns[0]):9.2f}"
        )


def large():
    print("4001 bases × 1047577 distances, 128 heads, each a process of its own; in s")
    print(f"{'':28}{'floor':>8}{'whole':>8}{'× floor':>9}{'waveforms':>11}{'choice':>8}{'peak memory':>13}")
    for rule in RULES:
        out = subprocess.run(
            [sys.executable, __file__, "--one", json.dumps(rule)], capture_output=True, text=True, check=True
        ).stdout
        bound, whole, choice, peak = json.loads(out)
        name = f"{rule.get('extrema', 'dominant')}, {rule.get('matching', 'coincidence')}"
        print(
            f"{name:28}{bound:8.1f}{whole:8.1f}{whole / bound:9.2f}{whole - choice:11.1f}{choice:8.1f}{peak:10.0f} MB"
        )


def one(rule):
    """Floor before and after, seconds of the search, of the choice in it, and the peak memory up to then."""
    search_bases(**DEFAULT, **rule)
    before = floor(LARGE)
    reached = {}

    def progress(what, done, total):
        reached[what] = time.perf_counter()

    whole = seconds(search_bases, **LARGE, **rule, progress=progress)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    choice = reached["choosing bases"] - reached["waveforms and extrema"]
    print(json.dumps([statistics.mean([before, floor(LARGE)]), whole, choice, peak]))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--one", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one is not None:
        one(options.one)
        return
    print(machine())
    if options.large:
        large()
    else:
        default(options.rounds)


if __name__ == "__main__":
    main()
