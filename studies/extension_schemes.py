"""The position schemes of the study, each with its controls, for a model of any shape."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from ropesearch import BaseSet, search_bases, uniform_bases
from ropesearch.core.grid import candidate_bases

LOWEST, HIGHEST = 38.63, 188.35
"""Longest wavelength by length: of b_min 1e6 and b_max 5e6 at 128k tokens, as in the paper, with head_dim 128."""
STAGES = ((154.5, 4), (152.9, 2), (188.35, 1))
"""The same of the stages of ABF, 1e6 at 32k, 2e6 at 64k, 5e6 at 128k; and by what each divides the new length."""
STRIDES = (10, 20, 30, 40, 50)
"""Thousands in the paper's range, which is 4 million wide; here the same share of the range."""
STRIDE = 30
RANDOM_GRID = 30
PERMUTATIONS = 3
RIPPLE_CONTEXT = 8192
"""The shortest that the ripple is defined for."""
SENSITIVITY = (0.3, 3.0)
"""What both ends of the range are multiplied by."""


@dataclass(frozen=True)
class Shape:
    """What of a model the schemes depend on; `original` is its own length, in tokens."""

    heads: int
    kv_heads: int
    head_dim: int
    base: float
    original: int


@dataclass(frozen=True)
class Candidate:
    """A scheme that is compared.

    Attributes
    ----------
    name : str
    stages : tuple of (str or None, int)
        Of each stage of training, the scheme's text, and by what it divides the new length.
    bases : tuple of float
        One per KV head, where they differ.
    """

    name: str
    stages: tuple[tuple[str | None, int], ...]
    bases: tuple[float, ...] = ()


def base_for(ratio: float, length: int, head_dim: int) -> float:
    """Base whose longest wavelength is `ratio` times the length: b = (ratio · L / 2π)^(d / (d − 2))."""
    return float((ratio * length / (2 * math.pi)) ** (head_dim / (head_dim - 2)))


def one_base_name(name: str) -> str:
    """Name of the control of a set: its geometric mean for every head."""
    return f"{name}: one base"


def permuted_name(name: str, i: int) -> str:
    """Name of a control of a set: its bases over the heads in another order, i from 1."""
    return f"{name}: permuted {i}"


class Schemes:
    """Every scheme for a model at a new length; sets of bases are written to files in a folder.

    `seed` is that of the random subset and of the permutations.
    """

    def __init__(self, shape: Shape, factor: int, seed: int, folder: Path) -> None:
        self.shape, self.factor, self.seed, self.folder = shape, factor, seed, folder
        self.length = factor * shape.original

    def ends(self, times: float = 1.0) -> tuple[float, float]:
        """Return b_min and b_max, each multiplied by `times`."""
        low, high = (base_for(ratio, self.length, self.shape.head_dim) for ratio in (LOWEST, HIGHEST))
        return times * low, times * high

    def main(self) -> list[Candidate]:
        """Return the schemes that users choose from; permutations and single bases are controls."""
        low, high = self.ends()
        plain = {"untouched": None, **{name: f"{name.lower()}:{self.factor}" for name in ("PI", "NTK", "YaRN")}}
        single = {"ABF low": low, "ABF mean": (low + high) / 2, "ABF high": high}
        stages = [(base_for(ratio, self.length // part, self.shape.head_dim), part) for ratio, part in STAGES]
        return [
            *(Candidate(name, ((text, 1),)) for name, text in plain.items()),
            *(Candidate(name, ((f"abf:{base:.6g}", 1),)) for name, base in single.items()),
            Candidate("ABF multi-stage", tuple((f"abf:{base:.6g}", part) for base, part in stages)),
            *self.sets().values(),
        ]

    def sets(self) -> dict[str, Candidate]:
        """Return the schemes with a base for every head."""
        shape = self.shape
        low, high = self.ends()
        grid = np.array([low, *candidate_bases(low, high, _stride(low, high, RANDOM_GRID))])
        drawn = np.random.default_rng([self.seed, 4]).permutation(grid)[: shape.kv_heads]
        steps = np.arange(shape.kv_heads) / max(shape.kv_heads - 1, 1)
        ascending = uniform_bases(low, high, shape.heads, kv_heads=shape.kv_heads, head_dim=shape.head_dim).bases
        found = {
            "peak-valley": self.peak_valley(),
            "uniform": ascending,
            "uniform, descending": ascending[::-1],
            "floor": self._searched("floor", self.length),
            "ripple": self._searched("ripple", max(self.length, RIPPLE_CONTEXT)),
            "random subset": tuple(sorted(drawn)),
            "log-spaced": tuple(shape.base * (high / shape.base) ** steps),
        }
        return {name: self._per_head(name, bases) for name, bases in found.items()}

    def controls(self, candidate: Candidate) -> list[Candidate]:
        """One base of the set's geometric mean for every head, and permutations of the set over the heads."""
        mean = float(np.exp(np.mean(np.log(candidate.bases))))
        single = Candidate(one_base_name(candidate.name), ((f"abf:{mean:.6g}", 1),))
        return [single, *self.permutations(candidate)]

    def permutations(self, candidate: Candidate) -> list[Candidate]:
        """Other orders of a set over the heads, drawn by the seed, each different."""
        random = np.random.default_rng([self.seed, 5])
        bases, seen = candidate.bases, {candidate.bases}
        possible = math.factorial(len(bases)) // math.prod(math.factorial(bases.count(b)) for b in set(bases))
        found = []
        while len(found) < min(PERMUTATIONS, possible - 1):
            order = tuple(bases[i] for i in random.permutation(len(bases)))
            if order not in seen:
                seen.add(order)
                found.append(self._per_head(permuted_name(candidate.name, len(found) + 1), order))
        return found

    def strides(self) -> list[Candidate]:
        """Peak-valley at the paper's other strides."""
        return [
            self._per_head(f"peak-valley, stride {stride}k", self.peak_valley(stride=stride))
            for stride in STRIDES
            if stride != STRIDE
        ]

    def readings(self) -> list[Candidate]:
        """Peak-valley by two other readings of the paper's Algorithm 1."""
        scale = self.length / 131072  # of the default rule, which is made for 128k tokens
        dominant = {"count": 30, "gap": round(50 * scale), "valley_gap": round(60 * scale)}
        dominant |= {"look_ahead": max(round(500 * scale), 1)}
        return [
            self._per_head("peak-valley, as printed", self.peak_valley(matching="distance")),
            self._per_head("peak-valley, dominant", self.peak_valley(extrema="dominant", **dominant)),
        ]

    def scaled(self, times: float) -> list[Candidate]:
        """ABF, uniform and peak-valley, the last with its single base, over a lower or higher range."""
        low, high = self.ends(times)
        shape = self.shape
        uniform = uniform_bases(low, high, shape.heads, kv_heads=shape.kv_heads, head_dim=shape.head_dim).bases
        searched = self._per_head(scaled_name("peak-valley", times), self.peak_valley(times=times))
        return [
            Candidate(scaled_name("ABF high", times), ((f"abf:{high:.6g}", 1),)),
            self._per_head(scaled_name("uniform", times), uniform),
            searched,
            self.controls(searched)[0],
        ]

    def peak_valley(self, stride: int = STRIDE, times: float = 1.0, **options: object) -> tuple[float, ...]:
        """Bases by Algorithm 1 of HARPE over the range at this length; all local extrema count."""
        low, high = self.ends(times)
        rule = {"extrema": "local", "matching": "coincidence", "tolerance": 0} | options
        return self._search(low, high, stride, min_distance=max(self.length // 256, 1), **rule)

    def _searched(self, strategy: str, distances: int) -> tuple[float, ...]:
        return self._search(*self.ends(), STRIDE, strategy=strategy, max_distance=distances)

    def _search(self, low: float, high: float, stride: int, **options: object) -> tuple[float, ...]:
        return _bases(self.shape, low, high, _stride(low, high, stride), **{"max_distance": self.length} | options)

    def _per_head(self, name: str, bases: Sequence[float]) -> Candidate:
        bases = tuple(float(f"{base:.6g}") for base in bases)
        path = self.folder / f"{self.factor}x-seed-{self.seed}" / f"{slug(name)}.json"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            BaseSet.of(bases, heads=self.shape.heads, head_dim=self.shape.head_dim, strategy=name).save(path)
        return Candidate(name, ((f"harpe:{path}", 1),), bases)


@cache
def _bases(shape: Shape, low: float, high: float, stride: float, **options: object) -> tuple[float, ...]:
    """Search; the same one is asked for by every seed."""
    heads = {"kv_heads": shape.kv_heads, "head_dim": shape.head_dim, "threads": 1}
    return search_bases(low, high, stride, shape.heads, **heads, **options).bases


def scaled_name(name: str, times: float) -> str:
    """Name of a scheme over a range with both ends multiplied."""
    return f"{name}, range × {times:g}"


def slug(name: str) -> str:
    """Return a name as the name of a file."""
    return re.sub("[^a-z0-9.]+", "-", name.lower()).strip("-")


def _stride(low: float, high: float, thousands: int) -> float:
    return (high - low) * thousands / 4000
