import json
import math

import naive
import numpy as np
import pytest
from ropesearch.plots.coverage import plot_coverage

from ropesearch import BaseSet, find_extrema, search_bases, uniform_bases, waveform
from ropesearch.core.grid import candidate_bases
from ropesearch.search.compare import compare
from ropesearch.search.optimize import OBJECTIVES, choose, refine

SMALL = search_bases(10000, 30000, 1000, 6, head_dim=32, min_distance=50, max_distance=3000, count=12, tolerance=2)


def cosines(base_set, n):
    return [waveform(b, base_set.head_dim, n - 1) / math.sqrt(base_set.head_dim) for b in base_set]


@pytest.mark.parametrize("n", [3000, 8192, 9001])
def test_figures_equal_their_twins(n):
    figures = SMALL.coverage(n - 1)
    waveforms = cosines(SMALL, n)
    best = np.max(waveforms, axis=0)[1:]
    assert (figures.floor, figures.floor_distance) == pytest.approx(naive.floor(waveforms), abs=1e-12)
    assert figures.mean == pytest.approx(best.mean(), abs=1e-12)
    assert figures.quantile_01 == pytest.approx(np.quantile(best, 0.01), abs=1e-12)
    assert figures.ripple == (None if n < 8192 else pytest.approx(naive.ripple(waveforms), rel=1e-9))
    assert figures.distances == (1, n - 1)


@pytest.mark.parametrize("rule", [{"count": 40, "gap": 4, "valley_gap": 4, "look_ahead": 40}, {"extrema": "local"}])
def test_valleys_on_peaks_equal_a_comparison_of_all_pairs(rule):
    base_set = search_bases(10000, 30000, 2000, 4, head_dim=32, min_distance=50, max_distance=1500, tolerance=2, **rule)
    found = [find_extrema(waveform(b, 32, 1999, min_distance=50), min_distance=50, **rule) for b in base_set]
    expected = []
    for h, own in enumerate(found):
        others = [p for g, other in enumerate(found) if g != h for p in other.peaks]
        expected.append(np.mean([any(abs(v - p) <= 2 for p in others) for v in own.valleys]))
    assert 0 < sum(expected) < 4
    assert base_set.coverage(1999).valleys_on_peaks == pytest.approx(tuple(expected))


def test_one_head_and_a_window_without_extrema():
    alone = uniform_bases(10000, 20000, 4, kv_heads=1, head_dim=32)
    assert set(alone.coverage(4000).valleys_on_peaks) == {0.0}
    assert alone.coverage(900).valleys_on_peaks == (None,)
    assert alone.coverage(1).floor == pytest.approx(waveform(10000, 32, 1)[1] / math.sqrt(32))


def test_in_the_file():
    covered = SMALL.with_coverage(2999)
    assert covered.bases == SMALL.bases
    read = BaseSet.from_json(covered.to_json())
    assert read == covered
    keys = ["floor", "floor_distance", "mean", "quantile_01", "ripple", "valleys_on_peaks", "distances"]
    assert list(read.coverage_figures) == keys
    assert json.loads(covered.to_json())["coverage"]["distances"] == [1, 2999]


def test_bad_arguments(monkeypatch):
    with pytest.raises(ValueError, match="max_distance must be an integer of at least 1, not 0"):
        SMALL.coverage(0)
    odd = BaseSet.from_json(SMALL.to_json().replace('"count": 12', '"count": "many"'))
    with pytest.raises(ValueError, match="count must be an integer of at least 1, not 'many'"):
        odd.coverage(2000)
    monkeypatch.setattr("ropesearch.core.machine.available_memory", lambda: 10**6)
    with pytest.raises(MemoryError, match="coverage over 131072 distances needs"):
        SMALL.coverage()


# The published figures, four digits: arXiv:2412.07171's Table 2 and its uniform set over 131 072 distances.
def test_published_sets():
    table_2 = search_bases(1e6, 5e6, 30000, 32).coverage()
    assert table_2.floor == pytest.approx(0.1882, abs=5e-5)
    assert table_2.ripple == pytest.approx(0.01491, abs=5e-6)
    uniform = uniform_bases(1e6, 5e6, 32).coverage()
    assert uniform.floor == pytest.approx(0.2000, abs=5e-5)
    assert uniform.ripple == pytest.approx(0.01467, abs=5e-6)


GRID = [10000.0, *candidate_bases(10000, 30000, 1500)]
WAVEFORMS = [waveform(b, 32, 8999) / math.sqrt(32) for b in GRID]
FIGURES = {
    "floor": lambda members: naive.floor([WAVEFORMS[c] for c in members])[0],
    "ripple": lambda members: -naive.ripple([WAVEFORMS[c] for c in members]),
}


def objective_of_the_grid(name):
    objective = OBJECTIVES[name]()
    objective.keep(np.array([objective.row(w) for w in WAVEFORMS]))
    return objective


@pytest.mark.parametrize("name", OBJECTIVES)
def test_greedy_equals_its_twin(name, monkeypatch):
    monkeypatch.setattr("ropesearch.search.optimize._best_exchange", lambda *_: None)
    expected = naive.greedy(FIGURES[name], len(GRID), 5)
    assert choose(objective_of_the_grid(name), len(GRID), 5, lambda *_: None) == expected


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("n", [2, 4])
def test_no_exchange_gains_any_more(name, n):
    figure = FIGURES[name]
    members = choose(objective_of_the_grid(name), len(GRID), n, lambda *_: None)
    assert members[0] == 0
    assert len({*members}) == n
    assert figure(members) >= figure(naive.greedy(figure, len(GRID), n)) - 1e-12
    assert max(naive.exchanges(figure, members, len(GRID))) <= figure(members) + 1e-12


@pytest.mark.parametrize("name", OBJECTIVES)
def test_refining_gains_and_stays_in_the_range(name):
    options = {"head_dim": 32, "max_distance": 9000, "strategy": name}
    plain = search_bases(10000, 30000, 1500, 4, **options)
    refined = search_bases(10000, 30000, 1500, 4, **options, refine=True)
    before, after = plain.coverage(9000), refined.coverage(9000)
    assert getattr(after, name) * (-1 if name == "ripple" else 1) > getattr(before, name) * (
        -1 if name == "ripple" else 1
    )
    assert refined.bases[0] == 10000
    assert all(10000 <= b <= 30000 for b in refined.bases)
    assert not {*refined.bases} <= {*GRID}
    assert refined.parameters == {
        "bmin": 10000,
        "bmax": 30000,
        "stride": 1500,
        "max_distance": 9000,
        "refine": True,
        "order": "ascending",
    }
    assert refined.made_by["command"].endswith(f"--head-dim 32 --max-distance 9000 --strategy {name} --refine")


def test_refining_one_base_leaves_it():
    objective = OBJECTIVES["floor"]()
    assert refine(objective, [10000.0], lambda b: waveform(b, 32, 99), 30000, 1500, lambda *_: None) == [10000.0]


@pytest.mark.parametrize("name", OBJECTIVES)
def test_small_and_whole_sets(name):
    options = {"head_dim": 32, "max_distance": 9000, "strategy": name}
    assert search_bases(10000, 30000, 1500, 1, **options).bases == (10000,)
    assert list(search_bases(10000, 30000, 1500, 14, **options).bases) == GRID
    one_thread = search_bases(10000, 30000, 1500, 6, **options, threads=1)
    assert one_thread == search_bases(10000, 30000, 1500, 6, **options, threads=2)


@pytest.mark.slow
def test_better_than_the_published_set_by_what_they_search_for():
    assert search_bases(1e6, 5e6, 30000, 32, strategy="floor").coverage().floor > 0.2374
    assert search_bases(1e6, 5e6, 30000, 32, strategy="ripple").coverage().ripple < 0.0140


def test_progress_counts_to_the_end():
    seen = []
    SMALL.with_coverage(900, progress=lambda *state: seen.append(state))
    compare(["table2", "pi:2"], 900, progress=lambda *state: seen.append(state))
    plot_coverage(SMALL, 900, progress=lambda *state: seen.append(state))
    coverage = [("coverage", h, 6) for h in range(1, 7)]
    assert seen == [*coverage, ("sets and schemes", 1, 2), ("sets and schemes", 2, 2)] + [
        ("waveforms", h, 6) for h in range(1, 7)
    ]
