"""Algorithm 1 of HARPE: choose, one by one, the base whose peaks fall where the chosen ones have valleys."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from . import checks
from .kernels import matching as _kernels
from .kernels.matching import PEAK, VALLEY
from .memory import require_memory

Positions = npt.NDArray[np.int32]

MATCHINGS = ("coincidence", "distance")


@dataclass(frozen=True)
class Landmarks:
    """Peaks and valleys of every candidate, end to end, in the layout of `kernels.matching`."""

    flat: Positions
    bounds: npt.NDArray[np.int64]  # (candidates, 3)

    @classmethod
    def join(cls, extrema: Sequence[tuple[Positions, Positions]]) -> "Landmarks":
        """Lay the (peaks, valleys) of each candidate end to end."""
        sizes = np.array([(0, peaks.size, valleys.size) for peaks, valleys in extrema], dtype=np.int64)
        ends = np.cumsum(sizes.ravel()).reshape(sizes.shape)
        flat = np.concatenate([positions for pair in extrema for positions in pair])
        return cls(flat, ends)

    def peaks(self, candidate: int) -> Positions:
        """Peaks of one candidate."""
        return self.flat[self.bounds[candidate, 0] : self.bounds[candidate, 1]]

    def valleys(self, candidate: int) -> Positions:
        """Valleys of one candidate."""
        return self.flat[self.bounds[candidate, 1] : self.bounds[candidate, 2]]


class Pool(Protocol):
    """Peaks and valleys of the bases chosen so far, and what they make of a candidate."""

    def add(self, peaks: Positions, valleys: Positions) -> None:
        """Take in those of one more base."""

    def best(self, landmarks: Landmarks, chosen: npt.NDArray[np.bool_]) -> int:
        """Index of the candidate to choose next; ties go to the first."""


class CoincidencePool:
    """Most pairs of a peak and a valley at most `tolerance` apart wins; then the least sum of squares."""

    def __init__(self, n_distances: int, tolerance: int) -> None:
        self.tolerance = tolerance
        self.copies = np.zeros((2, n_distances), np.int64)
        self.pairs = np.zeros((2, n_distances), np.int64)
        self.squares = np.zeros((2, n_distances), np.int64)

    def add(self, peaks: Positions, valleys: Positions) -> None:
        """Take in those of one more base; what is then a peak and a valley at once leaves."""
        for row, positions in ((PEAK, peaks), (VALLEY, valleys)):
            _kernels.pool_add(self.copies[row], self.pairs[row], self.squares[row], positions, self.tolerance)
        for positions in (peaks, valleys):
            _kernels.pool_cancel(self.copies, self.pairs, self.squares, positions, self.tolerance)

    def best(self, landmarks: Landmarks, chosen: npt.NDArray[np.bool_]) -> int:
        """Index of the candidate to choose next."""
        return int(_kernels.best_coincidence(self.pairs, self.squares, landmarks.flat, landmarks.bounds, chosen))


class DistancePool:
    """Least sum of distances to the nearest opposite wins; against an empty row every sum is infinite."""

    def __init__(self, n_distances: int, normalize: bool) -> None:
        self.normalize = normalize
        self.nearest = np.full((2, n_distances), n_distances)  # farther than any
        self.empty = [True, True]

    def add(self, peaks: Positions, valleys: Positions) -> None:
        """Take in those of one more base."""
        for row, positions in ((PEAK, peaks), (VALLEY, valleys)):
            _kernels.nearest_add(self.nearest[row], positions)
            self.empty[row] &= positions.size == 0

    def best(self, landmarks: Landmarks, chosen: npt.NDArray[np.bool_]) -> int:
        """Index of the candidate to choose next."""
        if any(self.empty):
            return int(np.argmin(chosen))
        return int(_kernels.best_distance(self.nearest, landmarks.flat, landmarks.bounds, self.normalize, chosen))


@dataclass(frozen=True)
class Matching:
    """How peaks are held against valleys, with its options, checked."""

    name: str
    tolerance: int
    normalize: bool

    def options(self) -> dict[str, Any]:
        """Arguments of `search_bases` that describe this matching."""
        option = {"tolerance": self.tolerance} if self.name == "coincidence" else {"normalize": self.normalize}
        return {"matching": self.name, **option}

    def pool(self, landmarks: Landmarks, n: int, n_distances: int) -> Pool:
        """Return an empty pool for `n` bases in a window of so many distances."""
        if self.name == "coincidence":
            tolerance = min(self.tolerance, n_distances)
            most = int((landmarks.bounds[:, 2] - landmarks.bounds[:, 0]).max())
            if most * most * n * tolerance**2 >= 2**63:
                raise checks.ParameterError(
                    "tolerance", tolerance, "smaller: the sums of squared distances would not fit in 64 bits"
                )
            require_memory(48 * n_distances, f"matching over {n_distances} distances")
            return CoincidencePool(n_distances, tolerance)
        require_memory(16 * n_distances, f"matching over {n_distances} distances")
        return DistancePool(n_distances, self.normalize)


def matching_rule(matching: Any, *, tolerance: Any, normalize: Any) -> Matching:
    """Check the matching options of `search_bases`."""
    name = checks.choice("matching", matching, MATCHINGS)
    return Matching(name, checks.integer("tolerance", tolerance, 0), checks.truth("normalize", normalize))


def choose(landmarks: Landmarks, n: int, n_distances: int, matching: Matching, chose: Callable[[], None]) -> list[int]:
    """Indices of `n` candidates in the order of choice, the first of them 0.

    `chose` is called after each choice.
    """
    chosen = np.zeros(len(landmarks.bounds), dtype=np.bool_)
    pool = matching.pool(landmarks, n, n_distances)
    order = [0]
    while True:
        newest = order[-1]
        chosen[newest] = True
        chose()
        if len(order) == n:
            return order
        pool.add(landmarks.peaks(newest), landmarks.valleys(newest))
        order.append(pool.best(landmarks, chosen))
