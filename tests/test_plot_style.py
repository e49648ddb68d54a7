"""The style's colours, held apart as others see them; sizes, titles and files."""

import itertools
import re
import zlib
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from ropesearch.plots.style import COLOURS, line_style, save_figure, sheet

# Machado, Oliveira and Fernandes 2009, table 1, severity 1.0: on linear RGB.
SEEN_BY = {
    "everyone": np.eye(3),
    "deuteranopes": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "protanopes": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
}
TO_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)


def lab(colour, seen=SEEN_BY["everyone"]):
    """CIE L*a*b* of a colour as some people see it."""
    srgb = np.array(to_rgb(colour))
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    xyz = TO_XYZ @ np.clip(seen @ linear, 0, 1) / (TO_XYZ @ np.ones(3))
    x, y, z = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def test_lab_is_that_of_the_textbook():
    np.testing.assert_allclose(lab("#ffffff"), [100, 0, 0], atol=1e-4)
    np.testing.assert_allclose(lab("#ff0000"), [53.24, 80.09, 67.20], atol=0.01)  # D65


def test_colours_stay_apart_for_the_colour_blind():
    for seen in SEEN_BY.values():
        for a, b in itertools.combinations(COLOURS, 2):
            assert np.linalg.norm(lab(a, seen) - lab(b, seen)) > 25


def test_colours_stay_apart_in_grey_and_from_paper():
    lightness = [lab(colour)[0] for colour in COLOURS]
    assert np.diff(lightness).min() > 14
    assert max(lightness) < 80


def test_lines_of_equal_rank_all_differ_and_neighbours_do_so_in_dashes_too():
    styles = [tuple(line_style(i).values()) for i in range(25)]
    assert len(set(styles)) == 25
    assert all(a[1] != b[1] for a, b in itertools.pairwise(styles))


def drawn(width, title=None):
    with sheet(width, title) as page:
        axes = page.axes(10, 4)
        axes.plot([1, 2], [-3, 4], label="a line")
        axes.set_xlabel("distance")
        page.write_title(axes, "A title that is longer than a column of a paper is wide, and so takes two lines")
    return axes.figure


@pytest.mark.parametrize(("width", "inches"), [("single", 3.5), ("double", 7.16), (5, 5), (None, 10), ("4.5", 4.5)])
def test_width_and_text_suit_a_column(width, inches):
    figure = drawn(width)
    figure.draw_without_rendering()
    assert figure.get_figwidth() == inches
    label = figure.axes[0].xaxis.label.get_size()
    assert 6.5 <= label <= 10
    box = figure.axes[0].title.get_window_extent()
    left = figure.axes[0]._left_title.get_window_extent()
    assert max(box.x1, left.x1) <= figure.get_figwidth() * figure.dpi


@pytest.mark.parametrize("width", ["triple", 1, 41, True, float("nan"), [3]])
def test_widths_that_are_none(width):
    with pytest.raises(ValueError, match="width must be single, double or a number of inches from 2 to 40, not"):
        drawn(width)


def test_a_title_of_ones_own_and_none():
    assert drawn(None, "Mine").axes[0].get_title(loc="left") == "Mine"
    assert drawn(None, "").axes[0].get_title(loc="left") == ""


def test_text_stays_text_and_fonts_are_truetype(tmp_path):
    figure = drawn("single")
    for suffix in ("svg", "pdf", "png"):
        save_figure(figure, tmp_path / f"a.{suffix}", dpi=300)
    assert re.search("<text[^>]*>distance</text>", (tmp_path / "a.svg").read_text())
    pdf = (tmp_path / "a.pdf").read_bytes()
    streams = [
        zlib.decompressobj().decompress(part)
        for part in re.findall(rb"stream\r?\n(x.*?)\r?\nendstream", pdf, re.DOTALL)
    ]
    assert b"/CIDFontType2" in b"".join([pdf, *streams])  # TrueType; 3 would be Type 3
    assert b"/Type3" not in b"".join([pdf, *streams])
    head = (tmp_path / "a.png").read_bytes()[16:24]
    assert int.from_bytes(head[:4], "big") == 1050


@pytest.mark.parametrize("dpi", [0, 2401, "many"])
def test_resolutions_that_are_none(tmp_path, dpi):
    with pytest.raises(ValueError, match="dpi must be a number from 20 to 2400, not"):
        save_figure(drawn(None), tmp_path / "a.png", dpi=dpi)
    assert not list(Path(tmp_path).iterdir())


def test_a_notebook_shows_a_figure():
    assert drawn("single")._repr_png_().startswith(b"\x89PNG")
