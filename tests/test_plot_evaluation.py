"""Figures of results made by hand: what is drawn is what the rows say."""

import math

import numpy as np
import pytest
from matplotlib.colors import to_hex
from ropesearch.plots.needle import plot_needle
from ropesearch.plots.perplexity import plot_perplexity
from ropesearch.plots.recall import plot_recall
from ropesearch.plots.style import line_style

from ropesearch.core.errors import InputError
from ropesearch.evaluation.results import Results

MODEL = "org/model"
SCHEMES = (None, "yarn:8")


def results(suite, *rows):
    filled = [{"model": MODEL, "suite": suite, "task": suite, "n": 4, "interval": None} | row for row in rows]
    return Results({"suite": suite}, tuple(filled))


def needles(schemes=SCHEMES, lengths=(512, 64), depths=(0.0, 0.5, 1.0)):
    """A share of its own for every cell: by scheme, length and depth."""
    return results(
        "needle",
        *(
            {"scheme": s, "length": n, "depth": d, "accuracy": share(i, n, d)}
            for i, s in enumerate(schemes)
            for n in lengths
            for d in depths
        ),
    )


def share(i, length, depth):
    return 0.1 + 0.3 * i + 0.2 * depth + 0.05 * (length == 512)


def perplexities(lengths=(64, 512), *, by_position=True):
    rows = []
    for i, scheme in enumerate(SCHEMES):
        for n in lengths:
            row = {"scheme": scheme, "length": n, "perplexity": 5.0 + i + n / 64, "interval": [4.0, 30.0 + i]}
            if by_position:
                bands = {"from": [1, 16, 23], "to": [15, 22, n], "perplexity": [30.0 + i, 20.0, n / 8], "n": [4, 4, 4]}
                row["by_position"] = bands | {"interval": [[25.0, 40.0], None, [n / 9, n / 7]]}
            rows.append(row)
    return results("perplexity", *rows)


def recalls(lengths=(64, 128), intervals=True):
    rows = []
    for i, scheme in enumerate(SCHEMES):
        for n in lengths:
            bands = {
                "from": [1, 33],
                "to": [32, n],
                "accuracy": [0.9 - 0.1 * i, 0.2],
                "n": [9, 9],
                "nats": [0.5, 3.0 + i],
            }
            bands["interval"] = [[0.7, 0.95], [0.1, 0.4]] if intervals else [None, None]
            bands["nats_interval"] = [[0.4, 0.6], [2.0, 5.0]] if intervals else [None, None]
            rows.append({"scheme": scheme, "length": n, "accuracy": 0.5, "by_distance": bands})
    return results("recall", *rows)


def drawn(figure):
    """Lay out a figure, where a warning is an error; returns its panels."""
    figure.draw_without_rendering()
    return [axes for axes in figure.axes if axes.get_label() != "<colorbar>" and axes.axison]


def legend(figure):
    (found,) = figure.legends
    return [text.get_text() for text in found.get_texts()]


def band(axes, colour):
    """Lowest and highest value by place of the band of that colour."""
    (found,) = [c for c in axes.collections if to_hex(c.get_facecolor()[0]) == to_hex(colour)]
    points = np.concatenate([path.vertices for path in found.get_paths()])
    return {x: (points[points[:, 0] == x, 1].min(), points[points[:, 0] == x, 1].max()) for x in points[:, 0]}


# Needles


def test_every_cell_of_the_heat_map_is_its_share():
    panels = drawn(plot_needle(needles()))
    assert [axes.get_title() for axes in panels] == ["own", "yarn:8"]
    for i, axes in enumerate(panels):
        (image,) = axes.images
        expected = [[share(i, n, d) for n in (64, 512)] for d in (0.0, 0.5, 1.0)]
        np.testing.assert_allclose(image.get_array(), expected)
        assert image.get_clim() == (0, 1)
        written = {text.get_position(): text.get_text() for text in axes.texts}
        assert written == {(x, y): f"{100 * expected[y][x]:.0f}" for x in range(2) for y in range(3)}
        assert [label.get_text() for label in axes.get_xticklabels()] == ["64", "512"]
    assert [label.get_text() for label in panels[0].get_yticklabels()] == ["0%", "50%", "100%"]
    bottom, top = panels[0].get_ylim()
    assert bottom > top  # the beginning of the text is above


def test_what_was_not_measured_is_crossed():
    full = needles()
    (panel,) = drawn(plot_needle(results("needle", *(dict(row) for row in full.rows[1:6]))))
    (cross,) = [line for line in panel.lines if line.get_marker() == "x"]
    assert (cross.get_xdata()[0], cross.get_ydata()[0]) == (1, 0)
    missing = np.isnan(np.ma.filled(panel.images[0].get_array(), np.nan))
    assert missing.tolist() == [[False, True], [False, False], [False, False]]
    assert len(panel.texts) == 5


def test_numbers_stay_inside_their_cells_or_away():
    for width, lengths, there in ((None, (64, 128), True), ("single", tuple(range(64, 84)), False)):
        figure = plot_needle(needles(lengths=lengths), width=width)
        panels = drawn(figure)
        assert all(bool(axes.texts) == there for axes in panels)
        for axes in panels:
            cell = axes.get_window_extent().width / len(lengths)
            assert all(text.get_window_extent().width < cell for text in axes.texts)


def test_several_files_and_many_schemes_make_rows_of_panels():
    figure = plot_needle([needles(schemes=(f"pi:{i}",)) for i in range(2, 6)])
    panels = drawn(figure)
    assert [axes.get_title() for axes in panels] == ["pi:2", "pi:3", "pi:4", "pi:5"]
    boxes = [axes.get_position() for axes in panels]
    assert boxes[3].y1 < boxes[0].y0
    assert boxes[3].x0 == pytest.approx(boxes[0].x0)


# Recall


def test_recall_has_accuracy_above_nats_and_a_column_for_each_length():
    figure = plot_recall(recalls())
    panels = drawn(figure)
    assert legend(figure) == ["own", "yarn:8"]
    assert [axes.get_title() for axes in panels[:2]] == ["64 tokens", "128 tokens"]
    for column, n in enumerate((64, 128)):
        middles = [16.5, (33 + n) / 2]
        for i in range(2):
            accuracy, nats = panels[column].lines[i], panels[2 + column].lines[i]
            assert accuracy.get_xdata().tolist() == nats.get_xdata().tolist() == middles
            assert accuracy.get_ydata().tolist() == pytest.approx([0.9 - 0.1 * i, 0.2])
            assert nats.get_ydata().tolist() == [0.5, 3.0 + i]
            assert accuracy.get_color() == line_style(i)["color"]
        colour = line_style(0)["color"]
        assert band(panels[column], colour) == {16.5: (0.7, 0.95), middles[1]: (0.1, 0.4)}
        assert band(panels[2 + column], colour) == {16.5: (0.4, 0.6), middles[1]: (2.0, 5.0)}


def test_a_single_context_has_no_band():
    for axes in drawn(plot_recall(recalls(intervals=False))):
        assert len(axes.lines) == 2
        assert not axes.collections


# Perplexity


def test_perplexity_by_position_has_a_panel_for_each_length():
    figure = plot_perplexity(perplexities((64, 1024)))
    panels = drawn(figure)
    assert legend(figure) == ["own", "yarn:8"]
    assert [axes.get_title() for axes in panels] == ["windows of 64 tokens", "windows of 1,024 tokens"]
    for axes, n in zip(panels, (64, 1024), strict=True):
        assert axes.get_xscale() == "log"
        middles = [math.sqrt(15), math.sqrt(16 * 22), math.sqrt(23 * n)]
        for i, line in enumerate(axes.lines):
            assert line.get_xdata().tolist() == pytest.approx(middles)
            assert line.get_ydata().tolist() == [30.0 + i, 20.0, n / 8]
    assert panels[0].get_yscale() == "log"  # from 8 to 128


def test_a_band_has_a_gap_where_there_is_no_interval():
    panel = drawn(plot_perplexity(perplexities(lengths=(64,))))[0]
    assert sorted(band(panel, line_style(1)["color"])) == pytest.approx([math.sqrt(15), math.sqrt(23 * 64)])
    assert panel.get_yscale() == "linear"


@pytest.mark.parametrize("by_position", [True, False])
def test_perplexity_by_length(by_position):
    (panel,) = drawn(plot_perplexity(perplexities((512, 64), by_position=by_position), by_length=by_position))
    for i, line in enumerate(panel.lines):
        assert line.get_xdata().tolist() == [64, 512]
        assert line.get_ydata().tolist() == [6.0 + i, 13.0 + i]
    assert band(panel, line_style(1)["color"]) == {64: (4.0, 31.0), 512: (4.0, 31.0)}
    assert [label.get_text() for label in panel.get_xticklabels()] == ["64", "512"]


# All of them

DRAWN = {
    "needle": (plot_needle, needles),
    "recall": (plot_recall, recalls),
    "perplexity": (plot_perplexity, perplexities),
}


@pytest.mark.parametrize("suite", DRAWN)
def test_other_suites_and_empty_results_are_refused(suite):
    plot, make = DRAWN[suite]
    other = results("niah", {"scheme": None, "length": 9, "accuracy": 1.0})
    with pytest.raises(ValueError, match=f"^the results must be of the suite {suite}, not niah$"):
        plot([make(), other])
    with pytest.raises(ValueError, match=r"^the results have no rows to draw$"):
        plot(Results({}, ()))


@pytest.mark.parametrize("suite", ["needle", "recall"])
def test_rows_without_what_is_drawn_are_refused(suite):
    bare = results(suite, {"scheme": None, "length": 9, "accuracy": 1.0})
    with pytest.raises(ValueError, match=r"^the results have no rows with "):
        DRAWN[suite][0](bare)


@pytest.mark.parametrize(
    ("suite", "changes"),
    [
        ("needle", {"depth": "half"}),
        ("needle", {"length": None}),
        ("recall", {"by_distance": {"from": [1], "to": [2], "n": [1], "interval": [[0, "x"]], "accuracy": [1.0]}}),
        ("recall", {"by_distance": {"from": [1], "to": [2], "n": [1], "interval": [None]}}),
        ("perplexity", {"by_position": {"from": [1], "to": [2], "n": [1], "interval": [None], "perplexity": ["7"]}}),
    ],
)
def test_what_is_no_number_is_refused(suite, changes):
    plot, make = DRAWN[suite]
    rows = make().rows
    with pytest.raises(InputError):
        plot(results(suite, *rows[1:], dict(rows[0]) | changes))


@pytest.mark.parametrize("suite", DRAWN)
@pytest.mark.parametrize("width", ["single", None])
def test_titles_and_legends_stay_on_the_page(suite, width):
    plot, make = DRAWN[suite]
    long = [dict(row) | {"scheme": f"harpe:a/rather/long/path/to/bases-{row['scheme']}.json"} for row in make().rows]
    figure = plot(results(suite, *long), width=width, title="Mine")
    drawn(figure)
    assert figure.get_suptitle() == "Mine"
    for box in [found.get_window_extent() for found in figure.legends]:
        assert box.x0 >= -1
        assert box.x1 <= figure.bbox.width + 1
    assert not plot(make(), title="").get_suptitle()


@pytest.mark.parametrize("suite", DRAWN)
def test_the_commands_write_figures(run, suite):
    DRAWN[suite][1]().save("r.json")
    assert run("plot", suite, "r.json", "-o", "f.svg") == (0, "", "wrote f.svg\n")
    with open("f.svg", encoding="utf-8") as file:
        assert "yarn:8" in file.read()
    assert run("plot", suite, "nowhere.json", "-o", "g.png")[2].startswith("Error: nowhere.json cannot be read")
    code, _, err = run("plot", suite, "r.json", "-o", "f.svg")
    assert (code, err) == (1, "Error: f.svg already exists; --overwrite replaces it\n")
    other = next(name for name in DRAWN if name != suite)
    code, _, err = run("plot", other, "r.json", "-o", "g.png")
    assert (code, err) == (2, f"Error: the results must be of the suite {other}, not {suite}\n")
