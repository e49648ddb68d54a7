"""A small share of what `python tests/fuzz.py` draws; seeds of their own, so that the two add up."""

import fuzz
import pytest


@pytest.mark.parametrize(("check", "count"), [(fuzz.check_valid, 150), (fuzz.check_wrong, 500)])
def test_random_inputs(check, count):
    kinds, failures = fuzz.run(check, count, seed=0)
    assert not failures, failures[0]
    assert kinds.total() == count
    assert len(kinds) > 1


def test_a_difference_would_be_seen(monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("naive.dominant_peaks", lambda *_: [1])
        _, failures = fuzz.run(fuzz.check_valid, 20, seed=0)
        assert "FuzzError: peaks or valleys" in failures[0]
    monkeypatch.setattr("ropesearch.core.checks.head_dim", lambda _: 2)
    _, failures = fuzz.run(fuzz.check_wrong, 200, seed=0)
    assert any("FuzzError: exit code 0" in failure for failure in failures)
