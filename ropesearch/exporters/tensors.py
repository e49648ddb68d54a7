"""A base set as tensors that training code loads: safetensors, .npz and .pt."""

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from ropesearch.core import checks
from ropesearch.core.base_set import BaseSet
from ropesearch.core.errors import ParameterError, require_extra
from ropesearch.core.machine import require_memory

DTYPES = ("float32", "float64")
POSITIONS_AT_ONCE = 1024
"""For tables: in float64 and all at once, angles and what comes of them would be most of the memory."""


def to_tensors(base_set: BaseSet, dtype: str = "float32") -> dict[str, npt.NDArray[Any]]:
    """Return frequencies and bases as arrays.

    Parameters
    ----------
    base_set : BaseSet
    dtype : {'float32', 'float64'}
        Type of the frequencies, which are computed in float64 and rounded once.

    Returns
    -------
    dict
        `inv_freq`, shape (kv_heads, head_dim / 2), in radians per token, and `bases`, float64, shape (kv_heads,);
        both after an axis of layers where these differ.

    Raises
    ------
    ValueError
        If `dtype` is neither of the two.
    """
    checks.instance("base_set", base_set, BaseSet, "a BaseSet")
    checks.choice("dtype", dtype, DTYPES)
    return {"inv_freq": base_set.inv_freq().astype(dtype), "bases": np.array(base_set.bases, dtype=np.float64)}


def cos_sin_tables(base_set: BaseSet, length: int, dtype: str = "float32") -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Compute cosine and sine of every angle at positions 0 … `length` − 1, for every KV head.

    Parameters
    ----------
    base_set : BaseSet
    length : int
        Number of positions, S.
    dtype : {'float32', 'float64'}
        Type of the tables, which are computed in float64 and rounded once.

    Returns
    -------
    cos, sin : ndarray, shape (S, kv_heads, head_dim / 2)
        Of position · θ_i, by which channels i and i + head_dim / 2 of a query or key rotate.

    Raises
    ------
    ValueError
        If an argument is out of range; the message names it and shows its value. If layers differ: make the tables of
        one, `base_set.layer(0)`.
    MemoryError
        If the tables do not fit in memory; the message says how much they need.

    References
    ----------
    HARPE, arXiv:2412.07171, Eq. 5; Su et al., arXiv:2104.09864, section 3.4.2.
    """
    inv_freq, n = _checked(base_set, length, dtype)
    cos, sin = (np.empty((n, *inv_freq.shape), dtype) for _ in range(2))
    for part, angles in _angles(inv_freq, n):
        np.cos(angles, out=cos[part], casting="same_kind")
        np.sin(angles, out=sin[part], casting="same_kind")
    return cos, sin


def cos_sin_cache(base_set: BaseSet, length: int, dtype: str = "float32") -> npt.NDArray[Any]:
    """Stack the tables of `cos_sin_tables` head by head, as a cache with one row number per head and position.

    Parameters
    ----------
    base_set, length, dtype
        As for `cos_sin_tables`.

    Returns
    -------
    ndarray, shape (kv_heads · S, head_dim)
        Row h·S + p, the number from `cache_row`, belongs to KV head h and position p: head_dim / 2 cosines, then
        head_dim / 2 sines. A query head uses the rows of its KV head.

    Raises
    ------
    ValueError, MemoryError
        As `cos_sin_tables`.
    """
    inv_freq, n = _checked(base_set, length, dtype)
    kv_heads, half = inv_freq.shape
    cache = np.empty((kv_heads, n, 2 * half), dtype)
    for part, angles in _angles(inv_freq, n):
        by_head = angles.swapaxes(0, 1)
        np.cos(by_head, out=cache[:, part, :half], casting="same_kind")
        np.sin(by_head, out=cache[:, part, half:], casting="same_kind")
    return cache.reshape(-1, 2 * half)


def _checked(base_set: BaseSet, length: int, dtype: str) -> tuple[npt.NDArray[np.float64], int]:
    """Frequencies, (kv_heads, head_dim / 2), and the number of positions, once the tables are known to fit."""
    checks.instance("base_set", base_set, BaseSet, "a BaseSet").of_all_layers("a table")
    checks.choice("dtype", dtype, DTYPES)
    inv_freq, n = base_set.inv_freq(), checks.integer("length", length, 1)
    require_memory(2 * n * inv_freq.size * np.dtype(dtype).itemsize, f"tables of {n} positions")
    return inv_freq, n


def _angles(inv_freq: npt.NDArray[np.float64], n: int) -> Iterator[tuple[slice, npt.NDArray[np.float64]]]:
    """Angles of some positions at a time, (positions, kv_heads, head_dim / 2)."""
    for first in range(0, n, POSITIONS_AT_ONCE):
        part = slice(first, min(first + POSITIONS_AT_ONCE, n))
        yield part, np.arange(part.start, part.stop, dtype=np.float64)[:, None, None] * inv_freq


def cache_row(kv_head: Any, position: Any, length: int) -> npt.NDArray[np.int64]:
    """Return the row in a `cos_sin_cache` made for `length` positions: kv_head · length + position.

    Parameters
    ----------
    kv_head, position : int or array_like of int
        Broadcast against each other.
    length : int
        The length of the cache.

    Returns
    -------
    ndarray of int64

    Raises
    ------
    ValueError
        If a position is not in 0 … `length` − 1 (the row would be another head's), or a head is below 0.
    """
    rows = checks.integer("length", length, 1)
    heads, positions = np.asarray(kv_head, dtype=np.int64), np.asarray(position, dtype=np.int64)
    if positions.size and not 0 <= positions.min() <= positions.max() < rows:
        raise ParameterError("position", position, f"from 0 to {rows - 1}")
    if heads.size and heads.min() < 0:
        raise ParameterError("kv_head", kv_head, "at least 0")
    return np.asarray(heads * rows + positions)


def safetensors_bytes(tensors: dict[str, npt.NDArray[Any]]) -> bytes:
    """Return the content of a file for `safetensors.torch.load_file`, without torch."""
    from safetensors.numpy import save

    return bytes(save(tensors))


def npz_bytes(tensors: dict[str, npt.NDArray[Any]]) -> bytes:
    """Return the content of a file for `numpy.load`."""
    file = io.BytesIO()
    np.savez(file, **tensors)  # type: ignore[arg-type]  # the keywords are arrays, by name
    return file.getvalue()


def pt_bytes(tensors: dict[str, npt.NDArray[Any]]) -> bytes:
    """Return the content of a file for `torch.load`; raise MissingExtraError without torch."""
    require_extra("a .pt file", "torch", "torch")
    import torch

    file = io.BytesIO()
    torch.save({name: torch.from_numpy(tensor) for name, tensor in tensors.items()}, file)
    return file.getvalue()
