"""What the coverage figure draws, held against waveforms summed one cosine at a time and the figures of coverage."""

import math

import naive
import numpy as np
import pytest
from matplotlib.colors import to_hex, to_rgb
from ropesearch.plots.coverage import plot_coverage
from ropesearch.plots.style import BEST, LIGHT, MEAN, save_figure

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


def panels(figure):
    """The two panels, without the bar of colours."""
    return figure.axes[:2]


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


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
    whole, detail = panels(drawn(plot_coverage(SET, last)))
    expected = mean_cosines(SET, last)
    heads = whole.lines[: len(SET)]
    for shown, values in zip(heads, expected, strict=True):
        np.testing.assert_array_equal(shown.get_xdata(), np.arange(1, last + 1))
        np.testing.assert_allclose(shown.get_ydata(), values, rtol=0, atol=1e-12)
    if last <= 300:
        for label, values in (("best head", expected.max(axis=0)), ("mean of the heads", expected.mean(axis=0))):
            np.testing.assert_allclose(line(whole, label)[1], values, rtol=0, atol=1e-12)
    assert len({to_hex(shown.get_color()) for shown in heads}) == len(SET)
    assert len(detail.lines) == len(SET) + 3  # two bold ones and the dot


@pytest.mark.parametrize("last", [901, 5003])
def test_where_there_is_none_lines_are_means_and_bands_go_from_the_lowest_to_the_highest(last):
    whole, _ = panels(drawn(plot_coverage(SET, last)))
    heads = mean_cosines(SET, last)
    expected = dict(enumerate(heads)) | {BEST: heads.max(axis=0), MEAN: heads.mean(axis=0)}
    for name, values in expected.items():
        x, y = of_colour(whole, name) if name in (BEST, MEAN) else whole.lines[name].get_data()
        ends = bins(x)
        assert ends[-1][1] == last
        n = 300 if name in (BEST, MEAN) else 900
        assert x.size == n
        assert {end - first for first, end in ends} == {last // n - 1, last // n}
        inside = [values[first - 1 : end] for first, end in ends]
        drawn_along = np.min if name == BEST else np.mean
        np.testing.assert_allclose(y, [drawn_along(part) for part in inside], rtol=0, atol=1e-12)
        if name in (BEST, MEAN):
            of_band = band(whole, name)
            for place, part in zip(x, inside, strict=True):
                assert of_band[place] == pytest.approx((part.min(), part.max()), abs=1e-12)


@pytest.mark.parametrize("last", [2, 299, 900, 5003])
def test_the_dot_is_the_floor_and_the_lower_panel_every_distance_around_it(last):
    figures = SET.coverage(last)
    figure = drawn(plot_coverage(SET, last))
    whole, detail = panels(figure)
    for axes in (whole, detail):
        assert dot(axes) == pytest.approx((figures.floor_distance, figures.floor), abs=1e-12)
    place = f"{figures.floor:.3f} at distance {figures.floor_distance:,}".replace("-", "−")
    assert f"floor of the best head: {place}" in legend(figure)
    assert not whole.texts  # nothing crosses the lines

    x, along = of_colour(whole, BEST)
    assert along.min() == pytest.approx(figures.floor, abs=1e-12)  # the dot is on the best head's line
    assert abs(x[along.argmin()] - figures.floor_distance) <= last / 300

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


def test_title_legend_and_colours_say_whose_heads_they_are():
    figure = drawn(plot_coverage(SET, 300))
    bar = figure.axes[2]
    assert figure.get_suptitle() == "Waveform coverage of 4 bases (uniform), head_dim 16"
    assert legend(figure)[:2] == ["mean of the heads", "best head"]
    assert bar.get_ylim() == pytest.approx((500, 20000))
    assert {"1k", "10k"} <= {text.get_text() for text in bar.get_yticklabels()}


def test_colours_go_by_base_not_by_place():
    bases = (500, 600, 9000)
    colours = {}
    for order in (bases, bases[::-1]):
        whole = plot_coverage(BaseSet.of(order, head_dim=HEAD_DIM), 300).axes[0]
        colours[order] = dict(zip(order, [to_hex(line.get_color()) for line in whole.lines], strict=False))
    assert colours[bases] == colours[bases[::-1]]
    near, far = (np.abs(np.subtract(to_rgb(colours[bases][500]), to_rgb(colours[bases][b]))).sum() for b in bases[1:])
    assert 0 < near < far / 10


def test_of_many_heads_some_have_lines_and_all_count():
    many = uniform_bases(500, 20000, 70, head_dim=HEAD_DIM)
    figure = drawn(plot_coverage(many, 250))
    whole, detail = panels(figure)
    assert len(whole.lines) == len(detail.lines) == 32 + 3
    expected = mean_cosines(many, 250)
    np.testing.assert_allclose(of_colour(whole, BEST)[1], expected.max(axis=0), rtol=0, atol=1e-12)
    np.testing.assert_allclose(whole.lines[0].get_ydata(), expected[0], rtol=0, atol=1e-12)
    np.testing.assert_allclose(whole.lines[31].get_ydata(), expected[-1], rtol=0, atol=1e-12)
    assert detail.get_title(loc="right") == "32 of 70 heads have lines"


def test_on_a_log_scale_bins_widen_and_the_dot_stays_on_the_line():
    whole = drawn(plot_coverage(SET, 5003, logx=True)).axes[0]
    assert whole.get_xscale() == "log"
    x, along = of_colour(whole, BEST)
    assert x[:9].tolist() == list(range(1, 10))
    assert along.min() == pytest.approx(SET.coverage(5003).floor, abs=1e-12)
    steps = np.log(x[1:] / x[:-1])[-60:]
    assert steps.max() < 1.2 * steps.min()


def test_128_heads_are_less_than_a_megabyte_of_svg(tmp_path):
    save_figure(plot_coverage(uniform_bases(500, 20000, 128, head_dim=HEAD_DIM), 131072), tmp_path / "a.svg")
    assert (tmp_path / "a.svg").stat().st_size < 1e6


def test_the_panel_is_filled_by_what_it_shows():
    whole = drawn(plot_coverage(uniform_bases(1e6, 5e6, 4), 131072)).axes[0]
    assert whole.get_ylim()[1] < 0.8  # the first tokens' rise to 1 would take up half of it


def test_one_head_is_its_own_mean():
    figure = drawn(plot_coverage(BaseSet(4, 1, HEAD_DIM, (3e4,), (3e4,), "by hand"), 300))
    whole, detail = figure.axes  # and no bar of colours
    assert figure.get_suptitle() == "Waveform coverage of 1 base (by hand), head_dim 16"
    assert legend(figure)[0] == "best head"
    (values,) = mean_cosines([3e4], 300)
    for axes in (whole, detail):
        assert MEAN not in [to_hex(shown.get_color()) for shown in axes.lines]
        np.testing.assert_allclose(of_colour(axes, BEST)[1], values, rtol=0, atol=1e-12)


def test_a_scheme_that_sees_one_of_two_distances_has_the_space_between_them_shaded():
    window, group, last = 40, 8, 300
    scheme = parse_scheme(f"self-extend:{window},group={group},head_dim={HEAD_DIM}")
    figure = drawn(plot_coverage(scheme, last))
    detail = figure.axes[1]
    assert figure.get_suptitle() == f"Waveform coverage of {scheme.name}, head_dim 16"
    assert "between the two distances seen" in legend(figure)
    at = np.array([0, *mean_cosines([10000], last)[0]])
    seen = [naive.self_extend_distances(m, window, group) for m in range(1, last + 1)]
    lower, upper = at[[min(distances) for distances in seen]], at[[max(distances) for distances in seen]]
    np.testing.assert_allclose(of_colour(detail, BEST)[1], lower, rtol=0, atol=1e-12)
    shaded = band(detail, LIGHT)
    assert any(len(distances) == 2 for distances in seen)
    for m, ends in enumerate(zip(np.minimum(lower, upper), np.maximum(lower, upper), strict=True), start=1):
        assert shaded[m] == pytest.approx(ends, abs=1e-12)
    for plain in ("pi:4", "yarn:4"):
        assert "between the two distances seen" not in legend(plot_coverage(parse_scheme(plain), 50))


def test_yarn_is_scaled_to_1_at_distance_0():
    scheme = parse_scheme(f"yarn:4,head_dim={HEAD_DIM}")
    whole, _ = plot_coverage(scheme, 200).axes
    scores = naive.waveform_of(scheme.inv_freq()[0], range(1, 201))
    np.testing.assert_allclose(line(whole, "best head")[1], np.divide(scores, math.sqrt(HEAD_DIM)), rtol=0, atol=1e-12)


def test_one_distance_makes_no_figure():
    with pytest.raises(ValueError, match="max_distance must be an integer of at least 2, not 1"):
        plot_coverage(SET, 1)
