"""Peaks and valleys of all candidates: found on the CPU or with a GPU's help, and kept as lists or as bits."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import islice
from threading import local
from typing import Any, Protocol

import numpy as np

from ropesearch.core.arrays import Counts, Floats, Positions, Words
from ropesearch.core.errors import InputError, shown
from ropesearch.core.machine import require_memory
from ropesearch.core.progress import Progress, counter
from ropesearch.core.rope import inv_freq
from ropesearch.core.spec import SearchSpec
from ropesearch.curves.extrema import Bits, ExtremaRule, Found, Local, extrema_rule, positions_of_bits
from ropesearch.curves.gpu import Survey
from ropesearch.curves.waveforms import Sampler, waveform_memory
from ropesearch.kernels import matching as _kernels
from ropesearch.kernels.matching import CHUNK, PEAK, VALLEY

from .threads import run_in_threads, run_size

Task = Callable[[], list[Any]]
"""Gives what is kept of the next few candidates."""


@dataclass(frozen=True, eq=False)
class Landmarks:
    """Peaks and valleys of every candidate, end to end, in the layout of `kernels.matching`."""

    flat: Positions
    bounds: Counts  # (candidates, 3)

    @classmethod
    def join(cls, found: Sequence[Found]) -> "Landmarks":
        """Lay the peaks and valleys of each candidate end to end."""
        sizes = np.array([(0, peaks.size, valleys.size) for peaks, valleys in found], dtype=np.int64)
        ends = np.cumsum(sizes.ravel()).reshape(sizes.shape)
        flat = np.concatenate([positions for pair in found for positions in pair])
        return cls(flat, ends)

    @classmethod
    def collect(cls, found: Iterator[Found], n_candidates: int, n_distances: int) -> "Landmarks":
        """Take in every candidate, one after the other."""
        return cls.join(list(found))

    def __len__(self) -> int:
        """How many candidates there are."""
        return len(self.bounds)

    def of(self, candidate: int) -> Found:
        """Peaks and valleys of one candidate."""
        begin, middle, end = self.bounds[candidate]
        return self.flat[begin:middle], self.flat[middle:end]

    def most(self) -> int:
        """No candidate has more peaks and valleys."""
        return int((self.bounds[:, 2] - self.bounds[:, 0]).max())


@dataclass(frozen=True, eq=False)
class LandmarkBits:
    """The same for curves that have a peak or a valley every few tokens: a bit for every distance."""

    words: Words  # (2, candidates, words), PEAK and VALLEY, words a multiple of CHUNK
    n_distances: int

    @classmethod
    def empty(cls, n_candidates: int, n_distances: int) -> "LandmarkBits":
        """No candidate has any yet."""
        return cls(np.zeros((2, n_candidates, cls.row_size(n_distances) // 8), np.uint64), n_distances)

    @classmethod
    def collect(cls, found: Iterator[Bits], n_candidates: int, n_distances: int) -> "LandmarkBits":
        """Take in every candidate, one after the other."""
        landmarks = cls.empty(n_candidates, n_distances)
        for candidate, bits in enumerate(found):
            landmarks.words[PEAK, candidate, : bits.peaks.size] = bits.peaks
            landmarks.words[VALLEY, candidate, : bits.valleys.size] = bits.valleys
        return landmarks

    @staticmethod
    def row_size(n_distances: int) -> int:
        """Bytes for the peaks of one candidate."""
        return -(-n_distances // (64 * CHUNK)) * CHUNK * 8

    def __len__(self) -> int:
        """How many candidates there are."""
        return int(self.words.shape[1])

    def of(self, candidate: int) -> Found:
        """Peaks and valleys of one candidate."""
        return positions_of_bits(self.words[PEAK, candidate]), positions_of_bits(self.words[VALLEY, candidate])

    def most(self) -> int:
        """No candidate has more peaks and valleys."""
        return self.n_distances

    @cached_property
    def counts(self) -> Counts:
        """How many peaks and how many valleys each candidate has, shape (2, candidates)."""
        ones = np.full((1, self.words.shape[2]), ~np.uint64(0))
        chunks = np.arange(self.words.shape[2] // CHUNK)
        counts = np.zeros(self.words.shape[:2], np.int64)
        for row in (PEAK, VALLEY):
            _kernels.add_bits(self.words[row], ones, np.ones(1, np.int64), chunks, counts[row])
        return counts


class Finder(Protocol):
    """Finds the peaks and valleys of all candidates."""

    def tasks(self, size: int) -> Iterator[Task]:
        """Give the work, `size` candidates at a time, in their order; tasks run in any thread."""


class CpuFinder:
    """Waveforms and their extrema on the CPU."""

    def __init__(self, rule: ExtremaRule, frequencies: Floats, window: "Window") -> None:
        self.rule = rule
        self.frequencies = frequencies
        self.window = window

    def tasks(self, size: int) -> Iterator[Task]:
        """See `Finder`."""
        for start in range(0, len(self.frequencies), size):
            yield partial(self._find, self.frequencies[start : start + size])

    def _find(self, frequencies: Floats) -> list[Any]:
        return self.rule.find(frequencies, self.window.sampler())


class GpuFinder:
    """Waveforms on a GPU, which says where extrema may be; the CPU computes every value that decides."""

    def __init__(self, rule: ExtremaRule, frequencies: Floats, window: "Window", device: Any) -> None:
        self.rule = rule
        self.frequencies = frequencies
        self.window = window
        self.survey = Survey(device, window.head_dim, window.first, window.last)

    def tasks(self, size: int) -> Iterator[Task]:
        """See `Finder`."""
        surveyed = self.rule.surveyed(self.survey, self.frequencies)
        for start in range(0, len(self.frequencies), size):
            yield partial(self._find, self.frequencies[start : start + size], list(islice(surveyed, size)))

    def _find(self, frequencies: Floats, surveyed: list[Any]) -> list[Any]:
        sampler = self.window.sampler()
        pairs = zip(frequencies, surveyed, strict=True)
        return [self.rule.find_surveyed(theta, found, sampler) for theta, found in pairs]


class Window:
    """The distances that a search looks at, and room for the waveform of one base over them in each thread."""

    def __init__(self, head_dim: int, first: int, last: int) -> None:
        self.head_dim = head_dim
        self.first = first
        self.last = last
        self._own = local()

    @property
    def size(self) -> int:
        """How many distances there are."""
        return self.last - self.first + 1

    def sampler(self) -> Sampler:
        """Room of the calling thread."""
        if not hasattr(self._own, "sampler"):
            self._own.sampler = Sampler(self.head_dim, self.first, self.last)
        sampler: Sampler = self._own.sampler
        return sampler


def find_landmarks(
    grid: Sequence[float], spec: SearchSpec, *, threads: int, device: Any, progress: Progress | None
) -> Landmarks | LandmarkBits:
    """Find the peaks and valleys of every base of the grid, counted from the first distance.

    `device` is a torch device, or None for the CPU.
    """
    rule = extrema_rule(spec.to_dict())
    window = Window(spec.head_dim, spec.min_distance, spec.max_distance)
    # `local` may look at a copy of the curve, and at lists of its extrema.
    scratch = waveform_memory(spec.head_dim, window.size) + (12 * window.size if isinstance(rule, Local) else 0)
    require_memory(scratch * threads, f"a search over {window.size} distances with {threads} threads")
    require_memory(4 * spec.head_dim * len(grid), f"the frequencies of {len(grid)} bases")
    frequencies = inv_freq(grid, spec.head_dim)
    kept_of_bmin = _check_bmin(grid[0], frequencies[0], rule, spec)
    kind: type[Landmarks | LandmarkBits] = LandmarkBits if isinstance(rule, Local) else Landmarks
    # For lists twice: those of the candidates, and the same laid end to end.
    kept = LandmarkBits.row_size(window.size) if isinstance(rule, Local) else kept_of_bmin
    require_memory(2 * kept * len(grid), f"keeping the extrema of {len(grid)} bases")

    finder: Finder
    finder = GpuFinder(rule, frequencies, window, device) if device else CpuFinder(rule, frequencies, window)
    report = counter(progress, "waveforms and extrema", len(grid))
    found = run_in_threads(finder.tasks(run_size(len(grid), threads)), threads, report)
    return kind.collect(found, len(grid), window.size)


def _check_bmin(bmin: float, theta: Floats, rule: ExtremaRule, spec: SearchSpec) -> int:
    """Refuse a window in which b_min has no extrema, to match those of others with; return how many bytes they take."""
    sampler = Sampler(spec.head_dim, spec.min_distance, spec.max_distance)
    of_bmin = rule.positions(sampler.waveform(theta))
    if not any(positions.size for positions in of_bmin):
        where = f"from `min_distance` {spec.min_distance} to `max_distance` {spec.max_distance}"
        msg = f"`bmin` {shown(bmin)} has no peak and no valley {where}; a wider window has"
        raise InputError(msg)
    return sum(positions.nbytes for positions in of_bmin)
