"""Curves over distance: the attention waveform and RoFormer's decay bound."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from . import checks
from .kernels import waveform as _kernels
from .memory import require_memory
from .rope import inv_freq

Floats = npt.NDArray[np.float64]


def waveform(base: float, head_dim: int, max_distance: int, *, min_distance: int = 0) -> Floats:
    """Pre-softmax attention of an all-ones query and key, by distance.

    Parameters
    ----------
    base : float
        RoPE theta, dimensionless, > 1.
    head_dim : int
        Channels per head, even.
    max_distance, min_distance : int
        First and last distance, in tokens, both included.

    Returns
    -------
    ndarray of float64, shape (max_distance - min_distance + 1,)
        A_b(m) = (2/√d)·Σ_i cos(m·θ_i), in logits. The error is below 1e-9 up to distance 1 048 576.

    Raises
    ------
    ValueError
        If an argument is out of range; the message names it and shows its value.
    MemoryError
        If the curve does not fit in memory; the message says how much it needs.

    References
    ----------
    Su et al., arXiv:2104.09864, sections 3.4.2-3.4.3, with q = k = 1; HARPE, arXiv:2412.07171, section 3.
    """
    return waveform_samples(*_checked(base, head_dim, min_distance, max_distance))


def decay_bound(base: float, head_dim: int, max_distance: int, *, min_distance: int = 0) -> Floats:
    """RoFormer's upper bound on how attention decays, by distance.

    Parameters
    ----------
    base : float
        RoPE theta, dimensionless, > 1.
    head_dim : int
        Channels per head, even.
    max_distance, min_distance : int
        First and last distance, in tokens, both included.

    Returns
    -------
    ndarray of float64, shape (max_distance - min_distance + 1,)
        (2/d)·Σ_j |Σ_{i≤j} e^{i·m·θ_i}|, dimensionless; (d/2 + 1)/2 at distance 0.

    Raises
    ------
    ValueError
        If an argument is out of range; the message names it and shows its value.
    MemoryError
        If the curve does not fit in memory; the message says how much it needs.

    References
    ----------
    Su et al., arXiv:2104.09864, section 3.4.3.
    """
    b, d, first, last = _checked(base, head_dim, min_distance, max_distance)
    return decay_bound_of(inv_freq(b, d), first, last)


def waveform_samples(base: float, head_dim: int, first: int, last: int) -> Floats:
    """`waveform` for arguments that are checked already."""
    return waveform_of(inv_freq(base, head_dim), first, last)


def waveform_of(theta: Floats, first: int, last: int) -> Floats:
    """(2/√d)·Σ_i cos(m·θ_i), m = first…last, for any d/2 frequencies."""
    return _samples(_waveform_kernel, theta, first, last)


def decay_bound_of(theta: Floats, first: int, last: int) -> Floats:
    """(2/d)·Σ_j |Σ_{i≤j} e^{i·m·θ_i}|, m = first…last, for any d/2 frequencies."""
    return _samples(_kernels.decay_bound, theta, first, last)


def waveform_memory(head_dim: int, n_distances: int) -> int:
    """Bytes that `waveform` and `decay_bound` take while they run."""
    return 8 * n_distances + 8 * head_dim * _kernels.BLOCK


def _waveform_kernel(theta: Floats, first: int, out: Floats) -> None:
    _kernels.waveform(theta, 2 / math.sqrt(2 * theta.size), first, out)


def _checked(base: Any, head_dim: Any, min_distance: Any, max_distance: Any) -> tuple[float, int, int, int]:
    b, d = checks.base("base", base), checks.head_dim(head_dim)
    first, last = checks.distances(min_distance, max_distance)
    n = last - first + 1
    require_memory(waveform_memory(d, n), f"a curve over {n} distances")
    return b, d, first, last


def _samples(curve: Callable[[Floats, int, Floats], None], theta: Floats, first: int, last: int) -> Floats:
    """Run a kernel over a window; it fills whole blocks, of which the window is the start."""
    n = last - first + 1
    out = np.empty(-(-n // _kernels.BLOCK) * _kernels.BLOCK)
    curve(theta, first, out)
    return out[:n]
