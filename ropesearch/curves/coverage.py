"""How well a set of waveforms covers the distances: how high the best head stays, how smooth the mean is."""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ropesearch.core import checks
from ropesearch.core.arrays import Floats
from ropesearch.core.base_set import BaseSet
from ropesearch.core.machine import require_memory
from ropesearch.core.progress import Progress, counter
from ropesearch.core.spec import CONTEXT_NEEDS, SearchSpec

from .extrema import extrema_rule
from .waveforms import Samples, waveform_samples

TREND_WINDOW = 4097  # tokens; the trend of a waveform is its running mean over this window
RIPPLE_FROM = 2048


@dataclass(frozen=True)
class Coverage:
    """How the waveforms of several heads cover a range of distances; values in mean cosine, 1 at distance 0.

    Attributes
    ----------
    floor : float
        The minimum, over distance, of the best head: the largest value of all heads at a distance.
    floor_distance : int
        Where the minimum is, in tokens; the first, if several.
    mean, quantile_01 : float
        Mean and 1 % quantile of the best head.
    ripple : float or None
        Root mean square, from distance 2048 on, of the mean of the heads' waveforms without its trend; None for fewer
        than 8192 distances.
    valleys_on_peaks : tuple of float or None
        For each head, the share of its valleys that lie within the tolerance of another head's peak; None for a head
        without valleys.
    distances : tuple of int
        First and last distance.
    """

    floor: float
    floor_distance: int
    mean: float
    quantile_01: float
    ripple: float | None
    valleys_on_peaks: tuple[float | None, ...]
    distances: tuple[int, int]

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as the base-set file holds them."""
        figures: dict[str, Any] = asdict(self)
        figures["valleys_on_peaks"] = list(self.valleys_on_peaks)
        figures["distances"] = list(self.distances)
        return figures


def coverage_of(
    curve: Callable[[int], Floats],
    heads: int,
    max_distance: int,
    *,
    options: Mapping[str, Any],
    progress: Progress | None = None,
) -> Coverage:
    """Compute the coverage of several heads' waveforms; `BaseSet.coverage` and `Scheme.coverage` call this.

    Only one head's waveform is in memory at a time, in two copies.

    Parameters
    ----------
    curve : callable
        Returns the waveform of head 0 … heads − 1, in logits, at distances 0 … `max_distance`.
    heads : int
        Number of heads.
    max_distance : int
        The last distance, in tokens, included. All figures except `valleys_on_peaks` cover the distances
        1 … `max_distance`.
    options : mapping
        Options of a search. Used are those that say which peaks and valleys count (from `min_distance` on) and how
        far apart a valley and a peak may be (`tolerance`); by default those of a search.
    progress : callable, optional
        Called as progress("coverage", heads done, heads).

    Returns
    -------
    Coverage

    Raises
    ------
    ValueError
        If one of `options` is out of range.
    MemoryError
        If it does not fit in memory; the message says how much it needs.
    """
    rule = extrema_rule(options)
    min_distance, tolerance = (
        SearchSpec.checked(name, options.get(name, default))
        for name, default in (("min_distance", SearchSpec.min_distance), ("tolerance", SearchSpec.tolerance))
    )
    min_distance = min(min_distance, max_distance)
    size = max_distance + 1
    require_memory(size * (60 + heads // 8), f"coverage over {size} distances")
    best = np.full(size, -np.inf)
    mean = np.zeros(size)
    near_peaks = np.zeros(size, np.int32)  # heads with a peak within the tolerance
    own_peaks, valleys = [], []
    report = counter(progress, "coverage", heads)
    for h in range(heads):
        logits = curve(h)
        found = rule.positions(Samples.of(logits[min_distance:]))
        peaks, valleys_of_head = (min_distance + positions for positions in found)
        near = _within(peaks, tolerance, size)
        near_peaks += near
        own_peaks.append(np.packbits(near))
        valleys.append(valleys_of_head)
        cosines = logits / logits[0]
        np.maximum(best, cosines, out=best)
        mean += cosines / heads
        report()
    shares = []
    for packed, positions in zip(own_peaks, valleys, strict=True):
        others = near_peaks[positions] - np.unpackbits(packed, count=size)[positions] > 0
        shares.append(float(others.mean()) if positions.size else None)
    best = best[1:]
    return Coverage(
        floor=float(best.min()),
        floor_distance=int(best.argmin()) + 1,
        mean=float(best.mean()),
        quantile_01=float(np.quantile(best, 0.01)),
        ripple=math.sqrt(float(np.mean(without_trend(mean) ** 2))) if size >= CONTEXT_NEEDS["ripple"] else None,
        valleys_on_peaks=tuple(shares),
        distances=(1, max_distance),
    )


def coverage_of_bases(base_set: BaseSet, max_distance: int, *, progress: Progress | None = None) -> Coverage:
    """Compute `BaseSet.coverage`: peaks and valleys by the options that shaped the set, or by the defaults."""
    last = checks.integer("max_distance", max_distance, 1)
    bases = base_set.of_all_layers("coverage")

    def curve(head: int) -> Floats:
        return waveform_samples(bases[head], base_set.head_dim, 0, last)

    return coverage_of(curve, base_set.kv_heads, last, options=base_set.parameters, progress=progress)


def without_trend(cosines: Floats) -> Floats:
    """Subtract its running mean over 4097 tokens from a waveform at distances 0, 1, …; return it from 2048 on."""
    from scipy.ndimage import uniform_filter1d

    trend = uniform_filter1d(cosines, TREND_WINDOW, mode="nearest")
    difference: Floats = cosines[..., RIPPLE_FROM:] - trend[..., RIPPLE_FROM:]
    return difference


def _within(positions: npt.NDArray[np.int32], tolerance: int, n: int) -> npt.NDArray[np.bool_]:
    """Whether each of the distances 0 … n − 1 lies within `tolerance` of one of `positions`."""
    steps = np.zeros(n + 1, np.int32)
    np.add.at(steps, np.maximum(positions - tolerance, 0), 1)
    np.add.at(steps, np.minimum(positions + tolerance + 1, n), -1)
    inside: npt.NDArray[np.bool_] = np.cumsum(steps[:n]) > 0
    return inside
