"""Numbers as people write them."""

import pytest

from ropesearch.core.numbers import read_number, read_range


@pytest.mark.parametrize(
    ("text", "decimal", "binary"),
    [
        ("30k", 30000, 30720),
        ("128K", 128000, 131072),
        ("1m", 10**6, 2**20),
        ("1.5M", 1500000, 1572864),
        ("0.1k", 100, 102.4),
        (" 5 k ", 5000, 5120),
        ("5e6", 5000000, 5000000),
        ("131072", 131072, 131072),
        ("0.5", 0.5, 0.5),
    ],
)
def test_numbers(text, decimal, binary):
    assert read_number(text) == decimal
    assert read_number(text, binary=True) == binary
    assert isinstance(read_number(text), int) == (decimal == int(decimal))


@pytest.mark.parametrize("text", ["", "k", "5kk", "5g", "1..2", "1/2", "x"])
def test_what_is_no_number(text):
    with pytest.raises(ValueError, match="not a number"):
        read_number(text)


def test_ranges_reach_their_last_number_if_a_step_ends_there():
    assert read_range("10k:50k:10k") == [10000, 20000, 30000, 40000, 50000]
    assert read_range("10k:55k:20k") == [10000, 30000, 50000]
    assert read_range("0.1:0.3:0.1") == [0.1, 0.2, 0.3]  # no sum of rounded tenths
    assert read_range("8k:16k:8k", binary=True) == [8192, 16384]
    assert read_range("7") == [7]


@pytest.mark.parametrize("text", ["1:2", "1:2:0", "1:2:-1", "2:1:1", "1:2:3:4", "1:1e9:1", "::", "nan:1:1", "1:inf:1"])
def test_what_is_no_range(text):
    with pytest.raises(ValueError, match="not a "):
        read_range(text)
