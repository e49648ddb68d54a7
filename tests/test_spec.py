import inspect
import subprocess
import sys
from dataclasses import FrozenInstanceError, fields

import pytest

from ropesearch import PRESETS, search_bases
from ropesearch.core.errors import ParameterError
from ropesearch.core.spec import SearchSpec, has_effect

SMALL = {"bmin": 10000, "bmax": 30000, "stride": 1000, "heads": 4}

SPECS = [
    {},
    {"kv_heads": 2, "order": "descending"},
    {"extrema": "local", "prominence": 0.25, "matching": "distance", "normalize": True},
    {"strategy": "uniform", "tolerance": 7, "refine": True},
    {"strategy": "floor", "refine": True, "max_distance": 2},
    {"strategy": "ripple"},
]


@pytest.mark.parametrize("options", SPECS)
def test_a_dict_of_it_gives_it_again(options):
    spec = SearchSpec(**SMALL | options)
    again = SearchSpec(**spec.to_dict())
    assert again == spec
    assert hash(again) == hash(spec)
    assert again.to_dict() == spec.to_dict()


def test_what_shapes_no_result_is_no_part_of_it():
    arguments = inspect.signature(search_bases).parameters
    assert list(arguments) == [option.name for option in fields(SearchSpec)] + ["threads", "device", "progress"]
    defaults = {o.name: o.default for o in fields(SearchSpec) if o.name not in ("bmin", "bmax", "heads", "stride")}
    assert {name: arguments[name].default for name in defaults} == defaults


def test_it_is_frozen_and_of_plain_types():
    spec = SearchSpec(bmin="10000" and 10000, bmax=3e4, stride=1000, heads=4, normalize=False)
    with pytest.raises(FrozenInstanceError):
        spec.heads = 8
    kinds = {name: type(value) for name, value in spec.to_dict().items() if value is not None}
    assert (kinds["bmin"], kinds["stride"], kinds["heads"], kinds["normalize"]) == (float, float, int, bool)


def test_parameters_are_the_options_with_an_effect():
    local = SearchSpec(**SMALL, extrema="local").parameters()
    assert "min_separation" in local
    assert not {"gap", "normalize", "heads", "strategy"} & set(local)
    assert list(SearchSpec(**SMALL, strategy="uniform").parameters()) == ["bmin", "bmax", "order"]
    assert list(SearchSpec(**SMALL, strategy="floor").parameters()) == [
        "bmin", "bmax", "stride", "max_distance", "refine", "order",
    ]  # fmt: skip


def test_has_effect_takes_a_list_of_values():
    assert has_effect("count", {})
    assert has_effect("count", {"strategy": ["uniform", "peak-valley"]})
    assert not has_effect("count", {"strategy": ["uniform", "floor"]})
    assert not has_effect("count", {"strategy": "peak-valley", "extrema": "local"})


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_specs(name):
    assert SearchSpec(**PRESETS[name]).to_dict().items() >= PRESETS[name].items()


def test_the_number_of_candidates_is_counted_and_not_made():
    with pytest.raises(ParameterError, match="heads must be at most 21, because `stride` 1000 gives 20 candidates"):
        SearchSpec(**SMALL | {"heads": 22})
    for stride in (1e-300, 1e-3):
        with pytest.raises(
            ParameterError, match=r"^stride must be at least 1000, which gives at most 1000000 candidates, not "
        ):
            SearchSpec(bmin=2, bmax=1e9, stride=stride, heads=32)
    assert SearchSpec(bmin=2, bmax=1e6 + 2, stride=1, heads=32).stride == 1  # a million


def test_reading_the_options_loads_nothing_heavy():
    code = "import sys, ropesearch.core.spec; print(*sys.modules)"
    out = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True).stdout
    assert not {"numpy", "numba", "scipy", "torch"} & set(out.split())
