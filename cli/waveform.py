"""`ropesearch waveform`."""

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from ropesearch import checks
from ropesearch.files import check_output, write_whole

from .options import (
    Command,
    bases_and_head_dim,
    distance_options,
    head_dim_option,
    overwrite_option,
    quiet_option,
)
from .progress import ProgressReport

ROWS_AT_ONCE = 4096


@click.command(cls=Command)
@click.argument("bases", nargs=-1, required=True)
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
    min_distance: int,
    max_distance: int,
    head_dim: int,
    decay_bound: bool,
    output: str | None,
    as_json: bool,
    overwrite: bool,
    quiet: bool,
) -> None:
    """Compute the attention waveforms of BASES, numbers or base-set files, over distance.

    Values are logits, the pre-softmax score of an all-ones query and key; of the decay bound, dimensionless.
    """
    suffix = ".json" if as_json else ".csv"
    if output is not None:
        suffix = checks.choice("output", Path(output).suffix, _WRITERS)
        check_output(output, overwrite=overwrite)
    numbers, d = bases_and_head_dim(ctx, bases, head_dim)

    import numpy as np

    import ropesearch
    from ropesearch.memory import require_memory

    first, last = checks.distances(min_distance, max_distance)
    n = last - first + 1
    writing = {".csv": 16, ".json": 120, ".npz": 8 * len(numbers)}[suffix]
    require_memory((8 * len(numbers) + writing) * n, f"{len(numbers)} curves over {n} distances")
    curve = ropesearch.decay_bound if decay_bound else ropesearch.waveform
    curves = np.empty((len(numbers), n))
    with ProgressReport(quiet=quiet) as progress:
        for i, base in enumerate(numbers):
            curves[i] = curve(base, d, last, min_distance=first)
            progress("curves", i + 1, len(numbers))
        content = _WRITERS[suffix](
            {
                "curve": "decay_bound" if decay_bound else "waveform",
                "head_dim": d,
                "bases": numbers,
                "distances": np.arange(first, last + 1),
                "values": curves,
            }
        )
    if output is None:
        for part in content:
            click.echo(part, nl=False)
    else:
        write_whole(output, content, overwrite=overwrite)
        if not quiet:
            click.echo(f"wrote {output}", err=True)


def _csv(result: dict[str, Any]) -> Iterator[bytes]:
    """One row per distance, one column per base."""
    yield (",".join(["distance", *map(checks.shown, result["bases"])]) + "\n").encode()
    distances, values = result["distances"], result["values"]
    for start in range(0, distances.size, ROWS_AT_ONCE):
        part = slice(start, start + ROWS_AT_ONCE)
        rows = zip(distances[part].tolist(), *values[:, part].tolist(), strict=True)
        yield "".join(",".join(map(repr, row)) + "\n" for row in rows).encode()


def _json(result: dict[str, Any]) -> Iterator[bytes]:
    """One object: the first and last distance instead of all, the values as a list per base."""
    distances, values = result["distances"], result["values"]
    head = {key: result[key] for key in ("curve", "head_dim", "bases")}
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
