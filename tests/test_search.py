import os
import subprocess
import sys
from fractions import Fraction

import naive
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ropesearch import PRESETS, find_extrema, search_bases, uniform_bases, waveform
from ropesearch.core.grid import candidate_bases, widest_stride
from ropesearch.kernels.matching import PEAK, VALLEY
from ropesearch.search.landmarks import LandmarkBits, Landmarks
from ropesearch.search.matching import Coincidence, Distance, choose

# HARPE, arXiv:2412.07171, Table 2.
# fmt: off
TABLE_2 = [
    10_000 * b
    for b in (
        100, 115, 130, 145, 217, 220, 223, 247, 250, 265, 268, 271, 274, 280, 283, 292,
        301, 304, 310, 313, 316, 322, 343, 346, 361, 388, 409, 415, 439, 445, 451, 454,
    )
]
# fmt: on


@pytest.mark.parametrize("max_distance", [127000, 128000, 131072, 140000])
def test_table_2_of_harpe(max_distance):
    found = search_bases(1e6, 5e6, 30000, 32, max_distance=max_distance)
    assert list(found.bases) == TABLE_2


def test_presets_are_the_two_published_sets():
    assert list(search_bases(**PRESETS["table2"]).bases) == TABLE_2
    # Attention Buckets, arXiv:2312.04455.
    buckets = search_bases(**PRESETS["attention-buckets"])
    assert list(buckets.bases) == [10000, 17500, 18000, 19000, 20000, 25000]


@pytest.mark.parametrize(
    ("option", "value", "common"),
    [
        ("max_distance", 65536, 8),
        ("count", 29, 29),
        ("tolerance", 4, 27),
        ("min_distance", 900, 18),
        ("gap", 51, 26),
        ("valley_gap", 50, 29),
        ("look_ahead", 499, 27),
    ],
)
def test_table_2_is_a_knifes_edge(option, value, common):
    found = search_bases(1e6, 5e6, 30000, 32, **{option: value})
    assert len({*found.bases} & {*TABLE_2}) == common


def naive_search(bmin, bmax, stride, n, head_dim, window, rule, matching):
    grid = [bmin, *naive.candidates(bmin, bmax, stride)]
    extrema = []
    for base in grid:
        found = find_extrema(waveform(base, head_dim, window[1], min_distance=window[0]), **rule)
        extrema.append((found.peaks.tolist(), found.valleys.tolist()))
    if matching["matching"] == "coincidence":
        order = naive.choose_by_coincidence(extrema, n, matching["tolerance"])
    else:
        order = naive.choose_by_distance(extrema, n, matching["normalize"])
    return [grid[c] for c in order]


RULES = [
    {"extrema": "dominant", "count": 12},
    {"extrema": "local"},
    {"extrema": "local", "prominence": 0.5, "min_separation": 9},
]
MATCHINGS = [
    {"matching": "coincidence", "tolerance": 0},
    {"matching": "coincidence", "tolerance": 3},
    {"matching": "coincidence", "tolerance": 40},
    {"matching": "distance", "normalize": False},
    {"matching": "distance", "normalize": True},
]


@pytest.mark.parametrize("matching", MATCHINGS)
@pytest.mark.parametrize(
    "rule",
    [
        {"extrema": "dominant", "count": 12},
        {"extrema": "local"},
        {"extrema": "local", "prominence": 0.5, "min_separation": 9},
    ],
)
@pytest.mark.parametrize(("head_dim", "window"), [(128, (1000, 2000)), (64, (0, 900)), (16, (17, 600))])
def test_order_of_choice_equals_its_twin(matching, rule, head_dim, window):
    found = search_bases(
        10000, 30000, 1000, 9,
        head_dim=head_dim, min_distance=window[0], max_distance=window[1], **rule, **matching,
    )  # fmt: skip
    assert list(found.selection) == naive_search(10000, 30000, 1000, 9, head_dim, window, rule, matching)


@st.composite
def peaks_and_valleys(draw):
    """As any curve has them: no position is both."""
    drawn = draw(st.lists(st.integers(0, 40), unique=True, max_size=16))
    cut = draw(st.integers(0, len(drawn)))
    return sorted(drawn[:cut]), sorted(drawn[cut:])


@settings(max_examples=300)
@given(st.data(), st.sampled_from(MATCHINGS))
def test_choice_among_arbitrary_extrema_equals_its_twin(data, matching):
    extrema = data.draw(st.lists(peaks_and_valleys(), min_size=1, max_size=7))
    n = data.draw(st.integers(1, len(extrema)))
    landmarks = Landmarks.join([tuple(np.array(p, dtype=np.int32) for p in pair) for pair in extrema])
    if matching["matching"] == "coincidence":
        rule = Coincidence(matching["tolerance"])
        expected = naive.choose_by_coincidence(extrema, n, matching["tolerance"])
    else:
        rule = Distance(matching["normalize"])
        expected = naive.choose_by_distance(extrema, n, matching["normalize"])
    assert choose(landmarks, n, 41, rule, lambda: None) == expected

    bits = LandmarkBits.empty(len(extrema), 41)
    for c, pair in enumerate(extrema):
        for row, positions in zip((PEAK, VALLEY), pair, strict=True):
            for x in positions:
                bits.words[row, c, x // 64] |= np.uint64(1 << x % 64)
    assert choose(bits, n, 41, rule, lambda: None, threads=2) == expected


@given(
    st.decimals(1, 10**7, places=2).filter(lambda x: x > 1),
    st.decimals("0.01", 10**6, places=2),
    st.decimals("0.01", 10**5, places=2),
)
def test_candidates_are_decimal(low, width, step):
    assume(step <= width <= 2000 * step)
    bmin, bmax, stride = float(low), float(low + width), float(step)
    assert candidate_bases(bmin, bmax, stride) == naive.candidates(bmin, bmax, stride)


def test_candidates_include_the_far_end_and_do_not_drift():
    assert candidate_bases(1.1, 1.4, 0.1) == [1.2, 1.3, 1.4]
    assert len(candidate_bases(1e6, 5e6, 30000)) == 133
    assert candidate_bases(1e6, 5e6, 4e6) == [5e6]
    grid = candidate_bases(1000.1, 2000.1, 0.1)
    assert len(grid) == 10000
    assert grid[-1] == 2000.1


def test_widest_stride_gives_enough_candidates():
    for low, high, n in [(1e6, 5e6, 199), (1e6, 5e6, 133), (10, 12, 7), (10, 11, 5000), (1e4, 3e4, 20)]:
        stride = widest_stride(low, high, n)
        assert n <= len(candidate_bases(low, high, stride)) <= n * 1.3


def test_uniform():
    found = uniform_bases(1e6, 5e6, 5)
    assert list(found.bases) == list(found.selection) == [1e6, 2e6, 3e6, 4e6, 5e6]
    assert list(uniform_bases(1e6, 5e6, 3, order="descending").bases) == [5e6, 3e6, 1e6]
    assert list(uniform_bases(1e6, 5e6, 8, kv_heads=1).bases) == [1e6]
    assert list(uniform_bases(1e4, 1e6, 7).bases) == [float(10**4 + Fraction(99 * 10**4 * h, 6)) for h in range(7)]
    assert search_bases(1e6, 5e6, None, 5, strategy="uniform") == found
    assert found.strategy == "uniform"
    assert found.parameters == {"bmin": 1e6, "bmax": 5e6, "order": "ascending"}


SMALL = {"bmin": 10000, "bmax": 30000, "stride": 1000, "head_dim": 32, "max_distance": 2000}


def test_order_of_heads_and_of_choice():
    ascending = search_bases(**SMALL, heads=8)
    assert ascending.selection[0] == 10000
    assert list(ascending.bases) == sorted(ascending.selection)
    descending = search_bases(**SMALL, heads=8, order="descending")
    assert list(descending.bases) == sorted(ascending.selection, reverse=True)
    selection = search_bases(**SMALL, heads=8, order="selection")
    assert selection.bases == selection.selection == ascending.selection


def test_one_base_per_kv_head():
    grouped = search_bases(**SMALL, heads=32, kv_heads=4)
    assert (grouped.heads, grouped.kv_heads, len(grouped.bases)) == (32, 4, 4)
    assert grouped.bases == search_bases(**SMALL, heads=4).bases


def test_every_candidate_can_be_chosen():
    everything = search_bases(**SMALL, heads=21)
    assert list(everything.bases) == [10000 + 1000 * i for i in range(21)]


def test_threads_do_not_change_the_result():
    for matching in ("coincidence", "distance"):
        for extrema in ("dominant", "local"):
            options = SMALL | {"heads": 12, "matching": matching, "extrema": extrema}
            assert search_bases(**options, threads=1) == search_bases(**options, threads=2)


WITHOUT_THE_COMPILER = [
    {"bmin": 10000, "bmax": 30000, "stride": 4000, "heads": 4, "head_dim": 8, "min_distance": 20, "max_distance": 700}
    | {"matching": matching}
    | rule
    for rule in ({"extrema": "dominant", "count": 5}, {"extrema": "local"})
    for matching in ("coincidence", "distance")
]


def test_without_the_compiler_the_result_is_the_same():
    code = "from ropesearch import search_bases\n"
    code += f"for options in {WITHOUT_THE_COMPILER}: print(search_bases(**options).to_json(), end='')"
    command = [sys.executable, "-P", "-W", "error", "-c", code]
    interpreted = subprocess.run(
        command, env=os.environ | {"NUMBA_DISABLE_JIT": "1"}, check=True, capture_output=True, text=True
    )
    found = [search_bases(**options) for options in WITHOUT_THE_COMPILER]
    assert interpreted.stdout == "".join(base_set.to_json() for base_set in found)
    assert len({base_set.selection for base_set in found}) == 4


def test_parameters_say_what_shaped_the_set():
    found = search_bases(**SMALL, heads=4, matching="distance", normalize=True, extrema="local", prominence=0.25)
    assert found.parameters == {
        "bmin": 10000.0,
        "bmax": 30000.0,
        "stride": 1000.0,
        "min_distance": 1000,
        "max_distance": 2000,
        "extrema": "local",
        "prominence": 0.25,
        "min_separation": None,
        "matching": "distance",
        "normalize": True,
        "order": "ascending",
    }
    assert found.made_by["command"] == (
        "ropesearch search --bmin 10000 --bmax 30000 --stride 1000 --heads 4 --head-dim 32 --max-distance 2000"
        " --extrema local --matching distance --normalize --prominence 0.25"
    )
    again = search_bases(heads=found.heads, head_dim=found.head_dim, **found.parameters)
    assert again == found


def test_progress_counts_to_the_end():
    seen = []
    search_bases(**SMALL, heads=3, progress=lambda *state: seen.append(state))
    assert seen == [("waveforms and extrema", i, 21) for i in range(1, 22)] + [
        ("choosing bases", i, 3) for i in range(1, 4)
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"bmin": 1}, "bmin must be a finite number above 1, not 1"),
        ({"bmin": float("nan")}, "bmin must be a finite number above 1, not nan"),
        ({"bmax": float("inf")}, "bmax must be a finite number above 1, not inf"),
        ({"bmax": "5e6"}, "bmax must be a finite number above 1, not '5e6'"),
        ({"bmax": 10000}, "bmax must be greater than `bmin`, 10000, not 10000"),
        ({"stride": 0}, "stride must be a finite number above 0, not 0"),
        ({"stride": -5}, "stride must be a finite number above 0, not -5"),
        ({"stride": None}, "stride must be given: the step of the candidate grid, not None"),
        ({"stride": 20001}, "stride must be at most the width of the range, 20000, not 20001"),
        ({"heads": 0}, "heads must be an integer of at least 1, not 0"),
        ({"heads": 10**5000}, "heads must be at most 2147483647, not a value of type int"),
        (
            {"heads": 22},
            r"heads must be at most 21, because `stride` 1000 gives 20 candidates besides `bmin`"
            r" \(a stride of 952 is narrow enough\), not 22",
        ),
        ({"heads": 44, "kv_heads": 22}, "kv_heads must be at most 21"),
        ({"kv_heads": 3}, "kv_heads must be a divisor of the 8 heads, not 3"),
        ({"kv_heads": 0}, "kv_heads must be an integer of at least 1"),
        ({"head_dim": 31}, "head_dim must be even, not 31"),
        ({"head_dim": 0}, "head_dim must be an integer of at least 2"),
        ({"min_distance": 2000}, "min_distance must be less than `max_distance`, 2000, not 2000"),
        ({"min_distance": -1}, "min_distance must be an integer of at least 0, not -1"),
        (
            {"min_distance": 1000, "max_distance": 1001},
            "`bmin` 10000 has no peak and no valley from `min_distance` 1000",
        ),
        ({"count": 0}, "count must be"),
        ({"gap": -1}, "gap must be"),
        ({"look_ahead": 0}, "look_ahead must be"),
        ({"tolerance": -1}, "tolerance must be an integer of at least 0"),
        ({"level_tolerance": -1}, "level_tolerance must be"),
        ({"strategy": "best"}, "strategy must be one of peak-valley, uniform, floor, ripple, not 'best'"),
        ({"strategy": np.array(["floor", "ripple"])}, "strategy must be one of peak-valley, uniform, floor, ripple"),
        ({"matching": "best"}, "matching must be one of coincidence, distance"),
        ({"extrema": "best"}, "extrema must be one of dominant, local"),
        ({"order": "random"}, "order must be one of ascending, descending, selection"),
        ({"normalize": 1}, "normalize must be true or false"),
        ({"threads": 0}, "threads must be"),
        ({"refine": True}, "refine must be left out unless `strategy` is floor or ripple"),
        ({"strategy": "floor", "refine": "yes"}, "refine must be true or false, not 'yes'"),
        ({"strategy": "floor", "max_distance": 1}, "max_distance must be an integer of at least 2"),
        ({"strategy": "ripple"}, "max_distance must be an integer of at least 8192, not 2000"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        search_bases(**SMALL | {"heads": 8} | arguments)


def test_sums_that_would_overflow_are_refused(monkeypatch):
    landmarks = Landmarks.join([(np.arange(2**16, dtype=np.int32), np.arange(2**16, dtype=np.int32))] * 2)
    with pytest.raises(ValueError, match="tolerance must be smaller: the sums of squared distances"):
        choose(landmarks, 2, 2**30, Coincidence(2**29), lambda: None)


@pytest.mark.parametrize(
    ("arguments", "free", "message"),
    [
        ({"max_distance": 2**31 - 1}, 10**9, "a search over 2147482648 distances with 1 threads needs 17.4 GB"),
        ({"bmax": 1e9, "stride": 1000}, 10**8, "a grid of 999990 candidates needs 200 MB"),
        ({"bmax": 1e5, "stride": 5, "extrema": "local"}, 10**7, "keeping the extrema of 18001 bases needs 18"),
        ({"strategy": "uniform", "heads": 10**9}, 10**9, "a set of 1000000000 bases needs 200 GB"),
    ],
)
def test_what_cannot_fit_in_memory_says_how_much_it_needs(monkeypatch, arguments, free, message):
    monkeypatch.setattr("ropesearch.core.machine.available_memory", lambda: free)
    with pytest.raises(MemoryError, match=message):
        search_bases(**SMALL | {"heads": 8, "threads": 1} | arguments)
