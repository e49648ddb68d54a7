"""Algorithm 1 of HARPE: choose, one by one, the base whose peaks fall where the chosen ones have valleys."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np

from ropesearch.core.arrays import Counts, Flags, Positions, Words
from ropesearch.core.errors import ParameterError
from ropesearch.core.machine import require_memory
from ropesearch.core.spec import SearchSpec
from ropesearch.kernels import matching as _kernels
from ropesearch.kernels.matching import CHUNK, PEAK, VALLEY

from .landmarks import LandmarkBits, Landmarks

Chooser = Callable[[Flags], int]
"""Index of the candidate to choose next, given which are chosen; ties go to the first."""


class Pool(Protocol):
    """Peaks and valleys of the bases chosen so far, and what they make of a candidate."""

    weights: Counts
    """(2, distances): what a candidate's extremum would score there; row VALLEY is for its peaks."""

    def add(self, peaks: Positions, valleys: Positions) -> None:
        """Take in those of one more base."""

    def best(self, landmarks: Landmarks, chosen: Flags) -> int:
        """Index of the candidate to choose next, from all extrema; ties go to the first."""

    def best_of_sums(self, sums: Counts, landmarks: LandmarkBits, chosen: Flags) -> int:
        """Index of the candidate to choose next, from the sums of `weights` over its peaks and over its valleys."""


class CoincidencePool:
    """Most pairs of a peak and a valley at most `tolerance` apart wins; then the least sum of squares."""

    def __init__(self, n_distances: int, tolerance: int) -> None:
        self.tolerance = tolerance
        self.copies = np.zeros((2, n_distances), np.int64)
        self.weights = np.zeros((2, n_distances), np.int64)  # pairs
        self.squares = np.zeros((2, n_distances), np.int64)

    def add(self, peaks: Positions, valleys: Positions) -> None:
        """Take in those of one more base; what is then a peak and a valley at once leaves."""
        for row, positions in ((PEAK, peaks), (VALLEY, valleys)):
            _kernels.pool_add(self.copies, self.weights, self.squares, row, positions, self.tolerance)

    def best(self, landmarks: Landmarks, chosen: Flags) -> int:
        """Index of the candidate to choose next."""
        return int(_kernels.best_coincidence(self.weights, self.squares, landmarks.flat, landmarks.bounds, chosen))

    def best_of_sums(self, sums: Counts, landmarks: LandmarkBits, chosen: Flags) -> int:
        """Index of the candidate to choose next; squares are summed for those that tie alone."""
        pairs = np.where(chosen, -1, sums.sum(axis=0))
        ties = np.flatnonzero(pairs == pairs.max())
        if ties.size == 1:
            return int(ties[0])

        def squares(candidate: int) -> int:
            peaks, valleys = landmarks.of(candidate)
            return int(self.squares[VALLEY, peaks].sum() + self.squares[PEAK, valleys].sum())

        return min(ties.tolist(), key=squares)


class DistancePool:
    """Least sum of distances to the nearest opposite wins; against an empty row every sum is infinite."""

    def __init__(self, n_distances: int, normalize: bool) -> None:
        self.normalize = normalize
        self.weights = np.full((2, n_distances), n_distances)  # to the nearest member: farther than any
        self.empty = [True, True]

    def add(self, peaks: Positions, valleys: Positions) -> None:
        """Take in those of one more base."""
        for row, positions in ((PEAK, peaks), (VALLEY, valleys)):
            _kernels.nearest_add(self.weights[row], positions)
            self.empty[row] &= positions.size == 0

    def best(self, landmarks: Landmarks, chosen: Flags) -> int:
        """Index of the candidate to choose next."""
        if any(self.empty):
            return int(np.argmin(chosen))
        return int(_kernels.best_distance(self.weights, landmarks.flat, landmarks.bounds, self.normalize, chosen))

    def best_of_sums(self, sums: Counts, landmarks: LandmarkBits, chosen: Flags) -> int:
        """Index of the candidate to choose next."""
        if any(self.empty):
            return int(np.argmin(chosen))
        scores = sums.sum(axis=0).astype(np.float64)
        if self.normalize:
            scores = (sums / np.maximum(landmarks.counts, 1)).sum(axis=0)
        return int(np.argmin(np.where(chosen, np.inf, scores)))


class RunningSums:
    """Sums of a pool's weights over the extrema of every candidate, kept up by what each new base changes."""

    def __init__(self, landmarks: LandmarkBits, pool: Pool, threads: int) -> None:
        self.landmarks = landmarks
        self.pool = pool
        self.threads = threads
        n_bits = 64 * landmarks.words.shape[2]
        self.seen = np.zeros((2, n_bits), np.int64)
        self.sums = np.zeros((2, len(landmarks)), np.int64)

    def best(self, chosen: Flags) -> int:
        """Index of the candidate to choose next."""
        for row, opposite in ((PEAK, VALLEY), (VALLEY, PEAK)):
            weights = self.pool.weights[opposite]
            seen = self.seen[opposite, : weights.size]
            change = np.zeros_like(self.seen[opposite])
            np.subtract(weights, seen, out=change[: weights.size])
            seen[:] = weights
            self._add(change, self.landmarks.words[row], self.sums[row])
        return self.pool.best_of_sums(self.sums, self.landmarks, chosen)

    def _add(self, change: Counts, rows: Words, sums: Counts) -> None:
        chunks = np.flatnonzero(change.reshape(-1, 64 * CHUNK).any(axis=1))
        n_planes = max(int(change.max()), -1 - int(change.min())).bit_length() + 1
        planes = np.empty((n_planes, rows.shape[1]), np.uint64)
        _kernels.bit_planes(change, planes)
        weights = 2 ** np.arange(n_planes)
        weights[-1] *= -1
        parts = np.array_split(np.arange(len(rows)), self.threads)
        pieces = [slice(part[0], part[-1] + 1) for part in parts if part.size]
        with ThreadPoolExecutor(self.threads) as threads:
            list(threads.map(lambda p: _kernels.add_bits(rows[p], planes, weights, chunks, sums[p]), pieces))


class Matching(Protocol):
    """How the peaks of a candidate are held against the valleys of a pool, and its valleys against the peaks."""

    def pool(self, most: int, n: int, n_distances: int) -> Pool:
        """Return an empty pool for `n` bases with `most` extrema each, in a window of so many distances."""


@dataclass(frozen=True)
class Coincidence:
    """Most pairs at most `tolerance` tokens apart wins."""

    tolerance: int

    def pool(self, most: int, n: int, n_distances: int) -> CoincidencePool:
        """See `Matching`."""
        tolerance = min(self.tolerance, n_distances)
        if most * most * n * tolerance**2 >= 2**63:
            requirement = "smaller: the sums of squared distances would not fit in 64 bits"
            raise ParameterError("tolerance", tolerance, requirement)
        require_memory(96 * n_distances, f"matching over {n_distances} distances")
        return CoincidencePool(n_distances, tolerance)


@dataclass(frozen=True)
class Distance:
    """The smallest sum of distances to the nearest opposite wins; `normalize` divides each by its number of terms."""

    normalize: bool

    def pool(self, most: int, n: int, n_distances: int) -> DistancePool:
        """See `Matching`."""
        require_memory(64 * n_distances, f"matching over {n_distances} distances")
        return DistancePool(n_distances, self.normalize)


def matching_rule(spec: SearchSpec) -> Matching:
    """Return the matching that a search asks for."""
    return Coincidence(spec.tolerance) if spec.matching == "coincidence" else Distance(spec.normalize)


def chooser(landmarks: Landmarks | LandmarkBits, pool: Pool, threads: int) -> Chooser:
    """Return what finds the best candidate, again and again, while the pool grows."""
    if isinstance(landmarks, LandmarkBits):
        return RunningSums(landmarks, pool, threads).best
    return partial(pool.best, landmarks)


def choose(
    landmarks: Landmarks | LandmarkBits,
    n: int,
    n_distances: int,
    matching: Matching,
    chose: Callable[[], None],
    threads: int = 1,
) -> list[int]:
    """Indices of `n` candidates in the order of choice, the first of them 0.

    `chose` is called after each choice.
    """
    chosen = np.zeros(len(landmarks), dtype=np.bool_)
    pool = matching.pool(landmarks.most(), n, n_distances)
    best = chooser(landmarks, pool, threads)
    order = [0]
    while True:
        newest = order[-1]
        chosen[newest] = True
        chose()
        if len(order) == n:
            return order
        pool.add(*landmarks.of(newest))
        order.append(best(chosen))
