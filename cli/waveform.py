"""`ropesearch waveform`."""

import csv
import io
import json
from collections.abc import Iterator
from typing import Any

import click

from ropesearch.core import checks
from ropesearch.core.errors import shown

from .options import (
    Command,
    bases_and_head_dim,
    deliver,
    distance_options,
    head_dim_option,
    labels_of,
    output_suffix,
    overwrite_option,
    quiet_option,
    read_schemes,
    scheme_option,
)
from .progress import ProgressReport

ROWS_AT_ONCE = 4096


@click.command(cls=Command)
@click.argument("bases", nargs=-1)
@scheme_option
@distance_options(0)
@head_dim_option
@click.option("--decay-bound", is_flag=True, help="RoFormer's upper bound on the decay instead of the waveform.")
@click.option(
    "-o", "--output", type=click.Path(), metavar="FILE", help="Where to: .csv, .npz or .json.  [default: stdout, CSV]"
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of CSV.")
@overwrite_option
@quiet_option
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
    output: str | None,
    as_json: bool,
    overwrite: bool,
    quiet: bool,
) -> None:
    """Compute the attention waveforms of BASES, numbers or base-set files, and of position schemes, over distance.

    Values are logits, the pre-softmax score of an all-ones query and key; of the decay bound, dimensionless.
    """
    suffix = output_suffix(output, ".json" if as_json else ".csv", _WRITERS, overwrite=overwrite)
    numbers, d = bases_and_head_dim(ctx, bases, head_dim, schemes)
    others = read_schemes(schemes)

    import numpy as np

    import ropesearch
    from ropesearch.core.machine import require_memory

    first, last = checks.distances(min_distance, max_distance)
    n = last - first + 1
    labels = [label for scheme in others for label in labels_of(scheme)]
    n_curves = len(numbers) + len(labels)
    writing = {".csv": 16, ".json": 120, ".npz": 8 * n_curves}[suffix]
    require_memory((8 * n_curves + writing) * n, f"{n_curves} curves over {n} distances")
    curve = ropesearch.decay_bound if decay_bound else ropesearch.waveform
    curves = np.empty((n_curves, n))
    with ProgressReport(quiet=quiet) as progress:
        for i, base in enumerate(numbers):
            curves[i] = curve(base, d, last, min_distance=first)
            progress("curves", i + 1, n_curves)
        start = len(numbers)
        for scheme in others:
            of_scheme = scheme.decay_bounds if decay_bound else scheme.waveforms
            end = start + len(scheme.bases)
            curves[start:end] = of_scheme(last, min_distance=first)
            start = end
            progress("curves", end, n_curves)
        content = _WRITERS[suffix](
            {
                "curve": "decay_bound" if decay_bound else "waveform",
                "head_dim": d,
                "bases": numbers,
                "schemes": labels,
                "distances": np.arange(first, last + 1),
                "values": curves,
            }
        )
    deliver(content, output, overwrite=overwrite, quiet=quiet)


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
