import csv
import inspect
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import click
import numpy as np
import pytest
from ropesearch.cli.main import cli
from ropesearch.plots.coverage import plot_coverage
from ropesearch.plots.style import save_figure

import ropesearch
from ropesearch import BaseSet, decay_bound, find_extrema, parse_scheme, search_bases, to_csv, uniform_bases, waveform
from ropesearch.core.presets import PRESETS
from ropesearch.core.spec import EXTREMA_RULES, MATCHINGS, ORDERS, STRATEGIES

ROOT = Path(__file__).parent.parent
GRID = ["--bmin", "10000", "--bmax", "30000", "--stride", "1000"]
SMALL = [*GRID, "--heads", "8", "--head-dim", "32", "--max-distance", "2000"]


def all_commands(group=cli, names=()):
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from all_commands(command, (*names, name))
        else:
            yield (*names, name), command


COMMANDS = dict(all_commands())


def test_search_writes_the_file_and_prints_a_table(run):
    code, out, err = run("search", *SMALL, "-o", "bases.json")
    assert code == 0
    assert err == "wrote bases.json\n"
    expected = search_bases(10000, 30000, 1000, 8, head_dim=32, max_distance=2000)
    assert BaseSet.load("bases.json") == expected
    printed = re.findall(r"│ +\d+ │ +\d+ │ +(\d+) │", out)
    assert [float(base) for base in printed] == list(expected.bases)


def test_search_json_is_the_file_and_nothing_else(run):
    code, out, err = run("search", *SMALL, "--json", "-o", "bases.json", "--quiet")
    assert (code, err) == (0, "")
    assert out == Path("bases.json").read_text()


def test_the_command_in_the_file_repeats_it(run):
    run("search", *SMALL, "-o", "one.json", "--matching", "distance", "--normalize", "--order", "descending")
    command = BaseSet.load("one.json").made_by["command"].split()
    assert command[0] == "ropesearch"
    code, out, _ = run(*command[1:], "--json")
    assert code == 0
    assert out == Path("one.json").read_text()


def test_presets(run):
    for name, options in PRESETS.items():
        code, out, _ = run("search", "--preset", name, "--json")
        assert code == 0
        assert BaseSet.from_json(out) == search_bases(**options)
    code, out, _ = run("search", "--preset", "table2", "--heads", 4, "--json")
    assert BaseSet.from_json(out) == search_bases(1e6, 5e6, 30000, 4)


def test_uniform_needs_no_stride(run):
    code, out, _ = run("search", "--strategy", "uniform", "--bmin", 1e6, "--bmax", 5e6, "--heads", 5, "--json")
    assert code == 0
    assert BaseSet.from_json(out) == uniform_bases(1e6, 5e6, 5)


def test_model_config(run, tmp_path):
    config = {"model_type": "llama", "hidden_size": 512, "num_attention_heads": 16, "num_key_value_heads": 4}
    (tmp_path / "config.json").write_text(json.dumps(config))
    grid = [*GRID, "--max-distance", 2000]
    code, out, _ = run("search", *grid, "--model-config", ".", "--json")
    assert code == 0
    assert BaseSet.from_json(out) == search_bases(10000, 30000, 1000, 16, kv_heads=4, head_dim=32, max_distance=2000)
    by_hand = run("search", *grid, "--model-config", "config.json", "--head-dim", 16, "--kv-heads", 2, "--json")[1]
    assert BaseSet.from_json(by_hand) == search_bases(
        10000, 30000, 1000, 16, kv_heads=2, head_dim=16, max_distance=2000
    )
    # The model's KV heads go with the model's heads, and its shape goes before the preset's.
    other = BaseSet.from_json(run("search", *grid, "--model-config", ".", "--heads", 6, "--json")[1])
    assert (other.heads, other.kv_heads, other.head_dim) == (6, 6, 32)
    preset = ["--preset", "attention-buckets", "--model-config", ".", "--stride", 1000, "--json"]
    both = BaseSet.from_json(run("search", *preset)[1])
    assert (both.heads, both.kv_heads, both.head_dim, both.parameters["bmax"]) == (16, 4, 32, 30000)


def test_show_and_export(run):
    run("search", *SMALL, "-o", "bases.json")
    text = Path("bases.json").read_text()
    code, out, err = run("show", "bases.json")
    assert (code, err) == (0, "")
    assert "peak-valley: 8 heads, head_dim 32" in out
    assert run("show", "bases.json", "--json") == (0, text, "")
    base_set = BaseSet.load("bases.json")
    assert run("export", "bases.json") == (0, ropesearch.to_markdown(base_set), "")
    assert run("export", "bases.json", "--format", "csv") == (0, ropesearch.to_csv(base_set), "")
    assert run("export", "bases.json", "-o", "a.npz", "--dtype", "float64") == (0, "", "wrote a.npz\n")
    np.testing.assert_array_equal(np.load("a.npz")["inv_freq"], base_set.inv_freq())


def test_coverage(run):
    run("search", *SMALL, "-o", "bases.json")
    assert BaseSet.load("bases.json").coverage_figures == {}
    code, out, _ = run("show", "bases.json", "--coverage", "--max-distance", 3000)
    figures = BaseSet.load("bases.json").coverage(3000)
    assert code == 0
    assert f"{figures.floor:.4f} at distance {figures.floor_distance}" in out
    run("search", *SMALL, "-o", "covered.json", "--coverage")
    covered = BaseSet.load("covered.json")
    assert covered.coverage_figures == covered.coverage(2000).to_dict()
    assert "floor of the best head" in run("show", "covered.json")[1]
    Path("odd.json").write_text(Path("covered.json").read_text().replace('"floor":', '"ceiling":'))
    code, out, err = run("show", "odd.json")
    assert (code, err) == (2, "Error: the coverage in the file lacks figures; --coverage computes it again\n")


def test_waveform(run):
    window = ["--head-dim", 32, "--min-distance", 10, "--max-distance", 5000]
    expected = [waveform(b, 32, 5000, min_distance=10) for b in (10000, 50000.5)]
    code, out, err = run("waveform", "10000", "50000.5", *window)
    assert (code, err) == (0, "")
    assert out.splitlines()[0] == "distance,10000,50000.5"
    table = np.loadtxt(io.StringIO(out), delimiter=",", skiprows=1)
    np.testing.assert_array_equal(table[:, 0], np.arange(10, 5001))
    np.testing.assert_array_equal(table[:, 1:].T, expected)
    parsed = json.loads(run("waveform", "10000", "50000.5", *window, "--json")[1])
    assert list(parsed) == ["curve", "head_dim", "bases", "schemes", "min_distance", "max_distance", "values"]
    assert parsed["bases"] == [10000, 50000.5]
    np.testing.assert_array_equal(parsed["values"], expected)
    assert run("waveform", "10000", "50000.5", *window, "-o", "w.npz") == (0, "", "wrote w.npz\n")
    arrays = np.load("w.npz")
    np.testing.assert_array_equal(arrays["values"], expected)
    np.testing.assert_array_equal(arrays["distances"], np.arange(10, 5001))
    bound = json.loads(run("waveform", "10000", *window, "--decay-bound", "--json")[1])
    np.testing.assert_array_equal(bound["values"], [decay_bound(10000, 32, 5000, min_distance=10)])
    assert bound["curve"] == "decay_bound"


def test_waveform_and_extrema_of_a_base_set_file(run):
    run("search", *SMALL, "-o", "bases.json")
    base_set = BaseSet.load("bases.json")
    parsed = json.loads(run("waveform", "bases.json", "--max-distance", 100, "--json")[1])
    assert parsed["bases"] == list(base_set.bases)
    assert parsed["head_dim"] == 32
    parsed = json.loads(run("extrema", "bases.json", "500", "--max-distance", 2000, "--json")[1])
    assert [each["base"] for each in parsed] == [*base_set.bases, 500]


@pytest.mark.parametrize("rule", [{}, {"count": 3, "gap": 10}, {"extrema": "local", "prominence": 0.5}])
def test_extrema(run, rule):
    options = [word for name, value in rule.items() for word in (f"--{name}", value)]
    found = find_extrema(waveform(10000, 64, 3000, min_distance=1000), min_distance=1000, **rule)
    code, out, err = run("extrema", "10000", "--head-dim", 64, "--max-distance", 3000, *options)
    assert (code, err) == (0, "")
    lines = [line.split(",") for line in out.splitlines()]
    assert lines[0] == ["base", "kind", "distance", "value"]
    assert [int(m) for _, kind, m, _ in lines[1:] if kind == "peak"] == found.peaks.tolist()
    assert [int(m) for _, kind, m, _ in lines[1:] if kind == "valley"] == found.valleys.tolist()
    assert [float(v) for _, _, _, v in lines[1:]] == [*found.peak_values, *found.valley_values]
    assert run("extrema", "10000", "-o", "e.json")[0] == 0
    assert json.loads(Path("e.json").read_text())[0]["base"] == 10000


def test_schemes(run):
    window = ["--max-distance", 1500]
    specs = ["yarn:32", "self-extend:64,group=4", "uniform"]
    flags = [word for spec in specs for word in ("--scheme", spec)]
    expected = np.concatenate([parse_scheme(spec).waveforms(1500) for spec in specs])
    parsed = json.loads(run("waveform", "1e4", *flags, *window, "--json")[1])
    assert parsed["bases"] == [10000]
    assert parsed["schemes"] == [*specs[:2], *(f"uniform[{i}]" for i in range(32))]
    np.testing.assert_array_equal(parsed["values"][1:], expected)
    header = run("waveform", *flags[:4], *window)[1].splitlines()[0]
    assert header == 'distance,yarn:32,"self-extend:64,group=4"'
    bounds = json.loads(run("waveform", "--scheme", "pi:4", *window, "--decay-bound", "--json")[1])
    np.testing.assert_array_equal(bounds["values"], parse_scheme("pi:4").decay_bounds(1500))
    found = find_extrema(parse_scheme("yarn:32").waveforms(1500, min_distance=1000)[0], min_distance=1000)
    (entry,) = json.loads(run("extrema", "--scheme", "yarn:32", *window, "--json")[1])
    assert (entry["scheme"], entry["peaks"]) == ("yarn:32", found.peaks.tolist())
    assert run("plot", "coverage", "--scheme", specs[1], "-o", "c.svg", *window)[0] == 0
    assert "between the two distances seen" in Path("c.svg").read_text()


def test_compare(run):
    run("search", *GRID, "--heads", 4, "--max-distance", 2000, "-o", "bases.json")
    names = ["bases.json", "table2", "attention-buckets", "yarn:32"]
    code, out, err = run("compare", *names[:3], "--scheme", names[3], "--max-distance", 9000, "--json")
    assert (code, err) == (0, "")
    lines = json.loads(out)
    assert [(line["name"], line["bases"]) for line in lines] == list(zip(names, [4, 32, 6, 1], strict=True))
    assert lines[0] == {"name": "bases.json", "bases": 4, **BaseSet.load("bases.json").coverage(9000).to_dict()}
    assert lines[3] == {"name": "yarn:32", "bases": 1, **parse_scheme("yarn:32").coverage(9000).to_dict()}
    rows = list(csv.DictReader(io.StringIO(run("compare", *names, "--max-distance", 9000, "--csv")[1])))
    assert [float(row["floor"]) for row in rows] == [line["floor"] for line in lines]
    table = run("compare", *names, "--max-distance", 9000)[1].splitlines()
    for key, best in (("floor", max), ("mean", max), ("ripple", min)):
        winner = best(lines, key=lambda line: line[key])
        (row,) = [line for line in table if line.strip().startswith(f"{winner['name']} ")]
        assert f"{winner[key]:.{5 if key == 'ripple' else 4}f}*" in row
    assert run("compare", "table2", "--max-distance", 100, "-o", "c.csv") == (0, "", "wrote c.csv\n")


def test_a_comparison_says_that_it_finds_peaks_by_the_default_rule(run):
    base_set = search_bases(10000, 30000, 1000, 4, max_distance=2000, extrema="local")
    base_set.save("bases.json")
    (line,) = ropesearch.compare(["bases.json"], 9000)
    by_own_rule = base_set.coverage(9000).valleys_on_peaks
    by_default = ropesearch.Scheme.of(base_set).coverage(9000).valleys_on_peaks
    assert line.coverage.valleys_on_peaks == by_default != by_own_rule
    out = run("compare", "bases.json", "uniform", "--max-distance", 9000)[1]
    assert f" {line.figures['valleys_on_peaks']:.1%}" in out
    assert "peaks and valleys are those of the default rule" in out
    assert f"{np.mean(by_own_rule):.1%}" in run("show", "bases.json", "--coverage", "--max-distance", 9000)[1]


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ([], ""),
        (["--heads", "32", "--head-dim", "128", "--kv-heads", "32"], ""),
        (
            ["--max-distance", "100k"],
            "--max-distance departs from the preset table2: these are no longer the options of",
        ),
        (
            ["--bmin", "2m", "--order", "descending"],
            "--bmin and --order depart from the preset table2: these are no longer",
        ),
    ],
)
def test_a_preset_changed_by_hand_says_so(run, args, said):
    code, _, err = run("search", "--preset", "table2", *args)
    assert code == 0
    assert err.startswith(f"note: {said}") if said else err == ""


def test_messages_blame_what_was_given(run):
    for command in (["search", "--preset", "table2"], ["extrema", "1e4"]):
        code, out, err = run(*command, "--max-distance", "500")
        line = "Error: --max-distance must be greater than --min-distance, 1000, not 500\n"
        assert (code, out, err) == (2, "", line)
    Path("llama.json").write_text('{"model_type": "llama"}')
    assert run("show", "llama.json")[2].endswith("; it looks like a model's config\n")


def test_sets_of_one_base_stand_apart(run):
    out = run("compare", "abf:5e6", "table2", "uniform", "yarn:32", "--max-distance", "9k")[1]
    lines = [line.split() for line in out.splitlines()]
    names = [line[0] if line else "" for line in lines[2:7]]
    assert names == ["table2", "uniform", "", "abf:5e6", "yarn:32"]
    assert "no contest" in out
    for line in (lines[5], lines[6]):
        assert line[-1] == "–"  # no other head to lie on
    assert "distances 1 to 9216" in out
    assert (
        sum(cell.endswith("*") for cell in lines[2] + lines[3]) == sum(c.endswith("*") for c in lines[5] + lines[6]) + 1
    )
    assert "no contest" not in run("compare", "table2", "uniform", "--max-distance", 900)[1]
    assert "*" not in "".join(run("compare", "table2", "--max-distance", 900)[1].splitlines()[1:])  # nothing to beat


def test_names_go_wherever_a_file_of_bases_does(run):
    base_set = search_bases(**PRESETS["table2"])
    assert run("show", "table2", "--csv")[1] == run("export", "table2", "--csv")[1] == to_csv(base_set)
    made = json.loads(run("export", "uniform:1m..5m,heads=8,kv_heads=4", "--json")[1])
    assert (made["heads"], made["kv_heads"], made["bases"][-1]) == (8, 4, 5e6)
    assert run("waveform", "uniform:10k..20k,heads=3", "500k", "--max-distance", 2)[1].splitlines()[0] == (
        "distance,10000,15000,20000,500000"
    )
    for name in ("table2", "uniform"):
        assert run("plot", "coverage", name, "-o", f"{name}.svg", "--max-distance", "2k")[0] == 0
    code, out, err = run("show", "yarn:32")
    line = "yarn:32 is more than bases: it changes frequencies or distances, which a base set cannot hold"
    assert (code, out, err) == (2, "", f"Error: {line}\n")


def test_a_table_for_latex(run):
    assert run("export", "uniform:1e6..3e6,heads=2", "-o", "table.tex") == (0, "", "wrote table.tex\n")
    lines = Path("table.tex").read_text().splitlines()
    assert lines[0] == r"\begin{tabular}{rrrrr}"
    assert lines[4:6] == [r"0 & 0 & 1000000 & 1 & 5063256 \\", r"1 & 1 & 3000000 & 2 & 14931248 \\"]
    assert lines[-1] == r"\end{tabular}"


@pytest.mark.parametrize("columns", [80, 40])
def test_tables_fit_and_hide_nothing(run, monkeypatch, columns):
    monkeypatch.setattr("ropesearch.cli.tables.PIPE_WIDTH", columns)
    monkeypatch.setenv("COLUMNS", str(columns))
    for args in (
        ["show", "table2"],
        ["compare", "table2", "uniform:1000000..5000000", "abf:5e6", "--max-distance", 9000],
    ):
        out = run(*args)[1]
        assert max(map(len, out.splitlines())) <= columns
        assert "…" not in out


def test_a_sweep_fits_80_columns(run, monkeypatch):
    monkeypatch.setattr("ropesearch.search.workers.ProcessPoolExecutor", lambda n, **_: ThreadPoolExecutor(n))
    monkeypatch.setattr("ropesearch.cli.tables.PIPE_WIDTH", 80)
    monkeypatch.setenv("COLUMNS", "80")
    lists = ["--bmins", "10k", "--bmaxs", "30k,40k", "--strides", "1000,2000.5", "--heads", "3,4", "--head-dim", 16]
    options = [*lists, "--max-distance", "10k", "--strategy", "peak-valley,ripple", "--workers", 1, "-o", "s.jsonl"]
    out = run("sweep", *options, "--quiet")[1]
    assert max(map(len, out.splitlines())) <= 80
    assert "…" not in out
    assert "2000.5" in out


def test_plot_coverage(run):
    run("search", *SMALL, "-o", "bases.json", "--plot", "search.png")
    base_set = BaseSet.load("bases.json")
    save_figure(plot_coverage(base_set, 2000), "expected.png")
    assert Path("search.png").read_bytes() == Path("expected.png").read_bytes()
    for suffix, start in (("svg", b"<?xml"), ("pdf", b"%PDF"), ("png", b"\x89PNG")):
        code, out, err = run("plot", "coverage", "bases.json", "-o", f"c.{suffix}", "--max-distance", 3000)
        assert (code, out, err) == (0, "", f"wrote c.{suffix}\n")
        save_figure(plot_coverage(base_set, 3000), f"expected-c.{suffix}")
        content = Path(f"c.{suffix}").read_bytes()
        assert content.startswith(start)
        assert content == Path(f"expected-c.{suffix}").read_bytes()


NEEDED = ["--bmin", "1e6", "--bmax", "5e6", "--stride", "30000", "--heads", "32"]


@pytest.mark.parametrize(
    ("args", "line"),
    [
        (["search"], "--bmin, --bmax, --heads and --stride must be given"),
        (["search", *NEEDED, "--bmin", "1"], "--bmin must be a finite number above 1, not 1"),
        (["search", *NEEDED, "--bmin", "nan"], "--bmin must be a finite number above 1, not nan"),
        (["search", *NEEDED, "--bmax", "inf"], "--bmax must be a finite number above 1, not inf"),
        (["search", *NEEDED, "--bmin", "abc"], "Invalid value for '--bmin': 'abc' is not a valid float."),
        (["search", *NEEDED, "--bmax", "1e5"], "--bmax must be greater than --bmin, 1000000, not 100000"),
        (["search", *NEEDED, "--stride", "0"], "--stride must be a finite number above 0, not 0"),
        (
            ["search", *NEEDED, "--stride", "5e6"],
            "--stride must be at most the width of the range, 4000000",
        ),
        (
            ["search", *NEEDED, "--heads", "200"],
            "--heads must be at most 134, because --stride 30000 gives 133 candidates besides --bmin"
            " (a stride of 20100 is narrow enough), not 200",
        ),
        (["search", *NEEDED, "--heads", "3.5"], "Invalid value for '--heads': '3.5' is not a valid integer."),
        (["search", *NEEDED, "--kv-heads", "5"], "--kv-heads must be a divisor of the 32 heads, not 5"),
        (["search", *NEEDED, "--head-dim", "127"], "--head-dim must be even, not 127"),
        (["search", *NEEDED, "--head-dim", "0"], "--head-dim must be an integer of at least 2, not 0"),
        (["search", *NEEDED, "--min-distance", "200000"], "--min-distance must be less than --max-distance, 131072"),
        (["search", *NEEDED, "--min-distance", "-1"], "--min-distance must be an integer of at least 0, not -1"),
        (["search", *NEEDED, "--max-distance", "1001"], "--bmin 1000000 has no peak and no valley"),
        (["search", *NEEDED, "--count", "0"], "--count must be an integer of at least 1, not 0"),
        (["search", *NEEDED, "--gap", "-1"], "--gap must be an integer of at least 0, not -1"),
        (["search", *NEEDED, "--look-ahead", "0"], "--look-ahead must be an integer of at least 1, not 0"),
        (["search", *NEEDED, "--tolerance", "-1"], "--tolerance must be an integer of at least 0, not -1"),
        (["search", *NEEDED, "--tolerance", "9" * 30], "--tolerance must be at most 2147483647"),
        (["search", *NEEDED, "--prominence", "-1"], "--prominence must be a finite number of at least 0, not -1"),
        (
            ["search", *NEEDED, "--strategy", "best"],
            "--strategy must be one of peak-valley, uniform, floor",
        ),
        (
            ["search", *NEEDED, "--strategy", "rippel"],
            "--strategy must be one of peak-valley, uniform, floor, ripple, not 'rippel'; did you mean ripple?",
        ),
        (
            ["search", *NEEDED, "--strategy", "ripple", "--max-distance", "8191"],
            "--max-distance must be an integer of at",
        ),
        (
            ["search", "--preset", "table3"],
            "--preset must be one of table2, attention-buckets, not 'table3'; did",
        ),
        (["search", "--model-config", "nowhere"], "nowhere cannot be read: No such file or directory"),
        (["search", "--model-config", "gpt2.json"], "gpt2.json: a model of type 'gpt2' has no rotary"),
        (["search", "--model-config", "cut.json"], "cut.json is not JSON"),
        (["search", *NEEDED, "-o", "here.json", "--plot", "a.txt"], "the suffix of the figure must be one of .png"),
        (
            ["search", *NEEDED, "-o", "a.png", "--plot", "./a.png"],
            "--output must be a .json file, not 'a.png'",
        ),
        (["search", *NEEDED, "surplus"], "Got unexpected extra argument (surplus)"),
        (["search", *NEEDED, "--nonsense"], "No such option"),
        (["show", "nowhere.json"], "nowhere.json cannot be read: No such file or directory"),
        (["show", "."], ". cannot be read: Is a directory"),
        (["show", "cut.json"], "cut.json is not a usable base-set file: it is not JSON, or it is cut off"),
        (["show", "gpt2.json"], "gpt2.json is not a usable base-set file: its format must be"),
        (
            ["export", "good.json", "-o", "a.txt"],
            "--output must be a .json, .csv, .md, .tex, .safetensors, .npz or .pt file, not 'a.txt'",
        ),
        (
            ["export", "table2", "-o", "a.gguf"],
            "no .gguf file can hold a base per head: llama.cpp takes one table of frequency factors for all heads of a",
        ),
        (
            ["export", "good.json", "-o", "a.npz", "--dtype", "int8"],
            "--dtype must be one of float32, float64",
        ),
        (["waveform"], "BASES must be given: numbers or base-set files, or position schemes by --scheme"),
        (["waveform", "--scheme", "yarm:32"], "unknown position scheme 'yarm'; known are rope, pi, "),
        (["waveform", "--scheme", "yarn"], "scheme 'yarn': a factor is missing"),
        (["extrema", "--scheme", "pi:0.5"], "scheme 'pi:0.5': factor must be a number of at least 1, not 0.5"),
        (["plot", "coverage", "-o", "a.png"], "either BASES or --scheme must be given"),
        (
            ["plot", "coverage", "good.json", "--scheme", "pi:2", "-o", "a.png"],
            "either BASES or --scheme must be given",
        ),
        (["compare"], "NAMES must be given: base-set files, presets or position schemes"),
        (["compare", "tabel2"], "'tabel2' is not a file, a preset or a position scheme (table2, att"),
        (
            ["compare", "good.json", "rope:1e4,head_dim=64"],
            "all sets and schemes must have the same head_dim, not good.json",
        ),
        (["compare", "harpe:nowhere.json"], "nowhere.json cannot be read: No such file or directory"),
        (["compare", "table2", "--max-distance", "0"], "--max-distance must be an integer of at least 1, not 0"),
        (["compare", "table2", "-o", "a.txt"], "--output must be a .csv or .json file, not 'a.txt'"),
        (
            ["waveform", "good.json", "other.json"],
            "the base-set files differ in head_dim (good.json 128,",
        ),
        (["waveform", "1"], "BASES must be a finite number above 1, not 1"),
        (["waveform", "nan"], "BASES must be a finite number above 1, not nan"),
        (["waveform", "1e4", "-o", "a.txt"], "--output must be a .csv, .json or .npz file, not 'a.txt'"),
        (["waveform", "1e4", "--head-dim", "3"], "--head-dim must be even, not 3"),
        (["waveform", "1e4", "--max-distance", "0"], "--max-distance must be an integer of at least 1, not 0"),
        (["waveform", "tenthousand"], "'tenthousand' is neither a number nor a file, a preset or"),
        (["extrema", "1e4", "--extrema", "all"], "--extrema must be one of dominant, local, not 'all'"),
        (["extrema", "1e4", "--level-tolerance", "nan"], "--level-tolerance must be a finite number of at least 0"),
        (["plot", "coverage", "good.json"], "Missing option '-o' / '--output'."),
        (["plot", "coverage", "good.json", "-o", "a.gif"], "the suffix of the figure must be one of .png, .svg, .pdf"),
        (["plot", "coverage", "good.json", "-o", "a.png", "--max-distance", "1"], "--max-distance must be an integer"),
        (["nonsense"], "No such command 'nonsense'."),
    ],
)
def test_wrong_input_is_exit_2_one_line_and_nothing_written(run, tmp_path, args, line):
    uniform_bases(1e4, 2e4, 2).save("good.json")
    uniform_bases(1e4, 2e4, 2, head_dim=64).save("other.json")
    Path("gpt2.json").write_text('{"model_type": "gpt2"}')
    Path("cut.json").write_text('{"model_type": "lla')
    before = sorted(tmp_path.iterdir())
    code, out, err = run(*args)
    assert (code, out) == (2, "")
    assert err.startswith(f"Error: {line}")
    assert err.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    "command",
    [
        ["search", *SMALL, "-o"],
        ["search", *SMALL, "--plot"],
        ["export", "good.json", "-o"],
        ["waveform", "1e4", "--max-distance", "9", "-o"],
        ["extrema", "1e4", "--max-distance", "2000", "-o"],
        ["compare", "good.json", "--max-distance", "900", "-o"],
        ["plot", "coverage", "good.json", "--max-distance", "900", "-o"],
    ],
)
def test_outputs_that_cannot_be_written_are_exit_1_before_the_work(run, tmp_path, monkeypatch, command):
    uniform_bases(1e4, 2e4, 2).save("good.json")
    suffix = "png" if command[0] == "plot" or command[-1] == "--plot" else "json"
    (tmp_path / f"there.{suffix}").write_text("precious")
    before = sorted(tmp_path.iterdir())
    with monkeypatch.context() as patch:
        patch.setattr("ropesearch.search.run.find_landmarks", lambda *_, **__: pytest.fail("the work was begun"))
        for name, line in [
            (f"there.{suffix}", f"there.{suffix} already exists; --overwrite replaces it"),
            (f"nowhere/a.{suffix}", f"the folder nowhere for a.{suffix} does not exist"),
            (f"good.json/a.{suffix}", "good.json is not a folder"),
        ]:
            code, out, err = run(*command, name)
            assert (code, out, err) == (1, "", f"Error: {line}\n")
    assert (tmp_path / f"there.{suffix}").read_text() == "precious"
    assert sorted(tmp_path.iterdir()) == before
    assert run(*command, f"there.{suffix}", "--overwrite")[0] == 0
    assert (tmp_path / f"there.{suffix}").read_bytes() != b"precious"


def test_too_large_is_exit_1_and_says_how_much_it_needs(run, monkeypatch):
    monkeypatch.setattr("ropesearch.core.machine.available_memory", lambda: 10**9)
    huge = ["--max-distance", 2147483647]
    for args in (["search", *NEEDED, *huge], ["waveform", "1e4", *huge], ["extrema", "1e4", *huge]):
        code, out, err = run(*args)
        assert (code, out) == (1, "")
        assert re.fullmatch(r"Error: .* needs [\d.]+ GB of memory, but only 1 GB is free\n", err)


def test_a_missing_extra_is_exit_1(run, monkeypatch):
    uniform_bases(1e4, 2e4, 2).save("good.json")
    monkeypatch.setitem(sys.modules, "torch", None)
    assert run("export", "good.json", "-o", "a.pt") == (
        1,
        "",
        "Error: a .pt file needs torch: pip install 'ropesearch[torch]'\n",
    )


def test_an_interrupt_is_exit_130_and_leaves_nothing(run, tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("ropesearch.search.run.choose", interrupted)
    assert run("search", *SMALL, "-o", "bases.json") == (130, "", "\nInterrupted.\n")
    assert list(tmp_path.iterdir()) == []


def test_a_signal_in_the_middle_of_the_work(tmp_path):
    code = "import sys; from ropesearch.cli import main, progress; progress.LINES_AFTER = 0.5; sys.exit(main())"
    command = [sys.executable, "-P", "-c", code, "search", "-o", "bases.json", *NEEDED]
    command += ["--stride", "100", "--max-distance", "1048576"]
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        # A shell's background job, as this suite may be one, starts with the signal ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stderr.readline().startswith("waveforms and extrema: ")  # it is at work
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert out == ""
    assert err.splitlines()[-1] == "Interrupted."
    assert list(tmp_path.iterdir()) == []


def test_a_reader_that_goes_away(tmp_path):
    process = subprocess.run(
        f"'{sys.executable}' -P -m ropesearch waveform 1e4 --quiet | head -n 2",
        shell=True, cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert process.stdout.startswith("distance,10000\n0,")
    assert process.stderr == ""


def test_options_without_effect_are_noted(run):
    code, plain, _ = run("search", *SMALL, "--json")
    code, out, err = run("search", *SMALL, "--json", "--normalize", "--prominence", 1, "--count", 30)
    assert (code, out) == (0, plain)
    assert err.splitlines() == [
        "note: --prominence has no effect unless --extrema is local",
        "note: --normalize has no effect unless --matching is distance",
    ]
    err = run("search", *SMALL, "--strategy", "uniform", "--count", 30, "--matching", "distance", "--json")[2]
    assert err.splitlines() == [
        "note: --matching has no effect unless --strategy is peak-valley",
        "note: --count has no effect unless --strategy is peak-valley",
    ]
    err = run("extrema", "1e4", "--max-distance", 1100, "--extrema", "local", "--gap", 5)[2]
    assert err == "note: --gap has no effect unless --extrema is dominant\n"


def test_progress_of_long_work_is_on_stderr(run, monkeypatch):
    monkeypatch.setattr("ropesearch.cli.progress.LINES_AFTER", 5)
    clock = iter(range(0, 10**6, 2))
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    code, out, err = run("search", *SMALL, "--json")
    assert code == 0
    BaseSet.from_json(out)
    found = re.findall(r"^waveforms and extrema: (\d+) % \((\d+) of 21\), \d+ s (?:left|in all)$", err, re.MULTILINE)
    assert found[0] == ("19", "4")  # 6 s after the first
    assert [int(percent) // 10 for percent, _ in found] == list(range(1, 11))
    assert run("search", *SMALL, "--json", "--quiet") == (0, out, "")


def test_defaults_are_those_of_the_library():
    of_search = COMMANDS["search",].make_context("search", []).params
    surplus = {"model_config", "preset", "output", "plot", "as_json", "coverage", "overwrite", "quiet", "order_by"}
    surplus |= {"by_layer"}
    required = {"bmin": None, "bmax": None, "stride": None, "heads": None}
    assert {k: v for k, v in of_search.items() if k not in surplus} == required | defaults_of(search_bases, "progress")
    of_extrema = COMMANDS["extrema",].make_context("extrema", ["1e4"]).params
    expected = defaults_of(find_extrema, "min_distance")
    assert {name: of_extrema[name] for name in expected} == expected


def defaults_of(function, *but):
    return {
        name: parameter.default
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.default is not parameter.empty and name not in but
    }


def test_help_names_every_choice():
    text = {p.name: p.help for p in COMMANDS["search",].params}
    for name, choices in [
        ("strategy", STRATEGIES),
        ("extrema", EXTREMA_RULES),
        ("matching", MATCHINGS),
        ("order", ORDERS),
        ("preset", PRESETS),
    ]:
        for choice in choices:
            assert choice in text[name]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_option_has_help(name):
    command = COMMANDS[name]
    assert command.help
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, f"{' '.join(name)} {parameter.opts[0]}"


def test_help_version_and_groups(run):
    code, out, err = run("--help")
    assert (code, err) == (0, "")
    for name in cli.commands:
        assert f"  {name} " in out
    assert run("--version") == (0, f"ropesearch, version {ropesearch.__version__}\n", "")
    for args in ([], ["plot"]):
        code, out, err = run(*args)
        assert (code, out) == (2, "")
        assert err.startswith("Usage: ropesearch")


def test_help_loads_nothing_heavy():
    code = "import sys; from ropesearch.cli import main; main(['search', '--help']); print(*sys.modules)"
    out = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True).stdout
    loaded = set(out.splitlines()[-1].split())
    assert not loaded & {"numpy", "numba", "scipy", "matplotlib", "rich", "torch", "safetensors"}


def test_the_command_is_installed(tmp_path):
    beside = Path(sys.executable).with_name("ropesearch")
    out = subprocess.run([beside, "--version"], capture_output=True, text=True, check=True, cwd=tmp_path).stdout
    assert out == f"ropesearch, version {ropesearch.__version__}\n"
    assert os.access(beside, os.X_OK)
