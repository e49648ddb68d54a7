"""The search on a GPU against the search on the CPU of the same machine: time, and whether the bases are the same.

    python benchmarks/device.py [--device cuda]

Each time is that of a second call, with kernels compiled and the GPU warm.
"""

import argparse
import time

from machine import machine

from ropesearch import PRESETS, search_bases

SEARCHES = {
    "Table 2": PRESETS["table2"],
    "Table 2, local": PRESETS["table2"] | {"extrema": "local"},
    "4001 bases × 1 048 576 distances": PRESETS["table2"] | {"stride": 1000, "max_distance": 1048576},
}


def timed(device, options):
    search_bases(**options, device=device)
    start = time.perf_counter()
    found = search_bases(**options, device=device)
    return time.perf_counter() - start, found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="cuda or cuda:N")
    device = parser.parse_args().device
    print(machine())
    print(f"{'':36}{'CPU':>9}{device:>9}   same bases")
    for name, options in SEARCHES.items():
        (cpu, expected), (gpu, found) = timed("cpu", options), timed(device, options)
        print(f"  {name:34}{cpu:7.3f} s{gpu:7.3f} s   {'yes' if found == expected else 'NO'}")


if __name__ == "__main__":
    main()
