"""The largest error of the waveforms against thirty digits, by base and head_dim, up to distance 1 048 576.

python benchmarks/accuracy.py [--points 200]
"""

import argparse
import random

import mpmath

from ropesearch import waveform

LAST = 1048576


def exact(base, head_dim, m):
    with mpmath.workdps(30):
        thetas = [mpmath.mpf(base) ** (-mpmath.mpf(2 * i) / head_dim) for i in range(head_dim // 2)]
        return float(2 / mpmath.sqrt(head_dim) * mpmath.fsum(mpmath.cos(m * theta) for theta in thetas))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=200)
    points = parser.parse_args().points
    draw = random.Random(0)
    print(f"largest of {points} errors at random distances up to {LAST}, in logits")
    print("base      " + "".join(f"  d = {d:<6}" for d in (64, 96, 128, 256)))
    for base in (100, 10000, 1e6, 5e6, 1e9):
        errors = []
        for head_dim in (64, 96, 128, 256):
            values = waveform(base, head_dim, LAST)
            distances = [LAST, *(draw.randrange(LAST) for _ in range(points - 1))]
            errors.append(max(abs(values[m] - exact(base, head_dim, m)) for m in distances))
        print(f"{base:<10g}" + "".join(f"  {error:<10.1e}" for error in errors))


if __name__ == "__main__":
    main()
