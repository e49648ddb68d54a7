import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from toys import base_set

from ropesearch import cache_row, cos_sin_cache, cos_sin_tables, uniform_bases
from ropesearch.model import modeling_harpe


def test_tables_are_the_cosines_and_sines_of_the_angles():
    found = uniform_bases(1e4, 1e6, 3, head_dim=8)
    cos, sin = cos_sin_tables(found, 50, "float64")
    assert cos.shape == sin.shape == (50, 3, 4)
    for head, base in enumerate(found.bases):
        for i in range(4):
            angle = 37 * base ** (-2 * i / 8)
            assert abs(cos[37, head, i] - np.cos(angle)) < 1e-14
            assert abs(sin[37, head, i] - np.sin(angle)) < 1e-14
    for table, rounded in zip((cos, sin), cos_sin_tables(found, 50), strict=True):
        assert rounded.dtype == np.float32
        np.testing.assert_array_equal(rounded, table.astype(np.float32))


@given(heads=st.integers(1, 5), half=st.integers(1, 6), length=st.integers(1, 40), data=st.data())
def test_the_cache_gives_the_tables_back(heads, half, length, data):
    found = uniform_bases(1e4, 1e6, heads, head_dim=2 * half)
    cos, sin = cos_sin_tables(found, length)
    cache = cos_sin_cache(found, length)
    assert cache.shape == (heads * length, 2 * half)
    assert cache.flags.c_contiguous
    rows = cache_row(np.arange(heads), np.arange(length)[:, None], length)  # (S, heads)
    np.testing.assert_array_equal(cache[rows], np.concatenate((cos, sin), -1))
    head, position = data.draw(st.integers(0, heads - 1)), data.draw(st.integers(0, length - 1))
    row = cache[cache_row(head, position, length)]
    np.testing.assert_array_equal(row[:half], cos[position, head])
    np.testing.assert_array_equal(row[half:], sin[position, head])


def test_they_turn_queries_as_the_models_do():
    found = base_set((1e4, 1e6), head_dim=16)
    config = modeling_harpe.HarpeLlamaConfig(
        hidden_size=64,
        num_attention_heads=4,
        num_key_value_heads=2,
        rope_parameters={"rope_type": "harpe", "rope_theta": 1e4, "bases": list(found.bases)},
    )
    tables = modeling_harpe.PerHeadRope(config)(torch.zeros(1), torch.arange(2000)[None])  # (1, S, K, D/2)
    for ours, theirs in zip(cos_sin_tables(found, 2000), tables, strict=True):
        # A float32 angle below 2000 is off by 6e-5 and by the rounding of its frequency, as much again.
        np.testing.assert_allclose(ours, theirs[0].numpy(), rtol=0, atol=3e-4)


def test_wrong_arguments():
    found = uniform_bases(1e4, 1e6, 2, head_dim=8)
    with pytest.raises(ValueError, match="length must be an integer of at least 1, not 0"):
        cos_sin_tables(found, 0)
    with pytest.raises(ValueError, match="dtype must be one of float32, float64, not 'float16'"):
        cos_sin_cache(found, 3, "float16")
    with pytest.raises(ValueError, match="position must be from 0 to 9, not 10"):
        cache_row(0, 10, 10)
    with pytest.raises(ValueError, match="position must be from 0 to 9"):
        cache_row(0, np.array([3, -1]), 10)
    with pytest.raises(ValueError, match="kv_head must be at least 0, not -1"):
        cache_row(-1, 3, 10)
