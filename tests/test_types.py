"""Arguments of a wrong type are TypeErrors in words."""

import pytest
from test_plot_decay import made_up

import ropesearch as rs

DECAY = made_up(last=40)
SET = rs.BaseSet.of([1e4, 2e4])


@pytest.mark.parametrize(
    ("call", "line"),
    [
        (
            lambda: rs.apply_bases("path", SET),
            "model must be a transformers model in memory, not 'path'; load_model",
        ),
        (lambda: rs.apply_scheme(None, "yarn:32"), "model must be a transformers model in memory, not None"),
        (lambda: rs.apply_bases(None, "bases.json"), "base_set must be a BaseSet, not 'bases.json'"),
        (
            lambda: rs.measure_decay("path"),
            "model must be a transformers model in memory, not 'path'; load_model",
        ),
        (lambda: DECAY.predict(1e6), "bases must be a BaseSet or a list of bases, not 1000000"),
        (lambda: DECAY.predict("1e6"), "bases must be a BaseSet or a list of bases, not '1e6'"),
        (lambda: rs.order_by_decay([1e4], DECAY), r"base_set must be a BaseSet, not \[10000.0\]"),
        (lambda: rs.order_by_decay(SET, "decay.json"), "decay must be a Decay, not 'decay.json'"),
        (lambda: rs.export("bases.json", "a.csv"), "base_set must be a BaseSet, not 'bases.json'"),
        (lambda: rs.to_csv(5), "base_set must be a BaseSet, not 5"),
        (lambda: rs.to_tensors(5), "base_set must be a BaseSet, not 5"),
        (lambda: rs.cos_sin_tables(5, 8), "base_set must be a BaseSet, not 5"),
        (lambda: rs.align("table2"), "base_set must be a BaseSet, not 'table2'"),
        (lambda: rs.find_extrema("abc"), "values must be an array of numbers, not 'abc'"),
        (lambda: rs.plot_coverage("table2"), "heads_of must be a BaseSet or a Scheme, not 'table2'"),
        (lambda: rs.plot_heads("decay.json"), "decay must be a Decay, not 'decay.json'"),
        (lambda: rs.plot_overlay({"a": "table2"}), r"sets\['a'\] must be a BaseSet or a Scheme, not 'table2'"),
        (lambda: rs.plot_bases({"a": 5}), r"sets\['a'\] must be a BaseSet, not 5"),
        (lambda: rs.plot_sweep(["row"]), r"rows must be the rows that `read_sweep` returns, not \['row'\]"),
    ],
)
def test_a_wrong_type_is_a_type_error_and_wrong_input(call, line):
    with pytest.raises(TypeError, match=f"^{line}") as raised:
        call()
    assert isinstance(raised.value, ValueError)
