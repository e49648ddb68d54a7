"""Which peaks and valleys of a waveform count: the rules `dominant` and `local`."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from ropesearch.core import checks
from ropesearch.core.arrays import Distances, Flags, Floats, Positions, Words
from ropesearch.core.errors import InputError, ParameterError
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
        """Room for so many points; no bit is set."""
        return cls(*np.zeros((2, -(-size // 64)), np.uint64))

    @classmethod
    def of(cls, found: Found, size: int) -> "Bits":
        """Set the bits of positions."""
        bits = cls.empty(size)
        for words, positions in zip(bits, found, strict=True):
            marks = np.zeros(64 * words.size, np.bool_)
            marks[positions] = True
            words[:] = np.packbits(marks, bitorder="little").view("<u8")
        return bits

    @classmethod
    def of_steps(cls, up: Words, down: Words) -> "Bits":
        """Extrema of a curve without plateaus, from where it rises and falls to the next point."""

        def turns(to: Words, onwards: Words) -> Words:
            before = np.concatenate([[np.uint64(0)], to[:-1] >> np.uint64(63)]) | to << np.uint64(1)
            found: Words = before & onwards
            return found

        return cls(turns(up, down), turns(down, up))

    def found(self) -> Found:
        """Positions, in ascending order."""
        return positions_of_bits(self.peaks), positions_of_bits(self.valleys)


def positions_of_bits(words: Words) -> Positions:
    """Ascending j for which bit j % 64 of word j // 64 is set."""
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
        The curve there, in its own unit (a waveform's: logits).
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
    """Peaks and valleys of a curve over distance, by one of two rules.

    `dominant` keeps the peaks on the upper edge of the curve, from left to right, and the valleys on its lower
    edge, from right to left. Candidates are the strict local extrema (a plateau or an end point is none). A
    *level* starts at the highest maximum (the lowest minimum). An extremum within `level_tolerance` of it is at
    level; it is kept if it is the first, or farther than `gap` (`valley_gap`) from the last one kept. Kept or
    not, the level then becomes the largest of the `look_ahead` values from m + `gap`, or from the next maximum if
    that comes first; for valleys, the smallest of all values left of m − `gap`, or of the next minimum to the
    left if that is farther left. At most `count` of each are kept; there may be fewer, or none.

    `local` gives every local extremum as `scipy.signal.find_peaks` finds them in `values` and in −`values`: the
    middle of a plateau, rounded down; never an end point.

    Options of the other rule must be in range too, and are without effect.

    Parameters
    ----------
    values : array_like of float, shape (n,)
        The curve at distances `min_distance`, `min_distance` + 1, …
    extrema : {'dominant', 'local'}
        The rule.
    min_distance : int
        Distance of the first value, in tokens.
    count : int
        `dominant`: how many peaks, and how many valleys, to keep at most.
    gap, valley_gap, look_ahead : int
        `dominant`: in tokens, see above.
    level_tolerance : float
        `dominant`: in the unit of `values`.
    prominence : float, optional
        `local`: least prominence, in the unit of `values`.
    min_separation : int, optional
        `local`: least distance of two peaks (of two valleys), in tokens; the lower ones give way.

    Returns
    -------
    Extrema
        Distances and values of the peaks and of the valleys.

    Raises
    ------
    ValueError
        If an argument is out of range, or `values` is not one-dimensional or has NaN in it.

    References
    ----------
    `dominant` is the rule that gives Table 2 of HARPE, arXiv:2412.07171; its shape is that of the search
    published with Attention Buckets, arXiv:2312.04455.
    """
    given = locals()
    curve = np.ascontiguousarray(values, dtype=np.float64)
    if curve.ndim != 1:
        raise ParameterError("values", curve.shape, "one-dimensional")
    if np.isnan(curve).any():
        raise InputError("values must be numbers, and there is NaN among them")
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

    `Kept` is what a search keeps of one waveform: `Found` for a rule that finds few extrema, `Bits` for one that finds
    many. What a GPU computes is off in its last digits, so it only says where to look (`surveyed`); every value that
    decides is computed on the CPU (`find_surveyed`), for the same answer to the last bit.
    """

    def positions(self, curve: Samples) -> Found:
        """Peaks and valleys of a curve, as indices."""

    def find(self, frequencies: Floats, sampler: Sampler) -> list[Any]:
        """Return what is kept of the waveform of every row of frequencies, (C, d/2)."""

    def surveyed(self, survey: gpu.Survey, frequencies: Floats) -> Iterator[Any]:
        """Return what a GPU says of the waveform of every row of frequencies."""

    def find_surveyed(self, theta: Floats, surveyed: Any, sampler: Sampler) -> Any:
        """Return what is kept of one waveform, from what a GPU said of it."""


@dataclass(frozen=True)
class Dominant:
    """Extrema on the edges of the curve; keeps `Found`."""

    count: int
    gap: int
    valley_gap: int
    look_ahead: int
    level_tolerance: float

    def positions(self, curve: Samples, seen: Flags | None = None) -> Found:
        """Peaks and valleys of a curve, as indices; marks in `seen` the blocks whose values were needed."""
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
        """Return bounds on every block of every waveform."""
        return survey.bounds(frequencies)

    def find_surveyed(self, theta: Floats, surveyed: tuple[Floats, Floats], sampler: Sampler) -> Found:
        """Return peaks and valleys of one waveform, computed only where its bounds leave a doubt.

        Where the search needs a value that is not there, that is computed, and the search starts anew.
        """
        lowest, highest = surveyed
        curve = sampler.sketch(theta, lowest - gpu.MARGIN, highest + gpu.MARGIN)
        lowest = curve.samples.lowest
        seen = np.zeros(lowest.size, np.bool_)
        # Most of what will be needed: the start, where the peaks are, and what is lowest so far, seen from the left.
        seen[: 2**14 // BLOCK] = True
        seen[-1:] = True
        seen |= lowest <= np.minimum.accumulate(lowest) + self.level_tolerance
        while not curve.learn(seen):
            seen[:] = False
            found = self.positions(curve.samples, seen)
        return found


@dataclass(frozen=True)
class Local:
    """Every local extremum; keeps `Bits`, for there may be one every few tokens."""

    prominence: float | None
    min_separation: int | None

    def positions(self, curve: Samples) -> Found:
        """Peaks and valleys of a curve, as indices."""
        if self._every_one:
            bits = Bits.empty(curve.values.size)
            level = _kernels.strict_extrema(curve.values, curve.values.size, *bits)
            if not level:  # without plateaus these are all
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
        for c in np.flatnonzero(level).tolist():  # a plateau may be an extremum too
            rows[c] = self._bits(frequencies[c], sampler)
        return rows

    def surveyed(self, survey: gpu.Survey, frequencies: Floats) -> Iterator[gpu.Steps]:
        """Return where every waveform rises and falls."""
        return survey.steps(frequencies)

    def find_surveyed(self, theta: Floats, surveyed: gpu.Steps, sampler: Sampler) -> Bits:
        """Return peaks and valleys of one waveform; one with a step too small to be sure of is computed anew."""
        return self._bits(theta, sampler) if surveyed.doubtful else Bits.of_steps(surveyed.up, surveyed.down)

    @property
    def _every_one(self) -> bool:
        return self.prominence is None and self.min_separation is None

    def _bits(self, theta: Floats, sampler: Sampler) -> Bits:
        return Bits.of(self.positions(sampler.waveform(theta)), sampler.size)


def extrema_rule(options: Mapping[str, Any]) -> Dominant | Local:
    """Return the rule that the options of `find_extrema` describe, checked, with the defaults for those left out."""
    checked = extrema_options(options)
    kind: type[Dominant | Local] = {"dominant": Dominant, "local": Local}[checked["extrema"]]
    return kind(**{field.name: checked[field.name] for field in fields(kind)})
