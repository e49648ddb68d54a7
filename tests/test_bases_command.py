"""`ropesearch bases`: what any checkpoint carries, as a base-set file."""

import csv
import json
from pathlib import Path

import pytest
from toys import BASES, base_set, save_gguf, scaled_toy, toy, toy_config

from ropesearch import BaseSet, apply_bases, apply_to_checkpoint
from ropesearch.exporters.table import to_latex


def test_a_model_with_bases_gives_them_back(run):
    toy("llama-grouped").save_pretrained("stock")
    apply_to_checkpoint("stock", base_set(BASES[2]), "out")
    assert run("bases", "out", "-o", "bases.json")[0] == 0
    found = BaseSet.load("bases.json")
    assert (found.bases, found.heads, found.head_dim) == (BASES[2], 4, 16)
    apply_to_checkpoint("stock", found, "again")
    texts = [json.loads(Path(folder, "config.json").read_text()) for folder in ("out", "again")]
    assert texts[0] == texts[1]
    code, out, _ = run("bases", "out", "--json")
    assert (code, json.loads(out)["bases"]) == (0, list(BASES[2]))
    assert run("show", "bases.json")[0] == 0


@pytest.mark.parametrize("name", ["llama-grouped", "gemma", "mixtral"])
def test_a_stock_model_gives_its_one_base_for_every_kv_head(run, name):
    config = toy_config(name)
    config.save_pretrained("stock")
    for model in ("stock", "stock/config.json"):
        code, out, err = run("bases", model, "--json")
        assert (code, err) == (0, "")
        assert json.loads(out)["bases"] == [10000.0] * config.num_key_value_heads


def test_of_a_model_no_base_was_chosen(run):
    toy("llama-grouped").save_pretrained("stock")
    apply_to_checkpoint("stock", base_set(BASES[2]), "out")
    for model in ("stock", "out"):
        for command in ("bases", "show"):
            places = [line.split("│")[4].strip() for line in run(command, model)[1].splitlines() if line[:1] == "│"]
            assert places == ["–"] * 2
        rows = csv.DictReader(run("show", model, "--csv")[1].splitlines())
        assert [row["chosen"] for row in rows] == [""] * 2
        run("bases", model, "-o", "bases.json", "--overwrite")
        assert to_latex(BaseSet.load("bases.json")).count(" & -- & ") == 2


def test_a_gguf_file(run):
    save_gguf(toy("llama-multi-head"), "model.gguf")
    code, out, _ = run("bases", "model.gguf", "--json")
    assert (code, json.loads(out)["bases"]) == (0, [10000.0] * 4)


def test_show_takes_a_model_as_it_is(run, monkeypatch):
    toy("llama-grouped").save_pretrained("stock")
    apply_to_checkpoint("stock", base_set(BASES[2]), "out")
    save_gguf(toy("llama-multi-head"), "model.gguf")
    for model in ("stock", "out", "out/config.json", "model.gguf"):
        run("bases", model, "-o", "bases.json", "--overwrite")
        for form in ((), ("--json",), ("--coverage", "--max-distance", "2000")):
            assert run("show", model, *form)[:2] == run("show", "bases.json", *form)[:2]
    scaled_toy("llama3").save_pretrained("scaled")
    assert run("show", "scaled")[2] == "note: the rule llama3 of scaled changes what these bases give\n"
    code, out, err = run("show", "stock", "--pick", "1")
    assert (code, out) == (2, "")
    assert "--pick is for sweep files, and stock is none" in err
    monkeypatch.chdir("stock")
    assert run("show", ".")[0] == 0
    assert "nowhere/sweep.jsonl cannot be read" in run("show", "nowhere/sweep.jsonl")[2]


def test_of_a_scaled_model_it_says_that_there_is_more(run):
    scaled_toy("llama3").save_pretrained("scaled")
    code, _, err = run("bases", "scaled", "--json")
    assert (code, err) == (0, "note: the rule llama3 of scaled changes what these bases give\n")


def test_bases_under_a_rule_that_was_kept(run):
    model = scaled_toy("llama3")
    with apply_bases(model, base_set(BASES[2]), scaling="keep"):
        model.save_pretrained("kept")
    code, out, err = run("bases", "kept", "--json")
    assert (code, err) == (0, "note: the rule llama3 of kept changes what these bases give\n")
    assert json.loads(out)["bases"] == list(BASES[2])


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ({"model_type": "gpt2"}, "a model of type 'gpt2' has no rotary position embedding settings"),
        ({"model_type": "x", "rope_parameters": {}, "num_attention_heads": 2, "head_dim": 4}, "it has no rope_theta"),
        (
            {"rope_parameters": {"full_attention": {"rope_theta": 1e6}}, "num_attention_heads": 2, "head_dim": 4},
            "has a rotary embedding for each type of layer, and a base set one for all",
        ),
    ],
)
def test_models_without_one_set_of_bases(run, tmp_path, content, line):
    (tmp_path / "config.json").write_text(json.dumps(content))
    code, out, err = run("bases", "config.json")
    assert (code, out) == (2, "")
    assert line in err
    assert run("bases", "nowhere")[0] == 2
