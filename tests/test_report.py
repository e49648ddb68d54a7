"""What the page of `ropesearch report` holds: text as text, data as the library has it, and nothing from elsewhere."""

import base64
import itertools
import json
import math
import os
import re
import tomllib
from dataclasses import replace
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from ropesearch.plots.bins import Bins
from ropesearch.plots.style import COLOURS
from test_plot_decay import made_up, verified
from test_plot_evaluation import needles, perplexities, recalls, results
from test_plot_style import SEEN_BY, lab
from test_sweep import Here

from ropesearch import (
    BaseSet,
    Stage,
    TrainSpec,
    find_extrema,
    parse_scheme,
    read_sweep,
    uniform_bases,
    waveform,
    write_report,
)
from ropesearch.reports import runs
from ropesearch.reports.html import escaped, tag
from ropesearch.reports.section import packed
from ropesearch.reports.theme import DARK, NAMES
from ropesearch.reports.write import report_text
from ropesearch.search.sweep import sweep, sweep_points

ROOT = Path(__file__).parent.parent
SET = BaseSet.of([1e4, 2.5e4, 7e4], head_dim=16, strategy="by hand")
LAST = 3000
HOSTILE = "</script><script>alert(1)</script>&\"'<!--"
POINTS = sweep_points(
    strides=[1000, 2000], heads=[4, 8], strategies=["peak-valley", "uniform"],
    bmins=[10000], bmaxs=[30000], max_distances=[2000], head_dim=16,
)  # fmt: skip


class Page(HTMLParser):
    """Elements and text of a page."""

    def __init__(self, text):
        super().__init__()
        self.text, self.elements, self.content, self.open = text, [], {}, []
        self.feed(text)
        self.close()
        assert self.open == [], "elements that do not end"

    def handle_starttag(self, name, attributes):
        self.elements.append((name, dict(attributes)))
        if name not in ("meta", "link", "br", "col"):
            self.open.append((name, len(self.elements) - 1))

    def handle_endtag(self, name):
        assert self.open.pop()[0] == name

    def handle_data(self, data):
        for _, i in self.open:
            self.content[i] = self.content.get(i, "") + data

    def texts(self, wanted):
        return [self.content.get(i, "") for i, (name, _) in enumerate(self.elements) if name == wanted]

    @property
    def data(self):
        (found,) = [i for i, (_, attributes) in enumerate(self.elements) if attributes.get("id") == "data"]
        return json.loads(self.content[found])


def page_of(files, **options):
    return Page(report_text(files, **{"max_distance": LAST} | options))


def unpacked(text, low, high):
    """As page/chart.js does it."""
    steps = np.frombuffer(base64.b64decode(text), "<u2").astype(float)
    return np.where(steps == 65535, np.nan, low + (high - low) * steps / 65534)


def run_folder(folder, lines=30):
    """A training run of two stages."""
    folder.mkdir()
    stages = [{"scheme": "abf:1e6", "length": 64, "tokens": 1}, {"scheme": HOSTILE, "length": 256, "tokens": 2}]
    settings = {"spec": {"stages": stages}, "schemes": [], "model": {"name": "org/model"}, "data": {}, "arguments": {}}
    text = json.dumps({"format": "ropesearch.run", "version": 1} | settings)
    (folder / "settings.json").write_text(text)
    with (folder / "metrics.jsonl").open("w") as file:
        for step in range(1, lines + 1):
            stage = 1 + (step > lines // 2)
            line = {"step": step, "stage": stage, "length": 64 * 4 ** (stage - 1), "loss": 9 / step}
            file.write(json.dumps(line | {"loss_by_position": {"16": 2.0, "32": 1.5 - step / 100}}) + "\n")
    return folder


@pytest.fixture
def files(tmp_path):
    """A file of every kind."""
    SET.save(tmp_path / "bases.json")
    verified(made_up()).save(tmp_path / "decay.json")
    perplexities().save(tmp_path / "perplexity.json")
    needles().save(tmp_path / "needle.json")
    sweep(POINTS, tmp_path / "sweep.jsonl", executor=Here())
    run_folder(tmp_path / "run")
    names = ("bases.json", "decay.json", "perplexity.json", "needle.json", "sweep.jsonl", "run")
    return [tmp_path / name for name in names]


def test_every_kind_of_file_is_a_section(files):
    page = page_of([*files, "attention-buckets", "yarn:8", f"{files[4]}#3"])
    headings = page.texts("h2")
    kinds = ["base set", "decay", "evaluation", "evaluation", "sweep", "training run"]
    kinds += ["base set", "position scheme", "base set"]
    assert len(headings) == len(kinds)
    for heading, kind in zip(headings, kinds, strict=True):
        assert heading.endswith(kind)
    links = [attributes["href"] for name, attributes in page.elements if name == "a"]
    assert [link for link in links if link != "#content"] == [f"#s{i}" for i in range(1, 10)]
    assert {f"s{i}" for i in range(1, 10)} <= {attributes.get("id") for _, attributes in page.elements}
    drawn = [figure["kind"] for figure in page.data["figures"]]
    assert drawn.count("waveforms") == 4
    assert {"decay", "lines", "sweep"} <= set(drawn)
    places = [attributes["data-figure"] for _, attributes in page.elements if "data-figure" in attributes]
    assert places == [str(i) for i in range(len(drawn))]


def test_the_page_needs_nothing_from_elsewhere(files):
    page = page_of(files)
    for _, attributes in page.elements:
        for name in ("src", "srcset", "action", "data", "poster"):
            assert name not in attributes
        assert attributes.get("href", "#").startswith(("#", "data:"))
        assert "style" not in attributes  # the policy forbids it
        assert not [name for name in attributes if name.startswith("on")]
    for sheet in page.texts("style"):
        assert "url(" not in sheet
        assert "@import" not in sheet


def test_the_policy_allows_what_is_in_the_page_and_nothing_else():
    page = page_of(SET)
    (policy,) = [a["content"] for name, a in page.elements if a.get("http-equiv") == "Content-Security-Policy"]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert set(rules) == {
        "default-src", "script-src", "style-src", "worker-src", "img-src", "base-uri", "form-action",
    }  # fmt: skip

    def hashes(texts):
        return {f"'sha256-{base64.b64encode(sha256(text.encode()).digest()).decode()}'" for text in texts}

    scripts = [
        page.content[i] for i, (name, a) in enumerate(page.elements) if name == "script" and a.get("id") != "data"
    ]
    assert hashes(scripts) == set(rules["script-src"].split())
    assert hashes(page.texts("style")) == set(rules["style-src"].split())


def test_the_licence_of_the_charts_goes_with_them():
    licence = (ROOT / "ropesearch/reports/vendor/uplot/LICENSE").read_text()
    assert "Copyright (c) 2022 Leon Sorokin" in licence
    assert licence in report_text(SET, max_distance=LAST)


def test_assets_are_in_the_package():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    folder = ROOT / "ropesearch/reports"
    patterns = settings["tool"]["setuptools"]["package-data"]["ropesearch.reports"]
    packaged = {path for pattern in patterns for path in folder.glob(pattern)}
    assert packaged == {path for path in folder.rglob("*.*") if path.suffix in (".js", ".css")} | {
        folder / "vendor/uplot/LICENSE"
    }
    assert "ropesearch/reports/vendor/uplot/LICENSE" in settings["project"]["license-files"]


def test_text_from_files_is_escaped(tmp_path):
    hostile = results("perplexity", {"scheme": HOSTILE, "length": 64, "perplexity": 2.0})
    hostile = replace(hostile, notes=(HOSTILE,))
    decay = made_up()
    decay = replace(decay, model={**decay.model, "name": HOSTILE})
    page = page_of([replace(SET, strategy=HOSTILE), hostile, decay, run_folder(tmp_path / "run")], title=HOSTILE)
    assert HOSTILE not in page.text.replace("\n", "")
    assert "alert(1)</script>" not in page.text
    assert page.texts("h1") == [HOSTILE]
    assert HOSTILE in page.texts("h2")[0]
    assert len(page.texts("script")) == 6  # data, uPlot and the four of the page
    assert any(HOSTILE in cell for cell in page.texts("li"))


def test_text_for_charts_is_printable():
    odd = "two\nlines\x1b[31m\u202e"
    scored = results("perplexity", *({"scheme": odd, "length": n, "perplexity": 2.0} for n in (64, 128)))
    base_set = replace(SET, strategy=odd)
    figures = json.dumps(page_of([base_set, scored]).data["figures"], ensure_ascii=False)
    assert r"two\\nlines\\x1b[31m\\u202e" in figures
    assert figures.isprintable()


def test_a_tag_escapes_what_is_not_html():
    assert tag("p", "<b>", tag("i", "a & b"), title='"') == '<p title="&quot;">&lt;b&gt;<i>a &amp; b</i></p>'
    assert escaped("a\x1b\u202e\n") == r"a\x1b\u202e\n"


def test_bases_are_in_the_page_to_the_last_digit():
    odd = BaseSet.of([1e4, 12345.678901234567, 1e6 + 1e-9], head_dim=16)
    (figure,) = page_of(odd).data["figures"]
    assert tuple(row["base"] for row in figure["rows"]) == odd.bases
    assert figure["headDim"] == 16
    assert figure["theta"] == []
    assert figure["logits"] == 4
    assert figure["last"] == LAST


def test_schemes_bring_frequencies_and_distances():
    (figure,) = page_of("yarn:8,head_dim=16").data["figures"]
    scheme = parse_scheme("yarn:8,head_dim=16")
    assert figure["theta"] == scheme.inv_freq().tolist()
    assert figure["logits"] == pytest.approx(4 * scheme.attention_factor() ** 2)
    (figure,) = page_of("self-extend:64,group=4,head_dim=16").data["figures"]
    assert figure["map"] == {"window": 64, "group": 4}
    assert [row["upper"] for row in figure["rows"]] == [False, True]


@pytest.mark.parametrize("parameters", [{}, {"extrema": "local", "prominence": 0.2, "max_distance": 2500}])
def test_marks_and_floor_are_the_librarys(parameters):
    base_set = replace(SET, parameters=parameters)
    (figure,) = page_of(base_set).data["figures"]
    covered = base_set.coverage(LAST)
    assert figure["floor"] == {"distance": covered.floor_distance, "value": covered.floor}
    rule = {name: value for name, value in parameters.items() if name != "max_distance"}
    for base, marks in zip(SET, figure["extrema"], strict=True):
        curve = waveform(base, 16, parameters.get("max_distance", 131072), min_distance=1000)
        found = find_extrema(curve, min_distance=1000, **rule)
        assert marks == {"peaks": found.peaks.tolist(), "valleys": found.valleys.tolist()}


def test_too_many_marks_are_cut_and_the_page_says_so():
    (figure,) = page_of(replace(uniform_bases(1e4, 3e4, 40), parameters={"extrema": "local"})).data["figures"]
    assert max(len(marks["peaks"]) for marks in figure["extrema"]) == 250
    assert figure["note"].endswith("the first 250 of each head.")


def test_a_rule_over_endless_distances_is_cut_to_what_a_section_could_show(monkeypatch):
    monkeypatch.setattr("ropesearch.reports.bases.MOST_VALUES", 3 * 4000)
    (figure,) = page_of(replace(SET, parameters={"max_distance": 2**31 - 1})).data["figures"]
    assert figure["note"].endswith("distances 1,000 to 3,999.")
    assert max(figure["extrema"][0]["peaks"]) <= 3999


def test_the_first_paint_is_an_envelope_of_the_waveforms():
    (figure,) = page_of(SET).data["figures"]
    first = figure["first"]
    edges = np.array(first["edges"])
    assert (edges[0], edges[-1]) == (0, LAST + 1)
    curves = np.array([waveform(base, 16, LAST) / 4 for base in SET])
    best, mean, starts = curves.max(axis=0), curves.mean(axis=0), edges[:-1]
    expected = [
        np.minimum.reduceat(curves.min(axis=0), starts),
        np.minimum.reduceat(best, starts),
        np.maximum.reduceat(best, starts),
        np.minimum.reduceat(mean, starts),
        np.maximum.reduceat(mean, starts),
        np.add.reduceat(mean, starts) / np.diff(edges),
    ]
    found = unpacked(first["pool"], -1, 1).reshape(6, -1)
    np.testing.assert_allclose(found, expected, atol=2 / 65534)
    heads = np.add.reduceat(curves, starts, axis=1) / np.diff(edges)
    np.testing.assert_allclose(unpacked(first["heads"], -1, 1).reshape(3, -1), heads, atol=2 / 65534)


def test_packing_keeps_gaps_and_ends():
    values = np.array([-2.0, np.nan, 0.1, 3.0])
    np.testing.assert_allclose(unpacked(packed(values, -2, 3), -2, 3), values, atol=5 / 65534)
    assert unpacked(packed([1.0, 1.0], 1, 1), 1, 1).tolist() == [1, 1]


@pytest.mark.parametrize(("heads", "lines"), [(1, 1), (7, 7), (32, 32), (33, 8), (128, 8)])
def test_of_many_heads_some_have_lines(heads, lines):
    (figure,) = page_of(uniform_bases(1e6, 5e6, heads, head_dim=16)).data["figures"]
    assert len(figure["rows"]) == heads
    assert len(figure["lines"]) == lines
    assert 0 in figure["lines"]
    assert heads - 1 in figure["lines"]


def test_pages_stay_small(files):
    assert len(report_text(uniform_bases(1e6, 5e6, 128), max_distance=131071)) < 400_000
    assert len(report_text(files, max_distance=LAST)) < 1_000_000


def test_a_decay_of_a_thousand_heads_is_below_two_megabytes():
    decay = verified(made_up(layers=range(32), heads=32, kv_heads=2, last=1024))
    text = report_text(decay)
    assert len(text) < 2_000_000
    (figure,) = Page(text).data["figures"]
    assert len(figure["layers"]) == 32
    assert len(figure["distances"]) >= 24


def test_of_too_many_layers_some_are_in_the_page(monkeypatch):
    monkeypatch.setattr("ropesearch.reports.decays.MOST_BYTES", 5000)
    page = page_of(made_up(layers=range(9)))
    (figure,) = page.data["figures"]
    assert 1 < len(figure["layers"]) < 9
    assert figure["layers"][0] == 0
    assert figure["layers"][-1] == 8
    assert f"{len(figure['layers'])} of 9 layers" in figure["hint"]


def test_the_curves_of_a_decay_are_its_own():
    decay = verified(made_up())
    (figure,) = page_of(decay).data["figures"]
    bins = Bins(decay.max_distance, log=True)
    curves = {
        "score": bins.means(decay.score),
        "low": bins.lowest(decay.score),
        "high": bins.highest(decay.score),
        "curve": bins.means(decay.curve),
        "prediction": bins.means(decay.prediction),
        "verified": bins.means(decay.verified),
    }
    assert figure["curves"].keys() == curves.keys()
    for row, head in itertools.product(range(3), range(4)):
        low, high = figure["ends"][row][head]
        for name, expected in curves.items():
            found = unpacked(figure["curves"][name][row][head], low, high)
            np.testing.assert_allclose(found, expected[row, head], atol=(high - low) / 65534)
    np.testing.assert_allclose(figure["slopes"], decay.figures["slope"], rtol=1e-3)
    assert {"curve", "prediction", "score", "verified"} == {line["curve"] for line in figure["lines"]}


def test_a_decay_with_bases_of_layers_is_shown():
    decay = made_up(layers=(0, 1, 2))
    rows = tuple((2e4 + layer, 7e4) for layer in range(3))
    decay = replace(decay, bases=rows, model={**decay.model, "num_hidden_layers": 3})
    page = page_of(decay)
    assert "prediction" in page.data["figures"][0]["curves"]
    assert "20k to 70k" in page.text


def test_results_of_one_suite_share_tables():
    first, second = recalls(), replace(recalls(), rows=tuple(row | {"model": "other"} for row in recalls().rows))
    page = page_of([first, SET, second, needles()])
    assert [heading.split()[0] for heading in page.texts("h2")] == ["recall:", "by", "needle:"]
    cells = page.texts("th")
    assert {"model, yarn:8", "other, yarn:8"} <= set(cells)
    charts = [figure for figure in page.data["figures"] if figure["kind"] == "lines"]
    assert [len(chart["lines"]) for chart in charts[:2]] == [4, 4]


def test_curves_of_evaluations_are_their_rows():
    charts = [figure for figure in page_of(perplexities()).data["figures"] if figure["kind"] == "lines"]
    assert [chart["title"] for chart in charts] == [
        "Perplexity by length",
        "Perplexity by position in the document, windows of 64 tokens",
        "Perplexity by position in the document, windows of 512 tokens",
    ]
    line = charts[0]["lines"][1]
    assert (line["name"], line["x"], line["y"]) == ("yarn:8", [64, 512], [7.0, 14.0])
    assert (line["low"], line["high"]) == ([4.0, 4.0], [31.0, 31.0])
    line = charts[2]["lines"][0]
    assert line["y"] == [30.0, 20.0, 64.0]
    assert line["low"][1] is None
    assert line["x"][1] == pytest.approx(math.sqrt(16 * 22))


def test_needles_are_a_table_of_tinted_shares():
    page = page_of(needles())
    tinted = {a["class"] for name, a in page.elements if name == "span" and "share" in a.get("class", "")}
    assert "share s1" in tinted
    assert "share s6" in tinted


def test_a_sweep_has_its_figures_and_options(files):
    (figure,) = page_of(files[4]).data["figures"]
    rows = read_sweep(files[4])
    assert [found["key"] for found in figure["figures"]] == ["floor", "mean", "quantile_01"]
    np.testing.assert_allclose(figure["figures"][0]["values"], [row["coverage"]["floor"] for row in rows], rtol=1e-6)
    stride, heads = figure["against"]
    assert (stride["key"], heads["key"]) == ("stride", "heads")
    assert stride["values"] == [row["point"]["stride"] for row in rows]
    assert sorted(i for line in stride["lines"] for i in line["rows"]) == list(range(len(rows)))
    assert {line["name"] for line in stride["lines"]} == {
        f"{n} heads, {strategy}" for n in (4, 8) for strategy in ("peak-valley", "uniform")
    }


def test_a_run_has_a_line_for_each_stage(tmp_path):
    page = page_of(run_folder(tmp_path / "run"))
    by_step, by_position = page.data["figures"]
    assert [line["x"] for line in by_step["lines"]] == [list(range(1, 16)), list(range(16, 31))]
    assert by_step["lines"][1]["y"] == [pytest.approx(9 / step, rel=1e-6) for step in range(16, 31)]
    assert by_step["marks"] == [{"x": 15.5, "text": "stage 2: 256 tokens"}]
    assert by_position["lines"][0]["x"] == [16, 32]


def test_a_long_run_is_thinned_between_its_lowest_and_highest(tmp_path):
    by_step = page_of(run_folder(tmp_path / "run", lines=8000)).data["figures"][0]
    line = by_step["lines"][0]
    assert len(line["x"]) <= 1000
    assert line["low"][0] <= line["y"][0] <= line["high"][0]
    assert max(line["high"]) == 9


def test_dark_colours_stay_apart_as_the_others_do():
    colours = [DARK[colour] for colour in COLOURS]
    assert DARK.keys() == NAMES.keys() == set(COLOURS)
    for seen in SEEN_BY.values():
        for a, b in itertools.combinations(colours, 2):
            assert np.linalg.norm(lab(a, seen) - lab(b, seen)) > 25
    lightness = sorted(lab(colour)[0] for colour in colours)
    assert np.diff(lightness).min() > 14
    assert lightness[0] > 30


def test_the_command_writes_what_the_library_makes(run, files, tmp_path):
    code, out, err = run("report", *files, "--max-distance", LAST, "--title", "One & all", "-o", "page.html")
    assert (code, out, err) == (0, "", "wrote page.html\n")
    text = (tmp_path / "page.html").read_text()
    assert text == report_text(list(map(str, files)), max_distance=LAST, title="One & all")
    write_report(files, tmp_path / "again.html", max_distance=LAST, title="One & all")
    assert (tmp_path / "again.html").read_text() == text
    assert run("report", *files, "--max-distance", LAST, "--title", "One & all", "-o", "-")[1] == text


def test_an_output_that_is_there_is_exit_1_before_the_work(run, monkeypatch, tmp_path):
    (tmp_path / "page.html").touch()
    monkeypatch.setattr("ropesearch.reports.write.report_text", None)
    code, _, err = run("report", "table2", "-o", "page.html")
    assert code == 1
    assert err == "Error: page.html already exists; --overwrite replaces it\n"


@pytest.mark.parametrize(
    ("args", "line"),
    [
        ([], "Missing argument 'FILES...'."),
        (["table2"], "Missing option '-o' / '--output'."),
        (["table2", "-o", "a.png"], "--output must be a .html file, not 'a.png'"),
        (["table2", "--max-distance", "10"], "--max-distance must be an integer of at least 64, not 10"),
        (["table2", "--max-distance", "4m"], "--max-distance must be at most 1048575 in a page, for the"),
        (["nowhere.json"], "nowhere.json cannot be read: No such file or directory"),
        (["nonsense"], "'nonsense' is not a file, a preset or a position scheme (table2, "),
        (["folder"], "folder is not the folder of a training run: it has no settings.json"),
        (["empty.json"], "empty.json is nothing that a page can be made of: it has no format, and must be"),
        (["config.json"], "config.json is nothing that a page can be made of: it has no format, and"),
        (["samples.jsonl"], "samples.jsonl is nothing that a page can be made of: it has the format 'r"),
        (["cut.json"], "cut.json is nothing that a page can be made of"),
        (["no-rows.jsonl"], "no-rows.jsonl has no rows yet"),
        (["no-rows.json"], "no-rows.json has no rows"),
        (["run"], "run/metrics.jsonl is not that of a run: line 1 has losses by position that"),
        (["huge-loss"], "huge-loss/metrics.jsonl is not that of a run: line 1 has a loss that is no number"),
        (["huge-mean"], "huge-mean/metrics.jsonl is not that of a run: line 1 has losses by position that are no"),
        (["huge-end"], "huge-end/metrics.jsonl is not that of a run: line 1 has losses by position with positions"),
        (["arabic-end"], "arabic-end/metrics.jsonl is not that of a run: line 1 has losses by position with positi"),
        (["padded-end"], "padded-end/metrics.jsonl is not that of a run: line 1 has losses by position with positi"),
        (["huge-step"], "huge-step/metrics.jsonl is not that of a run: line 1 has a step, stage or length that"),
        (["pipe.json"], "pipe.json is not a regular file"),
        (["million.json"], "million.json: it holds more than 500000 values"),
        (["odd.json"], "odd.json is nothing that a page can be made of: it has the format []"),
        (["bands.json"], "bands of perplexity at 64 must hold a figure, and numbers alone"),
        (
            ["endless"],
            "endless/metrics.jsonl is not that of a run: line 1 has a step, stage or length that",
        ),
        (["layers.json"], "a section of a page is of one layer's bases, and the set has bases for each"),
    ],
)
def test_wrong_input_is_exit_2_one_line_and_nothing_written(run, tmp_path, args, line):
    (tmp_path / "folder").mkdir()
    (tmp_path / "empty.json").write_text("{}")
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    (tmp_path / "samples.jsonl").write_text('{"format": "ropesearch.samples", "version": 1}\n{}\n')
    (tmp_path / "cut.json").write_text(SET.to_json()[:50])
    (tmp_path / "no-rows.jsonl").write_text('{"format": "ropesearch.sweep", "version": 1, "sweep": {}}\n')
    replace(recalls(), rows=()).save(tmp_path / "no-rows.json")
    run_folder(tmp_path / "run", 2)
    (tmp_path / "run" / "metrics.jsonl").write_text(
        '{"step": 1, "stage": 1, "length": 9, "loss": 2, "tokens": 9, "loss_by_position": {"16": "low"}}\n'
    )
    (tmp_path / "odd.json").write_text('{"format": []}')
    bands = {"from": [-5], "to": [-1], "perplexity": [2.0], "n": [1], "interval": [None]}
    results("perplexity", {"scheme": None, "length": 64, "perplexity": 2.0, "by_position": bands}).save("bands.json")
    run_folder(tmp_path / "endless", 2)
    (tmp_path / "endless" / "metrics.jsonl").write_text('{"step": Infinity, "stage": 1, "length": 9, "loss": 2}\n')
    step = {"step": 1, "stage": 1, "length": 9, "loss": 2}
    for name, change in {
        "huge-loss": {"loss": 10**400},
        "huge-mean": {"loss_by_position": {"16": 10**400}},
        "huge-end": {"loss_by_position": {"9" * 5000: 2}},
        "arabic-end": {"loss_by_position": {"١٦": 2}},
        "padded-end": {"loss_by_position": {"016": 2}},
        "huge-step": {"step": 10**400},
    }.items():
        (run_folder(tmp_path / name) / "metrics.jsonl").write_text(json.dumps(step | change) + "\n")
    os.mkfifo("pipe.json")
    (tmp_path / "million.json").write_text("[" + "[]," * 1_000_000 + "[]]")
    BaseSet.of([[1e4, 2e4], [1e4, 3e4]], head_dim=16).save(tmp_path / "layers.json")
    output = ["-o", "a.html"] if args and "-o" not in args and args != ["table2"] else []
    code, out, err = run("report", *args, *output)
    assert code == 2
    assert out == ""
    assert err.startswith(f"Error: {line}")
    assert err.count("\n") == 1
    assert not list(tmp_path.glob("a.*"))


@pytest.mark.parametrize(
    ("files", "options", "message"),
    [
        (3, {}, "files must be names of a base-set file"),
        ([3], {}, "files must be names, or objects, of a base-set file"),
        ([], {}, "files must have at least one input"),
        (["yarn:8"] * 51, {}, "files must be at most 50 inputs, not 51"),
        ("table2", {"title": 3}, "title must be text, not 3"),
        ("table2", {"max_distance": 3.5}, "max_distance must be an integer"),
    ],
)
def test_wrong_arguments_are_one_line(tmp_path, files, options, message):
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        write_report(files, tmp_path / "a.html", **options)
    assert "\n" not in str(error.value)


def test_a_sweep_with_odd_options_is_shown(files):
    header, *lines = files[4].read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    rows[0]["point"]["bmin"] = [1, 2]
    del rows[1]["point"]["bmax"]
    rows[2]["point"]["stride"] = 10**400
    files[4].write_text("\n".join([header, *map(json.dumps, rows)]) + "\n")
    assert page_of(files[4]).data["figures"][0]["kind"] == "sweep"


def test_progress_is_told():
    seen = []
    report_text(SET, max_distance=LAST, progress=lambda *state: seen.append(state))
    assert ("waveforms", 3, 3) in seen


@pytest.mark.parametrize(("done", "said"), [(3, "3 of 7: not finished"), (7, "7")])
def test_a_run_that_was_stopped_says_so(done, said):
    spec = TrainSpec(stages=[Stage(None, 64, 640), Stage(None, 128, 1000)], batch_tokens=256).to_dict()
    assert runs._steps(spec, done) == said  # 3 steps of the first stage, 4 of the second
