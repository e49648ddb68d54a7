"""Which peaks and valleys of a waveform count: the rules `dominant` and `local`."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from ropesearch.core import checks
from ropesearch.core.arrays import Flags, Floats, Positions, Words
from ropesearch.core.errors import InputError, ParameterError
from ropesearch.kernels import extrema as _kernels
from ropesearch.kernels.waveform import BLOCK

from .waveforms import Sampler, Samples, Sketch

EXTREMA_RULES = ("dominant", "local")
EXTREMA_DEFAULTS: dict[str, Any] = {
    "extrema": "dominant",
    "count": 30,
    "gap": 50,
    "valley_gap": 60,
    "look_ahead": 500,
    "level_tolerance": 1e-3,
    "prominence": None,
    "min_separation": None,
}
"""The rule's options where none are given, as `find_extrema` and `search_bases` have them."""


@dataclass(frozen=True)
class Extrema:
    """Peaks and valleys of one curve, in ascending order of distance.

    Attributes
    ----------
    peaks, valleys : ndarray of int64
        Their distances, in tokens.
    peak_values, valley_values : ndarray of float64
        The curve there, in its own unit (a waveform's: logits).
    """

    peaks: npt.NDArray[np.int64]
    valleys: npt.NDArray[np.int64]
    peak_values: Floats
    valley_values: Floats


def find_extrema(
    values: npt.ArrayLike,
    extrema: str = "dominant",
    *,
    min_distance: int = 0,
    count: int = 30,
    gap: int = 50,
    valley_gap: int = 60,
    look_ahead: int = 500,
    level_tolerance: float = 1e-3,
    prominence: float | None = None,
    min_separation: int | None = None,
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
    curve = np.ascontiguousarray(values, dtype=np.float64)
    if curve.ndim != 1:
        raise ParameterError("values", curve.shape, "one-dimensional")
    if np.isnan(curve).any():
        raise InputError("values must be numbers, and there is NaN among them")
    first = checks.integer("min_distance", min_distance, 0)
    rule = extrema_rule(
        extrema,
        count=count,
        gap=gap,
        valley_gap=valley_gap,
        look_ahead=look_ahead,
        level_tolerance=level_tolerance,
        prominence=prominence,
        min_separation=min_separation,
    )
    peaks, valleys = rule.positions(Samples.of(curve))
    return Extrema(
        peaks=first + peaks.astype(np.int64),
        valleys=first + valleys.astype(np.int64),
        peak_values=curve[peaks],
        valley_values=curve[valleys],
    )


@dataclass(frozen=True)
class Dominant:
    """The rule `dominant` with its options, checked."""

    name: ClassVar = "dominant"

    count: int
    gap: int
    valley_gap: int
    look_ahead: int
    level_tolerance: float

    def options(self) -> dict[str, Any]:
        """Arguments of `find_extrema` that describe this rule."""
        return {"extrema": self.name, **asdict(self)}

    def positions(self, curve: Samples, seen: Flags | None = None) -> tuple[Positions, Positions]:
        """Ascending indices of the peaks and of the valleys; marks in `seen` the blocks whose values were needed."""
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

    def positions_of_waveforms(self, frequencies: Floats, sampler: Sampler) -> list[tuple[Positions, Positions]]:
        """`positions` of the waveform of every row of frequencies, (C, d/2)."""
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

    def positions_of_sketch(self, curve: Sketch) -> tuple[Positions, Positions]:
        """`positions` of a curve of which only some values are there; its bounds may be too wide.

        Where the search needs a value that is not there, that is computed, and the search starts anew.
        """
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
    """The rule `local` with its options, checked."""

    name: ClassVar = "local"

    prominence: float | None
    min_separation: int | None

    def options(self) -> dict[str, Any]:
        """Arguments of `find_extrema` that describe this rule."""
        return {"extrema": self.name, **asdict(self)}

    def positions(self, curve: Samples) -> tuple[Positions, Positions]:
        """Ascending indices of the peaks and of the valleys."""
        if self.prominence is None and self.min_separation is None:
            words = np.empty((2, -(-curve.values.size // 64)), np.uint64)
            level = _kernels.strict_extrema(curve.values, curve.values.size, words[0], words[1])
            if not level:  # without plateaus these are all
                return positions_of_bits(words[0]), positions_of_bits(words[1])
            peaks, valleys = _kernels.local_extrema(curve.values)
            return peaks, valleys
        from scipy.signal import find_peaks

        peaks, valleys = (
            find_peaks(values, prominence=self.prominence, distance=self.min_separation)[0].astype(np.int32)
            for values in (curve.values, -curve.values)
        )
        return peaks, valleys

    def mark_steps(self, up: Words, down: Words, peaks: Words, valleys: Words) -> None:
        """`mark` for a curve without plateaus, from where it rises and falls to the next point."""
        for words, to, onwards in ((peaks, up, down), (valleys, down, up)):
            before = np.concatenate([[np.uint64(0)], to[:-1] >> np.uint64(63)]) | to << np.uint64(1)
            words[: up.size] = before & onwards

    def positions_of_waveforms(self, frequencies: Floats, sampler: Sampler) -> list[tuple[Positions, Positions]]:
        """`positions` of the waveform of every row of frequencies, (C, d/2)."""
        return [self.positions(sampler.waveform(theta)) for theta in frequencies]

    def mark_waveforms(self, frequencies: Floats, sampler: Sampler, peaks: Words, valleys: Words) -> None:
        """`mark` for the waveform of every row of frequencies, (C, d/2), and of peaks and valleys."""
        doubtful = np.ones(len(frequencies), np.bool_)
        if self.prominence is None and self.min_separation is None:
            _kernels.strict_extrema_of_waveforms(
                frequencies, sampler.scale, sampler.first, sampler.size, sampler.room, peaks, valleys, doubtful
            )
        for c in np.flatnonzero(doubtful).tolist():  # a plateau may be an extremum too
            self.mark(sampler.waveform(frequencies[c]), peaks[c], valleys[c])

    def mark(self, curve: Samples, peaks: Words, valleys: Words) -> None:
        """Set bit j % 64 of word j // 64 for every peak (valley) j of a curve."""
        for words, positions in zip((peaks, valleys), self.positions(curve), strict=True):
            marks = np.zeros(64 * words.size, np.bool_)
            marks[positions] = True
            words[:] = np.packbits(marks, bitorder="little").view("<u8")


ExtremaRule = Dominant | Local


def positions_of_bits(words: Words) -> Positions:
    """Ascending j for which bit j % 64 of word j // 64 is set."""
    bits = np.unpackbits(words.astype("<u8").view(np.uint8), bitorder="little").view(np.bool_)
    return np.flatnonzero(bits).astype(np.int32)


def extrema_rule(
    extrema: Any,
    *,
    count: Any,
    gap: Any,
    valley_gap: Any,
    look_ahead: Any,
    level_tolerance: Any,
    prominence: Any,
    min_separation: Any,
) -> ExtremaRule:
    """Check the options of `find_extrema` and return the rule they describe."""
    name = checks.choice("extrema", extrema, EXTREMA_RULES)
    dominant = Dominant(
        count=checks.integer("count", count, 1),
        gap=checks.integer("gap", gap, 0),
        valley_gap=checks.integer("valley_gap", valley_gap, 0),
        look_ahead=checks.integer("look_ahead", look_ahead, 1),
        level_tolerance=checks.number("level_tolerance", level_tolerance, "a finite number of at least 0", least=0.0),
    )
    local = Local(
        prominence=_if_given(
            prominence, lambda p: checks.number("prominence", p, "a finite number of at least 0", least=0.0)
        ),
        min_separation=_if_given(min_separation, lambda s: checks.integer("min_separation", s, 1)),
    )
    return local if name == "local" else dominant


def _if_given(value: Any, check: Callable[[Any], Any]) -> Any:
    return None if value is None else check(value)
