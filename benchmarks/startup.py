"""How long the command takes beside `python -c "import numba"`: its help, a search, the very first search.

Every command is run in turn, again and again, and the ratios are taken pair by pair. The first search has an empty
cache of compiled kernels each time.

    python benchmarks/startup.py [--runs 7]
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time

RUN = [sys.executable, "-P", "-m", "ropesearch"]
SEARCH = [*RUN, "search", "--bmin", "1e6", "--bmax", "5e6", "--stride", "30000", "--heads", "32"]
COMMANDS = {
    'python -c "import numba"': [sys.executable, "-P", "-c", "import numba"],
    "ropesearch --help": [*RUN, "--help"],
    "ropesearch search, kernels cached": SEARCH,
}


def seconds(command, **environment):
    start = time.perf_counter()
    subprocess.run(
        command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ | environment
    )
    return time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=7)
    runs = parser.parse_args().runs
    for command in COMMANDS.values():
        seconds(command)
    rounds = [[seconds(command) for command in COMMANDS.values()] for _ in range(runs)]
    print(f"{runs} rounds, medians:")
    for i, name in enumerate(COMMANDS):
        ratio = statistics.median(row[i] / row[0] for row in rounds)
        print(f"  {name:36} {statistics.median(row[i] for row in rounds):6.2f} s  {ratio:5.2f} × the first")
    first = []
    for _ in range(3):
        with tempfile.TemporaryDirectory() as cache:
            first.append(seconds(SEARCH, NUMBA_CACHE_DIR=cache))
    print(f"  {'the very first search, compiling':36} {statistics.median(first):6.2f} s  (3 runs, each an empty cache)")


if __name__ == "__main__":
    main()
