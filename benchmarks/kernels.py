"""The product written by hand beside its twin in plain numba: alone, in waveforms, and in the whole default search.

Two processes, one with each, take turns at short pieces of work, and what counts is the processor time of each piece:
on a machine that others use too, it drifts less than the clock. Ratios are taken pair by pair. The floor is the time of
candidates × distances × 2·head_dim operations at the rate of a float64 matrix product, on one thread as all else here.

    python benchmarks/kernels.py [--rounds 30]
    python benchmarks/kernels.py --avx2      as on a processor without AVX-512, BLAS included
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np
from floor import DEFAULT, HEAD_DIM, frequencies, strict_extrema_of
from machine import machine
from numba import njit

from ropesearch import search_bases
from ropesearch.curves.waveforms import Sampler
from ropesearch.kernels import _product
from ropesearch.kernels.waveform import NODES, ROWS, SPAN

LAST = 131072
N_FAST = 17  # frequencies that are summed one by one at base 10⁶
AVX2 = {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": "+avx2,+fma,+popcnt", "OPENBLAS_CORETYPE": "Haswell"}
ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}


@njit(nogil=True)
def products(room, repeats):
    """All products of so many waveforms."""
    for _ in range(repeats):
        for block in range(0, room.lowest.size, ROWS):
            _product.unfolded_product(
                room.phases, block % SPAN, room.near, 0, NODES + N_FAST, room.values, block, room.lowest, room.highest
            )


def work():
    """(name, piece of work, share of the default search's that it is)."""
    theta = frequencies(DEFAULT)
    sampler = Sampler(HEAD_DIM, 1000, LAST)
    sampler.waveform(theta[0])
    size = 1024
    a, b = np.random.default_rng(0).random((2, size, size))
    operations = len(theta) * (LAST - 1000 + 1) * 2 * HEAD_DIM
    return [
        ("the dgemm floor", lambda: a @ b, 2 * size**3 / operations),
        ("the products", lambda: products(sampler.room, len(theta)), 1),
        ("waveforms", lambda: [sampler.waveform(row) for row in theta], 1),
        ("waveforms and all strict extrema", lambda: strict_extrema_of(theta), 1),
        ("the whole default search", lambda: search_bases(**DEFAULT, threads=1), 1),
    ]


def serve(plain):
    """Do the piece of work of each line that comes in, and answer with the processor time that all of it would take."""
    if plain:
        _product.by_hand = lambda *kinds: None
    pieces = work()
    for _, function, _ in pieces:
        function()
    print(len(pieces), flush=True)
    for line in sys.stdin:
        _, function, share = pieces[int(line)]
        start = time.process_time()
        function()
        print((time.process_time() - start) / share, flush=True)


def ask(process, piece):
    process.stdin.write(f"{piece}\n")
    process.stdin.flush()
    return float(process.stdout.readline())


def measured(rounds, environment):
    """Seconds, (2, pieces, rounds), by hand and plain."""
    with tempfile.TemporaryDirectory() as cache:
        everything = os.environ | ONE_THREAD | environment | {"NUMBA_CACHE_DIR": cache}
        command = [sys.executable, __file__, "--serve"]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        processes = [
            subprocess.Popen([*command, which], env=everything | {"NUMBA_CACHE_DIR": f"{cache}/{which}"}, **pipes)
            for which in ("hand", "plain")
        ]
        (n_pieces,) = {int(process.stdout.readline()) for process in processes}
        taken = [[[ask(process, piece) for process in processes] for piece in range(n_pieces)] for _ in range(rounds)]
        for process in processes:
            process.communicate()
    return np.transpose(taken, (2, 1, 0))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--avx2", action="store_true")
    parser.add_argument("--serve", choices=("hand", "plain"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve == "plain")
        return
    hand, plain = measured(options.rounds, AVX2 if options.avx2 else {})
    floor = np.minimum(hand[0], plain[0])
    print(machine() + (", held to AVX2" if options.avx2 else ""))
    print(f"{len(frequencies(DEFAULT))} bases × {LAST - 1000 + 1} distances, head_dim {HEAD_DIM}, one thread; ", end="")
    print(f"processor time in ms, medians of {options.rounds} rounds")
    print(f"{'':36}{'by hand':>9}{'× floor':>9}{'plain':>9}{'× floor':>9}{'plain / by hand':>17}")
    print(f"{'the dgemm floor':36}{1e3 * statistics.median(floor):9.1f}{1:9.2f}")
    for (name, _, _), ours, theirs in zip(work()[1:], hand[1:], plain[1:], strict=True):
        columns = [f"{1e3 * statistics.median(x):9.1f}{statistics.median(x / floor):9.2f}" for x in (ours, theirs)]
        print(f"{name:36}{''.join(columns)}{statistics.median(theirs / ours):17.2f}")


if __name__ == "__main__":
    main()
