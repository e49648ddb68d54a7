import csv
import io
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import safetensors.torch
import torch

from ropesearch import (
    BaseSet,
    align,
    cos_sin_tables,
    export,
    inv_freq,
    search_bases,
    to_csv,
    to_markdown,
    to_tensors,
    uniform_bases,
)
from ropesearch.core.base_set import FORMAT

GROUPED = uniform_bases(10000, 40000, 8, kv_heads=4, head_dim=16)


def content(**changes):
    """The file of a small set as an object, with some keys changed, or gone where the value is `...`."""
    return {k: v for k, v in (json.loads(GROUPED.to_json()) | changes).items() if v is not ...}


def test_file_has_the_keys_of_the_format_in_its_order():
    parsed = json.loads(search_bases(1e4, 3e4, 5000, 4, head_dim=16, max_distance=2000).to_json())
    assert list(parsed) == [
        "format",
        "version",
        "heads",
        "kv_heads",
        "head_dim",
        "bases",
        "selection",
        "strategy",
        "parameters",
        "coverage",
        "made_by",
    ]
    assert parsed["format"] == "ropesearch.base-set"
    assert parsed["version"] == 1
    assert parsed["coverage"] == {}
    assert {"ropesearch", "numpy", "numba", "python", "command"} == set(parsed["made_by"])


def test_save_and_load(tmp_path):
    path = tmp_path / "bases.json"
    GROUPED.save(path)
    assert BaseSet.load(path) == GROUPED
    with pytest.raises(FileExistsError, match="already exists"):
        GROUPED.save(path)
    GROUPED.save(path, overwrite=True)
    assert [p.name for p in tmp_path.iterdir()] == ["bases.json"]


def test_unknown_keys_are_ignored_and_free_ones_may_be_empty():
    read = BaseSet.from_json(json.dumps(content(later="x", parameters={}, coverage={}, made_by={})))
    assert read.bases == GROUPED.bases
    assert read.parameters == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "it is not JSON, or it is cut off"),
        (GROUPED.to_json()[:-40], "it is not JSON, or it is cut off"),
        ("[" * 100000, "it is not JSON, or it is cut off"),
        ("[]", r"its format must be 'ropesearch.base-set', not \[\]"),
        ("{}", "its format must be 'ropesearch.base-set', not None"),
        (content(format="other"), "its format must be 'ropesearch.base-set', not 'other'"),
        (content(version=3), "it has version 3, but this ropesearch reads versions up to 2"),
        (content(version="1"), "version must be an integer"),
        (content(version=...), "it has no key 'version'"),
        *((content(**{key: ...}), f"it has no key '{key}'") for key in content() if key not in ("format", "version")),
        (content(bases=[1e4, 2e4, 3e4]), "bases must have one base per KV head: 4, not 3"),
        (content(bases=[1e4, 2e4, 3e4, 1]), "every value of bases must be a finite number above 1, not 1"),
        (content(bases=[1e4, 2e4, 3e4, "4e4"]), "every value of bases must be a finite number above 1, not '4e4'"),
        (content(bases=[1e4, 2e4, 3e4, True]), "every value of bases must be"),
        (content(bases=[1e4, 2e4, 3e4, None]), "every value of bases must be"),
        (content(bases=[1e4, 2e4, 3e4, [4e4]]), "every value of bases must be"),
        (content(bases=[1e4, 2e4, 3e4, 10**400]), "every value of bases must be"),
        (content(bases=[1e4, 2e4, 3e4, math.nan]), "it holds NaN, which JSON does not allow"),
        (content(bases=[1e4, 2e4, 3e4, -math.inf]), "it holds -Infinity, which JSON does not allow"),
        (content(parameters={"bmin": math.nan}), "it holds NaN, which JSON does not allow"),
        (content(bases="1234"), "bases must be a list of bases, not '1234'"),
        (content(bases=4), "bases must be a list of bases, not 4"),
        (content(selection=[1e4, 2e4, 3e4, 5e4]), "selection must hold the same values as .bases."),
        (content(selection=[1e4]), "selection must have one base per KV head: 4, not 1"),
        (content(heads=0), "heads must be"),
        (content(heads=8.0), "heads must be an integer"),
        (content(heads=6), "kv_heads must be a divisor of the 6 heads, not 4"),
        (content(kv_heads=None), "kv_heads must be"),
        (content(head_dim=15), "head_dim must be even, not 15"),
        (content(strategy=1), "strategy must be a string"),
        (content(parameters=[]), "parameters must be a mapping"),
        (content(coverage=None), "coverage must be a mapping"),
        (content(made_by="me"), "made_by must be a mapping"),
    ],
)
def test_files_that_are_refused(tmp_path, text, message):
    path = tmp_path / "bases.json"
    path.write_text(text if isinstance(text, str) else json.dumps(text))
    with pytest.raises(ValueError, match=message) as caught:
        BaseSet.load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_bytes_that_are_no_text_and_files_that_are_not_there(tmp_path):
    path = tmp_path / "bases.json"
    with pytest.raises(FileNotFoundError):
        BaseSet.load(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="is not a usable base-set file"):
        BaseSet.load(path)


LAYERS = BaseSet.of([[1e4, 4e4], [2e4, 5e6], [4e4, 1e4]], heads=4, head_dim=16)


def layers(**changes):
    """The file of a set whose layers differ, changed as by `content`."""
    return {k: v for k, v in (json.loads(LAYERS.to_json()) | changes).items() if v is not ...}


def test_a_set_has_a_row_for_each_layer(tmp_path):
    rows = ((1e4, 4e4), (2e4, 5e6), (4e4, 1e4))
    assert (LAYERS.layers, LAYERS.kv_heads, LAYERS.bases, LAYERS.selection) == (3, 2, rows, rows)
    assert (len(LAYERS), list(LAYERS), LAYERS[1], LAYERS[:2]) == (3, list(rows), rows[1], rows[:2])
    np.testing.assert_array_equal(np.asarray(LAYERS), rows)
    np.testing.assert_array_equal(LAYERS.inv_freq(), [inv_freq(row, 16) for row in rows])
    for same in (BaseSet.of(np.array(rows), heads=4, head_dim=16), BaseSet.of(list(rows), heads=4, head_dim=16)):
        assert (same, hash(same)) == (LAYERS, hash(LAYERS))
    assert BaseSet.of([LAYERS.layer(0), LAYERS.layer(1)]).bases == rows[:2]
    assert BaseSet.of(rows[::-1], heads=4, head_dim=16) != LAYERS
    assert LAYERS.layer(1) == replace(LAYERS, bases=rows[1], selection=rows[1], parameters={"layer": 1})
    assert repr(LAYERS) == (
        "BaseSet(((10000, 40000), (20000, 5000000), (40000, 10000)), heads=4, kv_heads=2, head_dim=16, layers=3)"
    )
    assert (
        repr(BaseSet.of([[1e4]] * 9)) == "BaseSet(((10000,), (10000,), (10000,), ...), heads=1, head_dim=128, layers=9)"
    )
    LAYERS.save(tmp_path / "bases.json")
    assert json.loads((tmp_path / "bases.json").read_text())["version"] == 2
    assert BaseSet.load(tmp_path / "bases.json") == LAYERS
    assert json.loads(LAYERS.layer(0).to_json())["version"] == 1
    one = BaseSet.of([[1e4, 2e4]])
    assert (one.layers, BaseSet.from_json(one.to_json())) == (1, one)
    chosen = replace(LAYERS, selection=[[4e4, 1e4], [2e4, 5e6], [1e4, 4e4]])
    assert chosen.layer(0).selection == (4e4, 1e4)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            layers(version=1),
            r"every value of bases must be a finite number above 1, not \[10000.0, 40000.0\]; .* need version 2",
        ),
        (content(version=2), r"bases must be a list of bases for each layer in version 2, not \[10000.0, "),
        (layers(bases=[]), r"bases must be a list of bases for each layer in version 2, not \[\]"),
        (layers(bases=[[1e4, 4e4], [2e4, 5e6], [4e4]]), "bases of layer 2 must have one base per KV head: 2, not 1"),
        (layers(bases=[[1e4, 4e4], [2e4, 5e6], 3]), "bases of layer 2 must be a list of bases, not 3"),
        (layers(bases=[[1e4, 4e4], [2e4, 5e6], "ab"]), "bases of layer 2 must be a list of bases, not 'ab'"),
        (layers(bases=[[1e4, 4e4], [2e4, 5e6], [4e4, 1]]), "every value of bases of layer 2 must be a finite number"),
        (layers(bases=[[[1e4], [4e4]]] * 3), r"every value of bases of layer 0 must be a finite .* not \[10000.0\]"),
        (layers(selection=[[1e4, 4e4], [2e4, 5e6]]), "selection must hold the same values as .bases., in any order, "),
        (layers(selection=[1e4, 4e4]), "selection must hold the same values as .bases., in any order, layer by layer"),
        (layers(selection=[[1e4, 4e4], [4e4, 1e4], [2e4, 5e6]]), "selection must hold the same values"),
        (content(selection=[[1e4, 2e4, 3e4, 4e4]]), "selection must hold the same values as .bases."),
        (layers(kv_heads=4), "bases of layer 0 must have one base per KV head: 4, not 2"),
    ],
)
def test_files_of_layers_that_are_refused(tmp_path, text, message):
    path = tmp_path / "bases.json"
    path.write_text(json.dumps(text))
    with pytest.raises(ValueError, match=message) as caught:
        BaseSet.load(path)
    assert "\n" not in str(caught.value)


def test_what_is_of_one_layer_asks_for_it():
    message = r"is of one layer's bases, and the set has bases for each of 3 layers: choose a layer, as in FILE#0"
    for what in (LAYERS.coverage, LAYERS.with_coverage, lambda: align(LAYERS), lambda: cos_sin_tables(LAYERS, 9)):
        with pytest.raises(ValueError, match=message):
            what()
    with pytest.raises(ValueError, match=r"layer 3 does not exist: the set has 3 layers, 0 to 2"):
        LAYERS.layer(3)
    with pytest.raises(ValueError, match="layer must be an integer of at least 0, not -1"):
        LAYERS.layer(-1)
    with pytest.raises(ValueError, match="all layers of the set have the same bases: there is none to choose"):
        GROUPED.layer(0)


def test_a_layer_of_a_file_by_its_number(tmp_path):
    path = tmp_path / "bases.json"
    LAYERS.save(path)
    assert BaseSet.load(f"{path}#2") == LAYERS.layer(2)
    with pytest.raises(ValueError, match=r"bases.json#3: layer 3 does not exist"):
        BaseSet.load(f"{path}#3")
    GROUPED.save(tmp_path / "bases.json#2")
    assert BaseSet.load(f"{path}#2") == GROUPED
    with pytest.raises(FileNotFoundError, match=r"none\.json"):
        BaseSet.load(tmp_path / "none.json#1")


def test_it_is_a_sequence_of_bases():
    assert len(GROUPED) == 4
    assert list(GROUPED) == [10000, 20000, 30000, 40000]
    np.testing.assert_array_equal(np.asarray(GROUPED), [10000, 20000, 30000, 40000])
    np.testing.assert_array_equal(GROUPED.inv_freq(), inv_freq([10000, 20000, 30000, 40000], 16))
    with pytest.raises(AttributeError):
        GROUPED.heads = 3


def test_it_indexes_as_the_tuple_of_its_bases():
    assert (GROUPED[0], GROUPED[-1], GROUPED[np.int64(1)]) == (10000, 40000, 20000)
    assert GROUPED[1:3] == (20000, 30000)
    assert 30000 in GROUPED
    assert list(reversed(GROUPED)) == [40000, 30000, 20000, 10000]
    with pytest.raises(IndexError):
        _ = GROUPED[4]


def test_equal_sets_have_one_hash():
    again = BaseSet.from_json(GROUPED.to_json())
    assert again is not GROUPED
    assert again == GROUPED
    assert hash(again) == hash(GROUPED)
    others = [
        replace(GROUPED, strategy="by hand"),
        replace(GROUPED, heads=4),
        replace(GROUPED, head_dim=8),
        BaseSet.of(GROUPED[::-1], heads=8, head_dim=16),
        GROUPED.bases,
    ]
    assert all(other != GROUPED for other in others)
    assert len({GROUPED, again, *others}) == 6


def test_a_set_from_plain_numbers():
    found = BaseSet.of([20000, np.float32(5e6)])
    assert found == BaseSet(2, 2, 128, (2e4, 5e6), (2e4, 5e6), "given")
    assert type(found.bases[1]) is float
    assert BaseSet.of(GROUPED, heads=8, head_dim=16, strategy="mine").selection == GROUPED.bases
    assert BaseSet.of(base for base in (3e4, 2e4)).selection == (3e4, 2e4)
    assert BaseSet.from_json(found.to_json()) == found


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"bases": []}, r"bases must be a list of bases, not \[\]"),
        ({"bases": np.array(5e6)}, r"bases must be a list of bases, not array\(5000000\.\)"),
        ({"bases": 5e6}, "bases must be a list of bases, not 5000000"),
        ({"bases": "5e6"}, "bases must be a list of bases, not '5e6'"),
        ({"bases": [1e6, 1]}, "every value of bases must be a finite number above 1, not 1"),
        ({"bases": [1e6] * 3, "heads": 4}, "kv_heads must be a divisor of the 4 heads, not 3"),
        ({"bases": [1e6], "heads": 0}, "heads must be an integer of at least 1, not 0"),
        ({"bases": [1e6], "heads": 2.0}, "heads must be an integer of at least 1, not 2"),
        ({"bases": [1e6], "head_dim": 7}, "head_dim must be even, not 7"),
    ],
)
def test_plain_numbers_that_make_no_set(arguments, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        BaseSet.of(**arguments)


@pytest.mark.parametrize(
    ("found", "text"),
    [
        (GROUPED, "BaseSet((10000, 20000, 30000, 40000), heads=8, kv_heads=4, head_dim=16)"),
        (BaseSet.of([3e5]), "BaseSet((300000,), heads=1, head_dim=128)"),
        (BaseSet.of([1e6, 1.5e6, 2e6, 3e6, 4e6]), "BaseSet((1000000, 1500000, 2000000, ...), heads=5, head_dim=128)"),
    ],
)
def test_it_prints_short(found, text):
    assert repr(found) == text


def test_tables():
    rows = list(csv.DictReader(io.StringIO(to_csv(GROUPED))))
    assert [row["base"] for row in rows] == ["10000", "20000", "30000", "40000"]
    assert [row["query_heads"] for row in rows] == ["0-1", "2-3", "4-5", "6-7"]
    # The slowest of eight frequencies is b^(−14/16).
    assert [int(row["longest_wavelength"]) for row in rows] == [
        round(2 * math.pi * b ** (14 / 16)) for b in (10000, 20000, 30000, 40000)
    ]
    lines = to_markdown(GROUPED).splitlines()
    assert lines[0] == "| KV head | query heads | base | chosen | longest wavelength |"
    assert lines[2].startswith("| 0 | 0-1 | 10000 | 1 |")
    assert len(lines) == 6


def test_tables_of_layers(tmp_path):
    rows = list(csv.DictReader(io.StringIO(to_csv(LAYERS))))
    assert [(row["layer"], row["kv_head"], row["query_heads"], row["base"]) for row in rows] == [
        ("0", "0", "0-1", "10000"),
        ("0", "1", "2-3", "40000"),
        ("1", "0", "0-1", "20000"),
        ("1", "1", "2-3", "5000000"),
        ("2", "0", "0-1", "40000"),
        ("2", "1", "2-3", "10000"),
    ]
    for layer in range(3):
        of_layer = list(csv.DictReader(io.StringIO(to_csv(LAYERS.layer(layer)))))
        assert [{"layer": str(layer)} | row for row in of_layer] == rows[2 * layer : 2 * layer + 2]
    lines = to_markdown(LAYERS).splitlines()
    assert lines[0] == "| layer | KV head | query heads | base | chosen | longest wavelength |"
    assert lines[5].startswith("| 1 | 1 | 2-3 | 5000000 | 2 |")
    export(LAYERS, tmp_path / "a.tex")
    text = (tmp_path / "a.tex").read_text()
    assert r"\begin{tabular}{rrrrrr}" in text
    assert r"1 & 1 & 2--3 & 5000000 & 2 & " in text
    frame = LAYERS.to_dataframe()
    assert list(frame.columns) == ["layer", "kv_head", "base", "chosen"]
    assert frame["base"].tolist() == [1e4, 4e4, 2e4, 5e6, 4e4, 1e4]
    assert frame["layer"].tolist() == [0, 0, 1, 1, 2, 2]


def test_tensors_of_layers(tmp_path):
    for name in ("a.safetensors", "a.npz", "a.pt"):
        export(LAYERS, tmp_path / name)
    for tensors in (
        safetensors.torch.load_file(tmp_path / "a.safetensors"),
        dict(np.load(tmp_path / "a.npz")),
        torch.load(tmp_path / "a.pt", weights_only=True),
    ):
        assert tensors["inv_freq"].shape == (3, 2, 8)
        assert tensors["bases"].shape == (3, 2)
        np.testing.assert_array_equal(np.asarray(tensors["inv_freq"]), LAYERS.inv_freq().astype(np.float32))
        np.testing.assert_array_equal(np.asarray(tensors["bases"]), LAYERS.bases)


def test_order_of_choice_in_the_table():
    found = search_bases(1e4, 3e4, 1000, 5, head_dim=32, max_distance=2000)
    rows = csv.DictReader(io.StringIO(to_csv(found)))
    chosen = {int(row["chosen"]): float(row["base"]) for row in rows}
    assert [chosen[i] for i in range(1, 6)] == list(found.selection)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_tensors_in_every_format(tmp_path, dtype):
    expected = inv_freq(GROUPED.bases, 16)
    for name in ("a.safetensors", "a.npz", "a.pt"):
        export(GROUPED, tmp_path / name, dtype=dtype)
    loaded = {
        "safetensors": safetensors.torch.load_file(tmp_path / "a.safetensors"),
        "npz": dict(np.load(tmp_path / "a.npz")),
        "pt": torch.load(tmp_path / "a.pt", weights_only=True),
    }
    for tensors in loaded.values():
        assert set(tensors) == {"inv_freq", "bases"}
        assert np.asarray(tensors["inv_freq"]).dtype == dtype
        np.testing.assert_array_equal(np.asarray(tensors["inv_freq"]), expected.astype(dtype))
        assert np.asarray(tensors["bases"]).dtype == np.float64
        np.testing.assert_array_equal(np.asarray(tensors["bases"]), GROUPED.bases)


def test_text_exports(tmp_path):
    for name, text in (("a.json", GROUPED.to_json()), ("a.csv", to_csv(GROUPED)), ("a.md", to_markdown(GROUPED))):
        export(GROUPED, tmp_path / name)
        assert (tmp_path / name).read_text() == text
    assert FORMAT in (tmp_path / "a.json").read_text()


def test_bad_exports(tmp_path):
    with pytest.raises(ValueError, match=r"the suffix of the file must be one of \.json, .*, not '\.txt'"):
        export(GROUPED, tmp_path / "a.txt")
    with pytest.raises(ValueError, match="dtype must be one of float32, float64, not 'float16'"):
        export(GROUPED, tmp_path / "a.npz", dtype="float16")
    with pytest.raises(ValueError, match="dtype must be"):
        to_tensors(GROUPED, "int8")
    assert list(tmp_path.iterdir()) == []


def test_without_torch_a_pt_file_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    with pytest.raises(ImportError, match=r"pip install 'ropesearch\[torch\]'"):
        export(GROUPED, tmp_path / "a.pt")
    export(GROUPED, tmp_path / "a.safetensors")
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]
