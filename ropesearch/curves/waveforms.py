"""Curves over distance: the attention waveform and RoFormer's decay bound."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ropesearch.core import checks
from ropesearch.core.arrays import Floats
from ropesearch.core.machine import require_memory
from ropesearch.core.rope import inv_freq
from ropesearch.kernels import waveform as _kernels


def waveform(base: float, head_dim: int, max_distance: int, *, min_distance: int = 0) -> Floats:
    """Compute the pre-softmax attention of an all-ones query and key, by distance.

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
    """Compute RoFormer's upper bound on how attention decays, by distance.

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
        ``(2/d)·Σ_j |Σ_{i≤j} e^{i·m·θ_i}|``, dimensionless; (d/2 + 1)/2 at distance 0.

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
    """Compute `waveform` for checked arguments."""
    return waveform_of(inv_freq(base, head_dim), first, last)


def waveform_of(theta: Floats, first: int, last: int) -> Floats:
    """Compute (2/√d)·Σ_i cos(m·θ_i), m = first…last, for any d/2 frequencies."""
    return Sampler(2 * theta.size, first, last).waveform(np.ascontiguousarray(np.sort(theta)[::-1])).values


def decay_bound_of(theta: Floats, first: int, last: int) -> Floats:
    """Compute (2/d)·Σ_j |Σ_{i≤j} e^{i·m·θ_i}|, m = first…last, for any d/2 frequencies."""
    n = last - first + 1
    out = np.empty(-(-n // _kernels.BLOCK) * _kernels.BLOCK)  # the kernel fills whole blocks
    _kernels.decay_bound(theta, first, out)
    return out[:n]


class Samples(NamedTuple):
    """A curve, point by point, and bounds on each of its blocks of BLOCK points."""

    values: Floats
    lowest: Floats
    highest: Floats

    @classmethod
    def of(cls, values: Floats) -> "Samples":
        """Take the samples of any curve."""
        starts = np.arange(0, values.size, _kernels.BLOCK)
        return cls(values, np.minimum.reduceat(values, starts), np.maximum.reduceat(values, starts))


class Sampler:
    """Computes waveforms over one window of distances, one after another in the same memory."""

    def __init__(self, head_dim: int, first: int, last: int) -> None:
        self.scale = 2 / math.sqrt(head_dim)
        self.first = first
        self.size = last - first + 1
        self.room = _kernels.workspace(head_dim // 2, self.size)
        self._n_strips = self.room.values.size // _kernels.STRIP
        self._samples = Samples(self.room.values[: self.size], self.room.lowest, self.room.highest)

    def waveform(self, theta: Floats) -> Samples:
        """Compute (2/√d)·Σ_i cos(m·θ_i) over the window, frequencies descending. The next call overwrites it."""
        self._compute(theta, 0, self._n_strips)
        return self._samples

    def sketch(self, theta: Floats, lowest: Floats, highest: Floats) -> "Sketch":
        """Start a waveform that is computed strip by strip on demand, from bounds on every block, (blocks,) each."""
        self.room.values[:] = np.nan
        self.room.lowest[: lowest.size] = lowest
        self.room.highest[: highest.size] = highest
        return Sketch(self._samples, np.zeros(self._n_strips, np.bool_), partial(self._compute, theta))

    def _compute(self, theta: Floats, begin: int, end: int) -> None:
        _kernels.waveform(theta, self.scale, self.first, self.size, begin, end, self.room)


@dataclass
class Sketch:
    """A waveform computed only in part; values in all other strips are NaN."""

    samples: Samples
    known: npt.NDArray[np.bool_]  # (strips,)
    fill: Callable[[int, int], None]  # fill(begin, end) computes strips begin … end − 1

    def learn(self, blocks: npt.NDArray[np.bool_]) -> bool:
        """Compute the strips of the marked blocks; return whether all of them were known already."""
        wanted = (
            np.logical_or.reduceat(blocks, np.arange(0, blocks.size, _kernels.STRIP // _kernels.BLOCK)) & ~self.known
        )
        self.known |= wanted
        edges = np.flatnonzero(np.diff(wanted, prepend=False, append=False))
        for begin, end in edges.reshape(-1, 2).tolist():
            self.fill(begin, end)
        return not edges.size


def waveform_memory(head_dim: int, n_distances: int) -> int:
    """Return how many bytes `waveform` and `decay_bound` need while they run."""
    return _kernels.workspace_size(head_dim // 2, n_distances)


def _checked(base: Any, head_dim: Any, min_distance: Any, max_distance: Any) -> tuple[float, int, int, int]:
    b, d = checks.base("base", base), checks.head_dim(head_dim)
    first, last = checks.distances(min_distance, max_distance)
    n = last - first + 1
    require_memory(waveform_memory(d, n), f"a curve over {n} distances")
    return b, d, first, last
