"""`ropesearch waveform`."""

import csv
import io
import json
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import click

from ropesearch.core import checks
from ropesearch.core.errors import shown

from .errors import Command
from .inputs import bases_and_head_dim, labels_of, read_schemes
from .options import distance_options, head_dim_option, scheme_option
from .output import Output, result_options
from .progress import progress_on_stderr

ROWS_AT_ONCE = 4096


@click.command(cls=Command)
@click.argument("bases", nargs=-1)
@scheme_option
@distance_options(0)
@head_dim_option
@click.option("--decay-bound", is_flag=True, help="Compute RoFormer's upper bound on the decay instead.")
@result_options(".csv", ".csv", ".json", ".npz")
@click.pass_context
def waveform(
    ctx: click.Context,
    /,
    bases: tuple[str, ...],
    schemes: tuple[str, ...],
    min_distance: int,
    max_distance: int,
    head_dim: int,
    decay_bound: bool,
    out: Output,
) -> None:
    """Compute attention waveforms over distance.

    BASES are numbers or base-set files; --scheme adds position schemes. Values are logits: the score, before the
    softmax, of an all-ones query and key. The decay bound has no unit.
    """
    numbers, d = bases_and_head_dim(ctx, bases, head_dim, schemes)
    others = read_schemes(schemes)

    import numpy as np

    import ropesearch
    from ropesearch.core.machine import require_memory

    first, last = checks.distances(min_distance, max_distance)
    n = last - first + 1
    labels = [label for scheme in others for label in labels_of(scheme)]
    n_curves = len(numbers) + len(labels)
    writing = {".csv": 16, ".json": 120, ".npz": 8 * n_curves}[out.suffix]
    require_memory((8 * n_curves + writing) * n, f"{n_curves} curve{'s' * (n_curves > 1)} over {n} distances")
    curve = ropesearch.decay_bound if decay_bound else ropesearch.waveform
    parts: list[Callable[..., Any]] = [partial(curve, base, d) for base in numbers]
    parts += [scheme.decay_bounds if decay_bound else scheme.waveforms for scheme in others]
    curves = np.empty((n_curves, n))
    done = 0
    with progress_on_stderr(quiet=out.quiet) as progress:
        for part in parts:
            values = np.atleast_2d(part(last, min_distance=first))
            curves[done : done + len(values)] = values
            done += len(values)
            progress("curves", done, n_curves)
    result = {
        "curve": "decay_bound" if decay_bound else "waveform",
        "head_dim": d,
        "bases": numbers,
        "schemes": labels,
        "distances": np.arange(first, last + 1),
        "values": curves,
    }
    out.deliver({suffix: partial(write, result) for suffix, write in _WRITERS.items()})


def _csv(result: dict[str, Any]) -> Iterator[bytes]:
    """One row per distance, one column per base."""
    header = io.StringIO()
    names = [*map(shown, result["bases"]), *result["schemes"]]
    csv.writer(header, lineterminator="\n").writerow(["distance", *names])  # a scheme's name may hold a comma
    yield header.getvalue().encode()
    distances, values = result["distances"], result["values"]
    for start in range(0, distances.size, ROWS_AT_ONCE):
        part = slice(start, start + ROWS_AT_ONCE)
        rows = zip(distances[part].tolist(), *values[:, part].tolist(), strict=True)
        yield "".join(",".join(map(repr, row)) + "\n" for row in rows).encode()


def _json(result: dict[str, Any]) -> Iterator[bytes]:
    """One object: the first and last distance instead of all, the values as a list per base."""
    distances, values = result["distances"], result["values"]
    head = {key: result[key] for key in ("curve", "head_dim", "bases", "schemes")}
    head |= {"min_distance": int(distances[0]), "max_distance": int(distances[-1])}
    yield (json.dumps(head)[:-1] + ', "values": [').encode()
    for i, row in enumerate(values):
        yield (("" if i == 0 else ", ") + json.dumps(row.tolist())).encode()
    yield b"]}\n"


def _npz(result: dict[str, Any]) -> Iterator[bytes]:
    """Every entry as an array."""
    import numpy as np

    file = io.BytesIO()
    np.savez(file, **result)
    yield file.getvalue()


_WRITERS = {".csv": _csv, ".json": _json, ".npz": _npz}
