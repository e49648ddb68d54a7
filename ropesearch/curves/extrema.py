"""Which peaks and valleys of a waveform count: the rules `dominant` and `local`."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from ropesearch.core import checks
from ropesearch.core.arrays import Distances, Flags, Floats, Positions, Words
from ropesearch.core.errors import ArgumentTypeError, InputError, ParameterError
from ropesearch.core.spec import SearchSpec, extrema_options
from ropesearch.kernels import extrema as _kernels
from ropesearch.kernels.waveform import BLOCK

from . import gpu
from .waveforms import Sampler, Samples

Found = tuple[Positions, Positions]
"""Peaks and valleys of one curve, in ascending order."""


class Bits(NamedTuple):
    """Peaks and valleys of one curve as bits: bit j % 64 of word j // 64 stands for point j."""

    peaks: Words
    valleys: Words

    @classmethod
    def empty(cls, size: int) -> "Bits":
        """Make room for `size` points, with no bit set."""
        return cls(*np.zeros((2, -(-size // 64)), np.uint64))

    @classmethod
    def of(cls, found: Found, size: int) -> "Bits":
        """Set the bits of the positions found."""
        bits = cls.empty(size)
        for words, positions in zip(bits, found, strict=True):
            marks = np.zeros(64 * words.size, np.bool_)
            marks[positions] = True
            words[:] = np.packbits(marks, bitorder="little").view("<u8")
        return bits

    @classmethod
    def of_steps(cls, up: Words, down: Words) -> "Bits":
        """Find the extrema of a curve without plateaus from the bits that say where it rises and falls."""

        def turns(to: Words, onwards: Words) -> Words:
            before = np.concatenate([[np.uint64(0)], to[:-1] >> np.uint64(63)]) | to << np.uint64(1)
            found: Words = before & onwards
            return found

        return cls(turns(up, down), turns(down, up))

    def found(self) -> Found:
        """Return the positions, in ascending order."""
        return positions_of_bits(self.peaks), positions_of_bits(self.valleys)


def positions_of_bits(words: Words) -> Positions:
    """Return, ascending, every j for which bit j % 64 of word j // 64 is set."""
    bits = np.unpackbits(words.astype("<u8").view(np.uint8), bitorder="little").view(np.bool_)
    return np.flatnonzero(bits).astype(np.int32)


@dataclass(frozen=True, eq=False)
class Extrema:
    """Peaks and valleys of one curve, in ascending order of distance.

    Attributes
    ----------
    peaks, valleys : ndarray of int64
        Their distances, in tokens.
    peak_values, valley_values : ndarray of float64
        The curve at these distances, in its own unit (logits for a waveform).
    """

    peaks: Distances
    valleys: Distances
    peak_values: Floats
    valley_values: Floats


def find_extrema(
    values: npt.ArrayLike,
    extrema: str = SearchSpec.extrema,
    *,
    min_distance: int = 0,
    count: int = SearchSpec.count,
    gap: int = SearchSpec.gap,
    valley_gap: int = SearchSpec.valley_gap,
    look_ahead: int = SearchSpec.look_ahead,
    level_tolerance: float = SearchSpec.level_tolerance,
    prominence: float | None = SearchSpec.prominence,
    min_separation: int | None = SearchSpec.min_separation,
) -> Extrema:
    """Find the peaks and valleys of a curve over distance, by one of two rules.

    `dominant` keeps the peaks on the upper edge of the curve, from left to right, and the valleys on its lower
    edge, from right to left. Candidates are the strict local extrema; plateaus and end points are not candidates. A
    *level* starts at the highest maximum (the lowest minimum). An extremum within `level_tolerance` of it is at
    level; it is kept if it is the first, or farther than `gap` (`valley_gap`) from the last one kept. Whether or not
    the extremum, at m, is kept, the level then becomes the largest of the `look_ahead` values from m + `gap`, or from
    the next maximum if that comes first; for valleys, the smallest of all values left of m − `gap`, or of the next
    minimum to the left if that is farther left. At most `count` of each are kept; there may be fewer, or none.

    `local` gives every local extremum as `scipy.signal.find_peaks` finds them in `values` and in −`values`: the
    middle of a plateau, rounded down; never an end point.

    Options of the other rule have no effect, but must be in range.

    Parameters
    ----------
    values : array_like of float, shape (n,)
        The curve at distances `min_distance`, `min_distance` + 1, …
    extrema : {'dominant', 'local'}
        The rule.
    min_distance : int
        Distance of the first value, in tokens.
    count : int
        `dominant`: maximum number of peaks, and of valleys, to keep.
    gap, valley_gap, look_ahead : int
        `dominant`: in tokens, see above.
    level_tolerance : float
        `dominant`: in the unit of `values`.
    prominence : float, optional
        `local`: minimum prominence, in the unit of `values`.
    min_separation : int, optional
        `local`: minimum distance between two peaks (two valleys), in tokens; the less extreme are dropped.

    Returns
    -------
    Extrema
        Distances and values of the peaks and of the valleys.

    Raises
    ------
    ValueError
        If an argument is out of range, or `values` is not one-dimensional or contains NaN.

    References
    ----------
    `dominant` is the rule that reproduces Table 2 of HARPE, arXiv:2412.07171; it has the form of the search
    published with Attention Buckets, arXiv:2312.04455.
    """
    given = locals()
    try:
        curve = np.ascontiguousarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise ArgumentTypeError("values", values, "an array of numbers") from None
    if curve.ndim != 1:
        raise ParameterError("values", curve.shape, "one-dimensional")
    if np.isnan(curve).any():
        raise InputError("values must not contain NaN")
    first = checks.integer("min_distance", min_distance, 0)
    rule = extrema_rule(given)
    peaks, valleys = rule.positions(Samples.of(curve))
    return Extrema(
        peaks=first + peaks.astype(np.int64),
        valleys=first + valleys.astype(np.int64),
        peak_values=curve[peaks],
        valley_values=curve[valleys],
    )


class ExtremaRule(Protocol):
    """Which peaks and valleys of a curve count, and how they are found for many waveforms.

    For each waveform a rule returns `Found` if it finds few extrema, `Bits` if it finds many. A GPU's values differ in
    the last digits, so a GPU only says where to look (`surveyed`). The CPU computes every deciding value
    (`find_surveyed`), so that results agree to the last bit.
    """

    def positions(self, curve: Samples) -> Found:
        """Peaks and valleys of a curve, as indices."""

    def find(self, frequencies: Floats, sampler: Sampler) -> list[Any]:
        """Return the extrema of the waveform of every row of frequencies, (C, d/2)."""

    def surveyed(self, survey: gpu.Survey, frequencies: Floats) -> Iterator[Any]:
        """Yield a GPU's survey of the waveform of every row of frequencies."""

    def find_surveyed(self, theta: Floats, surveyed: Any, sampler: Sampler) -> Any:
        """Return the extrema of one waveform, from a GPU's survey of it."""


@dataclass(frozen=True)
class Dominant:
    """Extrema on the upper and lower edge of the curve, as `Found`."""

    count: int
    gap: int
    valley_gap: int
    look_ahead: int
    level_tolerance: float

    def positions(self, curve: Samples, seen: Flags | None = None) -> Found:
        """Return peaks and valleys of a curve, as indices; mark in `seen` the blocks whose values were needed."""
        size = curve.values.size
        kept = np.empty((2, min(self.count, size)), np.int32)
        likely = np.empty(curve.lowest.size, np.int32)
        seen = np.empty(curve.lowest.size, np.bool_) if seen is None else seen
        found = []
        for valleys, separation in ((False, self.gap), (True, self.valley_gap)):
            room = kept[int(valleys)]
            n = _kernels.dominant_of_curve(
                curve.values,
                curve.lowest if valleys else curve.highest,
                valleys,
                self.count,
                self.gap,
                separation,
                self.look_ahead,
                self.level_tolerance,
                room,
                likely,
                seen,
            )
            found.append(room[:n])
        return found[0], found[1][::-1]

    def find(self, frequencies: Floats, sampler: Sampler) -> list[Found]:
        """Return peaks and valleys of the waveform of every row of frequencies, (C, d/2)."""
        n = len(frequencies)
        kept = np.empty((n, 2, min(self.count, sampler.size)), np.int32)
        found = np.empty((n, 2), np.int64)
        n_blocks = sampler.room.lowest.size
        _kernels.dominant_of_waveforms(
            frequencies,
            sampler.scale,
            sampler.first,
            sampler.size,
            sampler.room,
            self.count,
            self.gap,
            self.valley_gap,
            self.look_ahead,
            self.level_tolerance,
            kept,
            found,
            np.empty(n_blocks, np.int32),
            np.empty(n_blocks, np.bool_),
        )
        ends = found.tolist()
        return [(kept[c, 0, : ends[c][0]].copy(), kept[c, 1, : ends[c][1]][::-1].copy()) for c in range(n)]

    def surveyed(self, survey: gpu.Survey, frequencies: Floats) -> Iterator[tuple[Floats, Floats]]:
        """Yield bounds on every block of every waveform."""
        return survey.bounds(frequencies)

    def find_surveyed(self, theta: Floats, surveyed: tuple[Floats, Floats], sampler: Sampler) -> Found:
        """Return peaks and valleys of one waveform, computed only where its bounds leave doubt.

        If the search needs a value that is not computed yet, that is computed and the search restarts.
        """
        lowest, highest = surveyed
        curve = sampler.sketch(theta, lowest - gpu.MARGIN, highest + gpu.MARGIN)
        lowest = curve.samples.lowest
        seen = np.zeros(lowest.size, np.bool_)
        # Most of what is needed: the start, where the peaks are, and every block lowest so far from the left.
        seen[: 2**14 // BLOCK] = True
        seen[-1:] = True
        seen |= lowest <= np.minimum.accumulate(lowest) + self.level_tolerance
        while not curve.learn(seen):
            seen[:] = False
            found = self.positions(curve.samples, seen)
        return found


@dataclass(frozen=True)
class Local:
    """Every local extremum, as `Bits`, since there may be one every few tokens."""

    prominence: float | None
    min_separation: int | None

    def positions(self, curve: Samples) -> Found:
        """Peaks and valleys of a curve, as indices."""
        if self._every_one:
            bits = Bits.empty(curve.values.size)
            level = _kernels.strict_extrema(curve.values, curve.values.size, *bits)
            if not level:  # without plateaus, every extremum is strict
                return bits.found()
            peaks, valleys = _kernels.local_extrema(curve.values)
            return peaks, valleys
        from scipy.signal import find_peaks

        peaks, valleys = (
            find_peaks(values, prominence=self.prominence, distance=self.min_separation)[0].astype(np.int32)
            for values in (curve.values, -curve.values)
        )
        return peaks, valleys

    def find(self, frequencies: Floats, sampler: Sampler) -> list[Bits]:
        """Return peaks and valleys of the waveform of every row of frequencies, (C, d/2)."""
        n = len(frequencies)
        peaks, valleys = np.zeros((2, n, -(-sampler.size // 64)), np.uint64)
        level = np.ones(n, np.bool_)
        if self._every_one:
            _kernels.strict_extrema_of_waveforms(
                frequencies, sampler.scale, sampler.first, sampler.size, sampler.room, peaks, valleys, level
            )
        rows = [Bits(*pair) for pair in zip(peaks, valleys, strict=True)]
        for c in np.flatnonzero(level).tolist():  # a plateau may also be an extremum
            rows[c] = self._bits(frequencies[c], sampler)
        return rows

    def surveyed(self, survey: gpu.Survey, frequencies: Floats) -> Iterator[gpu.Steps]:
        """Yield where every waveform rises and falls."""
        return survey.steps(frequencies)

    def find_surveyed(self, theta: Floats, surveyed: gpu.Steps, sampler: Sampler) -> Bits:
        """Return peaks and valleys of one waveform; recompute it if a step is too small to trust."""
        return self._bits(theta, sampler) if surveyed.doubtful else Bits.of_steps(surveyed.up, surveyed.down)

    @property
    def _every_one(self) -> bool:
        return self.prominence is None and self.min_separation is None

    def _bits(self, theta: Floats, sampler: Sampler) -> Bits:
        return Bits.of(self.positions(sampler.waveform(theta)), sampler.size)


def extrema_rule(options: Mapping[str, Any]) -> Dominant | Local:
    """Return the rule that the options of `find_extrema` describe, checked, with defaults for missing ones."""
    checked = extrema_options(options)
    kind: type[Dominant | Local] = {"dominant": Dominant, "local": Local}[checked["extrema"]]
    return kind(**{field.name: checked[field.name] for field in fields(kind)})
