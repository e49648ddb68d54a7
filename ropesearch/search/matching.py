"""Algorithm 1 of HARPE: choose, one by one, the base whose peaks best fit the valleys of those chosen before."""

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
"""Takes which candidates are chosen, returns the index of the one to choose next; ties go to the first."""


class Pool(Protocol):
    """Peaks and valleys of the bases chosen so far, which score candidates."""

    weights: Counts
    """(2, distances): the score of a candidate's extremum at each distance; row VALLEY scores its peaks."""

    def add(self, peaks: Positions, valleys: Positions) -> None:
        """Add those of one more base."""

    def best(self, landmarks: Landmarks, chosen: Flags) -> int:
        """Return the index of the candidate to choose next; ties go to the first."""

    def best_of_sums(self, sums: Counts, landmarks: LandmarkBits, chosen: Flags) -> int:
        """Do as `best`, given the sums of `weights` over each candidate's peaks and valleys."""


class CoincidencePool:
    """The most pairs of a peak and a valley at most `tolerance` apart win; then the least sum of squares."""

    def __init__(self, n_distances: int, tolerance: int) -> None:
        self.tolerance = tolerance
        self.copies = np.zeros((2, n_distances), np.int64)
        self.weights = np.zeros((2, n_distances), np.int64)  # pairs
        self.squares = np.zeros((2, n_distances), np.int64)

    def add(self, peaks: Positions, valleys: Positions) -> None:
        """Add those of one more base; positions that are then both a peak and a valley are removed."""
        for row, positions in ((PEAK, peaks), (VALLEY, valleys)):
            _kernels.pool_add(self.copies, self.weights, self.squares, row, positions, self.tolerance)

    def best(self, landmarks: Landmarks, chosen: Flags) -> int:
        """Return the index of the candidate to choose next."""
        return int(_kernels.best_coincidence(self.weights, self.squares, landmarks.flat, landmarks.bounds, chosen))

    def best_of_sums(self, sums: Counts, landmarks: LandmarkBits, chosen: Flags) -> int:
        """Return the index of the candidate to choose next; only ties need their squares summed."""
        pairs = np.where(chosen, -1, sums.sum(axis=0))
        ties = np.flatnonzero(pairs == pairs.max())
        if ties.size == 1:
            return int(ties[0])

        def squares(candidate: int) -> int:
            peaks, valleys = landmarks.of(candidate)
            return int(self.squares[VALLEY, peaks].sum() + self.squares[PEAK, valleys].sum())

        return min(ties.tolist(), key=squares)


class DistancePool:
    """The least sum of distances to the nearest opposite wins; against an empty row every sum is infinite."""

    def __init__(self, n_distances: int, normalize: bool) -> None:
        self.normalize = normalize
        self.weights = np.full((2, n_distances), n_distances)  # to the nearest member; at first larger than any
        self.empty = [True, True]

    def add(self, peaks: Positions, valleys: Positions) -> None:
        """Add those of one more base."""
        for row, positions in ((PEAK, peaks), (VALLEY, valleys)):
            _kernels.nearest_add(self.weights[row], positions)
            self.empty[row] &= positions.size == 0

    def best(self, landmarks: Landmarks, chosen: Flags) -> int:
        """Return the index of the candidate to choose next."""
        if any(self.empty):
            return int(np.argmin(chosen))
        return int(_kernels.best_distance(self.weights, landmarks.flat, landmarks.bounds, self.normalize, chosen))

    def best_of_sums(self, sums: Counts, landmarks: LandmarkBits, chosen: Flags) -> int:
        """Return the index of the candidate to choose next."""
        if any(self.empty):
            return int(np.argmin(chosen))
        scores = sums.sum(axis=0).astype(np.float64)
        if self.normalize:
            scores = (sums / np.maximum(landmarks.counts, 1)).sum(axis=0)
        return int(np.argmin(np.where(chosen, np.inf, scores)))


class RunningSums:
    """Sums of a pool's weights over the extrema of every candidate, updated by what each new base changes."""

    def __init__(self, landmarks: LandmarkBits, pool: Pool, threads: int) -> None:
        self.landmarks = landmarks
        self.pool = pool
        self.threads = threads
        n_bits = 64 * landmarks.words.shape[2]
        self.seen = np.zeros((2, n_bits), np.int64)
        self.sums = np.zeros((2, len(landmarks)), np.int64)

    def best(self, chosen: Flags) -> int:
        """Return the index of the candidate to choose next."""
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
    """How the peaks of a candidate are matched to the valleys of a pool, and its valleys to the peaks."""

    def pool(self, most: int, n: int, n_distances: int) -> Pool:
        """Return an empty pool for `n` bases with at most `most` extrema each, in a window of `n_distances`."""


@dataclass(frozen=True)
class Coincidence:
    """The most pairs at most `tolerance` tokens apart win."""

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
    """Return the matching that the options describe."""
    return Coincidence(spec.tolerance) if spec.matching == "coincidence" else Distance(spec.normalize)


def chooser(landmarks: Landmarks | LandmarkBits, pool: Pool, threads: int) -> Chooser:
    """Return a function that finds the best candidate each time the pool has grown."""
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
    """Return the indices of `n` candidates in the order of choice, starting with 0.

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
