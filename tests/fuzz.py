"""Random searches against their slow twins, and random wrong ones, each of which must be refused by one line.

A valid case draws every option of a search. Three things are compared: the waveforms with sums of cosines, at random
distances, to 1e-9; the peaks and valleys with the twin of their rule on the package's own waveform, exactly; the bases
and the order of their choice with the twin of the whole, exactly. Where that last one differs the twin runs again on
waveforms of its own: if it then differs from itself, rounding decides the case, and it is counted as such. For `floor`
and `ripple` the figure must be no worse than the greedy twin's, no exchange may gain, and refining must not lose.

A wrong case takes a valid one and breaks one to three of its options, for the library or on the command line.

    python tests/fuzz.py [--count 10000] [--seed 1]
"""

import argparse
import contextlib
import io
import math
import random
import signal
import sys
import time
import traceback
from collections import Counter
from decimal import Decimal

import naive
import numpy as np
from ropesearch.cli import main as command_line

from ropesearch import find_extrema, search_bases, waveform
from ropesearch.core.errors import InputError, ParameterError

SECONDS = 60  # for one case, before it counts as hanging
ERROR = 1e-9  # of a waveform, in logits
GAIN = 1e-9  # of a figure; less is rounding

EXTREMA = ("extrema", "count", "gap", "valley_gap", "look_ahead", "level_tolerance", "prominence", "min_separation")


class FuzzError(Exception):
    """The package and its twin differ, or something wrong was not refused as it should be."""


def require(holds, what):
    if not holds:
        raise FuzzError(what)


def described(case):
    try:
        return f"search_bases(**{case})"
    except ValueError:  # a number of too many digits
        return f"search_bases with {', '.join(case)}"


# Valid searches


def draw_grid(draw):
    """(bmin, bmax, stride, number of candidates), exact as decimal numbers."""
    bmin = Decimal(draw.choice(["1.0001", "1.5", "2", "37.5", "500", "10000", "1e6", "5e8", "1e12", None]) or "7")
    if draw.random() < 0.5:
        bmin = Decimal(f"{1 + 10 ** draw.uniform(-3, 12):.6g}")
    stride = Decimal(f"{float(bmin) * 10 ** draw.uniform(-3, 1):.3g}")
    n = draw.randint(1, 8)
    rest = Decimal(draw.choice(["0", "0", "0.3"])) * stride  # 0: the last candidate is bmax; n = 1: stride = range
    bmin, bmax, stride = float(bmin), float(bmin + n * stride + rest), float(stride)
    return bmin, bmax, stride, len(naive.candidates(bmin, bmax, stride))


def draw_window(draw, n):
    first = draw.choice([0, 0, 1, 17, 1000, draw.randrange(10**6)])
    size = draw.choice([draw.randint(1, 5), draw.randint(5, 400), draw.randint(5, 400), draw.randint(100, 300)])
    if n <= 3 and draw.random() < 0.2:
        size = draw.randint(400, 2500)
    return first, first + size


def valid_case(draw):
    bmin, bmax, stride, n = draw_grid(draw)
    bases = draw.choice([1, n + 1, draw.randint(1, n + 1)])
    group = draw.choice([1, 1, 1, 2, 5])
    first, last = draw_window(draw, n)
    case = {
        "bmin": bmin,
        "bmax": bmax,
        "stride": stride,
        "heads": bases * group,
        "kv_heads": bases if group > 1 else draw.choice([None, bases]),
        "head_dim": 2 * draw.choice([1, 2, draw.randint(1, 16), draw.randint(1, 16), 64]),
        "min_distance": first,
        "max_distance": last,
        "strategy": draw.choice(["peak-valley"] * 12 + ["uniform", "floor"]),
        "extrema": draw.choice(["dominant", "dominant", "local"]),
        "matching": draw.choice(["coincidence", "distance"]),
        "tolerance": draw.choice([0, 1, 3, 40, 5000, 2**31 - 1]),
        "normalize": draw.random() < 0.5,
        "count": draw.choice([1, 2, 5, 30, 10**6]),
        "gap": draw.choice([0, 1, 7, 50, 10**6]),
        "valley_gap": draw.choice([0, 1, 9, 60, 10**6]),
        "look_ahead": draw.choice([1, 2, 20, 500, 10**6]),
        "level_tolerance": draw.choice([0.0, 1e-3, 0.1, 1.0, 1e6]),
        "prominence": draw.choice([None, None, 0.0, 0.3, 5.0]),
        "min_separation": draw.choice([None, None, 1, 2, 9, 10**6]),
        "order": draw.choice(["ascending", "descending", "selection"]),
        "threads": draw.choice([None, 1, 2, 1000]),
    }
    if draw.random() < 0.01:
        case |= {"strategy": "ripple", "max_distance": 8192 + draw.randrange(100), "head_dim": 8}
    if case["strategy"] in ("floor", "ripple"):
        case["refine"] = draw.random() < 0.3
        case["max_distance"] = max(2, case["max_distance"] - first) if case["strategy"] == "floor" else 8192
        case["min_distance"] = 0
    return case


def twin_extrema(curve, case):
    if case["extrema"] == "dominant":
        peaks = naive.dominant_peaks(curve, case["count"], case["gap"], case["look_ahead"], case["level_tolerance"])
        return peaks, naive.dominant_valleys(
            curve, case["count"], case["gap"], case["valley_gap"], case["level_tolerance"]
        )
    options = case["prominence"], case["min_separation"]
    return naive.local_peaks(curve, *options), naive.local_peaks([-value for value in curve], *options)


def twin_choice(extrema, n, case):
    if case["matching"] == "coincidence":
        return naive.choose_by_coincidence(extrema, n, case["tolerance"])
    return naive.choose_by_distance(extrema, n, case["normalize"])


def check_waveforms(draw, grid, curves, case):
    first, d = case["min_distance"], case["head_dim"]
    for base, curve in zip(grid, curves, strict=True):
        for j in draw.sample(range(len(curve)), min(5, len(curve))):
            (value,) = naive.waveform(base, d, first + j, first + j)
            require(abs(curve[j] - value) < ERROR, f"the waveform of {base} at {first + j}: {curve[j]}, not {value}")


def check_peak_valley(draw, case, grid, n):
    first, last, d = case["min_distance"], case["max_distance"], case["head_dim"]
    curves = [waveform(base, d, last, min_distance=first).tolist() for base in grid]
    check_waveforms(draw, grid, curves, case)
    extrema = []
    for curve in curves:
        found = find_extrema(curve, **{name: case[name] for name in EXTREMA})
        twins = twin_extrema(curve, case)
        require((found.peaks.tolist(), found.valleys.tolist()) == twins, "peaks or valleys")
        extrema.append(twins)
    try:
        selection = search_bases(**case).selection
    except InputError as error:
        require("has no peak and no valley" in str(error) and not any(extrema[0]), f"refused: {error}")
        return "refused, for b_min has neither peak nor valley"
    require(any(extrema[0]), "b_min has neither peak nor valley, and is not refused")
    chosen = twin_choice(extrema, n, case)
    if list(selection) == [grid[c] for c in chosen]:
        return f"{case['extrema']}, {case['matching']}"
    own = [twin_extrema(naive.waveform(base, d, first, last), case) for base in grid]
    require(twin_choice(own, n, case) != chosen, f"the choice: {selection}, not {[grid[c] for c in chosen]}")
    return "decided by rounding"


def check_objective(case, grid, n):
    distances = case["max_distance"]
    root = math.sqrt(case["head_dim"])
    curves = [waveform(base, case["head_dim"], distances - 1) / root for base in grid]

    def figure(members, curves=curves):
        chosen = [curves[c] for c in members]
        return naive.floor(chosen)[0] if case["strategy"] == "floor" else -naive.ripple(chosen)

    plain = search_bases(**case | {"refine": False}).selection
    members = [grid.index(base) for base in plain]
    require(members[0] == 0 and len({*members}) == n, f"members {members}")
    present = figure(members)
    require(present >= figure(naive.greedy(figure, len(grid), n)) - GAIN, "worse than greedy")
    gains = [other - present for other in naive.exchanges(figure, members, len(grid))]
    require(max(gains, default=0) <= GAIN, "an exchange gains")
    if case["refine"]:
        refined = search_bases(**case).selection
        require(refined[0] == grid[0] and all(grid[0] <= b <= case["bmax"] for b in refined), f"refined {refined}")
        moved = [waveform(base, case["head_dim"], distances - 1) / root for base in refined]
        require(figure(range(n), moved) >= present - GAIN, "refining loses")
        return f"{case['strategy']}, refined"
    return case["strategy"]


def check_layout(case, found, n):
    require(found.heads == case["heads"] and found.kv_heads == n == len(found.bases), "the number of heads")
    laid = list(found.selection)
    if case["order"] != "selection":
        laid = sorted(laid, reverse=case["order"] == "descending")
    require(list(found.bases) == laid, "the order of the heads")


def check_valid(draw):
    """What kind of case it was; FuzzError if package and twin differ."""
    case = valid_case(draw)
    n = case["kv_heads"] or case["heads"]
    grid = [case["bmin"], *naive.candidates(case["bmin"], case["bmax"], case["stride"])]
    try:
        if case["strategy"] == "uniform":
            found = search_bases(**case)
            width = Decimal(repr(case["bmax"])) - Decimal(repr(case["bmin"]))
            for h, base in enumerate(found.selection):
                even = float(Decimal(repr(case["bmin"])) + h * width / max(n - 1, 1))
                require(math.isclose(base, even, rel_tol=1e-15), f"uniform: {base}, not {even}")
            kind = "uniform"
        elif case["strategy"] == "peak-valley":
            kind = check_peak_valley(draw, case, grid, n)
            found = None if kind.startswith("refused") else search_bases(**case)
        else:
            kind = check_objective(case, grid, n)
            found = search_bases(**case)
        if found is not None:
            check_layout(case, found, n)
    except Exception as error:
        error.add_note(described(case))
        raise
    return kind


# Wrong ones

NO_NUMBERS = [float("nan"), float("inf"), -float("inf"), "x", "5", b"5", "", True, [], {}, 1j, (1,), object, 10**400]
NO_NUMBERS += [np.array([1.0, 2.0]), np.array([]), "a\nb", "é" * 300]
NO_INTEGERS = [*NO_NUMBERS[:-5], 2.0, 0.5, Decimal(3), np.float64(2), np.array([1, 2]), 10**5000, 2**31, 2**63, -1]
NO_NAMES = ["", "best", "Dominant", "dominant ", None, 0, 1.5, True, [], {}, b"dominant", np.array(["a", "b"]), "a\nb"]
NO_TRUTHS = [0, 1, "yes", None, 1.0, [], np.array([True, False]), "True"]

WRONG = {
    "bmin": [None, 1, 1.0, 0, -5, 0.999, *NO_NUMBERS],
    "bmax": [None, 1, 0, -5, lambda case: case["bmin"], lambda case: case["bmin"] * 0.99, *NO_NUMBERS],
    "stride": [None, 0, -1, -0.0, lambda case: (case["bmax"] - case["bmin"]) * 1.01, *NO_NUMBERS],
    "heads": [None, 0, lambda case: 1000 if case["kv_heads"] is None else 0, *NO_INTEGERS],
    "kv_heads": [0, lambda case: case["heads"] + 1, *NO_INTEGERS],
    "head_dim": [None, 0, 1, 3, 127, -2, *NO_INTEGERS],
    "min_distance": [None, lambda case: case["max_distance"], lambda case: case["max_distance"] + 5, *NO_INTEGERS],
    "max_distance": [None, 0, *NO_INTEGERS],
    "tolerance": [None, *NO_INTEGERS],
    "count": [None, 0, *NO_INTEGERS],
    "gap": [None, *NO_INTEGERS],
    "valley_gap": [None, *NO_INTEGERS],
    "look_ahead": [None, 0, *NO_INTEGERS],
    "level_tolerance": [None, -1, -1e-300, *NO_NUMBERS],
    "prominence": [-1, -1e-300, *NO_NUMBERS],
    "min_separation": [0, *NO_INTEGERS],
    "threads": [0, *NO_INTEGERS[:-3], -1],
    "strategy": NO_NAMES,
    "extrema": NO_NAMES,
    "matching": NO_NAMES,
    "order": NO_NAMES,
    "normalize": NO_TRUTHS,
    "refine": [True, *NO_TRUTHS],
}
# 2^31 and so on are too large for these, by the same line as on the command line.
WRONG_WORDS = {
    "--bmin": ["1", "0", "-3", "nan", "inf", "1e999", "x", "", "1e4,5", "1e4 5"],
    "--bmax": ["1", "nan", "-inf", "x", "", "--"],
    "--stride": ["0", "-1", "nan", "inf", "x", "", "1e300"],
    "--heads": ["0", "-1", "2.5", "x", "", "1e1", "1000000", "9" * 40, "nan"],
    "--kv-heads": ["0", "-1", "2.5", "x", "7919", "9" * 40],
    "--head-dim": ["0", "1", "3", "-2", "64.0", "x", "", "9" * 39],
    "--min-distance": ["-1", "1.5", "x", "2147483647", "9" * 40],
    "--max-distance": ["0", "-1", "1.5", "x", "2147483648", "9" * 40],
    "--tolerance": ["-1", "0.5", "x", "9" * 40],
    "--count": ["0", "-1", "x"],
    "--gap": ["-1", "x"],
    "--valley-gap": ["-1", "x"],
    "--look-ahead": ["0", "x"],
    "--level-tolerance": ["-1", "nan", "inf", "x"],
    "--prominence": ["-1", "nan", "x"],
    "--min-separation": ["0", "1.5", "x"],
    "--threads": ["0", "-1", "x"],
    "--strategy": ["best", "", "Floor", "peak_valley"],
    "--extrema": ["best", "", "all"],
    "--matching": ["best", "", "a\nb"],
    "--order": ["best", "", "up"],
    "--output": ["nowhere/a.json", ".", "x" * 300],
}


def check_wrong_call(draw):
    """Break the arguments of the library's function."""
    case = valid_case(draw) | {"strategy": "peak-valley", "refine": False}
    names = draw.sample(sorted(WRONG), draw.choice([1, 1, 1, 2, 3]))
    for name in names:
        value = draw.choice(WRONG[name])
        try:
            case[name] = value(case) if callable(value) and value is not object else value
        except (TypeError, ValueError):  # it goes by an option that is broken already
            case[name] = None
    try:
        search_bases(**case)
    except ParameterError as error:
        require(error.name in names, f"blames {error.name} for {names}: {described(case)}")
        require("\n" not in str(error) and len(str(error)) < 400, f"not one line: {error}")
    except Exception as error:
        error.add_note(described(case))
        raise
    else:
        require(False, f"not refused: {described(case)}")
    return "library"


def check_wrong_command(draw):
    """Break the words of the command line."""
    words = {"--bmin": "10000", "--bmax": "30000", "--stride": "5000", "--heads": "4", "--max-distance": "1400"}
    options = draw.sample(sorted(WRONG_WORDS), draw.choice([1, 1, 1, 2, 3]))
    words |= {option: draw.choice(WRONG_WORDS[option]) for option in options}
    out, err = io.StringIO(), io.StringIO()
    arguments = [word for pair in words.items() for word in pair]
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = command_line(["search", *arguments])
    line = err.getvalue()
    require(code in ((1, 2) if "--output" in options else (2,)), f"exit code {code}: {arguments}")
    require(out.getvalue() == "" and line.startswith("Error: ") and line.count("\n") == 1, f"{line!r}: {arguments}")
    require(code == 1 or any(name in line or words[name] in line for name in options), f"{line!r}: {arguments}")
    return "command line"


def check_wrong(draw):
    return (check_wrong_command if draw.random() < 0.3 else check_wrong_call)(draw)


# Both


def overdue(*_):
    raise FuzzError(f"not done after {SECONDS} s")


def run(check, count, seed):
    """(how many cases there were of each kind, the failures); each case can be had again by its own seed."""
    kinds, failures = Counter(), []
    signal.signal(signal.SIGALRM, overdue)
    for i in range(count):
        signal.alarm(SECONDS)
        try:
            kinds[check(random.Random(f"{seed}, {i}"))] += 1
        except Exception:
            failures.append(f"{check.__name__}, seed {seed}, case {i}\n{traceback.format_exc()}")
        finally:
            signal.alarm(0)
    return kinds, failures


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    failed = []
    for what, check in (("valid", check_valid), ("wrong", check_wrong)):
        start = time.monotonic()
        kinds, failures = run(check, options.count, options.seed)
        failed += failures
        print(f"{options.count} {what} inputs, seed {options.seed}: {len(failures)} failed, ", end="")
        print(f"{time.monotonic() - start:.0f} s")
        for kind, n in sorted(kinds.items(), key=lambda item: -item[1]):
            print(f"  {n:6} {kind}")
    for failure in failed[:20]:
        print(failure, file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
