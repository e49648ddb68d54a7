"""`ropesearch sweep`."""

import csv
import io
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ropesearch.core.errors import shown
from ropesearch.exporters.sweep_table import SWEEP_FIGURES, sorted_rows

from . import tables
from .errors import Command, with_flags
from .inputs import by_hand, filled_in
from .notes import changed_preset, cut_to_processors, options_without_effect
from .options import (
    BASE,
    COUNT,
    LENGTH,
    Number,
    device_option,
    extrema_options,
    head_dim_option,
    kv_heads_option,
    matching_options,
    model_config_option,
    preset_option,
    spec_option,
)
from .output import Output, file_options, note
from .progress import progress_on_stderr

if TYPE_CHECKING:
    ListType = click.ParamType[list[Any]]
else:
    ListType = click.ParamType  # not generic in click 8.1


sort_option = click.option(
    "--sort",
    type=click.Choice(list(SWEEP_FIGURES)),
    help="Show the rows with the best figure first; the file keeps its order.",
)


class ListOf(ListType):
    """One value, or several with commas between them; a number also as a range, first:last:step."""

    def __init__(self, each: "click.ParamType[Any]") -> None:
        self.each = each
        self.name = f"{each.name},..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[Any]:
        """Convert every value of the list."""
        if isinstance(value, list):
            return value
        parts = [part.strip() for part in str(value).split(",")]
        if isinstance(self.each, Number):
            return [number for part in parts for number in self.each.convert_range(part, param, ctx)]
        return [self.each.convert(part, param, ctx) for part in parts]


@click.command(cls=Command)
@spec_option("bmin", "--bmins", "--bmin", type=ListOf(BASE), note="required")
@spec_option("bmax", "--bmaxs", "--bmax", type=ListOf(BASE), note="required")
@spec_option("stride", "--strides", "--stride", type=ListOf(BASE), note="required unless --strategy uniform")
@spec_option("heads", type=ListOf(COUNT), note="required unless --model-config")
@kv_heads_option
@head_dim_option
@model_config_option
@preset_option
@spec_option("strategy", "--strategies", "--strategy", type=ListOf(click.STRING), metavar=None)
@spec_option("min_distance")
@spec_option("max_distance", "--max-distances", "--max-distance", type=ListOf(LENGTH))
@extrema_options
@matching_options
@spec_option("refine")
@spec_option("order")
@device_option
@click.option(
    "--workers", type=int, help="Processes on this machine, at most one per processor.  [default: one per processor]"
)
@click.option("--scheduler", metavar="ADDRESS", help="Run on the Dask cluster of this scheduler, such as host:8786.")
@click.option("--resume", is_flag=True, help="Continue the file of a sweep that was stopped.")
@sort_option
@file_options("the rows as JSON Lines", ".jsonl", ".json", ".csv", required=True)
@click.pass_context
def sweep(
    ctx: click.Context,
    /,
    workers: int | None,
    device: str,
    scheduler: str | None,
    resume: bool,
    preset: str | None,
    model_config: str | None,
    sort: str | None,
    out: Output,
    **options: Any,
) -> None:
    """Search every combination of the options, several at a time.

    An option shown with dots takes several values, separated by commas. Each search adds a row to the file as it ends,
    and --resume continues a sweep that was stopped at any moment.

    \b
        ropesearch sweep --bmin 1e6 --bmax 5e6 --strides 10000,20000,30000,40000,50000 --heads 32 -o sweep.jsonl
    """  # noqa: D301  (click reads the control character \b as: leave these lines as they are)
    options = filled_in(ctx, options, preset, model_config)
    if resume and out.path is None:
        raise click.UsageError("--resume needs --output FILE: there is nothing to continue on stdout")

    from ropesearch.search.sweep import sweep, sweep_specs
    from ropesearch.search.sweep_file import read_sweep
    from ropesearch.search.workers import dask_cluster, process_pool

    axes = {"stride": "strides", "bmin": "bmins", "bmax": "bmaxs", "heads": "heads"}
    axes |= {"max_distance": "max_distances", "strategy": "strategies"}
    points = sweep_specs({axes.get(name, name): _as_list(name, value, axes) for name, value in options.items()})

    notes: list[str] = []
    note_now = partial(note, quiet=out.quiet)
    executors = process_pool(workers) if scheduler is None else dask_cluster(scheduler, note=note_now)
    with progress_on_stderr(quiet=out.quiet) as progress, executors as executor, _file(out) as path:
        sweep(
            points,
            path,
            executor=executor,
            resume=resume,
            overwrite=out.overwrite,
            device=device,
            progress=progress,
            note=notes.append,
        )
        rows = read_sweep(path)  # numbered as `show` numbers them
        text = "" if out.path else Path(path).read_text()
    failed = [with_flags(row["error"], ctx) for row in rows if "error" in row]
    if len(failed) == len(rows):
        msg = f"none of the {len(rows)} points could be searched; the first: {failed[0]}"
        raise click.UsageError(msg)
    notes += [*changed_preset(ctx, options, preset), *options_without_effect(ctx, options)]
    if scheduler is None:
        notes += cut_to_processors("workers", workers)
    elif by_hand(ctx, "workers"):
        notes.append("--workers has no effect with --scheduler")
    if failed:
        notes.append(f"{len(failed)} of {len(rows)} points could not be searched; the first: {failed[0]}")
    out.print(forms_of_rows(rows, sort) | {".jsonl": lambda: text}, notes)
    out.wrote(out.path)


def _as_list(name: str, value: Any, axes: dict[str, str]) -> Any:
    """Return the values of an option that takes several; a preset and a model give one, and no stride is one too."""
    return [value] if name in axes and not isinstance(value, list) else value


@contextmanager
def _file(out: Output) -> Iterator[str]:
    """Give the path of the sweep's file; that of one to be printed goes at the end, unless an error speaks of it."""
    if out.path is not None:
        yield out.path
        return
    import tempfile

    folder = tempfile.mkdtemp(prefix="ropesearch-")
    try:
        yield str(Path(folder, "sweep.jsonl"))
    except OSError:
        raise
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    shutil.rmtree(folder, ignore_errors=True)


def forms_of_rows(rows: Sequence[dict[str, Any]], sort: str | None) -> dict[str, Callable[[], str]]:
    """Return what makes a table, JSON and CSV out of the rows of a sweep."""
    ordered = [rows[i] for i in sorted_rows(rows, sort)]
    return {"": partial(tables.of_sweep, rows, sort), ".json": partial(_json, ordered), ".csv": partial(_csv, ordered)}


def _json(rows: Sequence[dict[str, Any]]) -> str:
    return "[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n"


def _csv(rows: Sequence[dict[str, Any]]) -> str:
    """One line per point: its options, its bases with spaces between them, its figures, or why it has none."""
    figures = ("floor", "floor_distance", "mean", "quantile_01", "ripple")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*rows[0]["point"], "bases", *figures, "seconds", "error"])
    for row in rows:
        bases = " ".join(map(shown, row.get("base_set", {}).get("bases", [])))
        coverage = [row.get("coverage", {}).get(name) for name in figures]
        writer.writerow([*row["point"].values(), bases, *coverage, row.get("seconds"), row.get("error")])
    return text.getvalue()
