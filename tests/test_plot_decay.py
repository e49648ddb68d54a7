import itertools
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ropesearch.plots.decay import plot_head, plot_heads, plot_slopes
from ropesearch.plots.style import save_figure

from ropesearch import BaseSet, Decay, uniform_bases
from ropesearch.core.rope import inv_freq

BASES = (20000.0, 70000.0)


def made_up(layers=(0, 2, 5), heads=4, kv_heads=2, last=200, head_dim=8, texts=2, **attributes):
    """A decay whose score is the model curve with noise; the last of its heads fits badly."""
    rng = np.random.default_rng(5)
    n = (len(layers), heads)
    coefficients = rng.gamma(1.0, 1.0, (*n, head_dim // 2)) * np.exp(1j * rng.normal(0, 0.3, (*n, head_dim // 2)))
    coefficients[0, 0] *= -1  # which rises
    blank = np.zeros((*n, last + 1), np.float32)
    decay = Decay(
        model={"name": "made-up", "heads": heads, "kv_heads": kv_heads, "head_dim": head_dim, "base": 1e4},
        texts=tuple({"name": f"text {i}", "tokens": 3 * last, "from": 0} for i in range(texts)),
        length=2 * last,
        layers=tuple(layers),
        inv_freq=inv_freq(np.geomspace(1e4, 3e4, kv_heads), head_dim),  # KV heads differ, as in a model with bases
        coefficients=coefficients,
        pairs=np.arange(2 * last, last - 1, -1),
        score=blank,
        standard_error=rng.uniform(0.01, 0.1, blank.shape).astype(np.float32),
        parts=np.zeros((2, *blank.shape), np.float32),
        agreement_to=last,
    )
    score = decay.curve + rng.normal(0, 0.05, blank.shape).astype(np.float32)
    score[-1, -1] = np.sin(np.arange(last + 1))
    parts = score + rng.normal(0, 0.05, decay.parts.shape).astype(np.float32)
    return replace(decay, score=score, parts=parts, **attributes)


def verified(decay):
    """The same with bases, and what is measured with them in the model."""
    return replace(decay, bases=BASES, verified=decay.predict(BASES) + np.float32(0.01) * decay.score)


def collection(axes, label):
    """The one collection of that label."""
    (found,) = [c for c in axes.collections if str(c.get_label()).startswith(label)]
    return found


def line(axes, label):
    (found,) = [line for line in axes.lines if str(line.get_label()).startswith(label)]
    return found


def labels(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def drawn(figure):
    """Lay out a figure, where a warning is an error."""
    figure.draw_without_rendering()
    return figure


def bins_of(last, n):
    """First and last distance of about n bins of the same width on a log scale."""
    starts = np.unique(np.rint(np.geomspace(1, last + 1, n + 1)).astype(int))
    return list(zip(starts[:-1], starts[1:] - 1, strict=True))


def test_every_cell_shows_the_curves_of_its_head():
    decay = verified(made_up())
    inside = bins_of(200, math.ceil(90 / 4 * math.log10(201)))
    axes = plot_heads(decay).axes[0]
    expected = {"measured score": decay.score, "model curve": decay.curve, "predicted": decay.predict(BASES)}
    segments = {label: np.reshape(collection(axes, label).get_segments(), (3, 4, -1, 2)) for label in expected}
    bands = [path.vertices[:-1] for path in collection(axes, "lowest to highest score").get_paths()]
    for row in range(3):
        for head in range(4):
            points = [segments[label][row, head] for label in expected] + [bands[4 * row + head]]
            parts = {label: [curves[row, head, a : b + 1] for a, b in inside] for label, curves in expected.items()}
            means = [part.mean(dtype=float) for of_label in parts.values() for part in of_label]
            lows, highs = ([f(part) for part in parts["measured score"]] for f in (np.min, np.max))
            values = np.array([*means, *lows, *highs[::-1]], dtype=float)
            x, y = np.concatenate(points).T
            scale, offset = np.polyfit(y, values, 1)  # one map for all lines of the cell
            np.testing.assert_allclose(scale * y + offset, values, atol=1e-5)
            assert scale < 0  # the axis points down
            assert row + 0.05 < y.min() < row + 0.15 < row + 0.85 < y.max() < row + 0.95
            middles = np.log([math.sqrt(a * b) for a, b in inside])
            at = np.concatenate([np.tile(middles, 4), middles[::-1]])
            slope, start = np.polyfit(at, x, 1)
            np.testing.assert_allclose(start + slope * at, x, atol=1e-12)
            assert slope > 0
            left = axes.get_xticks()[head] - 0.5
            assert left < x.min() < left + 0.1 < left + 0.9 < x.max() < left + 1
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["0", "2", "5"]


def test_chosen_layers_are_drawn_in_their_order():
    decay = made_up()
    axes = plot_heads(decay, layers=[5, 0]).axes[0]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["5", "0"]
    (tints,) = [c for c in axes.collections if c.get_array() is not None]
    np.testing.assert_array_equal(tints.get_array(), decay.figures["slope"][[2, 0]].ravel())
    with pytest.raises(ValueError, match="layer 1 was not measured; measured layers: 0, 2, 5"):
        plot_heads(decay, layers=[1])


def test_of_too_many_heads_and_layers_some_are_drawn_and_the_figure_says_so():
    decay = made_up(layers=range(40), heads=48, kv_heads=12, last=50)
    axes = drawn(plot_heads(decay)).axes[0]
    assert len(collection(axes, "measured score").get_segments()) == 32 * 32
    assert "32 of 40 layers; 32 of 48 query heads" in axes.get_xlabel().replace("\n", " ")
    rows, heads = (
        [int(tick.get_text()) for tick in ticks] for ticks in (axes.get_yticklabels(), axes.get_xticklabels())
    )
    assert (rows[0], rows[-1]) == (0, 39)
    assert heads[:4] == [0, 1, 2, 3]  # whole groups
    assert heads[-1] == 47
    (tints,) = [c for c in axes.collections if c.get_array() is not None]
    np.testing.assert_array_equal(tints.get_array(), decay.figures["slope"][np.ix_(rows, heads)].ravel())


def test_tints_are_the_slopes_around_zero_and_bad_fits_are_framed():
    decay = made_up()
    axes = plot_heads(decay).axes[0]
    (tints,) = [c for c in axes.collections if c.get_array() is not None]
    np.testing.assert_array_equal(tints.get_array(), decay.figures["slope"].ravel())
    slopes = decay.figures["slope"]
    assert (tints.norm.vmin, tints.norm.vmax) == (slopes.min(), slopes.max())
    falling, rising = tints.to_rgba(slopes.min()), tints.to_rgba(slopes.max())
    assert falling[2] > falling[1]  # purple
    assert rising[0] > rising[2]  # orange
    assert min(tints.to_rgba(0.0)[:3]) > 0.95
    poor = np.flatnonzero(decay.figures["curve"] < 0.9)
    assert 11 in poor
    assert poor.size < 12
    frames = collection(axes, "correlation of the model curve below 0.9").get_paths()
    squares = tints.get_paths()
    assert [path.vertices.tolist() for path in frames] == [squares[i].vertices.tolist() for i in poor]
    good = replace(decay, score=decay.curve)
    assert not any("below" in label for label in labels(plot_heads(good)))


def test_heads_that_share_a_kv_head_stand_together():
    steps = np.diff(plot_heads(made_up()).axes[0].get_xticks())
    assert steps[0] == steps[2] == 1 < steps[1]
    assert set(np.diff(plot_heads(made_up(kv_heads=4)).axes[0].get_xticks())) == {1}


def test_a_thousand_heads_are_one_axes():
    decay = made_up(layers=range(32), heads=32, kv_heads=8, last=50)
    figure = drawn(plot_heads(decay))
    assert len(figure.axes) == 2  # and the colour bar
    assert max(figure.get_size_inches()) < 21
    assert len(collection(figure.axes[0], "measured score").get_segments()) == 1024


def test_given_bases_come_before_those_of_the_decay():
    decay = verified(made_up())
    assert "predicted with bases 20,000 to 70,000" in labels(plot_heads(decay))
    assert "predicted with base 30,000" in labels(plot_heads(decay, (3e4, 3e4)))
    assert not any("predicted" in label for label in labels(plot_heads(made_up())))
    shown = plot_head(decay, 2, 3, (2e4, 3e4)).axes[0]
    np.testing.assert_array_equal(line(shown, "predicted").get_ydata()[:40], decay.predict((2e4, 3e4))[1, 3, 1:41])
    assert not any("measured with" in str(line.get_label()) for line in shown.lines)


def test_one_head_shows_what_was_measured():
    decay = verified(made_up(last=40))
    axes = plot_head(decay, 2, 3).axes[0]
    for label, values in {
        "measured score": decay.score,
        "model curve": decay.curve,
        "measured with base 70,000": decay.verified,
        "predicted with base 70,000": decay.predict(BASES),
    }.items():
        np.testing.assert_array_equal(line(axes, label).get_xdata(), np.arange(1, 41))
        np.testing.assert_array_equal(line(axes, label).get_ydata(), values[1, 3, 1:])
    parts = [line.get_ydata() for line in axes.lines[:2]]
    np.testing.assert_array_equal(parts, decay.parts[:, 1, 3, 1:])

    (outline,) = collection(axes, "± 2 standard errors").get_paths()
    score, error = (x[1, 3, 1:].astype(float) for x in (decay.score, decay.standard_error))
    corners = {(x, y) for x, y in outline.vertices.tolist() if 1 < x < 40}
    expected = np.concatenate([score - 2 * error, score + 2 * error])
    assert corners == {(x, y) for x, y in zip([*range(1, 41)] * 2, expected, strict=True) if 1 < x < 40}
    assert not any("lowest to highest" in str(shown.get_label()) for shown in axes.collections)


def test_the_unit_waveform_is_brought_to_the_score_by_least_squares():
    decay = made_up(last=40)
    at = decay.fit_distances
    axes = plot_head(decay, 5, 2).axes[0]
    score = decay.score[2, 2].astype(float)
    for label, values in (
        ("unit waveform", decay.unit_waveforms()[1]),
        ("least-squares line", -np.log10(np.arange(41).clip(1))),
    ):
        expected = np.polyval(np.polyfit(values[at], score[at], 1), values)
        np.testing.assert_allclose(line(axes, label).get_ydata(), expected[1:], atol=1e-10)


def test_the_legend_has_the_figures():
    decay = verified(made_up())
    names = {
        "least-squares line": "minus_log",
        "unit waveform": "unit_waveform",
        "model curve": "curve",
        "predicted with": "prediction",
    }
    for row, head in ((0, 0), (2, 3)):
        found = labels(plot_head(decay, decay.layers[row], head))
        for start, name in names.items():
            (label,) = [label for label in found if label.startswith(start)]
            value = decay.figures[name][row, head]
            assert f"r {value:.3f}".replace("-", "−") in label
    assert "each of the 2 texts" in labels(plot_head(decay, 0, 0))
    assert "each of the 2 halves of its queries" in labels(plot_head(made_up(texts=1), 0, 0))


def test_attention_after_the_softmax_is_a_second_panel():
    decay = made_up(last=40)
    assert len(plot_head(decay, 0, 0).axes) == 1
    mass = np.exp(decay.score)
    mass[0, 1, 7] = 0
    with_mass = replace(decay, mass=mass, sink_mass=np.full((3, 4), 0.25, np.float32))
    _, below = plot_head(with_mass, 0, 1).axes
    assert (below.get_xscale(), below.get_yscale()) == ("log", "log")
    assert "which get 25.0%" in below.get_title(loc="left")
    expected = mass[0, 1, 1:].astype(float)
    expected[6] = np.nan
    np.testing.assert_array_equal(below.lines[0].get_ydata(), expected)


def test_where_distances_lie_close_lines_are_means_between_the_lowest_and_the_highest():
    decay = made_up(layers=(0,), heads=1, kv_heads=1, last=6000)
    axes = plot_head(replace(decay, mass=np.exp(decay.score)), 0, 0).axes[0]
    score = decay.score[0, 0].astype(float)
    x, y = line(axes, "measured score").get_data()
    assert x[:40].tolist() == list(range(1, 41))
    assert x.size < 400
    middles = np.log(x[1:] / x[:-1])[60:]
    assert middles.max() < 1.6 * middles.min()
    (outline,) = collection(axes, "lowest to highest score, where lines are means").get_paths()
    of_band = {place: [v for u, v in outline.vertices.tolist() if u == place] for place in x[1:-1]}
    first = 1
    for place, mean in zip(x, y, strict=True):
        last = round(place**2 / first)  # a point stands at the geometric mean of its bin's ends
        inside = score[first : last + 1]
        assert abs(inside.mean() - mean) < 1e-9
        if place in of_band:
            assert (min(of_band[place]), max(of_band[place])) == (inside.min(), inside.max())
        first = last + 1
    assert first == 6001


def test_the_heat_map_is_the_slopes_and_the_points_their_means():
    decay = made_up()
    slopes = decay.figures["slope"]
    heat, means, _ = plot_slopes(decay).axes
    (image,) = heat.images
    np.testing.assert_array_equal(image.get_array(), slopes)
    assert (image.norm.vmin, image.norm.vmax) == (slopes.min(), slopes.max())
    numbers = [text.get_text() for text in heat.texts]
    assert [float(number.replace("−", "-")) for number in numbers] == slopes.ravel().round(1).tolist()
    assert "-0.2" not in numbers
    assert "−0.2" in numbers
    edges = [line.get_xdata()[0] for line in heat.lines]
    assert edges == [2]
    (container,) = means.containers
    points, _, (bars,) = container
    np.testing.assert_allclose(points.get_ydata(), decay.kv_head_slopes())
    np.testing.assert_array_equal(points.get_xdata(), [1, 3])  # the middles of their query heads
    assert means.get_xlim() == heat.get_xlim()
    for kv_head, ((_, low), (_, high)) in enumerate(bars.get_segments()):
        by_layer = [slopes[row, 2 * kv_head : 2 * kv_head + 2].mean() for row in range(3)]
        error = np.std(by_layer, ddof=1) / np.sqrt(3)
        assert (high - low) / 2 == pytest.approx(error)
        assert (high + low) / 2 == pytest.approx(np.mean(by_layer))


def test_slopes_of_one_sign_use_the_whole_scale():
    decay = made_up()
    decay.figures["slope"][:] = -1 - np.arange(12).reshape(3, 4) / 10
    (image,) = plot_slopes(decay).axes[0].images
    weakest, strongest = (np.sum(image.to_rgba(value)[:3]) for value in (-1, -2.1))
    assert weakest > 2.8
    assert strongest < 2


@pytest.mark.parametrize("width", [None, "double"])
def test_names_of_128_kv_heads_do_not_touch(width):
    figure = drawn(plot_slopes(made_up(layers=range(3), heads=128, kv_heads=128, last=50), width=width))
    heat, means = figure.axes[:2]
    for labels in (heat.get_xticklabels(), means.get_xticklabels()):
        boxes = [label.get_window_extent() for label in labels]
        assert len(boxes) > 10
        assert all(a.x1 < b.x0 for a, b in itertools.pairwise(boxes))


def test_many_heads_have_no_numbers():
    heat = drawn(plot_slopes(made_up(layers=range(20), heads=16, kv_heads=16, last=50))).axes[0]
    assert not heat.texts
    assert not heat.lines  # and no groups


@pytest.mark.parametrize("of", ["zero", "nan", "one cell"])
def test_curves_without_a_shape_are_drawn(of):
    decay = made_up(mass=np.zeros((3, 4, 201), np.float32), sink_mass=np.zeros((3, 4), np.float32))
    score = decay.score.copy()
    chosen = (0, 1) if of == "one cell" else slice(None)
    score[chosen] = np.nan if of == "nan" else 0
    coefficients = decay.coefficients.copy()
    coefficients[chosen] = 0
    decay = replace(decay, score=score, parts=np.stack([score, score]), coefficients=coefficients)
    axes = drawn(plot_heads(decay)).axes[0]
    y = collection(axes, "measured score").get_paths()[1].vertices[:, 1]
    assert np.isnan(y).all() if of == "nan" else (y == 0.5).all()
    drawn(plot_slopes(decay))
    drawn(plot_head(decay, 0, 1))


def test_one_layer_and_one_head():
    decay = made_up(layers=(3,), heads=1, kv_heads=1, texts=1, last=32)
    decay = replace(decay, model={**decay.model, "name": "a $name$ that is no formula, and longer than a title holds"})
    for figure in (plot_heads(decay), plot_head(decay, 3, 0), plot_slopes(decay)):
        drawn(figure)
        assert r"\$name\$" in figure.get_suptitle() or "…" in figure.get_suptitle()


@pytest.mark.parametrize(
    ("place", "line"),
    [
        ((1, 0), r"^layer 1 was not measured; measured layers: 0, 2, 5 to 7$"),
        ((5, 4), r"^head 4 does not exist: made-up has query heads 0 to 3$"),
        ((-1, 0), r"^layer must be an integer of at least 0, not -1$"),
        ((2, 0.5), r"^head must be an integer of at least 0, not 0.5$"),
    ],
)
def test_a_head_that_is_not_there(place, line):
    with pytest.raises(ValueError, match=line):
        plot_head(made_up(layers=(0, 2, 5, 6, 7)), *place)


@pytest.fixture
def run(run):
    """Run `ropesearch plot decay` in a folder with a decay file."""
    made_up().save("decay.json")
    uniform_bases(1e4, 2e4, 4, kv_heads=2, head_dim=8).save("bases.json")
    uniform_bases(1e4, 2e4, 4, head_dim=8).save("others.json")
    Path("cut.json").write_text('{"format": "ropesearch.dec')
    Path("alone.json").write_text(json.dumps(json.loads(Path("decay.json").read_text()) | {"arrays": {}}))
    return lambda *args: run("plot", "decay", *args)


def test_the_command_draws(run):
    decay, bases = made_up(), BaseSet.load("bases.json")
    drawings = {
        (): plot_heads(decay),
        ("--head", "2.3"): plot_head(decay, 2, 3),
        ("--slopes",): plot_slopes(decay),
        ("--bases", "bases.json"): plot_heads(decay, bases),
        ("--head", "5.0", "--bases", "bases.json"): plot_head(decay, 5, 0, bases),
    }
    for args, figure in drawings.items():
        assert run("decay.json", "-o", "drawn.svg", "--overwrite", *args) == (0, "", "wrote drawn.svg\n")
        save_figure(figure, "expected.svg", overwrite=True)
        assert Path("drawn.svg").read_bytes() == Path("expected.svg").read_bytes()
    assert run("decay.json", "-o", "drawn.png", "--slopes", "--quiet") == (0, "", "")
    save_figure(plot_slopes(decay), "expected.png")
    assert Path("drawn.png").read_bytes() == Path("expected.png").read_bytes()


def test_bases_have_no_effect_on_slopes(run):
    code, out, err = run("decay.json", "-o", "a.svg", "--slopes", "--bases", "bases.json")
    assert (code, out, err) == (0, "", "note: --bases has no effect with --slopes\nwrote a.svg\n")


@pytest.mark.parametrize(
    ("args", "line"),
    [
        (["decay.json"], "Missing option '-o' / '--output'."),
        (["decay.json", "-o", "a.gif"], "the suffix of the figure must be one of .png, .svg, .pdf, not '.gif'"),
        (["nowhere.json", "-o", "a.png"], "nowhere.json cannot be read: No such file or directory"),
        (["cut.json", "-o", "a.png"], "cut.json is not a usable decay file: it is not JSON, or it is cut off"),
        (["bases.json", "-o", "a.png"], "bases.json is not a usable decay file: its format must be"),
        (["alone.json", "-o", "a.png"], "alone.json is not a usable decay file: it names no file of arrays"),
        (
            ["decay.json", "-o", "a.png", "--head", "2"],
            "--head must be LAYER.HEAD, two whole numbers such as 12.3, not '2'",
        ),
        (["decay.json", "-o", "a.png", "--head", "2.x"], "--head must be LAYER.HEAD"),
        (["decay.json", "-o", "a.png", "--head", "-1.0"], "--head must be LAYER.HEAD"),
        (["decay.json", "-o", "a.png", "--head", "1.0"], "layer 1 was not measured; measured layers: 0, 2, 5"),
        (["decay.json", "-o", "a.png", "--head", "2.4"], "head 4 does not exist: made-up has query heads 0 to 3"),
        (["decay.json", "-o", "a.png", "--head", "2.3", "--slopes"], "only one of --head and --slopes can be given"),
        (["decay.json", "-o", "a.png", "--bases", "nowhere.json"], "nowhere.json cannot be read"),
        (["decay.json", "-o", "a.png", "--bases", "others.json"], "the base"),
    ],
)
def test_wrong_input_is_exit_2_one_line_and_nothing_written(run, tmp_path, args, line):
    before = sorted(tmp_path.iterdir())
    code, out, err = run(*args)
    assert (code, out) == (2, "")
    assert err.startswith(f"Error: {line}")
    assert err.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == before


def test_an_output_that_is_there_is_exit_1_before_the_work(run, monkeypatch):
    monkeypatch.setattr("ropesearch.plots.decay.plot_heads", lambda *_: pytest.fail("the work was begun"))
    Path("there.png").write_text("precious")
    line = "there.png already exists; --overwrite replaces it"
    assert run("decay.json", "-o", "there.png") == (1, "", f"Error: {line}\n")
    assert Path("there.png").read_text() == "precious"


def test_the_command_draws_some_layers(run):
    assert run("decay.json", "-o", "a.svg", "--layers", "0,5")[0] == 0
    save_figure(plot_heads(made_up(), layers=[0, 5]), "b.svg")
    assert Path("a.svg").read_bytes() == Path("b.svg").read_bytes()
    code, _, err = run("decay.json", "-o", "c.svg", "--layers", "0", "--slopes")
    assert (code, err) == (2, "Error: --layers goes with neither --head nor --slopes\n")
