"""What a set of waveforms is worth: how high the best head stays, and how smooth their mean is."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ropesearch.core import checks
from ropesearch.core.arrays import Floats
from ropesearch.core.base_set import BaseSet
from ropesearch.core.machine import require_memory
from ropesearch.core.progress import Progress, counter

from .extrema import EXTREMA_DEFAULTS, ExtremaRule, extrema_rule
from .waveforms import Samples, waveform_samples

TREND_WINDOW = 4097  # tokens; the trend of a waveform is its running mean over as many
RIPPLE_FROM = 2048
RIPPLE_NEEDS = 8192


@dataclass(frozen=True)
class Coverage:
    """How the waveforms of several heads cover a range of distances; values in mean cosine, 1 at distance 0.

    Attributes
    ----------
    floor : float
        The smallest value of the best head, the largest of all heads at a distance.
    floor_distance : int
        Where it falls, in tokens; the first, if several.
    mean, quantile_01 : float
        Mean and 1 % quantile of the best head.
    ripple : float or None
        Root mean square, over distances from 2048 on, of the mean of the heads' waveforms without its trend; None
        for a range below 8192 distances.
    valleys_on_peaks : tuple of float or None
        For each head the share of its valleys that lie within the tolerance of another head's peak; None for a head
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
        """The figures as the base-set file holds them."""
        figures: dict[str, Any] = asdict(self)
        figures["valleys_on_peaks"] = list(self.valleys_on_peaks)
        figures["distances"] = list(self.distances)
        return figures


def coverage_of(
    curve: Callable[[int], Floats],
    heads: int,
    *,
    rule: ExtremaRule,
    min_distance: int,
    max_distance: int,
    tolerance: int,
    progress: Progress | None = None,
) -> Coverage:
    """Coverage of the waveforms of several heads; `BaseSet.coverage` and the position schemes say it in their terms.

    One head's waveform is in memory at a time, twice over.

    Parameters
    ----------
    curve : callable
        Gives the waveform of head 0 … heads − 1, in logits, at distances 0 … `max_distance` − 1.
    heads : int
        How many there are.
    rule : ExtremaRule
        Which peaks and valleys count, from `min_distance` on.
    min_distance, max_distance : int
        In tokens. All figures but `valleys_on_peaks` are over distances 1 … `max_distance` − 1.
    tolerance : int
        How far apart a valley and a peak may be, in tokens.
    progress : callable, optional
        Called as progress("coverage", heads done, heads).

    Returns
    -------
    Coverage

    Raises
    ------
    MemoryError
        If it does not fit in memory; the message says how much it needs.
    """
    require_memory(max_distance * (60 + heads // 8), f"coverage over {max_distance} distances")
    best = np.full(max_distance, -np.inf)
    mean = np.zeros(max_distance)
    near_peaks = np.zeros(max_distance, np.int32)  # heads with a peak within the tolerance
    own_peaks, valleys = [], []
    report = counter(progress, "coverage", heads)
    for h in range(heads):
        logits = curve(h)
        found = rule.positions(Samples.of(logits[min_distance:]))
        peaks, valleys_of_head = (min_distance + positions for positions in found)
        near = _within(peaks, tolerance, max_distance)
        near_peaks += near
        own_peaks.append(np.packbits(near))
        valleys.append(valleys_of_head)
        cosines = logits / logits[0]
        np.maximum(best, cosines, out=best)
        mean += cosines / heads
        report()
    shares = []
    for packed, positions in zip(own_peaks, valleys, strict=True):
        others = near_peaks[positions] - np.unpackbits(packed, count=max_distance)[positions] > 0
        shares.append(float(others.mean()) if positions.size else None)
    best = best[1:]
    return Coverage(
        floor=float(best.min()),
        floor_distance=int(best.argmin()) + 1,
        mean=float(best.mean()),
        quantile_01=float(np.quantile(best, 0.01)),
        ripple=math.sqrt(float(np.mean(without_trend(mean) ** 2))) if max_distance >= RIPPLE_NEEDS else None,
        valleys_on_peaks=tuple(shares),
        distances=(1, max_distance - 1),
    )


def coverage_of_bases(base_set: BaseSet, max_distance: int, *, progress: Progress | None = None) -> Coverage:
    """`BaseSet.coverage`: peaks and valleys by the options that shaped the set, or by the defaults of a search."""
    last = checks.integer("max_distance", max_distance, 2) - 1
    defaults = {"min_distance": 1000, "tolerance": 3}
    given = {name: base_set.parameters.get(name, value) for name, value in defaults.items()}
    options = {name: base_set.parameters[name] for name in EXTREMA_DEFAULTS if name in base_set.parameters}
    return coverage_of(
        lambda head: waveform_samples(base_set.bases[head], base_set.head_dim, 0, last),
        base_set.kv_heads,
        rule=extrema_rule(**EXTREMA_DEFAULTS | options),
        min_distance=min(checks.integer("min_distance", given["min_distance"], 0), last),
        max_distance=last + 1,
        tolerance=checks.integer("tolerance", given["tolerance"], 0),
        progress=progress,
    )


def without_trend(cosines: Floats) -> Floats:
    """Waveforms at distances 0, 1, … less their running means over 4097 tokens, from distance 2048 on."""
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
