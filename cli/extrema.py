"""`ropesearch extrema`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ropesearch import checks
from ropesearch.files import check_output, write_whole

from .options import (
    Command,
    bases_and_head_dim,
    distance_options,
    extrema_options,
    head_dim_option,
    note_options_without_effect,
    overwrite_option,
)

if TYPE_CHECKING:
    from ropesearch import Extrema


@click.command(cls=Command)
@click.argument("bases", nargs=-1, required=True)
@distance_options(1000)
@head_dim_option
@extrema_options
@click.option(
    "-o", "--output", type=click.Path(), metavar="FILE", help="Where to: .csv or .json.  [default: stdout, CSV]"
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of CSV.")
@overwrite_option
@click.pass_context
def extrema(
    ctx: click.Context,
    /,
    bases: tuple[str, ...],
    min_distance: int,
    max_distance: int,
    head_dim: int,
    output: str | None,
    as_json: bool,
    overwrite: bool,
    **rule: Any,
) -> None:
    """List the peaks and valleys of the waveforms of BASES, numbers or base-set files.

    Positions are distances in tokens, values are logits.
    """
    suffix = ".json" if as_json else ".csv"
    if output is not None:
        suffix = checks.choice("output", Path(output).suffix, _WRITERS)
        check_output(output, overwrite=overwrite)
    numbers, d = bases_and_head_dim(ctx, bases, head_dim)

    from ropesearch import find_extrema, waveform

    found = [
        (b, find_extrema(waveform(b, d, max_distance, min_distance=min_distance), min_distance=min_distance, **rule))
        for b in numbers
    ]
    text = _WRITERS[suffix](found)
    note_options_without_effect(ctx, rule)
    if output is None:
        click.echo(text, nl=False)
    else:
        write_whole(output, text, overwrite=overwrite)
        click.echo(f"wrote {output}", err=True)


def _csv(found: "list[tuple[float, Extrema]]") -> str:
    """One row per extremum."""
    lines = ["base,kind,distance,value\n"]
    for base, extrema in found:
        for kind, positions, values in (
            ("peak", extrema.peaks, extrema.peak_values),
            ("valley", extrema.valleys, extrema.valley_values),
        ):
            lines += [
                f"{checks.shown(base)},{kind},{m},{value!r}\n"
                for m, value in zip(positions.tolist(), values.tolist(), strict=True)
            ]
    return "".join(lines)


def _json(found: "list[tuple[float, Extrema]]") -> str:
    """One object per base."""
    return (
        json.dumps(
            [
                {
                    "base": base,
                    "peaks": extrema.peaks.tolist(),
                    "peak_values": extrema.peak_values.tolist(),
                    "valleys": extrema.valleys.tolist(),
                    "valley_values": extrema.valley_values.tolist(),
                }
                for base, extrema in found
            ]
        )
        + "\n"
    )


_WRITERS = {".csv": _csv, ".json": _json}
