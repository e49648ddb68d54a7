"""`ropesearch extrema`."""

import csv
import io
import json
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from ropesearch.core.errors import shown

from .errors import Command
from .inputs import bases_and_head_dim, labels_of, read_schemes
from .notes import options_without_effect
from .options import distance_options, extrema_options, head_dim_option, scheme_option
from .output import Output, result_options

if TYPE_CHECKING:
    from ropesearch import Extrema

    Found = list[tuple[float | str, Extrema]]
    """Extrema by base, or by the label of a scheme."""


@click.command(cls=Command)
@click.argument("bases", nargs=-1)
@scheme_option
@distance_options(1000)
@head_dim_option
@extrema_options
@result_options(".csv", ".csv", ".json")
@click.pass_context
def extrema(
    ctx: click.Context,
    /,
    bases: tuple[str, ...],
    schemes: tuple[str, ...],
    min_distance: int,
    max_distance: int,
    head_dim: int,
    out: Output,
    **rule: Any,
) -> None:
    """List the peaks and valleys of waveforms.

    BASES are numbers or base-set files; --scheme adds position schemes. Positions are distances in tokens, values are
    logits.
    """
    numbers, d = bases_and_head_dim(ctx, bases, head_dim, schemes)
    others = read_schemes(schemes)

    from ropesearch import find_extrema, waveform

    curves: list[tuple[float | str, Any]]
    curves = [(b, waveform(b, d, max_distance, min_distance=min_distance)) for b in numbers]
    for scheme in others:
        curves += zip(labels_of(scheme), scheme.waveforms(max_distance, min_distance=min_distance), strict=True)
    found = [(name, find_extrema(curve, min_distance=min_distance, **rule)) for name, curve in curves]
    out.deliver({".csv": partial(_csv, found), ".json": partial(_json, found)}, options_without_effect(ctx, rule))


def _csv(found: "Found") -> str:
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


def _json(found: "Found") -> str:
    """One object per base."""
    objects = [
        {
            "scheme" if isinstance(base, str) else "base": base,
            "peaks": extrema.peaks.tolist(),
            "peak_values": extrema.peak_values.tolist(),
            "valleys": extrema.valleys.tolist(),
            "valley_values": extrema.valley_values.tolist(),
        }
        for base, extrema in found
    ]
    return json.dumps(objects) + "\n"
