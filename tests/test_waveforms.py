import math
import random

import mpmath
import naive
import numpy as np
import pytest

from ropesearch import decay_bound, inv_freq, waveform
from ropesearch.kernels.waveform import BLOCK


def exact(base, head_dim, m):
    """The waveform to thirty digits."""
    with mpmath.workdps(30):
        thetas = [mpmath.mpf(base) ** (-mpmath.mpf(2 * i) / head_dim) for i in range(head_dim // 2)]
        return float(2 / mpmath.sqrt(head_dim) * mpmath.fsum(mpmath.cos(m * theta) for theta in thetas))


def exact_bound(base, head_dim, m):
    with mpmath.workdps(30):
        partial, total = mpmath.mpc(0), mpmath.mpf(0)
        for i in range(head_dim // 2):
            partial += mpmath.expj(m * mpmath.mpf(base) ** (-mpmath.mpf(2 * i) / head_dim))
            total += abs(partial)
        return float(2 * total / head_dim)


@pytest.mark.parametrize("base", [100, 1234.5, 10000, 1e6, 4.99e6, 1e9])
@pytest.mark.parametrize("head_dim", [64, 96, 128, 256])
def test_error_is_below_1e_9_up_to_a_million(base, head_dim):
    values = waveform(base, head_dim, 1048576)
    draw = random.Random(f"{base} {head_dim}")
    distances = [0, 1, 2, BLOCK - 1, BLOCK, 1048576, *(draw.randrange(1048577) for _ in range(20))]
    for m in distances:
        assert values[m] == pytest.approx(exact(base, head_dim, m), abs=1e-9)


@pytest.mark.parametrize("base", [100, 1e6, 1e9])
def test_error_of_the_decay_bound(base):
    values = decay_bound(base, 96, 1048576)
    for m in [0, 1, 777, BLOCK, 524288, 1048575, 1048576]:
        assert values[m] == pytest.approx(exact_bound(base, 96, m), abs=1e-9)


@pytest.mark.parametrize("curve", ["waveform", "decay_bound"])
@pytest.mark.parametrize("head_dim", [2, 4, 6, 10, 128])
@pytest.mark.parametrize(("first", "last"), [(0, 1), (0, 127), (0, 128), (5, 300), (1000, 1001), (63, 447)])
def test_windows_equal_one_cosine_at_a_time(curve, head_dim, first, last):
    ours = {"waveform": waveform, "decay_bound": decay_bound}[curve]
    theirs = {"waveform": naive.waveform, "decay_bound": naive.decay_bound}[curve]
    values = ours(10000, head_dim, last, min_distance=first)
    assert values.dtype == np.float64
    assert values.shape == (last - first + 1,)
    np.testing.assert_allclose(values, theirs(10000, head_dim, first, last), rtol=0, atol=1e-11)


def test_distance_zero_is_the_norm_of_the_query():
    for head_dim in (2, 64, 128):
        assert waveform(1e6, head_dim, 1)[0] == pytest.approx(math.sqrt(head_dim), abs=1e-12)
        assert decay_bound(1e6, head_dim, 1)[0] == pytest.approx((head_dim / 2 + 1) / 2, abs=1e-12)


def test_two_channels_are_one_cosine():
    m = np.arange(1001)
    np.testing.assert_allclose(waveform(5e5, 2, 1000), math.sqrt(2) * np.cos(m), rtol=0, atol=1e-12)
    np.testing.assert_allclose(decay_bound(5e5, 2, 1000), np.ones(1001), rtol=0, atol=1e-12)


def test_inv_freq():
    np.testing.assert_array_equal(inv_freq(10000, 4), [1.0, 0.01])
    np.testing.assert_array_equal(inv_freq([[10000.0], [100.0]], 4), [[[1.0, 0.01]], [[1.0, 0.1]]])
    torch = pytest.importorskip("torch")
    theirs = 1.0 / (500000.0 ** (torch.arange(0, 128, 2, dtype=torch.float64) / 128))
    np.testing.assert_allclose(inv_freq(500000.0, 128), theirs.numpy(), rtol=1e-14)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"base": 1}, "base must be a finite number above 1, not 1"),
        ({"base": math.nan}, "not nan"),
        ({"base": math.inf}, "not inf"),
        ({"base": "x"}, "not 'x'"),
        ({"base": None}, "not None"),
        ({"base": 10**400}, "base must be"),
        ({"head_dim": 7}, "head_dim must be even, not 7"),
        ({"head_dim": 0}, "head_dim must be an integer of at least 2, not 0"),
        ({"head_dim": 64.0}, "head_dim must be an integer"),
        ({"max_distance": 0}, "max_distance must be an integer of at least 1, not 0"),
        ({"max_distance": True}, "max_distance must be an integer"),
        ({"max_distance": 2**40}, "max_distance must be at most 2147483647"),
        ({"min_distance": 10}, "min_distance must be less than `max_distance`, 10, not 10"),
        ({"min_distance": -1}, "min_distance must be an integer of at least 0, not -1"),
    ],
)
@pytest.mark.parametrize("curve", [waveform, decay_bound])
def test_bad_arguments(curve, arguments, message):
    with pytest.raises(ValueError, match=message):
        curve(**{"base": 10000, "head_dim": 4, "max_distance": 10} | arguments)


def test_what_cannot_fit_in_memory_says_how_much_it_needs(monkeypatch):
    monkeypatch.setattr("ropesearch.core.machine.available_memory", lambda: 10**9)
    with pytest.raises(MemoryError, match=r"a curve over 2147483648 distances needs 17\.5 GB of memory, but only 1 GB"):
        waveform(10000, 128, 2**31 - 1)
    with pytest.raises(ValueError, match="head_dim must be at most 8192"):
        waveform(10000, 10**9, 10)
