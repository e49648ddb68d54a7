"""How a base set aligns: whose valleys lie on whose peaks, and what Algorithm 1 scored each base by."""

from dataclasses import dataclass

import numpy as np

from ropesearch.core import checks
from ropesearch.core.arrays import Counts, Distances, Floats
from ropesearch.core.base_set import BaseSet
from ropesearch.core.spec import EXTREMA_OPTIONS, SearchSpec
from ropesearch.curves.extrema import Extrema, find_extrema
from ropesearch.curves.waveforms import waveform


@dataclass(frozen=True, eq=False)
class Alignment:
    """Peaks and valleys of the bases of a set, in the order of choice, and how they meet.

    Attributes
    ----------
    bases : tuple of float, length K
        In the order of choice.
    extrema : tuple of Extrema, length K
        Their peaks and valleys.
    valleys_on_peaks : ndarray of int64, shape (K, K)
        Row i, column j: how many valleys of base i lie at most `tolerance` tokens from a peak of base j.
    scores : ndarray of float64, shape (K,)
        What Algorithm 1 saw in each base when it chose it, against the bases chosen before: the number of pairs of a
        peak and a valley (matching `coincidence`; more is better), or the sum of distances to the nearest (`distance`;
        less is better).
        NaN for the first, which is always chosen.
    matching : str
        Which of the two.
    tolerance : int
        In tokens.
    """

    bases: tuple[float, ...]
    extrema: tuple[Extrema, ...]
    valleys_on_peaks: Counts
    scores: Floats
    matching: str
    tolerance: int


def align(base_set: BaseSet) -> Alignment:
    """Find the peaks and valleys of a set's bases, and how they meet.

    Parameters
    ----------
    base_set : BaseSet
        The options that shaped it say which peaks and valleys count, over which distances, and how they are matched;
        those that it does not hold take the defaults of `search_bases`. The order of choice is its `selection`.

    Returns
    -------
    Alignment

    Raises
    ------
    ValueError
        If an option in the set's `parameters` is out of range, or layers differ in their bases.
    MemoryError
        If it does not fit in memory.

    References
    ----------
    HARPE, arXiv:2412.07171, Algorithm 1.
    """
    checks.instance("base_set", base_set, BaseSet, "a BaseSet").of_all_layers("the alignment")
    options = {
        name: SearchSpec.checked(name, base_set.parameters.get(name, getattr(SearchSpec, name)))
        for name in SearchSpec.__dataclass_fields__
        if name not in ("bmin", "bmax", "heads")
    }
    first, last = checks.distances(options["min_distance"], options["max_distance"])
    rule = {name: options[name] for name in EXTREMA_OPTIONS}
    found = []
    for base in base_set.selection:
        curve = waveform(base, base_set.head_dim, last, min_distance=first)
        found.append(find_extrema(curve, min_distance=first, **rule))
    tolerance = options["tolerance"]
    return Alignment(
        bases=base_set.selection,
        extrema=tuple(found),
        valleys_on_peaks=np.array([[_within(a.valleys, b.peaks, tolerance) for b in found] for a in found]),
        scores=_scores(found, options["matching"], tolerance, options["normalize"]),
        matching=options["matching"],
        tolerance=tolerance,
    )


def _within(positions: Distances, others: Distances, tolerance: int) -> int:
    """Count the positions that lie at most `tolerance` from one of the others."""
    return int((_nearest(positions, others) <= tolerance).sum())


def _nearest(positions: Distances, others: Distances) -> Floats:
    """Return the distance of each position to the nearest of the others, which ascend; infinite if there is none."""
    ends = np.concatenate([[-np.inf], others, [np.inf]])
    right = np.searchsorted(ends, positions)
    nearest: Floats = np.minimum(positions - ends[right - 1], ends[right] - positions)
    return nearest


def _scores(found: list[Extrema], matching: str, tolerance: int, normalize: bool) -> Floats:
    """Return what each base scored against the pools of those before it."""
    scores = np.full(len(found), np.nan)
    pools = {"peaks": np.empty(0, np.int64), "valleys": np.empty(0, np.int64)}
    for i, base in enumerate(found):
        if i:
            crossed = [(base.peaks, np.sort(pools["valleys"])), (base.valleys, np.sort(pools["peaks"]))]
            if matching == "coincidence":
                scores[i] = sum(_count_pairs(own, pool, tolerance) for own, pool in crossed)
            else:
                sums = [_nearest(own, pool).sum() / (max(own.size, 1) if normalize else 1) for own, pool in crossed]
                scores[i] = sum(sums) if all(pool.size for _, pool in crossed) else np.inf
        for name in pools:
            pools[name] = np.concatenate([pools[name], getattr(base, name)])
        if matching == "coincidence":  # what is both a peak and a valley leaves both pools
            both = np.intersect1d(pools["peaks"], pools["valleys"])
            pools = {name: pool[~np.isin(pool, both)] for name, pool in pools.items()}
    return scores


def _count_pairs(positions: Distances, pool: Distances, tolerance: int) -> int:
    right = np.searchsorted(pool, positions + tolerance, side="right")
    return int((right - np.searchsorted(pool, positions - tolerance, side="left")).sum())
