"""A small share of what `python tests/hostile/fuzz_readers.py` runs, without its guide, and what that has found."""

import json
import signal
import sys

import fuzz_readers
import pytest
from fuzz_readers import Fuzzer, readers

from ropesearch import parse_scheme
from ropesearch.core.errors import InputError, first_line
from ropesearch.core.numbers import read_number
from ropesearch.evaluation.results import Results
from ropesearch.evaluation.samples import read_samples
from ropesearch.evaluation.table import Evaluated, make_tables
from ropesearch.training.folder import RunFolder

ROW = {"model": "m", "scheme": None, "suite": "recall", "task": "recall", "length": 64, "n": 3, "interval": None}
STEP = {"step": 1, "stage": 1, "length": 64, "loss": 3.5}


@pytest.mark.skipif(sys.platform == "win32", reason="timers")
def test_random_files_are_read_or_refused_with_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(fuzz_readers, "SECONDS", 60)  # other tests run beside it
    before = signal.signal(signal.SIGALRM, fuzz_readers.too_long)
    fuzzer = Fuzzer(readers(tmp_path))
    for example in fuzzer.examples():
        fuzzer.run(example)
    assert {outcome.split(": ")[1] for outcome in fuzzer.outcomes} == {"read"}
    for seed in range(1000):
        fuzzer.run(fuzzer.change(b"", fuzz_readers.LARGEST, seed))
    signal.signal(signal.SIGALRM, before)
    assert fuzzer.wrong == {}
    assert fuzzer.outcomes.total() > 1000
    assert all(fuzzer.outcomes[f"{name}: read"] > 1 for name in fuzzer.names)
    assert all(fuzzer.outcomes[f"{name}: refused"] > 1 for name in fuzzer.names if name != "number")


def test_a_traceback_would_be_seen():
    reader = fuzz_readers.Reader(lambda data: 1 / len(data), [b""], fuzz_readers.change_bytes)
    fuzzer = Fuzzer({"a reader": reader})
    fuzzer.run(b"\0")
    assert list(fuzzer.wrong) == ["a reader: ZeroDivisionError in <lambda>"]


def test_no_file_has_a_null_character_in_its_name():
    with pytest.raises(InputError, match=r"no file can be called a\\x00b"):
        parse_scheme("harpe:a\0b")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"accuracy": 10**400}, "one figure"),
        ({"accuracy": 1.5}, "accuracy must be from 0 to 1"),
        ({"perplexity": -1}, "perplexity must be 0 or greater"),
    ],
)
def test_figures_that_nothing_has(tmp_path, change, message):
    content = {"format": "ropesearch.evaluation", "version": 1, "spec": {}, "rows": [ROW | change]}
    (tmp_path / "results.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=message):
        Results.load(tmp_path / "results.json")


def test_a_perplexity_twice(tmp_path):
    row = ROW | {"suite": "perplexity", "task": "a text", "perplexity": 4.5}
    content = {"format": "ropesearch.evaluation", "version": 1, "spec": {}, "rows": [row, row]}
    (tmp_path / "results.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="has m, a text at 64, twice"):
        make_tables([Evaluated.load(tmp_path / "results.json")])


def test_perplexities_of_several_texts_have_a_mean_without_an_interval():
    row = ROW | {"suite": "perplexity"}
    rows = tuple(row | {"task": task, "perplexity": value} for task, value in (("a", 4.0), ("b", 6.0)))
    (table,), _ = make_tables([Evaluated("results", Results({}, rows))], by_task=True)
    assert [(cell.value, cell.interval) for cell in table.lines[0].cells] == [(4.0, None), (6.0, None), (5.0, None)]


def test_a_long_message_of_another_library_is_cut():
    assert first_line(ValueError("x" * 1000)) == "x" * 497 + "..."


def test_a_sample_with_too_large_a_score(tmp_path):
    record = {"model": "m", "scheme": None, "task": "recall", "length": 64, "sample": 0, "prompt": ""}
    file = Evaluated("results", Results({}, (ROW | {"accuracy": 0.5},)), (record | {"score": 10**400},))
    with pytest.raises(InputError, match="the sample 0 of m has no score"):
        make_tables([file])


@pytest.mark.parametrize("text", ["1e-999999999k", "0e999999999m", "1e-99999999951m"])
def test_numbers_too_small_to_be_told_from_zero(text):
    assert read_number(text) == 0


def test_records_end_at_the_first_that_is_none(tmp_path):
    record = {"model": "m", "scheme": None, "task": "recall", "length": 64, "sample": 0, "prompt": ""}
    head = {"format": "ropesearch.samples", "version": 1, "settings": {}}
    lines = [head, record, record | {"sample": [1]}, record]
    (tmp_path / "log.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert read_samples(tmp_path / "log.jsonl")[1] == [record]


@pytest.mark.parametrize(
    "last", [b"\xff\n", b"[1]\n", b"{}\n", b'{"step": 2, "stage": 1, "length": 64, "loss": "3"}\n']
)
def test_metrics_end_at_the_first_line_that_is_none(tmp_path, last):
    (tmp_path / "metrics.jsonl").write_bytes(json.dumps(STEP).encode() + b"\n" + last)
    assert RunFolder(tmp_path).read_metrics() == [STEP]
