"""The frequencies of rotary position embedding."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from . import checks


def inv_freq(base: Any, head_dim: int) -> npt.NDArray[np.float64]:
    """Return the frequencies of rotary position embedding, θ_i = b^(−2(i−1)/d).

    Parameters
    ----------
    base : float or array_like of float, any shape
        RoPE theta, dimensionless, > 1.
    head_dim : int
        Channels per head, d, even.

    Returns
    -------
    ndarray of float64, shape (*base.shape, head_dim / 2)
        In radians per token; the first is 1.

    Raises
    ------
    ValueError
        If a base or `head_dim` is out of range; the message names it and shows its value.

    References
    ----------
    HARPE, arXiv:2412.07171, Eq. 5; Su et al., arXiv:2104.09864, section 3.2.2.
    """
    d = checks.head_dim(head_dim)
    bases = np.asarray(base, dtype=object)
    rows = [_frequencies(checks.base("base", b), d) for b in bases.ravel()]
    return np.array(rows, dtype=np.float64).reshape(*bases.shape, d // 2)


def _frequencies(base: float, head_dim: int) -> Sequence[float]:
    # Python's power is the C library's, exact to the last bit; numpy's vector power may be off by several.
    return [base ** (-2 * i / head_dim) for i in range(head_dim // 2)]
