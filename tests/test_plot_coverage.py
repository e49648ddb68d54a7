"""What the coverage figure draws, held against waveforms summed one cosine at a time and the figures of coverage."""

import math

import naive
import numpy as np
import pytest
from matplotlib.colors import to_hex
from ropesearch.plots.coverage import plot_coverage
from ropesearch.plots.style import BEST, MEAN

from ropesearch import BaseSet, parse_scheme, uniform_bases

HEAD_DIM = 16
SET = uniform_bases(500, 20000, 4, head_dim=HEAD_DIM)


def mean_cosines(bases, last):
    """By head, over the distances 1 to `last`."""
    return np.array([naive.waveform(base, HEAD_DIM, 1, last) for base in bases]) / math.sqrt(HEAD_DIM)


def line(axes, label):
    (found,) = [line for line in axes.lines if line.get_label() == label]
    return found.get_xdata(), found.get_ydata()


def of_colour(axes, colour):
    """The bold line of that colour."""
    (found,) = [line for line in axes.lines if to_hex(line.get_color()) == colour and line.get_marker() != "o"]
    return found.get_xdata(), found.get_ydata()


def dot(axes):
    (found,) = [line for line in axes.lines if line.get_marker() == "o"]
    return found.get_xdata()[0], found.get_ydata()[0]


def drawn(figure):
    """Lay out a figure, where a warning is an error."""
    figure.draw_without_rendering()
    return figure


def bins(middles):
    """First and last distance of every bin; a point stands in the middle between the two."""
    first, found = 1, []
    for middle in middles:
        last = round(2 * middle - first)
        found.append((first, last))
        first = last + 1
    return found


def band(axes, colour):
    """Lowest and highest value by place of the band of that colour."""
    (found,) = [c for c in axes.collections if to_hex(c.get_facecolor()[0]) == colour]
    (outline,) = found.get_paths()
    x, y = outline.vertices.T
    return {place: (y[x == place].min(), y[x == place].max()) for place in x}


@pytest.mark.parametrize("last", [2, 250, 800])
def test_where_there_is_room_for_every_distance_the_lines_are_the_waveforms(last):
    whole, detail = drawn(plot_coverage(SET, last)).axes
    expected = mean_cosines(SET, last)
    heads = whole.lines[: len(SET)]
    for shown, values in zip(heads, expected, strict=True):
        np.testing.assert_array_equal(shown.get_xdata(), np.arange(1, last + 1))
        np.testing.assert_allclose(shown.get_ydata(), values, rtol=0, atol=1e-12)
    for label, values in (("best head", expected.max(axis=0)), ("mean of the heads", expected.mean(axis=0))):
        np.testing.assert_allclose(line(whole, label)[1], values, rtol=0, atol=1e-12)
    assert len({to_hex(shown.get_color()) for shown in heads}) == len(SET)
    assert len(detail.lines) == len(SET) + 3  # two bold ones and the dot


@pytest.mark.parametrize("last", [901, 5003])
def test_where_there_is_none_lines_are_means_and_bands_go_from_the_lowest_to_the_highest(last):
    whole, _ = drawn(plot_coverage(SET, last)).axes
    heads = mean_cosines(SET, last)
    expected = dict(enumerate(heads)) | {BEST: heads.max(axis=0), MEAN: heads.mean(axis=0)}
    for name, values in expected.items():
        x, y = of_colour(whole, name) if name in (BEST, MEAN) else whole.lines[name].get_data()
        ends = bins(x)
        assert ends[-1][1] == last
        assert x.size == 900
        assert {end - first for first, end in ends} == {last // 900 - 1, last // 900}
        inside = [values[first - 1 : end] for first, end in ends]
        np.testing.assert_allclose(y, [part.mean() for part in inside], rtol=0, atol=1e-12)
        if name in (BEST, MEAN):
            of_band = band(whole, name)
            for place, part in zip(x, inside, strict=True):
                assert of_band[place] == pytest.approx((part.min(), part.max()), abs=1e-12)


@pytest.mark.parametrize("last", [2, 299, 900, 5003])
def test_the_dot_is_the_floor_and_the_lower_panel_every_distance_around_it(last):
    figures = SET.coverage(last)
    whole, detail = drawn(plot_coverage(SET, last)).axes
    for axes in (whole, detail):
        assert dot(axes) == pytest.approx((figures.floor_distance, figures.floor), abs=1e-12)
    (text,) = whole.texts
    place = f"{figures.floor:.3f} at distance {figures.floor_distance:,}"
    assert text.get_text() == f"floor of the best head: {place}"
    assert text.xy == dot(whole)

    heads = mean_cosines(SET, last)
    x, best = of_colour(detail, BEST)
    assert x.tolist() == list(range(int(x[0]), int(x[-1]) + 1))
    assert min(last, 300) <= x.size <= 301
    assert 1 <= x[0] <= figures.floor_distance <= x[-1] <= last
    shown = slice(int(x[0]) - 1, int(x[-1]))
    np.testing.assert_allclose(best, heads.max(axis=0)[shown], rtol=0, atol=1e-12)
    np.testing.assert_allclose(of_colour(detail, MEAN)[1], heads.mean(axis=0)[shown], rtol=0, atol=1e-12)
    for own, values in zip(detail.lines, heads, strict=False):
        np.testing.assert_allclose(own.get_ydata(), values[shown], rtol=0, atol=1e-12)


def legend(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()]


def test_title_and_legend_say_whose_heads_they_are():
    whole, _ = drawn(plot_coverage(SET, 300)).axes
    assert whole.get_title(loc="left") == "Waveform coverage of 4 bases (uniform), head_dim 16"
    ends = ["head with base 500", "head with base 20,000"]
    assert legend(whole) == ["best head", "mean of the heads", *ends]
    of_legend = [handle.get_color() for handle in whole.get_legend().legend_handles[2:]]
    np.testing.assert_array_equal(of_legend, [whole.lines[0].get_color(), whole.lines[3].get_color()])


def test_one_head_is_its_own_mean():
    whole, detail = drawn(plot_coverage(BaseSet(4, 1, HEAD_DIM, (3e4,), (3e4,), "by hand"), 300)).axes
    assert whole.get_title(loc="left") == "Waveform coverage of 1 base (by hand), head_dim 16"
    assert legend(whole) == ["best head", "head with base 30,000"]
    (values,) = mean_cosines([3e4], 300)
    for axes in (whole, detail):
        assert MEAN not in [to_hex(shown.get_color()) for shown in axes.lines]
        np.testing.assert_allclose(of_colour(axes, BEST)[1], values, rtol=0, atol=1e-12)


def test_a_scheme_that_sees_one_of_two_distances_has_the_space_between_them_shaded():
    window, group, last = 40, 8, 300
    scheme = parse_scheme(f"self-extend:{window},group={group},head_dim={HEAD_DIM}")
    whole, detail = drawn(plot_coverage(scheme, last)).axes
    assert whole.get_title(loc="left") == f"Waveform coverage of {scheme.name}, head_dim 16"
    assert legend(whole)[0] == "between the two distances seen"
    at = np.array([0, *mean_cosines([10000], last)[0]])
    seen = [naive.self_extend_distances(m, window, group) for m in range(1, last + 1)]
    lower, upper = at[[min(distances) for distances in seen]], at[[max(distances) for distances in seen]]
    np.testing.assert_allclose(of_colour(detail, BEST)[1], lower, rtol=0, atol=1e-12)
    shaded = band(detail, MEAN)
    assert any(len(distances) == 2 for distances in seen)
    for m, ends in enumerate(zip(np.minimum(lower, upper), np.maximum(lower, upper), strict=True), start=1):
        assert shaded[m] == pytest.approx(ends, abs=1e-12)
    for plain in ("pi:4", "yarn:4"):
        assert "between the two distances seen" not in legend(plot_coverage(parse_scheme(plain), 50).axes[0])


def test_yarn_is_scaled_to_1_at_distance_0():
    scheme = parse_scheme(f"yarn:4,head_dim={HEAD_DIM}")
    whole, _ = plot_coverage(scheme, 200).axes
    scores = naive.waveform_of(scheme.inv_freq()[0], range(1, 201))
    np.testing.assert_allclose(line(whole, "best head")[1], np.divide(scores, math.sqrt(HEAD_DIM)), rtol=0, atol=1e-12)


def test_one_distance_makes_no_figure():
    with pytest.raises(ValueError, match="max_distance must be an integer of at least 2, not 1"):
        plot_coverage(SET, 1)
