"""Tables of results, made by hand: which figures stand where, which differences are beyond the noise."""

import csv
import io
import json
import math
import random
import re

import naive
import numpy as np
import pytest

from ropesearch.evaluation.paper import NIAH_BY_STRIDE, NIAH_UNIFORM
from ropesearch.evaluation.results import Results
from ropesearch.evaluation.samples import SampleLog, samples_path
from ropesearch.evaluation.statistics import RESAMPLES, paired_difference, wilson
from ropesearch.evaluation.table import FEWEST, Evaluated, make_tables
from ropesearch.evaluation.table_formats import to_csv, to_json, to_latex, to_markdown

MODEL = "org/model"


def evaluated(scores, suite="niah", name="a.json", model=MODEL, samples=True, **spec):
    """Results and samples of {(scheme, task, length): scores}, each 0 or 1."""
    rows, records = [], []
    for (scheme, task, length), own in scores.items():
        key = {"model": model, "scheme": scheme, "suite": suite, "task": task, "length": length}
        figures = {"accuracy": sum(own) / len(own), "n": len(own), "interval": list(wilson(sum(own), len(own)))}
        rows.append(key | figures)
        records += [key | {"sample": i, "prompt": f"{task}{length}{i}", "score": float(s)} for i, s in enumerate(own)]
    return Evaluated(name, Results({"suite": suite, **spec}, tuple(rows)), records if samples else ())


def perplexities(nats, name="ppl.json", counts=None, model=MODEL):
    """Results of {scheme: nats per token of each document}, two windows a document."""
    rows, records = [], []
    for scheme, own in nats.items():
        key = {"model": model, "scheme": scheme, "suite": "perplexity", "task": "perplexity", "length": 512}
        sizes = counts or [100] * len(own)
        total = sum(x * n for x, n in zip(own, sizes, strict=True))
        rows.append(key | {"perplexity": math.exp(total / sum(sizes)), "n": len(own), "interval": None})
        for i, (x, n) in enumerate(zip(own, sizes, strict=True)):
            for half in (0, 1):  # unequal halves, which make the document together
                part = {"nll": x * n * (0.25 + 0.5 * half), "n": n / 2, "document": f"d{i}"}
                records.append(key | part | {"sample": 2 * i + half, "prompt": f"p{i}{half}"})
    return Evaluated(name, Results({"suite": "perplexity"}, tuple(rows)), records)


def ones(n, of):
    return [1] * n + [0] * (of - n)


def cell(table, label, column):
    (line,) = [line for line in table.lines if line.label == label]
    return line.cells[table.columns.index(column)]


# The paired bootstrap


def test_the_bootstrap_over_tasks_is_that_of_its_slow_twin():
    draw = np.random.default_rng(2)
    tasks = []
    for n in (8, 15, 40):  # few of them, so that ties, uneven counts and small numbers matter
        a = np.column_stack([draw.integers(0, 5, n), draw.integers(4, 6, n)])
        b = np.column_stack([draw.integers(1, 5, n), a[:, 1]])
        tasks.append((a, b))
    value, interval = paired_difference(tasks)
    pairs = [list(zip(a.tolist(), b.tolist(), strict=True)) for a, b in tasks]
    ratios = [b[:, 0].sum() / b[:, 1].sum() - a[:, 0].sum() / a[:, 1].sum() for a, b in tasks]
    assert value == pytest.approx(np.mean(ratios), rel=1e-12)
    expected = naive.bootstrap_mean_difference(pairs, RESAMPLES, random.Random(0))
    np.testing.assert_allclose(interval, expected, atol=0.12 * (expected[1] - expected[0]))


def test_many_equal_answers_take_no_more_than_their_kinds():
    n = 400_000  # as a matrix of draws and questions: 6 GB
    a, b = np.ones((n, 2)), np.ones((n, 2))
    a[: n // 100, 0] = 0
    value, (low, high) = paired_difference([(a, b)])
    assert value == pytest.approx(0.01)
    error = math.sqrt(0.01 * 0.99 / n)
    assert (low, high) == (
        pytest.approx(0.01 - 1.96 * error, abs=error / 3),
        pytest.approx(0.01 + 1.96 * error, abs=error / 3),
    )


def test_one_document_says_nothing_of_others():
    assert paired_difference([([[1, 2]], [[3, 4]])]) == (0.25, (-math.inf, math.inf))


@pytest.mark.parametrize("by", [0.125, 0.1, 0.0])
def test_samples_that_all_differ_equally_say_nothing_of_others(by):
    first = np.array([[0.1 * i, 1 + i] for i in range(8)])
    second = first + [by, 0] * first[:, 1:]
    value, interval = paired_difference([(first, second), (first[:3], second[:3])])
    assert value == pytest.approx(by, abs=1e-15)
    assert interval == (-math.inf, math.inf)
    other = second.copy()
    other[-1, 0] += 0.01
    low, high = paired_difference([(first, second), (first, other)])[1]  # one task has a spread
    assert by - 0.01 < low < high < by + 0.01


# What stands where


def test_lengths_are_columns_and_hold_the_average_over_tasks_with_its_interval():
    scores = {
        (None, "niah_a", 4096): ones(10, 20),
        (None, "niah_b", 4096): ones(20, 20),
        (None, "niah_a", 512): ones(1, 20),
        (None, "niah_b", 512): ones(4, 20),
        ("pi:2", "niah_a", 4096): ones(5, 20),
        ("pi:2", "niah_b", 4096): ones(5, 20),
    }
    (table,), notes = make_tables([evaluated(scores)])
    assert (table.columns, table.about, table.figure) == (("512", "4096"), "average of 2 tasks", "accuracy")
    assert [line.label for line in table.lines] == ["own", "pi:2"]
    both = cell(table, "own", "4096")
    assert (both.value, both.n) == (0.75, 40)
    assert both.interval == pytest.approx(wilson(30, 40), rel=1e-12)
    assert cell(table, "own", "512").value == 0.125
    assert cell(table, "pi:2", "512") is None
    assert notes == []


def test_an_interval_over_tasks_of_unequal_size_is_as_wide_as_the_small_one_makes_it():
    (table,), _ = make_tables([evaluated({(None, "a", 1): ones(5, 10), (None, "b", 1): ones(500, 1000)})])
    found = cell(table, "model", "1")
    half = 1.96 * math.sqrt(0.25 / 10 + 0.25 / 1000) / 2
    assert found.value == 0.5
    assert found.interval[1] - found.value == pytest.approx(half, rel=0.1)


def test_tasks_are_columns_and_their_average_is_over_those_that_all_rows_have():
    scores = {
        (None, "niah_a", 64): ones(10, 20),
        (None, "niah_b", 64): ones(20, 20),
        (None, "niah_c", 64): ones(0, 20),
        ("pi:2", "niah_a", 64): ones(6, 20),
        ("pi:2", "niah_b", 64): ones(8, 20),
        ("pi:2", "niah_a", 128): ones(8, 20),
    }
    tables, notes = make_tables([evaluated(scores)], by_task=True)
    assert [table.about for table in tables] == ["64 tokens", "128 tokens"]
    assert tables[0].columns == ("a", "b", "c", "average")
    assert tables[1].columns == ("a",)
    assert cell(tables[0], "own", "average").value == 0.75
    assert cell(tables[0], "pi:2", "average").value == 0.35
    assert cell(tables[0], "pi:2", "c") is None
    assert notes == ["left out of the average at 64, as some rows lack it: niah_c"]


def test_short_has_tasks_as_columns_without_being_asked():
    (table,), _ = make_tables(
        [evaluated({(None, "mmlu", None): ones(3, 9), (None, "piqa", None): ones(6, 9)}, "short")]
    )
    assert (table.columns, table.about) == (("mmlu", "piqa", "average"), "")
    assert cell(table, "model", "average").value == 0.5


def test_needles_of_all_depths_make_one_figure():
    rows = [
        {"model": MODEL, "scheme": None, "suite": "needle", "task": "needle", "length": 64, "depth": depth}
        | {"accuracy": hits / 5, "n": 5, "interval": list(wilson(hits, 5))}
        for depth, hits in ((0.0, 5), (0.5, 1), (1.0, 3))
    ]
    (table,), _ = make_tables([Evaluated("a.json", Results({}, tuple(rows)))])
    found = cell(table, "model", "64")
    assert (found.value, found.n, found.interval) == (pytest.approx(0.6), 15, pytest.approx(wilson(9, 15)))


def test_the_interval_of_a_single_row_is_its_own():
    rows = [dict(row) for row in evaluated({(None, "recall", 64): ones(3, 9)}, "recall").results.rows]
    rows[0]["interval"] = [0.1, 0.9]
    (table,), _ = make_tables([Evaluated("a.json", Results({}, tuple(rows)))])
    assert cell(table, "model", "64").interval == (0.1, 0.9)


def test_models_in_folders_of_one_name_keep_their_paths():
    a = evaluated({(None, "t", 1): ones(1, 2)}, model="x/model")
    b = evaluated({(None, "t", 1): ones(1, 2)}, model="y/model", name="b.json")
    (table,), _ = make_tables([a, b])
    assert [line.label for line in table.lines] == ["x/model", "y/model"]


# Differences and the best


def test_differences_are_to_the_first_row_or_to_the_one_that_is_named():
    scores = {(None, "t", 1): ones(40, 100), ("pi:2", "t", 1): ones(70, 100), ("abf:5e6", "t", 1): ones(72, 100)}
    (table,), _ = make_tables([evaluated(scores)])
    gain = cell(table, "pi:2", "1").difference
    assert (gain.value, gain.n, gain.differing) == (pytest.approx(0.3), 100, 30)
    # Thirty of a hundred differ, all one way: their number has the binomial's spread.
    assert gain.interval == pytest.approx((0.3 - 1.96 * 0.0458, 0.3 + 1.96 * 0.0458), abs=0.012)
    assert cell(table, "own", "1").difference is None
    (table,), _ = make_tables([evaluated(scores)], versus="pi:2")
    assert cell(table, "own", "1").difference.value == pytest.approx(-0.3)
    assert cell(table, "pi:2", "1").difference is None
    with pytest.raises(ValueError, match=r"`versus` must be one of 'own', 'pi:2', 'abf:5e6', not 'x'"):
        make_tables([evaluated(scores)], versus="x")


@pytest.mark.parametrize(
    ("better", "worse", "best"),
    [
        (12, 0, True),
        (FEWEST, 0, True),
        (FEWEST - 1, 0, False),  # the bootstrap alone would mark it: five heads in a row
        (12, 9, False),  # noise
        (40, 9, True),
    ],
)
def test_the_best_is_marked_only_beyond_the_noise(better, worse, best):
    n = 200
    a = [0] * better + [1] * worse + ones(50, n - better - worse)
    b = [1] * better + [0] * worse + ones(50, n - better - worse)
    scores = {(None, "t", 1): a, ("pi:2", "t", 1): b, ("abf:5e6", "t", 1): [0] * n}
    (table,), _ = make_tables([evaluated(scores)])
    assert [line.cells[0].best for line in table.lines] == [False, best, False]
    if better == FEWEST - 1:
        assert cell(table, "pi:2", "1").difference.interval[0] > 0


def test_pairs_find_a_gain_that_the_two_intervals_hide():
    nats = np.random.default_rng(0).normal(2.5, 0.5, 30)
    (table,), notes = make_tables([perplexities({None: nats, "pi:2": nats - 0.01 - 0.002 * np.arange(30) % 0.01})])
    gain = cell(table, "pi:2", "512").difference
    assert gain.n == 30  # documents, not windows
    assert gain.value == pytest.approx(cell(table, "pi:2", "512").value / cell(table, "own", "512").value - 1)
    assert gain.interval[1] < 0
    assert cell(table, "pi:2", "512").best
    assert not cell(table, "own", "512").best
    assert notes == []


def test_an_average_is_compared_task_by_task():
    scores = {
        (None, "a", 1): ones(20, 100), (None, "b", 1): ones(50, 50),
        ("pi:2", "a", 1): ones(50, 100), ("pi:2", "b", 1): ones(40, 50),
    }  # fmt: skip
    (table,), _ = make_tables([evaluated(scores)])
    gain = cell(table, "pi:2", "1").difference
    assert (gain.value, gain.n, gain.differing) == (pytest.approx((0.3 - 0.2) / 2), 150, 40)
    spread = 1.96 * math.sqrt(0.3 * 0.7 / 100 + 0.2 * 0.8 / 50) / 2
    assert gain.interval == pytest.approx((0.05 - spread, 0.05 + spread), abs=0.015)


def test_without_samples_there_is_no_best_and_a_note_says_why():
    (table,), notes = make_tables(
        [evaluated({(None, "t", 1): ones(0, 99), ("pi:2", "t", 1): ones(99, 99)}, samples=False)]
    )
    assert not any(line.cells[0].best or line.cells[0].difference for line in table.lines)
    assert notes == ["a.json has no samples beside it: no differences of its rows, and no best"]


def other(a, b):
    """Two files of one suite, put together."""
    (table,), notes = make_tables([evaluated({(None, "t", 1): ones(1, 99)}), b])
    return cell(table, b.results.rows[0]["scheme"] or "own", "1"), notes


def test_other_samples_are_never_paired():
    b = evaluated({("pi:2", "t", 1): ones(99, 99)}, name="b.json")
    assert other(None, b)[0].best
    fewer = evaluated({("pi:2", "t", 1): ones(98, 98)}, name="b.json")
    changed = evaluated({("pi:2", "t", 1): ones(99, 99)}, name="b.json")
    changed.records[0]["prompt"] = "of another seed"
    for file in (fewer, changed):
        found, notes = other(None, file)
        assert (found.best, found.difference) == (False, None)
        assert notes == ["own and pi:2 did not read the same samples: no difference of the two"]


def test_samples_that_do_not_make_the_figure_are_left_out():
    b = evaluated({("pi:2", "t", 1): ones(99, 99)}, name="b.json")
    b.records[5]["score"] = 0.0
    found, notes = other(None, b)
    assert (found.value, found.best, found.difference) == (1.0, False, None)
    assert notes[0] == "the samples of pi:2, t at 1, do not make its accuracy: they are left out"


def test_perplexities_of_other_tokens_are_not_compared():
    a = perplexities({None: [2.0] * 9}, model="a")
    b = perplexities({None: [1.0] * 9}, model="b", name="b.json")
    for record in b.records:
        record["prompt"] += "of another tokenizer"
    (table,), notes = make_tables([a, b])
    assert not any(line.cells[0].best for line in table.lines)
    assert notes == ["a and b did not read the same samples: no difference of the two"]


def test_other_settings_are_named():
    a = evaluated({(None, "t", 1): ones(1, 9)}, seed=0, lengths=[1])
    b = evaluated({("pi:2", "t", 2): ones(1, 9)}, seed=1, lengths=[2], name="b.json")
    assert "a.json and b.json have different settings: seed 0 and 1" in make_tables([a, b])[1]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            [evaluated({(None, "t", 1): [1]}), evaluated({(None, "t", 1): [1]}, "ruler", "b.json")],
            "a table is of one suite, and these results are of several: niah (a.json), ruler (b.json)",
        ),
        (
            [evaluated({(None, "t", 1): [1]}), evaluated({(None, "t", 1): [1]}, name="b.json")],
            "a.json and b.json both have model, t at 1: give one of them",
        ),
        ([Evaluated("a.json", Results({}, ()))], "a.json has no rows"),
    ],
)
def test_what_no_table_can_hold(files, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        make_tables(files)


# The paper's rows


@pytest.mark.parametrize("by_task", [False, True])
def test_the_papers_rows_stand_below_and_are_named_so(by_task):
    file = evaluated({(None, "niah_a", 64): ones(3, 9), (None, "niah_b", 64): ones(9, 9)})
    (table,), notes = make_tables([file], by_task=by_task, paper=6)
    assert table.columns[-1] == "average"
    assert table.lines[0].source is None
    printed = {line.label: line.cells[-1].value for line in table.lines[1:]}
    assert printed["paper: peak-valley, stride 30000"] == pytest.approx(0.8682)
    assert sorted(printed.values()) == pytest.approx(
        sorted(x / 100 for x in (*NIAH_BY_STRIDE.values(), *NIAH_UNIFORM.values()))
    )
    assert {line.source for line in table.lines[1:]} == {"HARPE, arXiv:2412.07171, Table 6"}
    assert (table.lines[0].cells[-1] is None) == (not by_task)
    assert len(notes) == 1
    assert "| paper: uniform, descending | – | 85.30 |" in to_markdown([table]).replace("– | – |", "– |")


@pytest.mark.parametrize(("number", "suite"), [(4, "niah"), (0, "niah"), (6, "ruler")])
def test_figures_that_are_not_here(number, suite):
    with pytest.raises(ValueError, match=rf"^`paper={number}`[^\n]*$"):
        make_tables([evaluated({(None, "t", 1): [1]}, suite)], paper=number)


# Formats

NASTY = r"a_b&50%\$#{x}~^<|*[y]"


def table_of_all():
    scores = {(None, "t_1", 64): ones(10, 100), (NASTY, "t_1", 64): ones(90, 100)}
    return make_tables([evaluated(scores)])[0]


def test_csv_has_every_figure():
    lines = list(csv.DictReader(io.StringIO(to_csv(table_of_all()))))
    assert [line["row"] for line in lines] == ["own", NASTY]
    assert [line["best"] for line in lines] == ["", "yes"]
    assert float(lines[1]["value"]) == 0.9
    assert (float(lines[1]["low"]), float(lines[1]["high"])) == pytest.approx(wilson(90, 100))
    assert (lines[1]["versus"], float(lines[1]["difference"])) == ("own", pytest.approx(0.8))
    assert float(lines[1]["difference_low"]) > 0.7


def test_json_has_no_infinity():
    (table,), notes = make_tables([perplexities({None: [2.0], "pi:2": [1.0]})])
    content = json.loads(to_json([table], notes), parse_constant=pytest.fail)
    assert content["tables"][0]["lines"][1]["cells"][0]["difference"]["interval"] == [None, None]
    assert "% of its perplexity" in to_markdown([table])
    assert "| pi:2 | −63.21 |" in to_markdown([table])


def test_markdown_marks_the_best_and_escapes():
    text = to_markdown(table_of_all())
    assert "| own | 10.0 [5.5, 17.4] |" in text
    (row,) = [line for line in text.splitlines() if "**90.0**" in line]
    assert len(re.findall(r"(?<!\\)\|", row)) == 3
    assert re.sub(r"\\(.)", r"\1", row.split(" | **")[0][2:]) == NASTY
    assert "+80.0 [+" in text


def test_latex_is_escaped_and_whole():
    text = to_latex(table_of_all())
    (row,) = [line for line in text.splitlines() if r"\textbf{90.0}" in line]
    label, cells = row.split(" & ")
    assert cells.endswith(r" \\")
    for name, character in {"backslash": "\\", "asciitilde": "~", "asciicircum": "^", "less": "<", "bar": "|"}.items():
        label = label.replace(rf"\text{name}{{}}", {"\\": "BACK"}.get(character, character))
    label = re.sub(r"(?<!\\)[{}]", "", label)  # groups
    assert re.sub(r"\\([&%$#_{}])", r"\1", label).replace("BACK", "\\") == NASTY
    plain = re.sub(r"\\.", "", text)
    assert plain.count("{") == plain.count("}")
    assert not re.search(r"(?<!\\)[_#]", text)
    assert text.count(r"\begin{tabular}{lr}") == text.count(r"\end{tabular}") == 2
    assert "−" not in text


# The command


def save(folder, name, file):
    path = folder / name
    file.results.save(path)
    if file.records:
        SampleLog(samples_path(path), {}).add(file.records)


@pytest.fixture
def run(run, tmp_path):
    scores = {(s, f"niah_multikey_{t}", 64): ones(20 + 30 * (s is None), 60) for s in (None, "pi:2") for t in range(6)}
    save(tmp_path, "niah.json", evaluated(scores))
    save(tmp_path, "ppl.json", perplexities({None: np.linspace(2, 3, 12), "pi:2": np.linspace(2.45, 3.55, 12)}))
    (tmp_path / "cut.json").write_text((tmp_path / "ppl.json").read_text()[:-40])
    return run


def test_the_command_prints_figures_over_intervals_and_then_differences(run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    code, out, err = run("table", "ppl.json")
    assert (code, err) == (0, "")
    figures, differences = out.split("\n\n\n")
    assert figures.startswith("perplexity, with 95 % intervals\n")
    assert f"{math.exp(2.5):.2f}*" in figures
    assert f"+{100 * math.expm1(0.5):.2f}" in differences
    assert out.endswith("\n")


def test_tables_keep_to_the_width_of_the_terminal_and_lose_nothing(run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    code, out, _ = run("table", "niah.json", "--by-task", "--paper", "6")
    assert code == 0
    assert max(map(len, out.splitlines())) <= 80
    for column in [f"multikey_{t}" for t in range(6)]:
        assert out.count(column) == 2
    assert out.count("paper: peak-valley, stride 30000") == 1
    monkeypatch.setenv("COLUMNS", "180")
    assert run("table", "niah.json", "--by-task")[1].count("pi:2") < out.count("pi:2")


def test_every_format_is_printed_and_written(run):
    for name in ("md", "csv", "tex", "json"):
        code, out, _ = run("table", "niah.json", "--format", name)
        assert code == 0
        assert run("table", "niah.json", "-o", f"x.{name}")[0] == 0
        with open(f"x.{name}", encoding="utf-8") as file:
            assert file.read() == out
    assert run("table", "niah.json", "--csv")[1] == run("table", "niah.json", "--format", "csv")[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["cut.json"], "cut.json is not a results file: it is not JSON, or it is cut off"),
        (["nowhere.json"], "nowhere.json cannot be read: No such file"),
        (
            ["niah.json", "ppl.json"],
            "a table is of one suite, and these results are of several: niah (niah.json), perp",
        ),
        (["niah.json", "./niah.json"], "niah.json and ./niah.json both have"),
        (["niah.json", "--paper", "4"], "--paper 4: the figures of that table are not in this version"),
        (["ppl.json", "--paper", "6"], "--paper 6 is a table of niah, and the results are of 'perplexity'"),
        (["niah.json", "--versus", "yarn:8"], "--versus must be one of 'own', 'pi:2', not 'yarn:8'"),
        (["niah.json", "--format", "html"], "--format must be one of md, csv, tex, json, not 'html'"),
        (["niah.json", "--format", "md", "--csv"], "--format md and --csv ask for two formats"),
        (["niah.json", "--format", "md", "-o", "x.tex"], "--format md and --output x.tex ask for two formats"),
        ([], "Missing argument 'RESULTS...'"),
    ],
)
def test_bad_input_is_one_line(run, arguments, message):
    code, out, err = run("table", *arguments)
    assert (code, out) == (2, "")
    assert err.startswith(f"Error: {message}")
    assert err.count("\n") == 1
