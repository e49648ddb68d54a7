import inspect

import naive
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.signal import find_peaks

from ropesearch import find_extrema, waveform
from ropesearch.core.spec import EXTREMA_OPTIONS, SearchSpec
from ropesearch.curves.extrema import extrema_rule
from ropesearch.curves.waveforms import Samples
from ropesearch.kernels.waveform import BLOCK

# Few levels, so that plateaus and ties are everywhere.
stepped = arrays(np.float64, st.integers(0, 120), elements=st.integers(-3, 3).map(float))
smooth = arrays(np.float64, st.integers(0, 120), elements=st.floats(-10, 10))
signals = stepped | smooth


@given(signals)
def test_local_equals_scipy(values):
    found = find_extrema(values, "local")
    np.testing.assert_array_equal(found.peaks, find_peaks(values)[0])
    np.testing.assert_array_equal(found.valleys, find_peaks(-values)[0])
    np.testing.assert_array_equal(found.peak_values, values[found.peaks])
    np.testing.assert_array_equal(found.valley_values, values[found.valleys])


@given(signals, st.none() | st.floats(0, 4), st.none() | st.integers(1, 9))
def test_local_with_options_equals_scipy(values, prominence, separation):
    found = find_extrema(values, "local", prominence=prominence, min_separation=separation)
    np.testing.assert_array_equal(found.peaks, find_peaks(values, prominence=prominence, distance=separation)[0])
    np.testing.assert_array_equal(found.valleys, find_peaks(-values, prominence=prominence, distance=separation)[0])


@pytest.mark.parametrize("base", [100, 10000, 1e6, 1e9])
@pytest.mark.parametrize("head_dim", [2, 6, 64, 128])
def test_local_equals_scipy_on_waveforms(base, head_dim):
    values = waveform(base, head_dim, 131072, min_distance=1000)
    found = find_extrema(values, "local", min_distance=1000)
    np.testing.assert_array_equal(found.peaks, 1000 + find_peaks(values)[0])
    np.testing.assert_array_equal(found.valleys, 1000 + find_peaks(-values)[0])


@settings(max_examples=400)
@given(
    signals,
    st.integers(1, 12),
    st.integers(0, 12),
    st.integers(0, 12),
    st.integers(1, 15),
    st.sampled_from([0.0, 1e-3, 0.5, 1.0, 3.0]),
)
def test_dominant_equals_its_twin(values, count, gap, valley_gap, look_ahead, level_tolerance):
    found = find_extrema(
        values,
        min_distance=7,
        count=count,
        gap=gap,
        valley_gap=valley_gap,
        look_ahead=look_ahead,
        level_tolerance=level_tolerance,
    )
    peaks = naive.dominant_peaks(values, count, gap, look_ahead, level_tolerance)
    valleys = naive.dominant_valleys(values, count, gap, valley_gap, level_tolerance)
    assert found.peaks.tolist() == [7 + m for m in peaks]
    assert found.valleys.tolist() == [7 + m for m in valleys]


@pytest.mark.parametrize("base", [1e4, 1e6, 4.99e6])
def test_dominant_equals_its_twin_on_waveforms(base):
    values = waveform(base, 128, 9000, min_distance=1000)
    found = find_extrema(values, min_distance=1000)
    assert found.peaks.tolist() == [1000 + m for m in naive.dominant_peaks(values, 30, 50, 500, 1e-3)]
    assert found.valleys.tolist() == [1000 + m for m in naive.dominant_valleys(values, 30, 50, 60, 1e-3)]


def test_dominant_by_hand():
    # Maxima at 1 (5), 3 (4), 5 (3.9995), 7 (1). The level is 5, then 4 (the largest ahead of 1), then 3.9995.
    values = [0, 5, 0, 4, 0, 3.9995, 0, 1, 0]
    assert find_extrema(values, gap=1, look_ahead=9, count=9).peaks.tolist() == [1, 3, 5, 7]
    # The first at level counts, and what is within `gap` of it does not, though it moves the level on.
    assert find_extrema(values, gap=2, look_ahead=9, count=9).peaks.tolist() == [1, 5]
    assert find_extrema(values, gap=1, look_ahead=9, count=2).peaks.tolist() == [1, 3]


def test_one_above_the_level_is_not_at_level():
    # After the 5 the level is the larger of the two points ahead, 2: the 4 is passed over and changes nothing.
    values = [0, 5, 2, 1, 4, 0, 2, 0]
    assert find_extrema(values, gap=1, look_ahead=2, count=9).peaks.tolist() == [1, 6]


@pytest.mark.parametrize("rule", ["dominant", "local"])
@pytest.mark.parametrize("values", [[], [1], [1, 2], [2, 2, 2, 2], [1, 2, 3, 4], [4, 3, 2, 1]])
def test_flat_and_monotonic_curves_have_none(rule, values):
    found = find_extrema(values, rule)
    assert found.peaks.size == found.valleys.size == found.peak_values.size == 0


def test_plateaus_and_ends():
    values = [9, 1, 1, 1, 1, 3, 3, 3, 0, 2]
    assert find_extrema(values, "local").peaks.tolist() == [6]
    assert find_extrema(values, "local").valleys.tolist() == [2, 8]
    assert find_extrema(values, "dominant").peaks.tolist() == []
    assert find_extrema(values, "dominant").valleys.tolist() == [8]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"extrema": "all"}, "extrema must be one of dominant, local, not 'all'"),
        ({"count": 0}, "count must be an integer of at least 1, not 0"),
        ({"count": 2.5}, "count must be an integer"),
        ({"gap": -1}, "gap must be an integer of at least 0, not -1"),
        ({"valley_gap": -1}, "valley_gap must be"),
        ({"look_ahead": 0}, "look_ahead must be an integer of at least 1"),
        ({"level_tolerance": -1e-3}, "level_tolerance must be a finite number of at least 0"),
        ({"level_tolerance": float("nan")}, "level_tolerance must be"),
        ({"extrema": "local", "prominence": -1}, "prominence must be"),
        ({"extrema": "local", "min_separation": 0}, "min_separation must be"),
        ({"min_distance": -1}, "min_distance must be"),
        ({"values": [[1.0]]}, "values must be one-dimensional"),
        ({"values": [1.0, float("nan")]}, "values must not contain NaN"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        find_extrema(**{"values": [0.0, 1.0, 0.0]} | arguments)


def test_the_defaults_are_those_of_the_signature():
    signature = inspect.signature(find_extrema).parameters
    assert {name: signature[name].default for name in EXTREMA_OPTIONS} == {
        name: getattr(SearchSpec, name) for name in EXTREMA_OPTIONS
    }


@settings(max_examples=150)
@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(0, 300), st.integers(1, 700))
def test_dominant_depends_on_no_value_that_it_has_not_seen(seed, count, gap, look_ahead):
    draw = np.random.default_rng(seed)
    m = np.arange(draw.integers(3, 8 * BLOCK))
    values = np.cos(m * draw.random()) + np.cos(m * draw.random() / 100) - m * draw.normal() / 1000
    # Extrema at the edges of blocks need values of two blocks.
    edges = draw.choice([-1, 0], size=m.size // BLOCK) + BLOCK * np.arange(1, m.size // BLOCK + 1)
    values[edges[edges < m.size]] += draw.choice([-3.0, 0.0, 3.0], size=np.count_nonzero(edges < m.size))
    options = {"count": count, "gap": gap, "look_ahead": look_ahead, "level_tolerance": 0.3}
    rule = extrema_rule(options)
    curve = Samples.of(values)
    seen = np.zeros(curve.lowest.size, np.bool_)
    found = rule.positions(curve, seen)
    unseen = np.where(np.repeat(seen, BLOCK)[: m.size], values, np.nan)
    again = rule.positions(Samples(unseen, curve.lowest, curve.highest))
    for mine, same in zip(found, again, strict=True):
        np.testing.assert_array_equal(mine, same)
