"""The default search beside what one would write otherwise, all in one process, and beside its dgemm floor.

The floor is candidates × distances × 2·head_dim floating-point operations at the rate of a large float64 matrix
product on the same processors. Peers that compute the waveforms alone do less than the search, which also finds the
peaks and valleys and matches them. The rows are measured in turn, round by round, and the medians are shown; a slow
peer does a part of the bases, as its row says, and its time is scaled to all of them.

    python benchmarks/peers.py [--runs 5] [--attention-buckets SCRIPT]

SCRIPT is the search script of a checkout of Attention Buckets (arXiv:2312.04455). It is run as it is, in its own
folder and on its own setting, and held against `ropesearch search --preset attention-buckets`, the process with all
its imports on both sides.
"""

import argparse
import math
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numba
import numpy as np
import scipy
from machine import dgemm_rate, machine, processors, seconds
from scipy.signal import find_peaks

from ropesearch import find_extrema, inv_freq, search_bases, waveform
from ropesearch.core.grid import candidate_bases
from ropesearch.curves.waveforms import Sampler

SEARCH = (1e6, 5e6, 30000, 32)
HEAD_DIM = 128
FIRST, LAST = 1000, 131072
SCALE = 2 / math.sqrt(HEAD_DIM)
BASES = [1e6, *candidate_bases(1e6, 5e6, 30000)]
DISTANCES = np.arange(FIRST, LAST + 1, dtype=np.float64)


def dgemm_floor():
    """Seconds for as many operations as the waveforms take by plain matrix products."""
    return len(BASES) * DISTANCES.size * 2 * HEAD_DIM / dgemm_rate()


def our_waveforms():
    def run(bases):
        sampler = Sampler(HEAD_DIM, FIRST, LAST)
        for theta in inv_freq(bases, HEAD_DIM):
            sampler.waveform(theta)

    with ThreadPoolExecutor(processors()) as pool:
        list(pool.map(run, np.array_split(BASES, processors())))


def numpy_cosines(bases):
    for base in bases:
        total = np.zeros_like(DISTANCES)
        for theta in inv_freq(base, HEAD_DIM):
            total += np.cos(DISTANCES * theta)
        total *= SCALE


@numba.njit(parallel=True)
def numba_cosines(frequencies, first, out):
    for m in numba.prange(out.shape[1]):
        for b in range(out.shape[0]):
            total = 0.0
            for i in range(frequencies.shape[1]):
                total += math.cos((first + m) * frequencies[b, i])
            out[b, m] = total


def numba_waveforms(bases):
    frequencies = np.array([inv_freq(base, HEAD_DIM) for base in bases])
    numba_cosines(frequencies, FIRST, np.empty((len(bases), DISTANCES.size)))


def torch_cosines(torch, bases):
    distances = torch.from_numpy(DISTANCES)
    for base in bases:
        theta = torch.from_numpy(inv_freq(base, HEAD_DIM))
        torch.cos(torch.outer(distances, theta)).sum(1).mul_(SCALE)


def torch_angle_addition(torch, bases):
    """cos((qB + k)θ) = cos qBθ · cos kθ − sin qBθ · sin kθ, as a matrix product, B about the root of the distances."""
    block = 361
    starts = torch.arange(FIRST, LAST + 1, block, dtype=torch.float64)
    steps = torch.arange(block, dtype=torch.float64)
    for base in bases:
        theta = torch.from_numpy(inv_freq(base, HEAD_DIM))
        of_starts, of_steps = torch.outer(starts, theta), torch.outer(theta, steps)
        left = torch.cat([torch.cos(of_starts), -torch.sin(of_starts)], 1)  # (blocks, d)
        right = torch.cat([torch.cos(of_steps), torch.sin(of_steps)], 0)  # (d, block)
        (left @ right).flatten()[: DISTANCES.size].mul_(SCALE)


def scipy_extrema(curves):
    for curve in curves:
        find_peaks(curve)
        find_peaks(-curve)


def our_extrema(curves):
    for curve in curves:
        find_extrema(curve, "local")


def some(n):
    """As many bases, spread over all of them."""
    return BASES[:: math.ceil(len(BASES) / n)]


def peers():
    """Rows of (name, function without arguments, share of the work that it does)."""
    curves = [waveform(base, HEAD_DIM, LAST, min_distance=FIRST) for base in BASES]

    def over(n, function, *before):
        bases = some(n)
        return lambda: function(*before, bases), len(bases) / len(BASES)

    rows = [
        ("waveforms: ropesearch", our_waveforms, 1.0),
        ("waveforms: numpy, one cosine at a time", *over(4, numpy_cosines)),
        ("waveforms: numba, parallel cosine loop", *over(34, numba_waveforms)),
    ]
    try:
        import torch
    except ImportError:
        print("torch is not installed: its rows are left out")
    else:
        torch.set_num_threads(processors())
        rows += [
            ("waveforms: torch, cosines of an outer product", *over(8, torch_cosines, torch)),
            ("waveforms: torch, angle addition by matmul", *over(len(BASES), torch_angle_addition, torch)),
        ]
    return [
        *rows,
        ("all local extrema of these: ropesearch, 1 thread", lambda: our_extrema(curves), 1.0),
        ("all local extrema of these: scipy.signal, 1 thread", lambda: scipy_extrema(curves), 1.0),
    ]


def measured(rows, runs):
    """Median seconds of the floor and of each row, for the whole of the work; the first round is not counted."""
    taken = []
    for _ in range(runs + 1):
        taken.append([dgemm_floor(), *(seconds(function) / share for _, function, share in rows)])
    return [statistics.median(column) for column in zip(*taken[1:], strict=True)]


def show_attention_buckets(script, runs):
    ours = [sys.executable, "-P", "-m", "ropesearch", "search", "--preset", "attention-buckets"]
    theirs = [sys.executable, script.name]
    commands = {"ropesearch search --preset attention-buckets": (ours, None), "its own script": (theirs, script.parent)}
    subprocess.run(ours, check=True, capture_output=True)  # what it needs compiled is compiled
    print(f"\nAttention Buckets, each a process of its own, medians of {runs} runs:")
    medians = {}
    for name, (command, folder) in commands.items():
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
        taken = []
        for _ in range(runs):
            start = time.perf_counter()
            done = subprocess.run(command, cwd=folder, text=True, **quiet)
            taken.append(time.perf_counter() - start)
            if done.returncode:
                print(f"  {name}: it ended with exit code {done.returncode}: {done.stderr.strip().splitlines()[-1:]}")
                return
        medians[name] = statistics.median(taken)
    for name, median in medians.items():
        print(f"  {name:52} {median:9.2f} s  {median / next(iter(medians.values())):8.1f} ×")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--attention-buckets", type=Path, metavar="SCRIPT")
    options = parser.parse_args()
    print(f"{machine()}, scipy {scipy.__version__}")
    print(f"{len(BASES)} bases × {DISTANCES.size} distances, head_dim {HEAD_DIM}; medians of {options.runs} rounds")
    rows = [("the whole default search: ropesearch", lambda: search_bases(*SEARCH), 1.0), *peers()]
    floor, *medians = measured(rows, options.runs)
    print(f"\n{'':52} {'seconds':>9} {'× search':>9} {'× floor':>9}")
    print(f"{'the dgemm floor':52} {floor:9.3f} {floor / medians[0]:9.2f} {1:9.2f}")
    for (name, _, share), median in zip(rows, medians, strict=True):
        note = "" if share == 1 else f"   measured on {round(share * len(BASES))} of {len(BASES)} bases"
        print(f"{name:52} {median:9.3f} {median / medians[0]:9.2f} {median / floor:9.2f}{note}")
    if options.attention_buckets:
        show_attention_buckets(options.attention_buckets.resolve(), options.runs)


if __name__ == "__main__":
    main()
