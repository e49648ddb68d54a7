"""Comparisons from Python, the lower bound on a base, and what names stand for."""

import math
import sys

import naive
import pandas as pd
import pytest
from test_plot_decay import made_up

from ropesearch import PRESETS, BaseSet, base_lower_bound, compare, parse_scheme, search_bases, uniform_bases
from ropesearch.core.errors import InputError
from ropesearch.search.named import find_base_set, find_bases


def test_base_sets_schemes_and_names_together():
    own = uniform_bases(1e6, 5e6, 4)
    found = compare([own, parse_scheme("yarn:32"), "table2", BaseSet.of([5e6])], 900)
    assert [line.name for line in found] == ["uniform, 4 bases", "yarn:32", "table2", "given, 1 base"]
    assert [line.bases for line in found] == [4, 1, 32, 1]
    assert found[0].coverage == own.coverage(900)
    named = compare({"mine": own, "theirs": "table2"}, 900)
    assert [line.name for line in named] == ["mine", "theirs"]
    assert named[1].coverage == found[2].coverage


def test_a_data_frame_has_a_row_for_each():
    found = compare(["uniform", "abf:5e6"], 900)
    frame = found.to_dataframe()
    assert list(frame.columns[:4]) == ["name", "bases", "floor_distance", "floor"]
    assert frame["floor"].tolist() == [line.coverage.floor for line in found]
    assert pd.isna(frame["valleys_on_peaks"][1])
    with_heads = uniform_bases(1e6, 5e6, 4, kv_heads=2).to_dataframe()
    assert with_heads["base"].tolist() == [1e6, 5e6]
    assert with_heads["kv_head"].tolist() == [0, 1]


def test_a_decay_has_a_row_for_every_head():
    decay = made_up(last=40)
    frame = decay.to_dataframe()
    assert frame[["layer", "head", "kv_head"]].to_numpy().tolist()[5] == [2, 1, 0]
    assert frame["slope"].tolist() == decay.figures["slope"].ravel().tolist()


def test_without_pandas_the_line_says_what_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match="a data frame needs pandas: pip install pandas"):
        BaseSet.of([5e6]).to_dataframe()


def test_no_single_head_has_another_ones_peaks():
    (line,) = compare(["rope:10000"], 9000)
    assert line.figures["valleys_on_peaks"] is None


@pytest.mark.parametrize("wrong", [[], {}, "table2", 5, [5], None, BaseSet.of([5e6])])
def test_what_cannot_be_compared(wrong):
    with pytest.raises(ValueError, match=r"^sets must be a list "):
        compare(wrong)


@pytest.mark.parametrize(("length", "head_dim"), [(64, 128), (300, 16), (1024, 128)])
def test_the_lower_bound_is_the_first_base_that_is_never_negative(length, head_dim):
    bound = base_lower_bound(length, head_dim)
    assert min(naive.waveform(bound, head_dim, 0, length - 1)) >= 0
    step = 10 ** math.floor(math.log10(bound)) / 10
    for below in (bound - step, bound - 2 * step, bound / 2):
        assert min(naive.waveform(below, head_dim, 0, length - 1)) < 0


# arXiv:2405.14591, table 2.
@pytest.mark.parametrize(("length", "bound"), [(1024, 4.3e3), (2048, 1.6e4), (8192, 8.4e4), (65536, 2.1e6)])
def test_the_lower_bound_is_the_published_one(length, bound):
    assert base_lower_bound(length) == bound


def test_some_lengths_have_no_bound():
    assert base_lower_bound(64, 2) is None
    with pytest.raises(ValueError, match="length must be an integer of at least 2, not 1"):
        base_lower_bound(1)


def test_a_comparison_says_how_many_bases_reach_the_bound():
    found = compare(["uniform:10k..300k,heads=30", "yarn:32", "abf:5e6"], 8191)
    assert found.bound == 8.4e4
    assert [line.bounded for line in found] == [22, None, 1]


def test_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_base_set("table2") == search_bases(**PRESETS["table2"])
    assert find_base_set("abf:5e6").bases == (5e6,)
    assert find_base_set("ntk:32").kv_heads == 1
    assert find_bases("yarn:32") == parse_scheme("yarn:32")
    uniform_bases(1e6, 5e6, 2).save("table2")
    assert len(find_base_set("table2")) == 32
    assert len(find_base_set("./table2")) == 2
    for name in ("pi:32", "yarn:32", "self-extend:1024,group=32", "ms-poe", "llama3:8"):
        with pytest.raises(InputError, match="is more than bases"):
            find_base_set(name)
    with pytest.raises(FileNotFoundError):
        find_bases("none.json")
    with pytest.raises(InputError, match=r"'tabel2' is not a file, a preset or a position .* did you mean table2"):
        find_bases("tabel2")
