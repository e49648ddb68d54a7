"""Searches for coverage itself: the highest floor, the smallest ripple.

Both start from b_min, add greedily, and then exchange one base at a time, the best exchange first, for as long as that
gains anything; b_min stays. `refine` then moves each base but b_min off the grid.

A set is judged by one row per member, made of its waveform in mean cosine: the waveform itself for the floor, the
waveform without its trend for the ripple. Figures are such that the larger is the better.
"""

import math
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Protocol

import numpy as np

from ropesearch.core.arrays import Floats, Indices
from ropesearch.core.progress import Progress
from ropesearch.curves.coverage import without_trend

LOWEST = 1024  # distances at which every candidate is tried before any is tried at all of them
GAIN = 1e-12  # what an exchange or a move must gain, relative; less is rounding
HALVINGS = 8  # of the step of `refine`, down from half the stride


class Objective(Protocol):
    """A figure of a set of waveforms."""

    def row(self, cosines: Floats) -> Floats:
        """What counts of a waveform that starts at distance 0."""

    def keep(self, rows: Floats) -> None:
        """Take in the rows of all candidates."""

    def added(self, members: Sequence[int], candidates: Indices) -> Floats:
        """Figures of a set of candidates with each of some others added; −∞ for one that is surely not the best."""

    def rest(self, rows: Sequence[Floats]) -> Floats:
        """What counts of a set, when its last member is still to come."""

    def figure(self, rest: Floats, row: Floats, n: int) -> float:
        """Figure of a set of n, from what counts of n − 1 and the row of the last member."""


class Floor:
    """The smallest value of the best head, from distance 1 on."""

    def row(self, cosines: Floats) -> Floats:
        """All but distance 0, where every waveform is 1."""
        return cosines[1:]

    def keep(self, rows: Floats) -> None:
        """Take in the rows of all candidates."""
        self._rows = rows

    def added(self, members: Sequence[int], candidates: Indices) -> Floats:
        """Try all where the best head is lowest, which bounds them from above, then in full what may be the best."""
        rest = self.rest([self._rows[i] for i in members])
        lowest = np.argpartition(rest, LOWEST)[:LOWEST] if rest.size > LOWEST else np.arange(rest.size)
        bounds = np.maximum(self._rows[np.ix_(candidates, lowest)], rest[lowest]).min(axis=1)
        floors = np.full(candidates.size, -np.inf)
        for k in np.argsort(-bounds, kind="stable"):
            if bounds[k] < floors.max():
                break
            floors[k] = self.figure(rest, self._rows[candidates[k]], len(members) + 1)
        return floors

    def rest(self, rows: Sequence[Floats]) -> Floats:
        """The best head."""
        return reduce(np.maximum, rows)

    def figure(self, rest: Floats, row: Floats, n: int) -> float:
        """The floor."""
        return float(np.maximum(rest, row).min())


class Ripple:
    """Less the root mean square of the mean of the waveforms without their trends."""

    def row(self, cosines: Floats) -> Floats:
        """The waveform without its trend."""
        return without_trend(cosines)

    def keep(self, rows: Floats) -> None:
        """The Gram matrix is all it takes: mean square of a sum of rows = sum of a part of it."""
        self._gram = rows @ rows.T / rows.shape[1]

    def added(self, members: Sequence[int], candidates: Indices) -> Floats:
        """Expand the square of the sum."""
        of_members = self._gram[members][:, members].sum()
        crossed = self._gram[members][:, candidates].sum(axis=0)
        squares = of_members + 2 * crossed + self._gram[candidates, candidates]
        ripples: Floats = np.sqrt(squares) / (len(members) + 1)
        return -ripples

    def rest(self, rows: Sequence[Floats]) -> Floats:
        """The sum."""
        return reduce(np.add, rows)

    def figure(self, rest: Floats, row: Floats, n: int) -> float:
        """Less the ripple."""
        return -math.sqrt(float(np.mean((rest + row) ** 2))) / n


OBJECTIVES: dict[str, type[Floor] | type[Ripple]] = {"floor": Floor, "ripple": Ripple}


def choose(objective: Objective, n_candidates: int, n: int, report: Progress) -> list[int]:
    """Indices of n candidates in the order of choice, the first of them 0; an exchanged one takes its place over."""
    members = [0]
    report("choosing bases", 1, n)
    while len(members) < n:
        candidates = np.setdiff1d(np.arange(n_candidates), members)
        figures = objective.added(members, candidates)
        members.append(int(candidates[figures.argmax()]))  # the first of equals: the smallest base
        report("choosing bases", len(members), n)
    while n > 1 and (exchange := _best_exchange(objective, n_candidates, members, report)):
        place, candidate = exchange
        members[place] = candidate
    return members


def _best_exchange(
    objective: Objective, n_candidates: int, members: list[int], report: Progress
) -> tuple[int, int] | None:
    """Place and candidate of the exchange that gains most, or None if none gains."""
    present = objective.added(members[:-1], np.array(members[-1:]))[0]
    best, exchange = present + GAIN * abs(present), None
    candidates = np.setdiff1d(np.arange(n_candidates), members)
    if candidates.size == 0:
        return None
    for place in range(1, len(members)):
        figures = objective.added(members[:place] + members[place + 1 :], candidates)
        k = int(figures.argmax())
        if figures[k] > best:
            best, exchange = figures[k], (place, int(candidates[k]))
        report("exchanging bases", place, len(members) - 1)
    return exchange


def refine(
    objective: Objective,
    bases: Sequence[float],
    waveform: Callable[[float], Floats],
    bmax: float,
    stride: float,
    report: Progress,
) -> list[float]:
    """Move every base but the first to where the figure is better, by steps that halve from half the stride down.

    A base moves by one step, up or down, if that gains; a step is halved when no base moves by it any more.
    """
    moved = list(bases)
    rows = [objective.row(waveform(base)) for base in moved]
    present = objective.figure(objective.rest(rows[:-1]), rows[-1], len(rows)) if len(rows) > 1 else 0.0
    for halving in range(1, HALVINGS + 1):
        step = stride / 2**halving
        moving = len(moved) > 1
        while moving:
            moving = False
            for i in range(1, len(moved)):
                rest = objective.rest(rows[:i] + rows[i + 1 :])
                for base in (moved[i] - step, moved[i] + step):
                    if not moved[0] <= base <= bmax:
                        continue
                    row = objective.row(waveform(base))
                    figure = objective.figure(rest, row, len(rows))
                    if figure > present + GAIN * abs(present):
                        moved[i], rows[i], present, moving = base, row, figure, True
                report("refining bases", halving, HALVINGS)
    return moved
