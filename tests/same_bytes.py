"""What stays the same, to the last byte, with other threads, processors, compilers and versions of numba.

Each way runs in a process of its own, with an empty cache of compiled kernels, and does the same work: three searches,
the peaks and valleys of five waveforms, those waveforms up to 131 071, and the figures of coverage. What comes out is
compared with the first way. A version of numba is installed into a virtual environment of its own.

    python tests/same_bytes.py FOLDER [--numba 0.60,0.61]
"""

import argparse
import json
import os
import subprocess
import sys
import venv
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

NUMBAS = "0.60,0.61,0.62,0.63,0.64,0.65,0.66,0.67,0.68"
CHECKOUT = Path(__file__).parents[1]
SMALL = {"bmin": 1e4, "bmax": 3e4, "stride": 500.0, "head_dim": 64, "max_distance": 16384}
SEARCHES: list[dict[str, Any]] = [
    {"bmin": 1e6, "bmax": 5e6, "stride": 30000.0, "heads": 32},  # Table 2 of the paper
    SMALL | {"heads": 8, "extrema": "local", "prominence": 0.5, "matching": "distance"},
    SMALL | {"heads": 4, "strategy": "floor", "refine": True},
]
BASES = [10000.0, 500000.0, 1e6, 2.71e6, 5e6]
AVX2 = {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": "+avx2,+fma,+popcnt"}
GENERIC = {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""}


@dataclass(frozen=True)
class Way:
    """A way to do the work."""

    name: str
    environment: dict[str, str] = field(default_factory=dict)
    threads: int = 1
    by_hand: bool = True
    numba: str | None = None


def ways(numbas: list[str]) -> Iterator[Way]:
    """Yield all ways that this machine has."""
    yield Way("1 thread")
    yield Way("2 threads", threads=2)
    yield Way("7 threads", threads=7)
    yield Way("the loop in plain numba", by_hand=False)
    yield Way("AVX2", AVX2)
    yield Way("AVX2, the loop in plain numba", AVX2, by_hand=False)
    yield Way("generic code", GENERIC)
    yield Way("no compiler", {"NUMBA_DISABLE_JIT": "1"})
    for numba in numbas:
        yield Way(f"numba {numba}", numba=numba)


def work(threads: int, *, by_hand: bool, file: str) -> None:
    """Do the work; write the curves to a file, and print what else came out."""
    import numba

    from ropesearch import BaseSet, find_extrema, search_bases, waveform
    from ropesearch.core import machine
    from ropesearch.kernels import _product

    machine.processors = lambda: threads  # or more threads than processors would be cut to them
    if not by_hand:
        _product.by_hand = lambda *_: None
    found = [search_bases(**options, threads=threads) for options in SEARCHES]
    curves = np.array([waveform(base, 128, 131071) for base in BASES])
    extrema = [find_extrema(curve) for curve in curves]
    coverage = BaseSet.of(found[1].bases, head_dim=64).coverage(16384)
    np.save(file, curves)
    print(
        json.dumps(
            {
                "numba": numba.__version__,
                "bases": [[found_set.bases, found_set.selection] for found_set in found],
                "extrema": [[points.peaks.tolist(), points.valleys.tolist()] for points in extrema],
                "coverage": {key: value for key, value in vars(coverage).items() if isinstance(value, float)},
            }
        )
    )


def run(way: Way, folder: Path) -> tuple[dict[str, Any], Any]:
    """Do the work in one way; return what came out, and the curves."""
    python = sys.executable if way.numba is None else with_numba(way.numba, folder)
    file = folder / "curves.npy"
    own = folder / f"cache-{way.name.replace(' ', '-')}"
    environment = os.environ | {"NUMBA_CACHE_DIR": str(own), "PYTHONPATH": ""} | way.environment
    command = [python, "-P", __file__, str(folder), "--work", json.dumps([way.threads, way.by_hand, str(file)])]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{way.name}: {done.stderr}")
    return json.loads(done.stdout), np.load(file)


def with_numba(version: str, folder: Path) -> str:
    """Return the Python of an environment with a version of numba."""
    place = folder / f"numba-{version}"
    if not place.exists():
        venv.create(place, with_pip=True)
        pip = [place / "bin/python", "-m", "pip", "install", "--quiet", str(CHECKOUT), f"numba=={version}.*"]
        subprocess.run(pip, check=True)
    return str(place / "bin/python")


def compared(first: tuple[dict[str, Any], Any], other: tuple[dict[str, Any], Any]) -> list[str]:
    """Return what of the other is the same, and how far the rest is off."""
    exact = ["same" if first[0][key] == other[0][key] else "DIFFERENT" for key in ("bases", "extrema")]
    curves = "same" if first[1].tobytes() == other[1].tobytes() else f"{np.abs(first[1] - other[1]).max():.0e}"
    off = max(abs(first[0]["coverage"][key] - other[0]["coverage"][key]) for key in first[0]["coverage"])
    return [*exact, curves, f"{off:.0e}" if off else "same"]


def main() -> None:
    """Do the work in every way, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--numba", default=NUMBAS, help="versions, each of which is installed (default: %(default)s)")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        threads, by_hand, file = json.loads(options.work)
        work(threads, by_hand=by_hand, file=file)
        return
    options.folder.mkdir(parents=True, exist_ok=True)
    folder = options.folder.resolve()
    first = None
    print("| way | bases, order of choice | peaks, valleys | waveforms | coverage |")
    print("|---|---|---|---|---|")
    for way in ways([version for version in options.numba.split(",") if version]):
        found = run(way, folder)
        name = way.name if way.numba is None else f"numba {found[0]['numba']}"
        if first is None:
            first, name = found, f"{name}, numba {found[0]['numba']}"
        print("|", " | ".join([name, *compared(first, found)]), "|", flush=True)


if __name__ == "__main__":
    main()
