"""`ropesearch evaluate`."""

import json
import shutil
import sys

import pytest
import toys
from test_evaluation import SENTENCES

from ropesearch import Results, evaluate, load_model, shipped_texts

pytestmark = pytest.mark.usefixtures("one_thread")
RECALL = ("--suite", "recall", "--lengths", "300", "--pairs", 8, "--limit", 2)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "toy"
    tokenizer = toys.word_tokenizer(SENTENCES, *shipped_texts().values())
    toys.reader_toy(tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_evaluate_prints_a_table_and_writes_what_the_library_finds(run, model, tmp_path):
    code, out, err = run("evaluate", model, *RECALL, "--scheme", "own", "--scheme", "yarn:4", "-o", "r.json")
    assert code == 0, err
    assert "wrote r.json and r.samples.jsonl" in err
    assert "yarn:4" in out
    loaded, tokenizer = load_model(model)
    schemes = ["own", "yarn:4"]
    expected = evaluate(loaded, tokenizer, "recall", lengths=[300], pairs=8, limit=2, schemes=schemes, name=str(model))
    found = Results.load(tmp_path / "r.json")
    assert found.rows == expected.rows
    assert found.spec == expected.spec
    code, out, err = run("table", "r.json", "--json")
    assert code == 0, err
    assert [line["label"] for line in json.loads(out)["tables"][0]["lines"]] == ["own", "yarn:4"]


def test_evaluate_prints_json(run, model):
    code, out, err = run("evaluate", model, *RECALL, "--json")
    assert code == 0, err
    content = json.loads(out)
    assert content["format"] == "ropesearch.evaluation"
    assert content["rows"][0]["length"] == 300
    assert content["made_by"]["texts"] == {"texts of ropesearch": "own"}


def test_models_are_compared_on_the_same_samples(run, model, tmp_path):
    (tmp_path / "docs.txt").write_text(shipped_texts()["essay"])
    second = tmp_path / "second"
    second.symlink_to(model)
    args = ("--suite", "perplexity", "--data", "docs.txt", "--lengths", "64,128", "--truncate", "--stride", 32)
    code, _, err = run("evaluate", model, second, *args, "-o", "r.json", "--depths", 3)
    assert code == 0, err
    assert "note: --depths has no effect on perplexity" in err
    rows = Results.load(tmp_path / "r.json").rows
    assert [(row["model"], row["length"]) for row in rows] == [
        (str(name), length) for name in (model, second) for length in (64, 128)
    ]
    assert rows[0]["perplexity"] == rows[2]["perplexity"]
    code, _, err = run("evaluate", model, second, *args, "-o", "r.json")
    assert code == 1
    assert "r.json already exists; --overwrite replaces it" in err
    assert run("evaluate", model, second, *args, "-o", "r.json", "--resume")[0] == 0


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (("--suite", "nlah", "--lengths", "64"), 2, "--suite must be one of perplexity, recall"),
        (("--suite", "recall"), 2, "--lengths must be given for recall"),
        (("--suite", "recall", "--lengths", "4k2"), 2, "--lengths must be a list such as 4096,8192, not '4k2'"),
        (("--suite", "recall", "--lengths", "64"), 2, "--lengths must be at least"),
        (("--suite", "perplexity", "--lengths", "512"), 2, "--data must name documents"),
        (("--suite", "perplexity", "--lengths", "512", "--data", "gone"), 2, "gone does not exist"),
        (("--suite", "recall", "--lengths", "512", "--tasks", "x"), 2, "--tasks has no effect on recall"),
        (("--suite", "recall", "--lengths", "512", "--preset", "proof-pile"), 2, "--preset is for --suite perplexity"),
        (("--suite", "recall", "--lengths", "512", "--scheme", "table2"), 2, "is for 32 KV heads"),
        (
            ("--suite", "recall", "--lengths", "512", "--scheme", "self-extend:x,group=4"),
            2,
            "window must be an integer",
        ),
        (("--suite", "recall", "--lengths", "512", "--dtype", "int8"), 2, "--dtype must be one of float32"),
        (("--suite", "recall", "--lengths", "512", "--device", "cuda:9"), 1, "device cuda:9"),
        (("--suite", "recall", "--lengths", "512", "--batch-size", 0), 2, "--batch-size must be an integer"),
        (("--suite", "recall", "--lengths", "512", "-o", "r.txt"), 2, "--output must be a .json file"),
        (("--suite", "recall", "--lengths", "512", "-o", "no/r.json"), 1, "the folder no for r.json does not exist"),
    ],
)
def test_wrong_requests_are_one_line(run, model, tmp_path, args, code, message):
    found, out, err = run("evaluate", model, *args)
    assert (found, out) == (code, ""), err
    assert message in err
    assert err.startswith("Error: ")
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_is_none_is_named(run):
    code, _, err = run("evaluate", "nowhere", *RECALL)
    assert code == 2
    assert "nowhere" in err
    assert err.count("\n") == 1


def test_a_second_model_without_a_tokenizer_is_found_before_the_first_is_read(run, model, tmp_path, monkeypatch):
    shutil.copytree(model, tmp_path / "bare", ignore=shutil.ignore_patterns("tokenizer*"))
    monkeypatch.setattr("ropesearch.evaluation.run.load_model", lambda *_, **__: pytest.fail("it was loaded"))
    code, out, err = run("evaluate", model, "bare", *RECALL, "-o", "r.json")
    assert (code, out, err) == (2, "", "Error: bare has no tokenizer that loads: it has no file of one\n")
    assert [path.name for path in tmp_path.iterdir()] == ["bare"]


def test_a_template_of_chats_is_never_run(run, model, tmp_path):
    shutil.copytree(model, tmp_path / "other")
    settings = json.loads((tmp_path / "other" / "tokenizer_config.json").read_text())
    code = "{% for i in range(10 ** 18) %}{% endfor %}{{ ().__class__.__base__.__subclasses__() }}{{ '\x1b[2J' }}"
    (tmp_path / "other" / "tokenizer_config.json").write_text(json.dumps(settings | {"chat_template": code}))
    plain, odd = (run("evaluate", name, *RECALL, "--json") for name in (model, "other"))
    assert odd[0] == plain[0] == 0
    assert [row | {"model": ""} for row in json.loads(odd[1])["rows"]] == [
        row | {"model": ""} for row in json.loads(plain[1])["rows"]
    ]


@pytest.mark.parametrize("package", ["torch", "transformers"])
def test_without_its_packages_the_extra_is_named(run, model, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    code, out, err = run("evaluate", model, *RECALL)
    assert (code, out) == (1, "")
    assert err == "Error: an evaluation needs torch and transformers: pip install 'ropesearch[evaluate]'\n"
