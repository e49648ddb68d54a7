"""Search for coverage itself: the highest floor or the smallest ripple.

Both start from b_min, add bases greedily, and then make the best exchange of one base, again and again, until none
improves the figure. b_min stays. `refine` then moves every base except b_min off the grid.

Each base has one row, made from its waveform in mean cosine: the waveform itself for the floor, the waveform without
its trend for the ripple. Larger figures are better.
"""

import math
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Protocol

import numpy as np

from ropesearch.core.arrays import Floats, Indices
from ropesearch.core.progress import Progress
from ropesearch.curves.coverage import without_trend

LOWEST = 1024  # distances at which all candidates are tried first
GAIN = 1e-12  # relative gain that an exchange or a move must reach; less may be rounding
HALVINGS = 8  # how often `refine` halves its step, starting from half the stride


class Objective(Protocol):
    """A figure of a set of waveforms."""

    def row(self, cosines: Floats) -> Floats:
        """Return the row of a waveform that starts at distance 0."""

    def keep(self, rows: Floats) -> None:
        """Keep the rows of all candidates."""

    def added(self, members: Sequence[int], candidates: Indices) -> Floats:
        """Return the figure of `members` plus each candidate; −∞ for one that cannot be the best."""

    def rest(self, rows: Sequence[Floats]) -> Floats:
        """Combine the rows of all members of a set but one."""

    def figure(self, rest: Floats, row: Floats, n: int) -> float:
        """Return the figure of a set of n, from `rest` of n − 1 members and the row of the last."""


class Floor:
    """The minimum, over distance from 1 on, of the best head."""

    def row(self, cosines: Floats) -> Floats:
        """Drop distance 0, where every waveform is 1."""
        return cosines[1:]

    def keep(self, rows: Floats) -> None:
        """Keep the rows of all candidates."""
        self._rows = rows

    def added(self, members: Sequence[int], candidates: Indices) -> Floats:
        """Bound every candidate from above where the best head is lowest, then compute those that may be the best."""
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
        """Return the best head."""
        return reduce(np.maximum, rows)

    def figure(self, rest: Floats, row: Floats, n: int) -> float:
        """Return the floor."""
        return float(np.maximum(rest, row).min())


class Ripple:
    """The negative root mean square of the mean of the waveforms without their trends."""

    def row(self, cosines: Floats) -> Floats:
        """Return the waveform without its trend."""
        return without_trend(cosines)

    def keep(self, rows: Floats) -> None:
        """Keep only the Gram matrix: the mean square of a sum of rows is a sum of its entries."""
        self._gram = rows @ rows.T / rows.shape[1]

    def added(self, members: Sequence[int], candidates: Indices) -> Floats:
        """Expand the square of the sum."""
        of_members = self._gram[members][:, members].sum()
        crossed = self._gram[members][:, candidates].sum(axis=0)
        squares = of_members + 2 * crossed + self._gram[candidates, candidates]
        ripples: Floats = np.sqrt(squares) / (len(members) + 1)
        return -ripples

    def rest(self, rows: Sequence[Floats]) -> Floats:
        """Return the sum."""
        return reduce(np.add, rows)

    def figure(self, rest: Floats, row: Floats, n: int) -> float:
        """Return the negative ripple."""
        return -math.sqrt(float(np.mean((rest + row) ** 2))) / n


OBJECTIVES: dict[str, type[Floor] | type[Ripple]] = {"floor": Floor, "ripple": Ripple}


def choose(objective: Objective, n_candidates: int, n: int, report: Progress) -> list[int]:
    """Return the indices of n candidates in the order of choice, starting with 0; an exchange keeps the place."""
    members = [0]
    report("choosing bases", 1, n)
    while len(members) < n:
        candidates = np.setdiff1d(np.arange(n_candidates), members)
        figures = objective.added(members, candidates)
        members.append(int(candidates[figures.argmax()]))  # ties go to the first, the smallest base
        report("choosing bases", len(members), n)
    while n > 1 and (exchange := _best_exchange(objective, n_candidates, members, report)):
        place, candidate = exchange
        members[place] = candidate
    return members


def _best_exchange(
    objective: Objective, n_candidates: int, members: list[int], report: Progress
) -> tuple[int, int] | None:
    """Return the place and the candidate of the exchange that gains most, or None if none gains."""
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
    """Move every base but the first to improve the figure, by steps that halve, starting from half the stride.

    A base moves one step up or down if that gains. The step is halved when no base moves any more.
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
