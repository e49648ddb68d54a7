"""How long the command takes beside `python -c "import numba"`, and on what: its help, a search, the very first search.

Every command is run in turn, again and again, and the ratios are taken pair by pair; the very first search has an
empty cache of compiled kernels each time. Then each is run again, as often, by a clock that is told where it is: in
an import, in setting up numba and loading kernels, or in compiling them. It costs a little itself.

    python benchmarks/startup.py [--runs 7]
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

RUN = [sys.executable, "-P", "-m", "ropesearch"]
SEARCH = ["search", "--bmin", "1e6", "--bmax", "5e6", "--stride", "30000", "--heads", "32"]
COMMANDS = {
    'python -c "import numba"': [sys.executable, "-P", "-c", "import numba"],
    "ropesearch --help": [*RUN, "--help"],
    "ropesearch search, kernels cached": [*RUN, *SEARCH],
}
PHASES = ("imports", "numba and kernels", "compiling", "the rest")

# Runs the command line and writes, as its last line, the seconds spent in each phase.
CLOCKED = """
import builtins, json, sys, time

spent, phases, since = {}, ["the rest"], time.perf_counter()

def switch(change):
    global since
    now = time.perf_counter()
    spent[phases[-1]] = spent.get(phases[-1], 0) + now - since
    change()
    since = now

def timed(phase, function):
    def run(*args, **options):
        switch(lambda: phases.append(phase))
        try:
            return function(*args, **options)
        finally:
            switch(phases.pop)
    return run

builtins.__import__ = timed("imports", builtins.__import__)
from ropesearch.cli import main

if "search" in sys.argv:
    from numba.core import event
    from ropesearch.kernels._cache import KernelCache

    class Compiling(event.Listener):
        def on_start(self, event):
            switch(lambda: phases.append("compiling"))

        def on_end(self, event):
            switch(phases.pop)

    event.register("numba:compile", Compiling())
    for name in ("load_overload", "save_overload"):
        setattr(KernelCache, name, timed("numba and kernels", getattr(KernelCache, name)))

code = main(sys.argv[1:])
switch(lambda: None)
print()
print(json.dumps(spent))
sys.exit(code)
"""


def seconds(command, **environment):
    start = time.perf_counter()
    subprocess.run(
        command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ | environment
    )
    return time.perf_counter() - start


def clocked(arguments, **environment):
    """Seconds in each phase; `python` stands for what is before and after."""
    start = time.perf_counter()
    command = [sys.executable, "-P", "-c", CLOCKED, *arguments]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ | environment)
    total = time.perf_counter() - start
    spent = json.loads(done.stdout.splitlines()[-1])
    return {"total": total, "python": total - sum(spent.values())} | {name: spent.get(name, 0.0) for name in PHASES}


def with_an_empty_cache(measure, command):
    with tempfile.TemporaryDirectory() as cache:
        return measure(command, NUMBA_CACHE_DIR=cache)


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
    first = [with_an_empty_cache(seconds, [*RUN, *SEARCH]) for _ in range(runs)]
    print(f"  {'the very first search, compiling':36} {statistics.median(first):6.2f} s")

    parts = {
        "--help": [clocked(["--help"]) for _ in range(runs)],
        "search, kernels cached": [clocked(SEARCH) for _ in range(runs)],
        "the very first search": [with_an_empty_cache(clocked, SEARCH) for _ in range(runs)],
    }
    columns = ("total", "python", *PHASES)
    print("\nwhere the time goes, in s, medians:")
    print(" " * 24 + "".join(f"{name:>{len(name) + 3}}" for name in columns))
    for name, measured in parts.items():
        medians = [statistics.median(row[column] for row in measured) for column in columns]
        cells = (f"{x:{len(c) + 3}.2f}" for x, c in zip(medians, columns, strict=True))
        print(f"  {name:22}" + "".join(cells))


if __name__ == "__main__":
    main()
