"""A base set as tensors that training code loads: safetensors, .npz and .pt."""

import io
from typing import Any

import numpy as np
import numpy.typing as npt

from . import checks
from .base_set import BaseSet
from .checks import MissingExtraError

DTYPES = ("float32", "float64")


def to_tensors(base_set: BaseSet, dtype: str = "float32") -> dict[str, npt.NDArray[Any]]:
    """Frequencies and bases as arrays.

    Parameters
    ----------
    base_set : BaseSet
    dtype : {'float32', 'float64'}
        Of the frequencies, which are computed in float64 and rounded once.

    Returns
    -------
    dict
        `inv_freq`, shape (kv_heads, head_dim / 2), in radians per token, and `bases`, float64, shape (kv_heads,).

    Raises
    ------
    ValueError
        If `dtype` is neither of the two.
    """
    checks.choice("dtype", dtype, DTYPES)
    return {"inv_freq": base_set.inv_freq().astype(dtype), "bases": np.array(base_set.bases, dtype=np.float64)}


def safetensors_bytes(tensors: dict[str, npt.NDArray[Any]]) -> bytes:
    """Content of a file for `safetensors.torch.load_file`; needs no torch."""
    from safetensors.numpy import save

    return bytes(save(tensors))


def npz_bytes(tensors: dict[str, npt.NDArray[Any]]) -> bytes:
    """Content of a file for `numpy.load`."""
    file = io.BytesIO()
    np.savez(file, **tensors)  # type: ignore[arg-type]  # the keywords are arrays, by name
    return file.getvalue()


def pt_bytes(tensors: dict[str, npt.NDArray[Any]]) -> bytes:
    """Content of a file for `torch.load`; raises MissingExtraError where there is no torch."""
    try:
        import torch
    except ImportError:
        msg = "a .pt file needs torch: pip install 'ropesearch[torch]'"
        raise MissingExtraError(msg) from None
    file = io.BytesIO()
    torch.save({name: torch.from_numpy(tensor) for name, tensor in tensors.items()}, file)
    return file.getvalue()
