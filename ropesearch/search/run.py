"""The search: choose a base set from a range of bases."""

import math
import platform
from collections.abc import Sequence
from functools import partial

import numba
import numpy as np

from ropesearch._version import __version__
from ropesearch.core import machine
from ropesearch.core.arrays import Floats
from ropesearch.core.base_set import BaseSet
from ropesearch.core.device import find_device
from ropesearch.core.errors import ParameterError
from ropesearch.core.grid import candidate_bases, evenly_spaced_bases
from ropesearch.core.machine import require_memory
from ropesearch.core.progress import Progress, counter
from ropesearch.core.spec import SearchSpec
from ropesearch.curves.waveforms import waveform_memory, waveform_samples

from .landmarks import find_landmarks
from .matching import choose, matching_rule
from .optimize import OBJECTIVES
from .optimize import choose as optimize
from .optimize import refine as refine_bases
from .threads import run_in_threads, run_size


def search_bases(
    bmin: float,
    bmax: float,
    stride: float | None,
    heads: int,
    *,
    kv_heads: int | None = SearchSpec.kv_heads,
    head_dim: int = SearchSpec.head_dim,
    min_distance: int = SearchSpec.min_distance,
    max_distance: int = SearchSpec.max_distance,
    strategy: str = SearchSpec.strategy,
    extrema: str = SearchSpec.extrema,
    matching: str = SearchSpec.matching,
    tolerance: int = SearchSpec.tolerance,
    normalize: bool = SearchSpec.normalize,
    count: int = SearchSpec.count,
    gap: int = SearchSpec.gap,
    valley_gap: int = SearchSpec.valley_gap,
    look_ahead: int = SearchSpec.look_ahead,
    level_tolerance: float = SearchSpec.level_tolerance,
    prominence: float | None = SearchSpec.prominence,
    min_separation: int | None = SearchSpec.min_separation,
    refine: bool = SearchSpec.refine,
    order: str = SearchSpec.order,
    threads: int | None = None,
    device: str = "cpu",
    progress: Progress | None = None,
) -> BaseSet:
    """Choose one RoPE base per KV head from an evenly spaced grid.

    `peak-valley` is Algorithm 1 of HARPE: it chooses b_min first, then repeatedly the candidate whose peaks lie best on
    the valleys, and whose valleys lie best on the peaks, of the bases chosen so far. `uniform` spreads the bases evenly
    from b_min to b_max. `floor` and `ripple` search for the highest floor or the smallest ripple, as `BaseSet.coverage`
    measures them, over the distances of a context of `max_distance` tokens: greedily from b_min, then by the best
    exchanges. Only training can show whether they make a better model than the published set. The result does not
    depend on the number of threads.

    Defaults and checks are those of `SearchSpec`, which holds all of these options except the last three.

    Parameters
    ----------
    bmin, bmax : float
        Ends of the range, dimensionless, 1 < bmin < bmax.
    stride : float or None
        Step of the candidate grid, greater than 0 and at most the width of the range; `uniform` ignores it.
    heads : int
        Query heads.
    kv_heads : int, optional
        KV heads, a divisor of `heads`; each gets one base. `heads` by default.
    head_dim : int
        Channels per head, even.
    min_distance, max_distance : int
        The window in which peaks and valleys count, in tokens, both ends included. `floor` and `ripple` use the
        distances 0 … `max_distance` − 1.
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
        `floor` and `ripple`: whether to then move each base except b_min off the grid, within the range, to improve
        the figure.
    order : {'ascending', 'descending', 'selection'}
        How the chosen bases are laid over the heads.
    threads : int, optional
        Number of threads that compute waveforms: at most, and by default, one per processor.
    device : str
        cpu, cuda or cuda:N. On a GPU (by torch, in float64) `peak-valley` computes the waveforms of many bases at
        once. The CPU computes everything that rounding might decide, so that the bases and their order are the same.
    progress : callable, optional
        Called as progress(what, done, total).

    Returns
    -------
    BaseSet
        With the bases in head order, the order of choice, and the options that shaped it.

    Raises
    ------
    ValueError
        If an argument is out of range, there are too few candidates, or b_min has neither a peak nor a valley in the
        window; the message names what is wrong and shows its value.
    MemoryError
        If the search does not fit in memory; the message says how much it needs.
    OSError
        If the device is not available.
    ImportError
        If the device needs torch and it is not installed; the message names the extra that brings it.

    References
    ----------
    HARPE, arXiv:2412.07171, section 4, Eqs. 9 and 10, Algorithm 1.
    """
    options = locals()
    runtime = {name: options.pop(name) for name in ("threads", "device", "progress")}
    return run_search(SearchSpec(**options), **runtime)


def run_search(
    spec: SearchSpec, *, threads: int | None = None, device: str = "cpu", progress: Progress | None = None
) -> BaseSet:
    """Run `search_bases` for checked options; `threads`, `device` and `progress` are as there."""
    n_threads = machine.threads(threads)
    torch_device = find_device(device)
    if torch_device:
        check_device(spec, device)
    if spec.strategy == "uniform":
        require_memory(200 * spec.n_bases, f"a set of {spec.n_bases} bases")
        chosen = evenly_spaced_bases(spec.bmin, spec.bmax, spec.n_bases)
    else:
        grid = [spec.bmin, *candidate_bases(spec.bmin, spec.bmax, float(spec.stride or 0))]
        if spec.strategy == "peak-valley":
            landmarks = find_landmarks(grid, spec, threads=n_threads, device=torch_device, progress=progress)
            n_distances = spec.max_distance - spec.min_distance + 1
            report = counter(progress, "choosing bases", spec.n_bases)
            order = choose(landmarks, spec.n_bases, n_distances, matching_rule(spec), report, n_threads)
            chosen = [grid[i] for i in order]
        else:
            chosen = _optimize(grid, spec, n_threads, progress)
    return _make_base_set(chosen, spec)


def check_device(spec: SearchSpec, device: str) -> None:
    """Raise ValueError unless the search can run on a GPU."""
    if spec.strategy != "peak-valley" or spec.prominence is not None or spec.min_separation is not None:
        requirement = "cpu unless `strategy` is peak-valley, without `prominence` and `min_separation`"
        raise ParameterError("device", device, requirement)


def uniform_bases(
    bmin: float,
    bmax: float,
    heads: int,
    *,
    kv_heads: int | None = SearchSpec.kv_heads,
    head_dim: int = SearchSpec.head_dim,
    order: str = SearchSpec.order,
) -> BaseSet:
    """Make a set of bases evenly spaced from b_min to b_max, b_min + h·(b_max−b_min)/(N−1), one per KV head.

    Parameters
    ----------
    bmin, bmax : float
        Ends of the range, dimensionless, 1 < bmin < bmax.
    heads : int
        Query heads.
    kv_heads : int, optional
        KV heads, a divisor of `heads`; `heads` by default.
    head_dim : int
        Channels per head, even.
    order : {'ascending', 'descending', 'selection'}
        How the bases are laid over the heads; `selection` is ascending here.

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
    spec = SearchSpec(
        bmin=bmin, bmax=bmax, heads=heads, kv_heads=kv_heads, head_dim=head_dim, order=order, strategy="uniform"
    )
    return run_search(spec)


def _optimize(grid: Sequence[float], spec: SearchSpec, threads: int, progress: Progress | None) -> list[float]:
    """Search for the best figure over distances 0 … max_distance − 1; return the bases in the order of choice."""
    n_distances = spec.max_distance
    needed = 8 * n_distances * (len(grid) + 5 * threads) + threads * waveform_memory(spec.head_dim, n_distances)
    require_memory(needed, f"the strategy {spec.strategy} with {len(grid)} bases over {n_distances} distances")
    objective = OBJECTIVES[spec.strategy]()

    def cosines(base: float) -> Floats:
        return waveform_samples(base, spec.head_dim, 0, n_distances - 1) / math.sqrt(spec.head_dim)

    def rows_of(bases: Sequence[float]) -> list[Floats]:
        return [objective.row(cosines(base)) for base in bases]

    size = run_size(len(grid), threads)
    tasks = (partial(rows_of, grid[start : start + size]) for start in range(0, len(grid), size))
    rows = np.empty((len(grid), objective.row(cosines(grid[0])).size))
    report = counter(progress, "waveforms", len(grid))
    for row, place in zip(run_in_threads(tasks, threads, report), rows, strict=True):
        place[:] = row
    objective.keep(rows)
    tell = progress or (lambda *_: None)
    chosen = [grid[i] for i in optimize(objective, len(grid), spec.n_bases, tell)]
    if not spec.refine:
        return chosen
    return refine_bases(objective, chosen, cosines, spec.bmax, float(spec.stride or 0), tell)


def _make_base_set(chosen: Sequence[float], spec: SearchSpec) -> BaseSet:
    """Make the base set from bases in the order of choice, with its origin."""
    bases = list(chosen) if spec.order == "selection" else sorted(chosen, reverse=spec.order == "descending")
    made_by = {
        "ropesearch": __version__,
        "numpy": np.__version__,
        "numba": numba.__version__,
        "python": platform.python_version(),
        "command": spec.command(),
    }
    return BaseSet(
        heads=spec.heads,
        kv_heads=spec.n_bases,
        head_dim=spec.head_dim,
        bases=tuple(bases),
        selection=tuple(chosen),
        strategy=spec.strategy,
        parameters=spec.parameters(),
        made_by=made_by,
    )
