"""Write docs/table2.md: how Table 2 of HARPE came out again, with every figure computed here.

python docs/make_table2.py
"""

import sys
from pathlib import Path

import numpy as np

from ropesearch import PRESETS, find_extrema, search_bases, uniform_bases, waveform
from ropesearch.core.grid import candidate_bases

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))
import naive  # noqa: E402

# As printed in arXiv:2412.07171, Table 2, in units of 10^6, and in arXiv:2312.04455.
PRINTED = (
    "1.00 1.15 1.30 1.45 2.17 2.20 2.23 2.47 2.50 2.65 2.68 2.71 2.74 2.80 2.83 2.92 "
    "3.01 3.04 3.10 3.13 3.16 3.22 3.43 3.46 3.61 3.88 4.09 4.15 4.39 4.45 4.51 4.54"
)
TABLE_2 = {round(float(word) * 1e6) for word in PRINTED.split()}
ATTENTION_BUCKETS = [10000, 17500, 18000, 19000, 20000, 25000]
MOICE = [10000, 17500, 18000, 19000, 20000, 22500, 25000]  # in the training script published with arXiv:2406.19598
GRID = (1e6, 5e6, 30000)

VARIED = {
    "max_distance": [65536, 100000, 120000, 127000, 128000, 131072, 140000, 200000, 262144],
    "count": [28, 29, 30, 31, 32],
    "tolerance": [2, 3, 4],
    "min_distance": [0, 900, 999, 1000, 1001, 1100],
    "gap": [49, 50, 51],
    "valley_gap": [50, 59, 60, 61],
    "look_ahead": [499, 500, 501],
}


def common(bases):
    return len({round(b) for b in bases} & TABLE_2)


def sensitivity():
    """Lines of the table: each option varied alone, how many of the 32 come out."""
    for option, values in VARIED.items():
        found = {value: common(search_bases(*GRID, 32, **{option: value})) for value in values}
        yield f"| `{option}` | {', '.join(f'{value}: {bold(n)}' for value, n in found.items())} |"
    grid = [GRID[0], *candidate_bases(*GRID)]
    extrema = []
    for base in grid:
        found = find_extrema(waveform(base, 128, 131072, min_distance=1000), min_distance=1000)
        extrema.append((found.peaks.tolist(), found.valleys.tolist()))
    for name, variant in [
        ("coinciding positions left in", {"take_out": False}),
        ("pools as sets, not lists", {"pools": "sets"}),
    ]:
        order = naive.choose_by_coincidence(extrema, 32, 3, **variant)
        yield f"| {name} | {bold(common([grid[c] for c in order]))} |"


def bold(n):
    return f"**{n}**" if n == 32 else str(n)


def millions(base):
    return f"{base / 1e6:.2f}"


def chosen_positions(bases):
    """Farthest chosen peak, median of the chosen valleys, and how many peaks or valleys a base has at least."""
    peaks, valleys, fewest = [], [], 10**9
    for base in bases:
        found = find_extrema(waveform(base, 128, 131072, min_distance=1000), min_distance=1000)
        peaks += found.peaks.tolist()
        valleys += found.valleys.tolist()
        fewest = min(fewest, found.peaks.size, found.valleys.size)
    return max(peaks), round(np.median(valleys)), fewest


def floor(base_set):
    """Over distances 1 … 131071, the smallest value of the best head, in mean cosine."""
    best = np.max([waveform(base, 128, 131071, min_distance=1) for base in base_set], axis=0)
    return best.min() / np.sqrt(128)


def page():
    """The page, with every figure computed."""
    table_2 = search_bases(**PRESETS["table2"])
    buckets = search_bases(**PRESETS["attention-buckets"])
    assert set(table_2) == TABLE_2
    assert list(buckets) == ATTENTION_BUCKETS
    eight = search_bases(**PRESETS["attention-buckets"] | {"heads": 8}).selection
    seventh, eighth = eight[6:]
    assert set(MOICE) - set(eight[:7]) == {eighth}
    plain = search_bases(*GRID, 32, extrema="local", matching="distance")
    per_term = search_bases(*GRID, 32, extrema="local", matching="distance", normalize=True)
    farthest, _, _ = chosen_positions(table_2)
    farthest_of_all, median_of_all, fewest = chosen_positions([GRID[0], *candidate_bases(*GRID)])
    return TEMPLATE.format(
        printed=PRINTED.replace(" 3.01", "\n    3.01"),
        moice=", ".join(f"{base:,}".replace(",", " ") for base in MOICE),
        moice_common=len(set(MOICE) & set(eight[:7])),
        seventh=f"{seventh:,.0f}".replace(",", " "),
        eighth=f"{eighth:,.0f}".replace(",", " "),
        plain_common=common(plain),
        plain_largest=millions(max(plain)),
        per_term_common=common(per_term),
        per_term_largest=millions(max(per_term)),
        sensitivity="\n".join(sensitivity()),
        farthest=farthest,
        farthest_of_all=farthest_of_all,
        median_of_all=median_of_all,
        fewest=fewest,
        floor_table_2=f"{floor(table_2):.4f}",
        floor_uniform=f"{floor(uniform_bases(1e6, 5e6, 32)):.4f}",
    )


TEMPLATE = """\
<!-- Made by `python docs/make_table2.py`, every figure included. -->

# Table 2 of HARPE, all 32 of 32

HARPE ([arXiv:2412.07171](https://arxiv.org/abs/2412.07171)) prints, in its Table 2, the bases that its model was
trained with, in units of 10⁶ (stride 30 000, b_min 1e6, b_max 5e6, 32 heads):

    {printed}

`ropesearch search --bmin 1e6 --bmax 5e6 --stride 30000 --heads 32` gives exactly this set. This page says how the
rule was found, and what it does not prove.

## What the paper leaves open

Its Algorithm 1 starts from b_min and adds, one by one, the base whose peaks lie nearest to the valleys, and whose
valleys lie nearest to the peaks, of those chosen so far. It does not say what a peak is, over which distances, or how
peaks and valleys are paired. The plain reading, every local extremum of the waveform and sums of distances to the
nearest, gives another set: {plain_common} of the 32, and no base above {plain_largest} million
(`--extrema local --matching distance`). With each sum divided by its number of terms: {per_term_common} of the 32,
none above {per_term_largest} million (`--normalize`). Small bases have slightly fewer extrema, which lie
nearer to those of b_min.

## The rule that gives this set

The paper names Attention Buckets ([arXiv:2312.04455](https://arxiv.org/abs/2312.04455)) as its method. The rule here
has the form of the search script published with that paper; the code was written from a description of the rule in
words.

- **Which extrema count** (`dominant`). Over distances 1000 to 131 072, up to 30 peaks are kept from left to right, and
  up to 30 valleys from right to left. A peak is kept if it is within 0.001 logits of a *level* and more than 50 tokens
  after the last one kept. The level starts at the highest peak; after each peak at level it becomes the largest value
  among the 500 points ahead. For valleys the level is the smallest of all remaining values, and those kept are more
  than 60 tokens apart.
- **How they are matched** (`coincidence`). The pools start with the peaks and the valleys of b_min. The candidate with
  the most pairs (its peak and a valley of the pool, or its valley and a peak of the pool, at most 3 tokens apart) is
  chosen next. Ties go to the smallest sum of squared distances, then to the smallest base. Its peaks and valleys join
  the pools, and a position that is then in both pools leaves both.

`find_extrema` and `search_bases` document both in full detail.

## How it was fitted and confirmed

The form was given; window, count and tolerance were fitted until the printed set came out. A fit to 32 numbers proves
little by itself. A second published set supports the rule: with the grid 10 000 to 30 000 by 500, six
bases, distances 1000 to 3000, 10 extrema and a tolerance of 5 it gives exactly the six bases that Attention Buckets
prints, 10 000, 17 500, 18 000, 19 000, 20 000 and 25 000 (`ropesearch search --preset attention-buckets`). There, too,
window, count and tolerance were fitted. Only the authors of HARPE can say whether they used exactly this rule.

A third set speaks for the form of the rule and against its last details. MoICE
([arXiv:2406.19598](https://arxiv.org/abs/2406.19598)), which follows Attention Buckets, trains with seven bases, printed in
its training script: {moice}. With nothing fitted anew, seven heads
(`ropesearch search --preset attention-buckets --heads 7`) give {moice_common} of these seven, and {seventh} in place of
{eighth}, which the rule chooses eighth.

## How sharp the fit is

How many of the 32 bases the search finds when only one option is varied:

| option | value: of the 32 |
|---|---|
{sensitivity}

A largest distance of 128k is not special: 127 000 and 140 000 work as well. With count, tolerance, gap and look_ahead,
the smallest change breaks the fit.

## What else it shows

- Every chosen peak lies in the first part of the window of 131 072 tokens: at distance {farthest:,} or less for the
  bases of the set, {farthest_of_all:,} for all 134 candidates (half of all chosen valleys lie below {median_of_all:,}).
  A pair needs a peak, so all pairs are found there; values beyond it only change the levels.
- Some candidates have few extrema at level, down to {fewest} of 30.
- By plain coverage the published set is no better than an even spread. The minimum of the best head over
  distances 1 to 131 071, in mean cosine: {floor_table_2} for Table 2, {floor_uniform} for 32 bases evenly spaced from
  1e6 to 5e6 (`ropesearch search --strategy uniform --bmin 1e6 --bmax 5e6 --heads 32`).
- Only training can show which set makes the better model; nothing on this page does.
"""

if __name__ == "__main__":
    (ROOT / "docs" / "table2.md").write_text(page())
