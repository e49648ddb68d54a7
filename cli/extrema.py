"""`ropesearch extrema`."""

import csv
import io
import json
from typing import TYPE_CHECKING, Any

import click

from ropesearch.core.errors import shown

from .options import (
    Command,
    bases_and_head_dim,
    deliver,
    distance_options,
    extrema_options,
    head_dim_option,
    labels_of,
    note_options_without_effect,
    output_suffix,
    overwrite_option,
    read_schemes,
    scheme_option,
)

if TYPE_CHECKING:
    from ropesearch import Extrema


@click.command(cls=Command)
@click.argument("bases", nargs=-1)
@scheme_option
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
    schemes: tuple[str, ...],
    min_distance: int,
    max_distance: int,
    head_dim: int,
    output: str | None,
    as_json: bool,
    overwrite: bool,
    **rule: Any,
) -> None:
    """List the peaks and valleys of the waveforms of BASES, numbers or base-set files, and of position schemes.

    Positions are distances in tokens, values are logits.
    """
    suffix = output_suffix(output, ".json" if as_json else ".csv", _WRITERS, overwrite=overwrite)
    numbers, d = bases_and_head_dim(ctx, bases, head_dim, schemes)
    others = read_schemes(schemes)

    from ropesearch import find_extrema, waveform

    curves: list[tuple[float | str, Any]]
    curves = [(b, waveform(b, d, max_distance, min_distance=min_distance)) for b in numbers]
    for scheme in others:
        curves += zip(labels_of(scheme), scheme.waveforms(max_distance, min_distance=min_distance), strict=True)
    found = [(name, find_extrema(curve, min_distance=min_distance, **rule)) for name, curve in curves]
    text = _WRITERS[suffix](found)
    note_options_without_effect(ctx, rule)
    deliver(text, output, overwrite=overwrite, quiet=False)


def _csv(found: "list[tuple[float | str, Extrema]]") -> str:
    """One row per extremum."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["base", "kind", "distance", "value"])
    for base, extrema in found:
        name = base if isinstance(base, str) else shown(base)
        for kind, positions, values in (
            ("peak", extrema.peaks, extrema.peak_values),
            ("valley", extrema.valleys, extrema.valley_values),
        ):
            writer.writerows(
                (name, kind, m, value) for m, value in zip(positions.tolist(), values.tolist(), strict=True)
            )
    return text.getvalue()


def _json(found: "list[tuple[float | str, Extrema]]") -> str:
    """One object per base."""
    return (
        json.dumps(
            [
                {
                    "scheme" if isinstance(base, str) else "base": base,
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
