"""Overlays, extrema, alignment, bases and sweeps: what is drawn is what the library computes."""

import itertools
import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import naive
import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from ropesearch.plots.style import BEST, MEAN, line_style
from test_plot_decay import made_up

from ropesearch import (
    PRESETS,
    BaseSet,
    align,
    find_extrema,
    parse_scheme,
    plot_alignment,
    plot_bases,
    plot_coverage,
    plot_extrema,
    plot_head,
    plot_heads,
    plot_overlay,
    plot_slopes,
    plot_sweep,
    read_sweep,
    save_figure,
    search_bases,
    uniform_bases,
    waveform,
)

HEAD_DIM = 16
SMALL = {"bmin": 1e4, "bmax": 3e4, "stride": 1000, "heads": 5, "head_dim": HEAD_DIM, "max_distance": 2000}


def drawn(figure):
    """Lay out a figure, where a warning is an error."""
    figure.draw_without_rendering()
    return figure


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


# Overlay


def test_an_overlay_has_the_best_head_and_the_mean_of_each():
    sets = {
        "mine": uniform_bases(500, 20000, 3, head_dim=HEAD_DIM),
        "theirs": parse_scheme(f"pi:4,head_dim={HEAD_DIM}"),
    }
    figure = drawn(plot_overlay(sets, 250))
    upper, lower = figure.axes
    for i, one in enumerate(sets.values()):
        heads = np.array([naive.waveform_of(theta, range(1, 251)) for theta in one.inv_freq()]) / math.sqrt(HEAD_DIM)
        np.testing.assert_allclose(upper.lines[2 * i].get_ydata(), heads.max(axis=0), atol=1e-12)
        np.testing.assert_allclose(lower.lines[i].get_ydata(), heads.mean(axis=0), atol=1e-12)
        figures = one.coverage(250)
        (x,), (y,) = upper.lines[2 * i + 1].get_data()
        assert (x, y) == (figures.floor_distance, pytest.approx(figures.floor, abs=1e-12))
        assert f"floor {figures.floor:.3f} at {x}".replace("-", "−") in legend(figure)[i]
        assert upper.lines[2 * i].get_color() == lower.lines[i].get_color() == line_style(i)["color"]
    assert legend(figure)[1].startswith("theirs: 1 head, ")


@pytest.mark.parametrize("logx", [False, True])
def test_the_dots_of_an_overlay_lie_on_its_lines(logx):
    upper = plot_overlay({"a": uniform_bases(1e6, 5e6, 3)}, 20000, logx=logx).axes[0]
    line, dot = upper.lines[:2]
    assert line.get_ydata().min() == dot.get_ydata()[0]


@pytest.mark.parametrize("sets", [{}, dict.fromkeys(map(str, range(13)), BaseSet.of([5e6])), [BaseSet.of([5e6])]])
def test_what_cannot_be_overlaid(sets):
    with pytest.raises(ValueError, match="sets must be a mapping of 1 to 12 names to base sets and schemes"):
        plot_overlay(sets)


def test_sets_of_different_head_dim_have_no_overlay():
    with pytest.raises(ValueError, match="must have the same head_dim, not a: 128, b: 64"):
        plot_overlay({"a": BaseSet.of([5e6]), "b": BaseSet.of([5e6], head_dim=64)}, 100)


# Extrema


@pytest.mark.parametrize("rule", [{}, {"extrema": "local"}, {"count": 3}])
@pytest.mark.parametrize("logx", [False, True])
def test_the_marks_are_the_extrema_that_the_rule_finds(rule, logx):
    found = find_extrema(waveform(2e4, 64, 3000, min_distance=1000), min_distance=1000, **rule)
    figure = drawn(plot_extrema(2e4, 64, 3000, logx=logx, **rule))
    (axes,) = figure.axes
    curve, peaks, valleys = axes.lines
    np.testing.assert_array_equal(peaks.get_data(), (found.peaks, found.peak_values))
    np.testing.assert_array_equal(valleys.get_data(), (found.valleys, found.valley_values))
    np.testing.assert_array_equal(curve.get_ydata(), waveform(2e4, 64, 3000, min_distance=1000))
    assert (to_hex(peaks.get_color()), valleys.get_markeredgecolor()) == (BEST, MEAN)
    n, m = found.peaks.size, found.valleys.size
    assert legend(figure) == ["waveform", f"{n} peak{'s' * (n != 1)}", f"{m} valley{'s' * (m != 1)}"]


def test_a_long_waveform_is_a_band_with_the_marks_on_its_edges():
    (axes,) = plot_extrema(1e6).axes
    low, high, peaks, valleys = axes.lines
    assert low.get_xdata().size < 2000
    for marks, edge in ((peaks, high), (valleys, low)):
        for x, y in np.transpose(marks.get_data()):
            near = edge.get_ydata()[np.argmin(np.abs(np.log(edge.get_xdata() / x)))]
            assert abs(near - y) < 0.7  # of a swing of some four
    assert peaks.get_ydata().size == valleys.get_ydata().size == 30


def test_figures_of_one_axes_take_the_callers():
    for draw in (
        lambda ax: plot_extrema(1e4, 64, 2000, ax=ax),
        lambda ax: plot_bases({"a": BaseSet.of([1e4, 2e4])}, ax=ax),
        lambda ax: plot_sweep(ROWS, ax=ax),
    ):
        figure = Figure()
        left, right = figure.subplots(1, 2)
        assert draw(right) is figure
        assert right.lines
        assert not left.lines
        assert right.get_title(loc="left")


# Alignment


def test_scores_are_those_by_which_the_search_chose():
    for options in ({}, {"matching": "distance"}, {"tolerance": 0}, {"matching": "distance", "normalize": True}):
        base_set = search_bases(**SMALL, **options)
        found = align(base_set)
        assert found.bases == base_set.selection
        candidates = [1e4, *naive.candidates(1e4, 3e4, 1000)]
        sign = -1 if "matching" in options else 1
        for step in range(1, 5):
            chosen = base_set.selection[:step]
            scores = {}
            for other in set(candidates) - set(chosen):
                made = BaseSet(
                    step + 1, step + 1, HEAD_DIM, (*chosen, other), (*chosen, other), "x", base_set.parameters
                )
                scores[other] = align(made).scores[step]
            best = max(sign * score for score in scores.values())
            assert sign * scores[base_set.selection[step]] == best
            assert found.scores[step] == scores[base_set.selection[step]]


def test_valleys_on_peaks_are_counted_one_by_one():
    base_set = search_bases(**SMALL)
    found = align(base_set)
    assert np.isnan(found.scores[0])
    for i, j in itertools.product(range(5), range(5)):
        near = [m for m in found.extrema[i].valleys if any(abs(m - p) <= 3 for p in found.extrema[j].peaks)]
        assert found.valleys_on_peaks[i, j] == len(near)
    one = find_extrema(waveform(base_set.selection[2], HEAD_DIM, 2000, min_distance=1000), min_distance=1000)
    np.testing.assert_array_equal(found.extrema[2].peaks, one.peaks)


def test_the_paper_set_scores():
    assert align(search_bases(**PRESETS["table2"])).scores[1:5].tolist() == [3, 4, 5, 6]


def test_an_alignment_is_drawn_in_the_order_of_choice():
    base_set = search_bases(**SMALL)
    found = align(base_set)
    above, cells, _ = drawn(plot_alignment(base_set)).axes
    assert [bar.get_height() for bar in above.patches][1:] == found.scores[1:].tolist()
    np.testing.assert_array_equal(cells.images[0].get_array(), found.valleys_on_peaks)
    numbers = [int(text.get_text()) for text in cells.texts]
    assert numbers == found.valleys_on_peaks.ravel().tolist()
    assert [tick.get_text() for tick in cells.get_yticklabels()] == [f"{b / 1000:g}k" for b in base_set.selection]
    assert above.get_xlim() == cells.get_xlim()


@pytest.mark.parametrize("n", [1, 7, 32, 128])
@pytest.mark.parametrize("width", ["single", None])
def test_names_do_not_touch(n, width):
    base_set = uniform_bases(1e4, 3e4, n, head_dim=HEAD_DIM)
    base_set = BaseSet(n, n, HEAD_DIM, base_set.bases, base_set.bases, "x", {"max_distance": 1500})
    _, cells, *_ = drawn(plot_alignment(base_set, width=width)).axes
    across = [label.get_window_extent() for label in cells.get_xticklabels()]
    assert all(a.x1 < b.x0 for a, b in itertools.pairwise(across))
    down = [label.get_window_extent() for label in cells.get_yticklabels()]
    assert all(a.y0 > b.y1 for a, b in itertools.pairwise(down))


# Bases


def test_bases_by_head():
    sets = {"a": uniform_bases(1e4, 2e4, 4), "one": BaseSet.of([5e6])}
    figure = drawn(plot_bases(sets))
    (axes,) = figure.axes
    np.testing.assert_array_equal(axes.lines[0].get_data(), (range(4), sets["a"].bases))
    assert set(axes.lines[1].get_ydata()) == {5e6}
    assert axes.get_yscale() == "log"  # 1e4 to 5e6
    assert plot_bases({"a": sets["a"]}).axes[0].get_yscale() == "linear"
    assert legend(figure) == ["a", "one"]
    with pytest.raises(ValueError, match="sets must be a mapping of 1 to 12 names to base sets"):
        plot_bases({})


@pytest.mark.parametrize(
    ("bases", "labels"),
    [
        ([[1e4, 2e5, 9e5], [1e6, 2e4, 5e4]], ["10k", "20k", "50k", "100k", "200k", "500k", "1M"]),
        ([[1e6, 3e6, 5e6]] * 2, ["2M", "4M"]),
    ],
)
def test_the_bases_of_layers_are_a_map_with_a_bar_of_legible_labels(bases, labels):
    cells, bar = drawn(plot_bases({"layers.json": BaseSet.of(bases)}, width="single")).axes
    (image,) = cells.images
    np.testing.assert_array_equal(image.get_array(), bases)
    assert (image.norm(np.min(bases)), image.norm(np.max(bases))) == (0, 1)
    low, high = bar.get_ylim()
    ticks = zip(bar.get_yticks(), bar.get_yticklabels(), strict=True)
    seen = [label for at, label in ticks if 0.999 * low <= at <= 1.001 * high]  # the ends of a log scale are rounded
    assert [label.get_text() for label in seen] == labels
    boxes = [label.get_window_extent() for label in seen]
    assert all(a.y1 < b.y0 for a, b in itertools.pairwise(boxes))


# Sweeps


def row(stride, heads, floor, strategy="peak-valley"):
    point = {"stride": stride, "heads": heads, "kv_heads": heads, "strategy": strategy}
    return {"point": point, "base_set": {}, "coverage": {"floor": floor, "ripple": None}}


ROWS = [
    row(3000.0, 4, 0.3),
    row(1000.0, 4, 0.1),
    row(1000.0, 8, 0.5),
    row(3000.0, 8, 0.4),
    row(None, 8, 0.2, "uniform"),
]


def test_a_sweep_has_a_line_for_each_of_the_other_options():
    figure = drawn(plot_sweep([*ROWS, {"point": {}, "error": "no"}]))
    (axes,) = figure.axes
    assert legend(figure) == ["4 heads, peak-valley", "8 heads, peak-valley", "8 heads, uniform"]
    np.testing.assert_array_equal(axes.lines[0].get_data(), ([1000, 3000], [0.1, 0.3]))
    np.testing.assert_array_equal(axes.lines[1].get_data(), ([1000, 3000], [0.5, 0.4]))
    assert set(axes.lines[2].get_ydata()) == {0.2}  # which has no stride
    against = plot_sweep(ROWS[:4], against="heads").axes[0]
    np.testing.assert_array_equal(against.lines[0].get_data(), ([4, 8], [0.3, 0.4]))
    assert {label.get_text() for label in against.get_xticklabels()} >= {"4", "8"}


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (
            {"against": "count"},
            "`against` must be an option that the points vary, not 'count': they vary stride",
        ),
        ({"against": "strategy"}, "`against` must be an option that the points vary, not 'strategy'"),
        ({"figure": "size"}, "figure must be one of floor, mean, quantile_01, ripple, not 'size'"),
        ({"figure": "ripple"}, "no row of the sweep has the figure ripple"),
    ],
)
def test_what_a_sweep_does_not_hold(options, line):
    with pytest.raises(ValueError, match=line):
        plot_sweep(ROWS, **options)


# The command line


def test_the_commands_draw(run, monkeypatch):
    monkeypatch.setattr("ropesearch.search.workers.ProcessPoolExecutor", lambda n, **_: ThreadPoolExecutor(n))
    run("sweep", "--bmin", "10k", "--bmax", "30k", "--strides", "1k,2k", "--heads", 3, "--head-dim", 16,
        "--max-distance", 2000, "-o", "s.jsonl")  # fmt: skip
    t = search_bases(**PRESETS["table2"])
    uniform = parse_scheme("uniform")
    rows = read_sweep("s.jsonl")
    drawings = {
        ("overlay", "table2", "uniform", "--max-distance", "2k"): plot_overlay({"table2": t, "uniform": uniform}, 2048),
        ("extrema", "500k", "--max-distance", 3000, "--linear", "--count", 5): plot_extrema(
            5e5, max_distance=3000, logx=False, count=5
        ),
        ("alignment", "table2", "--no-title"): plot_alignment(t, title=""),
        ("bases", "table2", "abf:5e6", "--width", "single"): plot_bases(
            {"table2": t, "abf:5e6": BaseSet.of([5e6], strategy="abf:5e6")}, width="single"
        ),
        ("sweep", "s.jsonl", "--title", "Mine"): plot_sweep(rows, title="Mine"),
    }
    for args, figure in drawings.items():
        assert run("plot", *args, "-o", "a.svg", "--overwrite") == (0, "", "wrote a.svg\n")
        save_figure(figure, "b.svg", overwrite=True)
        assert Path("a.svg").read_bytes() == Path("b.svg").read_bytes()


@pytest.mark.parametrize(
    ("args", "line"),
    [
        (["overlay", "-o", "a.png"], "Missing argument 'NAMES...'."),
        (["overlay", "tabel2", "-o", "a.png"], "'tabel2' is not a file, a preset"),
        (["extrema", "1", "-o", "a.png"], "BASE must be a finite number above 1, not 1"),
        (["extrema", "table2", "-o", "a.png"], "Invalid value for 'BASE': 'table2' is not a valid float."),
        (["alignment", "yarn:32", "-o", "a.png"], "yarn:32 is more than bases"),
        (["sweep", "none.jsonl", "-o", "a.png"], "none.jsonl cannot be read"),
        (["bases", "table2", "-o", "a.png", "--width", "wide"], "--width must be single, double or a number of inches"),
        (["bases", "table2", "-o", "a.png", "--dpi", "5"], "--dpi must be a number from 20 to 2400, not 5"),
        (["bases", "table2", "-o", "a.png", "--title", "x", "--no-title"], "--title and --no-title exclude each other"),
    ],
)
def test_wrong_input_is_exit_2_and_one_line(run, args, line):
    code, out, err = run("plot", *args)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"Error: {line}")
    assert not list(Path().iterdir())


@pytest.mark.parametrize("width", ["single", "double", None])
def test_nothing_is_cut_off(width):
    decay = made_up(last=60)
    many = uniform_bases(1e6, 5e6, 32)
    sets = {name: parse_scheme(name) for name in ("uniform-descending:1e6..4e6,heads=8", "abf:5e6", "yarn:32", "pi:32")}
    for figure in (
        plot_coverage(many, 20000, width=width),
        plot_overlay(sets, 20000, width=width),
        plot_extrema(1e6, width=width),
        plot_alignment(BaseSet.of([1e6, 2e6]), width=width),
        plot_bases({"a set with a long name": many, "b": many}, width=width),
        plot_bases({"layers": BaseSet.of([[1e6, 2e6], [3e6, 2e6]])}, width=width),
        plot_sweep(ROWS, width=width),
        plot_heads(decay, (1e4, 2e4), width=width),
        plot_head(decay, 0, 0, (1e4, 2e4), width=width),
        plot_slopes(decay, width=width),
    ):
        drawn(figure)
        box = figure.get_tightbbox()  # of everything drawn, in inches
        size = figure.get_size_inches()
        assert box.min.min() > -0.02
        assert (box.max < size + 0.02).all()
