"""Where results go: the rules in ropesearch/cli/output.py, held for every command that prints."""

import csv
import io
import json
import os
import subprocess
import sys
import tempfile
from concurrent.futures import BrokenExecutor, ThreadPoolExecutor
from pathlib import Path

import click
import pytest
from ropesearch.cli.errors import Command, with_flags
from ropesearch.cli.main import cli
from ropesearch.cli.tables import of_comparison

from ropesearch import BaseSet, search_bases, to_csv, to_markdown, uniform_bases
from ropesearch.core.errors import InputError, ParameterError
from ropesearch.evaluation.results import Results
from ropesearch.search.compare import Compared

GRID = ["--bmin", "10000", "--bmax", "30000", "--stride", "1000", "--heads", "8", "--head-dim", "32"]
SMALL = [*GRID, "--max-distance", "2000"]

# Commands that print, with what they need, and the formats that they can be asked for.
INSTEAD = {
    "compare": (["compare", "good.json", "--max-distance", "900"], [".csv", ".json"]),
    "export": (["export", "good.json"], [".csv", ".json"]),
    "extrema": (["extrema", "1e4", "--max-distance", "2000"], [".csv", ".json"]),
    "show": (["show", "good.json"], [".csv", ".json"]),
    "table": (["table", "evaluated.json"], [".csv", ".json"]),
    "waveform": (["waveform", "1e4", "--max-distance", "9"], [".csv", ".json"]),
}
BESIDE = {
    "measure": (["measure", "nowhere"], [".json"], ".json"),
    "search": (["search", *SMALL], [".json"], ".json"),
    "sweep": (["sweep", *SMALL, "--workers", "1"], [".csv", ".json"], ".jsonl"),
}
PRINTING = INSTEAD | BESIDE


@pytest.fixture
def run(run):
    uniform_bases(1e4, 2e4, 2).save("good.json")
    key = {"model": "m", "scheme": None, "suite": "recall", "task": "recall", "length": 64}
    Results({}, (key | {"accuracy": 0.5, "n": 9, "interval": None},)).save("evaluated.json")
    return run


@pytest.mark.parametrize("name", PRINTING)
def test_every_command_that_prints_has_the_same_options(name):
    options = {option for p in cli.commands[name].params for option in p.opts}
    flags = {f"--{suffix[1:]}" for suffix in PRINTING[name][1]}
    assert {"-o", "--output", "--overwrite", "--quiet", *flags} <= options
    assert ("--csv" in options) == ("--csv" in flags)


@pytest.mark.parametrize("name", PRINTING)
def test_two_formats_at_once_are_refused(run, tmp_path, name):
    arguments, formats, *_ = PRINTING[name]
    before = sorted(tmp_path.iterdir())
    asked = []
    if len(formats) == 2:
        asked += [("--csv --json", "--csv and --json")]
    if name in INSTEAD:
        asked += [("-o x.csv --json", "--json and --output x.csv"), ("-o x.json --csv", "--csv and --output x.json")]
    if name == "sweep":
        asked = [("-o - --json", "--json and --output -"), ("-o x.jsonl --csv --json", "--csv and --json")]
    for options, what in asked:
        line = f"Error: {what} ask for two formats; give one of them\n"
        assert run(*arguments, *options.split()) == (2, "", line)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("name", PRINTING)
@pytest.mark.parametrize("output", ["x.txt", "x", "x.pdf", "csv", ""])
def test_a_suffix_that_the_command_does_not_write_is_refused_before_the_work(run, tmp_path, name, output):
    before = sorted(tmp_path.iterdir())
    code, out, err = run(*PRINTING[name][0], "-o", output)
    assert (code, out) == (2, "")
    assert err.startswith("Error: --output must be a .")
    assert err.endswith(f" file, not {output!r}\n")
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("name", INSTEAD)
def test_a_file_gets_what_would_be_printed_and_nothing_is_printed(run, name):
    arguments, formats = INSTEAD[name]
    for suffix in formats:
        flag = f"--{suffix[1:]}"
        code, printed, err = run(*arguments, flag)
        assert (code, err) == (0, "")
        assert printed
        for i, options in enumerate([[], [flag], ["--quiet"]]):
            said = "" if "--quiet" in options else f"wrote {i}{suffix}\n"
            assert run(*arguments, "-o", f"{i}{suffix}", *options) == (0, "", said)
            assert Path(f"{i}{suffix}").read_text() == printed
        assert run(*arguments, flag, "-o", "-") == (0, printed, "")
    assert run(*arguments, "-o", "-") == run(*arguments)


def test_the_base_set_file_is_written_beside_what_is_printed(run, tmp_path):
    arguments = BESIDE["search"][0]
    _, table, _ = run(*arguments)
    assert "peak-valley: 8 heads" in table
    text = run(*arguments, "--json")[1]
    assert run(*arguments, "-o", "a.json") == (0, table, "wrote a.json\n")
    assert run(*arguments, "-o", "b.json", "--json", "--quiet") == (0, text, "")
    assert Path("a.json").read_text() == Path("b.json").read_text() == text
    before = sorted(tmp_path.iterdir())
    assert run(*arguments, "-o", "-") == run(*arguments, "-o", "-", "--json") == (0, text, "")
    assert sorted(tmp_path.iterdir()) == before


def test_show_and_export_print_what_the_library_gives(run):
    base_set = BaseSet.load("good.json")
    assert run("show", "good.json", "--csv") == (0, to_csv(base_set), "")
    assert run("export", "good.json", "--csv") == (0, to_csv(base_set), "")
    assert run("export", "good.json", "--json") == run("show", "good.json", "--json") == (0, base_set.to_json(), "")
    assert run("export", "good.json", "--format", "md") == (0, to_markdown(base_set), "")
    assert run("export", "good.json", "-o", "a.npz", "--format", "csv", "--quiet") == (0, "", "")
    assert run("show", "good.json", "--coverage", "--max-distance", 900, "-o", "covered.json")[0] == 0
    assert BaseSet.load("covered.json") == base_set.with_coverage(900)
    assert "--format" not in run("export", "--help")[1]


@pytest.fixture
def run_sweep(run, monkeypatch, tmp_path):
    """Run a sweep in this process, its temporary files in a folder of the test."""

    monkeypatch.setattr("ropesearch.search.workers.ProcessPoolExecutor", lambda n, **_: ThreadPoolExecutor(n))
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    return lambda *args: run("sweep", *SMALL, "--strategy", "peak-valley,uniform", *args)


def test_a_sweep_as_csv(run_sweep):
    code, out, err = run_sweep("-o", "a.jsonl", "--max-distance", "1002,2000", "--csv", "--quiet")
    assert (code, err) == (0, "")
    rows = list(csv.DictReader(io.StringIO(out)))
    written = [json.loads(line) for line in Path("a.jsonl").read_text().splitlines()[1:]]
    assert len(rows) == len(written) == 4
    by_options = {(w["point"]["strategy"], str(w["point"]["max_distance"])): w for w in written}
    failed = 0
    for row in rows:
        same = by_options[row["strategy"], row["max_distance"]]
        if "error" in same:
            assert (row["error"], row["bases"], row["floor"], row["seconds"]) == (same["error"], "", "", "")
            failed += 1
        else:
            assert [float(b) for b in row["bases"].split()] == same["base_set"]["bases"]
            assert float(row["floor"]) == same["coverage"]["floor"]
            assert row["error"] == ""
    assert failed == 1  # from 1000 to 1002 there is no peak and no valley; uniform asks for none


def test_a_sweep_on_stdout_is_its_file(run_sweep, tmp_path):
    code, out, err = run_sweep("-o", "-")
    assert (code, err) == (0, "")
    header, *rows = map(json.loads, out.splitlines())
    assert (header["format"], header["sweep"]["points"], len(rows)) == ("ropesearch.sweep", 2, 2)
    assert list((tmp_path / "temporary").iterdir()) == []
    code, out, err = run_sweep("-o", "-", "--resume")
    assert (code, out) == (2, "")
    assert err.startswith("Error: --resume needs --output FILE")


def test_what_a_sweep_on_stdout_had_found_is_not_lost_with_its_workers(run_sweep, tmp_path, monkeypatch):
    def broken(*_):
        raise BrokenExecutor

    monkeypatch.setattr("ropesearch.search.sweep.next_done", broken)
    code, out, err = run_sweep("-o", "-")
    assert (code, out) == (1, "")
    (folder,) = (tmp_path / "temporary").iterdir()
    assert f"{folder / 'sweep.jsonl'} keeps the finished rows, and --resume continues from there" in err
    assert (folder / "sweep.jsonl").exists()


# Closed pipes


def with_closed_stdout(folder, *args):
    """Run a command with a stdout that nobody reads."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-P", "-m", "ropesearch", *args]
    try:
        return subprocess.run(command, cwd=folder, stdout=writer, stderr=subprocess.PIPE, text=True)
    finally:
        os.close(writer)


@pytest.mark.parametrize(
    "args",
    [
        ["--help"],
        ["search", "--help"],
        ["search", *SMALL, "-o", "a.json"],
        ["search", *SMALL, "--json"],
        ["show", "good.json"],
        ["export", "good.json"],
        ["compare", "rope:1e4", "--max-distance", "900"],
        ["waveform", "1e4"],
        ["extrema", "1e4"],
    ],
)
def test_a_reader_that_is_gone_ends_the_command_silently(tmp_path, args):
    uniform_bases(1e4, 2e4, 2).save(tmp_path / "good.json")
    done = with_closed_stdout(tmp_path, *args)
    assert (done.returncode, done.stderr) == (0, "")
    if "-o" in args:
        assert BaseSet.load(tmp_path / "a.json") == search_bases(10000, 30000, 1000, 8, head_dim=32, max_distance=2000)


def test_messages_that_nobody_reads_do_not_end_the_work(tmp_path):
    reader, writer = os.pipe()
    os.close(reader)
    # Lines of progress from the second step on.
    code = "import sys; from ropesearch.cli import main, progress; progress.LINES_AFTER = 0; sys.exit(main())"
    command = [sys.executable, "-P", "-c", code, "search", *SMALL, "-o", "a.json"]
    done = subprocess.run(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=writer, text=True)
    os.close(writer)
    assert done.returncode == 0
    assert "peak-valley: 8 heads" in done.stdout
    assert (tmp_path / "a.json").exists()


def test_a_pipe_that_breaks_elsewhere_is_no_success():
    @click.command(cls=Command)
    def talk():
        raise BrokenPipeError(32, "Broken pipe")

    with pytest.raises(click.ClickException, match="Broken pipe") as raised:
        talk.main([], standalone_mode=False)
    assert raised.value.exit_code == 1


# Errors


@pytest.fixture
def context():
    command = cli.commands["search"]
    return click.Context(command, parent=click.Context(cli))


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a.json exists; `overwrite=True` replaces it", "a.json exists; --overwrite replaces it"),
        ("less than `max_distance`, 5", "less than --max-distance, 5"),
        ("search with `kv_heads=3`", "search with --kv-heads 3"),
        ("give `softmax=True`", "give --softmax"),  # an option of another command
        ("its heads share max_distance, `nonsense`", "its heads share max_distance, `nonsense`"),
    ],
)
def test_marked_parameters_become_options_and_nothing_else_does(context, text, line):
    assert with_flags(text, context) == line


def test_the_line_of_a_parameter_begins_with_its_option():
    @click.command(cls=Command)
    @click.argument("model")
    @click.option("--bmins", "--bmin", "bmin")
    def work(model, bmin):
        if bmin:
            raise ParameterError("bmin", 1, "above `model`")
        if model == "x":
            raise ParameterError("model", model, "another")
        raise InputError("bmin is a word here")

    for args, line in [
        (["a", "--bmin", "1"], "--bmin must be above MODEL, not 1"),
        (["x"], "MODEL must be another, not 'x'"),
        (["a"], "bmin is a word here"),
    ]:
        with pytest.raises(click.UsageError) as raised:
            work.main(args, standalone_mode=False)
        assert raised.value.format_message() == line


@pytest.mark.parametrize(
    "args",
    [
        ["show", "none.json"],
        ["export", "none.json"],
        ["compare", "harpe:none.json"],
        ["waveform", "none.json"],
        ["extrema", "none.json"],
        ["waveform", "--scheme", "longrope:none.json"],
        ["search", *SMALL, "--model-config", "none.json"],
        ["search", *SMALL, "--order-by", "none.json"],
        ["sweep", *SMALL, "--model-config", "none.json", "-o", "a.jsonl"],
        ["measure", "model", "--bases", "none.json"],
        ["measure", "model", "--text", "none.json"],
        ["apply", "model", "--bases", "none.json", "-o", "out"],
        ["plot", "coverage", "none.json", "-o", "a.png"],
        ["plot", "decay", "none.json", "-o", "a.png"],
    ],
)
def test_a_missing_input_is_exit_2_everywhere(run, args):
    code, out, err = run(*args)
    assert (code, out) == (2, "")
    assert "none.json cannot be read: No such file or directory" in err


# Tables


def test_brackets_in_names_are_no_markup(run):
    name = "[red]a[bold] :smile:.json"
    uniform_bases(1e4, 2e4, 2).save(name)
    code, out, _ = run("compare", name, "--max-distance", 900)
    assert code == 0
    assert f" {name} " in out
    text = Path(name).read_text()
    Path(name).write_text(text.replace('"uniform"', '"[bold]uniform[/]"'))
    code, out, _ = run("show", name)
    assert code == 0
    assert "[bold]uniform[/]: 2 heads" in out


HOSTILE = "a\nb\x1b[31m\u202e[/x]\udcff"
PRINTED = r"a\nb\x1b[31m\u202e[/x]\udcff"


def test_names_and_text_from_files_are_made_printable(run, tmp_path):
    (tmp_path / (HOSTILE.rpartition("/")[0])).mkdir()
    uniform_bases(1e4, 2e4, 2).save(HOSTILE)
    code, out, err = run("compare", HOSTILE, "--max-distance", 900)
    assert (code, err) == (0, "")
    assert f" {PRINTED} " in out
    assert run("compare", HOSTILE, "--max-distance", 900, "-o", "a.csv") == (0, "", "wrote a.csv\n")
    assert len(Path("a.csv").read_text().splitlines()) == 3  # a line break within quotes
    text = Path(HOSTILE).read_text()
    Path("good.json").write_text(text.replace('"uniform"', json.dumps(HOSTILE), 1))
    code, out, err = run("show", "good.json")
    assert (code, err) == (0, "")
    assert f"{PRINTED}: 2 heads" in out
    for name in ("show", "export", "waveform", "extrema", "compare"):
        code, out, err = run(name, HOSTILE + ".none")
        assert (code, out) == (2, "")
        assert err.startswith("Error: ")
        assert err.isascii()
        assert len(err.splitlines()) == 1
    code, _, err = run("export", "good.json", "-o", HOSTILE + ".csv")
    assert (code, err) == (0, f"wrote {PRINTED}.csv\n")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_what_the_encoding_of_the_terminal_lacks_is_escaped(tmp_path, encoding):
    uniform_bases(1e4, 2e4, 2).save(tmp_path / "ä漢.json")
    command = [sys.executable, "-P", "-m", "ropesearch", "compare", "ä漢.json", "--max-distance", "900"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, env=os.environ | {"PYTHONIOENCODING": encoding})
    assert (done.returncode, done.stderr) == (0, b"")
    assert "ä漢.json".encode(encoding, "backslashreplace") in done.stdout


def test_tables_in_a_pipe_are_not_folded(monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    coverage = uniform_bases(1e4, 2e4, 2).coverage(900)
    name = "a/" + "long/" * 20 + "bases.json"
    assert f" {name} " in of_comparison([Compared(name, 2, coverage)])
