"""The search: from a range of bases to a base set."""

import inspect
import math
import platform
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from threading import local
from typing import Any, TypeVar

import numba
import numpy as np

from ropesearch._version import __version__
from ropesearch.core import checks, machine
from ropesearch.core.arrays import Floats, Positions
from ropesearch.core.base_set import BaseSet
from ropesearch.core.device import find_device
from ropesearch.core.errors import InputError, ParameterError, shown
from ropesearch.core.grid import candidate_grid, evenly_spaced_bases, search_range
from ropesearch.core.machine import require_memory
from ropesearch.core.progress import Progress, counter
from ropesearch.core.rope import inv_freq
from ropesearch.curves.coverage import RIPPLE_NEEDS
from ropesearch.curves.extrema import ExtremaRule, Local, extrema_rule
from ropesearch.curves.gpu import MARGIN, Steps, Survey
from ropesearch.curves.waveforms import Sampler, waveform_memory, waveform_samples
from ropesearch.kernels.matching import PEAK, VALLEY

from .matching import LandmarkBits, Landmarks, choose, matching_rule
from .optimize import OBJECTIVES
from .optimize import choose as optimize
from .optimize import refine as refine_bases

T = TypeVar("T")

STRATEGIES = ("peak-valley", "uniform", "floor", "ripple")
ORDERS = ("ascending", "descending", "selection")

LEAST_DISTANCES = {"floor": 2, "ripple": RIPPLE_NEEDS}
"""The smallest max_distance of the strategies that search for coverage."""


def search_bases(
    bmin: float,
    bmax: float,
    stride: float | None,
    heads: int,
    *,
    kv_heads: int | None = None,
    head_dim: int = 128,
    min_distance: int = 1000,
    max_distance: int = 131072,
    strategy: str = "peak-valley",
    extrema: str = "dominant",
    matching: str = "coincidence",
    tolerance: int = 3,
    normalize: bool = False,
    count: int = 30,
    gap: int = 50,
    valley_gap: int = 60,
    look_ahead: int = 500,
    level_tolerance: float = 1e-3,
    prominence: float | None = None,
    min_separation: int | None = None,
    refine: bool = False,
    order: str = "ascending",
    threads: int | None = None,
    device: str = "cpu",
    progress: Progress | None = None,
) -> BaseSet:
    """Choose one RoPE base per KV head from an evenly spaced grid.

    `peak-valley` is Algorithm 1 of HARPE: b_min is chosen first; then, again and again, the candidate whose peaks
    lie best on the valleys, and whose valleys on the peaks, of the bases chosen so far. `uniform` spreads the bases
    evenly from b_min to b_max. `floor` and `ripple` search for what `BaseSet.coverage` measures: the highest floor, the
    smallest ripple, over the distances up to `max_distance` − 1, greedily from b_min and then by the best exchanges;
    whether they make a better model than the published set is for training to show. The result does not depend on the
    number of threads.

    Parameters
    ----------
    bmin, bmax : float
        Ends of the range, dimensionless, 1 < bmin < bmax.
    stride : float or None
        Step of the candidate grid, greater than 0, not wider than the range; `uniform` has no use for it.
    heads : int
        Query heads.
    kv_heads : int, optional
        KV heads, a divisor of `heads`; `heads` if left out. As many bases are chosen.
    head_dim : int
        Channels per head, even.
    min_distance, max_distance : int
        The window in which peaks and valleys count, in tokens, both ends included.
    strategy : {'peak-valley', 'uniform', 'floor', 'ripple'}
        See above.
    extrema : {'dominant', 'local'}
        Which peaks and valleys count; see `find_extrema` for this and for `count`, `gap`, `valley_gap`,
        `look_ahead`, `level_tolerance`, `prominence` and `min_separation`.
    matching : {'coincidence', 'distance'}
        `coincidence`: most pairs of a peak and a valley at most `tolerance` tokens apart; then the smallest sum of
        their squared distances. `distance`: the smallest sum of distances to the nearest valley or peak, the
        formula as printed; with `normalize` each sum is divided by its number of terms. Then the smallest base.
    tolerance : int
        `coincidence`: in tokens.
    normalize : bool
        `distance`: see above.
    refine : bool
        `floor` and `ripple`: whether each base but b_min then moves off the grid, within the range, to where the
        figure is better.
    order : {'ascending', 'descending', 'selection'}
        How the chosen bases are laid over the heads.
    threads : int, optional
        How many threads compute waveforms; as many as there are processors if left out, and never more.
    device : str
        cpu, cuda or cuda:N. On a GPU (by torch, in float64) `peak-valley` computes the waveforms of many bases at
        once; what rounding might decide is computed on the CPU, so that the bases and their order are the same.
    progress : callable, optional
        Called as progress(what, done, total).

    Returns
    -------
    BaseSet
        With the bases in head order, the order of choice, and the options that shaped it.

    Raises
    ------
    ValueError
        If an argument is out of range, if there are fewer candidates than heads, or if b_min has neither a peak
        nor a valley in the window; the message names what is wrong and shows its value.
    MemoryError
        If the search does not fit in memory; the message says how much it needs.
    OSError
        If the device is not there; ImportError if torch is not.

    References
    ----------
    HARPE, arXiv:2412.07171, section 4, Eqs. 9 and 10, Algorithm 1.
    """
    checks.choice("strategy", strategy, STRATEGIES)
    if strategy == "uniform":
        return uniform_bases(bmin, bmax, heads, kv_heads=kv_heads, head_dim=head_dim, order=order)
    low, high = search_range(bmin, bmax)
    n_heads = checks.integer("heads", heads, 1)
    n = checks.kv_heads(kv_heads, n_heads)
    d = checks.head_dim(head_dim)
    checks.choice("order", order, ORDERS)
    n_threads = machine.threads(threads)
    torch_device = find_device(device)
    if torch_device and (strategy != "peak-valley" or prominence is not None or min_separation is not None):
        raise ParameterError(
            "device", device, "cpu unless strategy is peak-valley, without prominence and min_separation"
        )
    moves = checks.truth("refine", refine)
    grid = candidate_grid(low, high, stride, n, "heads" if kv_heads is None else "kv_heads")
    step = float(stride or 0)

    if strategy == "peak-valley":
        if moves:
            raise ParameterError("refine", refine, "left out unless strategy is floor or ripple")
        first, last = checks.distances(min_distance, max_distance)
        matcher = matching_rule(matching, tolerance=tolerance, normalize=normalize)
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
        landmarks = _landmarks(grid, d, first, last, rule, n_threads, torch_device, progress)
        report = counter(progress, "choosing bases", n)
        chosen = [grid[i] for i in choose(landmarks, n, last - first + 1, matcher, report, n_threads)]
        options = {"min_distance": first, "max_distance": last, **rule.options(), **matcher.options()}
    else:
        last = checks.integer("max_distance", max_distance, LEAST_DISTANCES[strategy])
        chosen = _optimized(
            grid, n, d, last, strategy, n_threads, progress, refine_within=(high, step) if moves else None
        )
        options = {"max_distance": last, "refine": moves}
    return _base_set(
        chosen,
        heads=n_heads,
        head_dim=d,
        strategy=strategy,
        order=order,
        parameters={"bmin": low, "bmax": high, "stride": step, **options, "order": order},
    )


def uniform_bases(
    bmin: float,
    bmax: float,
    heads: int,
    *,
    kv_heads: int | None = None,
    head_dim: int = 128,
    order: str = "ascending",
) -> BaseSet:
    """Bases evenly spaced from b_min to b_max, b_min + h·(b_max−b_min)/(N−1), one per KV head.

    Parameters
    ----------
    bmin, bmax : float
        Ends of the range, dimensionless, 1 < bmin < bmax.
    heads : int
        Query heads.
    kv_heads : int, optional
        KV heads, a divisor of `heads`; `heads` if left out.
    head_dim : int
        Channels per head, even.
    order : {'ascending', 'descending', 'selection'}
        How the bases are laid over the heads; the order of selection is ascending.

    Returns
    -------
    BaseSet
        {b_min} alone for one KV head.

    Raises
    ------
    ValueError
        If an argument is out of range; the message names it and shows its value.

    References
    ----------
    HARPE, arXiv:2412.07171, Eq. 9.
    """
    low, high = search_range(bmin, bmax)
    n_heads = checks.integer("heads", heads, 1)
    n = checks.kv_heads(kv_heads, n_heads)
    d = checks.head_dim(head_dim)
    checks.choice("order", order, ORDERS)
    require_memory(200 * n, f"a set of {n} bases")
    return _base_set(
        evenly_spaced_bases(low, high, n),
        heads=n_heads,
        head_dim=d,
        strategy="uniform",
        order=order,
        parameters={"bmin": low, "bmax": high, "order": order},
    )


def _landmarks(
    grid: Sequence[float],
    head_dim: int,
    first: int,
    last: int,
    rule: ExtremaRule,
    threads: int,
    device: Any,
    progress: Progress | None,
) -> Landmarks | LandmarkBits:
    """Peaks and valleys of every base of the grid, counted from the first distance."""
    n_distances = last - first + 1
    # `local` may look at a copy of the curve, and at lists of its extrema.
    scratch = waveform_memory(head_dim, n_distances) + (12 * n_distances if isinstance(rule, Local) else 0)
    require_memory(scratch * threads, f"a search over {n_distances} distances with {threads} threads")
    require_memory(4 * head_dim * len(grid), f"the frequencies of {len(grid)} bases")
    frequencies = inv_freq(grid, head_dim)
    own = local()  # room for curves, one per thread

    def sampler() -> Sampler:
        if not hasattr(own, "sampler"):
            own.sampler = Sampler(head_dim, first, last)
        return own.sampler  # type: ignore[no-any-return]

    of_bmin = rule.positions_of_waveforms(frequencies[:1], sampler())[0]
    if not any(positions.size for positions in of_bmin):
        msg = (
            f"bmin {shown(grid[0])} has no peak and no valley from min_distance {first} to max_distance {last};"
            " a wider window has"
        )
        raise InputError(msg)
    del own.sampler
    report = counter(progress, "waveforms and extrema", len(grid))
    survey = Survey(device, head_dim, first, last) if device else None
    if isinstance(rule, Local):
        row_size = LandmarkBits.row_size(n_distances)
        require_memory(2 * row_size * len(grid), f"keeping the extrema of {len(grid)} bases")
        bits = LandmarkBits.empty(len(grid), n_distances)

        def mark(run: slice) -> list[None]:
            peaks, valleys = bits.words[PEAK, run], bits.words[VALLEY, run]
            rule.mark_waveforms(frequencies[run], sampler(), peaks, valleys)
            return [None] * len(peaks)

        def mark_surveyed(run: slice, surveyed: list[Steps]) -> list[None]:
            for i, steps in zip(range(run.start, run.stop), surveyed, strict=True):
                peaks, valleys = bits.words[PEAK, i], bits.words[VALLEY, i]
                if steps.doubtful:
                    rule.mark(sampler().waveform(frequencies[i]), peaks, valleys)
                else:
                    rule.mark_steps(steps.up, steps.down, peaks, valleys)
            return [None] * len(surveyed)

        steps = survey.steps(frequencies) if survey else None
        for _ in _in_threads(mark_surveyed if survey else mark, len(grid), threads, report, steps):
            pass
        return bits
    kept = sum(positions.nbytes for positions in of_bmin)
    # Twice: the lists of the candidates, and the same laid end to end.
    require_memory(2 * kept * len(grid), f"keeping the extrema of {len(grid)} bases")

    def positions(run: slice) -> list[tuple[Positions, Positions]]:
        return rule.positions_of_waveforms(frequencies[run], sampler())

    def positions_surveyed(run: slice, surveyed: list[tuple[Floats, Floats]]) -> list[tuple[Positions, Positions]]:
        return [
            rule.positions_of_sketch(sampler().sketch(theta, lowest - MARGIN, highest + MARGIN))
            for theta, (lowest, highest) in zip(frequencies[run], surveyed, strict=True)
        ]

    bounds = survey.bounds(frequencies) if survey else None
    find = positions_surveyed if survey else positions
    return Landmarks.join(list(_in_threads(find, len(grid), threads, report, bounds)))


def _optimized(
    grid: Sequence[float],
    n: int,
    head_dim: int,
    n_distances: int,
    strategy: str,
    threads: int,
    progress: Progress | None,
    refine_within: tuple[float, float] | None,
) -> list[float]:
    """Bases in the order of choice that are best for an objective over the distances 0 … n_distances − 1."""
    needed = 8 * n_distances * (len(grid) + 5 * threads) + threads * waveform_memory(head_dim, n_distances)
    require_memory(needed, f"the strategy {strategy} with {len(grid)} bases over {n_distances} distances")
    objective = OBJECTIVES[strategy]()

    def cosines(base: float) -> Floats:
        return waveform_samples(base, head_dim, 0, n_distances - 1) / math.sqrt(head_dim)

    report = counter(progress, "waveforms", len(grid))
    rows = np.empty((len(grid), objective.row(cosines(grid[0])).size))
    places = iter(rows)

    def rows_of(run: slice) -> list[Floats]:
        return [objective.row(cosines(base)) for base in grid[run]]

    for row in _in_threads(rows_of, len(grid), threads, report):
        next(places)[:] = row
    objective.keep(rows)
    tell = progress or (lambda *_: None)
    chosen = [grid[i] for i in optimize(objective, len(grid), n, tell)]
    return refine_bases(objective, chosen, cosines, *refine_within, tell) if refine_within else chosen


def _in_threads(
    function: Callable[..., list[T]],
    n: int,
    threads: int,
    report: Callable[[], None],
    more: Iterator[Any] | None = None,
) -> Iterator[T]:
    """Results for the numbers 0 … n − 1 in their order, computed in threads, run by run.

    `function` takes a slice, and of `more`, if it is given, the items for it.
    """
    size = max(1, min(16, n // (4 * threads)))
    starts = iter(range(0, n, size))
    waiting: deque[Future[list[T]]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            while True:
                for start in islice(starts, 4 * threads - len(waiting)):
                    run = slice(start, min(start + size, n))
                    items = () if more is None else (list(islice(more, run.stop - run.start)),)
                    waiting.append(pool.submit(function, run, *items))
                if not waiting:
                    return
                for result in waiting.popleft().result():
                    yield result
                    report()
        except BaseException:  # an interrupt must not wait for every base that is still queued
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _base_set(
    chosen: Sequence[float], *, heads: int, head_dim: int, strategy: str, order: str, parameters: Mapping[str, Any]
) -> BaseSet:
    """Lay bases in order of choice over the heads and say where they come from."""
    bases = list(chosen) if order == "selection" else sorted(chosen, reverse=order == "descending")
    options = {"heads": heads, "kv_heads": len(chosen), "head_dim": head_dim, "strategy": strategy, **parameters}
    made_by = {
        "ropesearch": __version__,
        "numpy": np.__version__,
        "numba": numba.__version__,
        "python": platform.python_version(),
        "command": _command(options),
    }
    return BaseSet(
        heads=heads,
        kv_heads=len(chosen),
        head_dim=head_dim,
        bases=tuple(bases),
        selection=tuple(chosen),
        strategy=strategy,
        parameters=dict(parameters),
        made_by=made_by,
    )


def _command(options: Mapping[str, Any]) -> str:
    """Return the command line that repeats a search: what must be given, and what is not the default."""
    words = ["ropesearch search"]
    for name, parameter in inspect.signature(search_bases).parameters.items():
        value = options.get(name)
        if value is None or value == parameter.default or (name == "kv_heads" and value == options["heads"]):
            continue
        words.append(f"--{name.replace('_', '-')}")
        if value is not True:
            words.append(value if isinstance(value, str) else shown(value))
    return " ".join(words)
