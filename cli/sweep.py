"""`ropesearch sweep`."""

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from ropesearch.core.errors import ParameterError, require_extra, shown
from ropesearch.core.files import check_output

from .options import (
    Command,
    EnvironmentFailure,
    by_hand,
    extrema_options,
    filled_in,
    head_dim_option,
    kv_heads_option,
    matching_options,
    model_config_option,
    note_if_cut,
    note_options_without_effect,
    order_option,
    overwrite_option,
    preset_option,
    quiet_option,
    refine_option,
)
from .progress import ProgressReport

CONNECT_WITHIN = 10.0  # seconds
PIPE_WIDTH = 200  # characters of a table that goes to no terminal, where folded cells would be of no use


if TYPE_CHECKING:
    ListType = click.ParamType[list[Any]]
else:
    ListType = click.ParamType  # not generic in click 8.1


class ListOf(ListType):
    """One value, or several with commas between them."""

    def __init__(self, each: "click.ParamType[Any]") -> None:
        self.each = each
        self.name = f"{each.name},..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[Any]:
        """Convert every value of the list."""
        if isinstance(value, list):
            return value
        return [self.each.convert(part.strip(), param, ctx) for part in str(value).split(",")]


@click.command(cls=Command)
@click.option("--bmins", "--bmin", "bmin", type=ListOf(click.FLOAT), help="Smallest base, above 1.  [needed]")
@click.option("--bmaxs", "--bmax", "bmax", type=ListOf(click.FLOAT), help="Largest base allowed.  [needed]")
@click.option(
    "--strides",
    "--stride",
    "stride",
    type=ListOf(click.FLOAT),
    help="Step of the candidate grid.  [needed, but for uniform]",
)
@click.option("--heads", type=ListOf(click.INT), help="Query heads of the model.  [needed]")
@kv_heads_option
@head_dim_option
@model_config_option
@preset_option
@click.option(
    "--strategies",
    "--strategy",
    "strategy",
    type=ListOf(click.STRING),
    default="peak-valley",
    show_default=True,
    help="peak-valley (Algorithm 1 of HARPE), uniform, floor or ripple; see search.",
)
@click.option("--min-distance", type=int, default=1000, show_default=True, help="First distance, in tokens.")
@click.option(
    "--max-distances",
    "--max-distance",
    "max_distance",
    type=ListOf(click.INT),
    default="131072",
    show_default=True,
    help="Last distance, in tokens.",
)
@extrema_options
@matching_options
@refine_option
@order_option
@click.option(
    "-o", "--output", type=click.Path(), metavar="FILE", required=True, help="Where the rows go (JSON Lines)."
)
@click.option("--resume", is_flag=True, help="Go on with the file of a sweep that was stopped.")
@overwrite_option
@click.option("--workers", type=int, help="Processes on this machine, at most one per processor.  [default: as many]")
@click.option("--scheduler", metavar="ADDRESS", help="Run on the Dask cluster of this scheduler, such as host:8786.")
@click.option("--json", "as_json", is_flag=True, help="Print the rows instead of a table.")
@quiet_option
@click.pass_context
def sweep(
    ctx: click.Context,
    /,
    output: str,
    resume: bool,
    overwrite: bool,
    workers: int | None,
    scheduler: str | None,
    as_json: bool,
    quiet: bool,
    preset: str | None,
    model_config: str | None,
    **options: Any,
) -> None:
    """Search every combination of the options, several at a time.

    An option shown with dots takes several values, with commas between them. The file gets a row as each search
    ends, and a sweep that was stopped, at any moment, goes on with --resume.

    \b
        ropesearch sweep --bmin 1e6 --bmax 5e6 --strides 10000,20000,30000,40000,50000 --heads 32 -o sweep.jsonl
    """  # noqa: D301  (click reads the control character \b as: leave these lines as they are)
    options = filled_in(ctx, options, preset, model_config)
    check_output(output, overwrite=resume or overwrite)

    from ropesearch.search.sweep import sweep, sweep_points
    from ropesearch.search.workers import process_pool

    axes = {"stride": "strides", "bmin": "bmins", "bmax": "bmaxs", "heads": "heads"}
    axes |= {"max_distance": "max_distances", "strategy": "strategies"}
    points = sweep_points(**{axes.get(name, name): _as_list(name, value, axes) for name, value in options.items()})

    notes: list[str] = []
    executors = process_pool(workers) if scheduler is None else cluster(scheduler, quiet=quiet)
    with ProgressReport(quiet=quiet) as progress, executors as executor:
        rows = sweep(
            points,
            output,
            executor=executor,
            resume=resume,
            overwrite=overwrite,
            progress=progress,
            note=notes.append,
        )
    failed = [row["error"] for row in rows if "error" in row]
    if len(failed) == len(rows):
        msg = f"none of the {len(rows)} points could be searched; the first: {failed[0]}"
        raise click.UsageError(msg)
    print_rows(rows, as_json=as_json)
    if quiet:
        return
    note_options_without_effect(ctx, options)
    if scheduler is None:
        note_if_cut("workers", workers)
    elif by_hand(ctx, "workers"):
        notes.append("note: --workers has no effect with --scheduler")
    if failed:
        notes.append(f"note: {len(failed)} of {len(rows)} points could not be searched; the first: {failed[0]}")
    for line in [*notes, f"wrote {output}"]:
        click.echo(line, err=True)


def _as_list(name: str, value: Any, axes: dict[str, str]) -> Any:
    """Return the values of an option that takes several; a preset and a model give one, and no stride is one too."""
    return [value] if name in axes and not isinstance(value, list) else value


@contextmanager
def cluster(address: str, *, quiet: bool) -> Iterator[Executor]:
    """Give the executor of a Dask cluster, if its scheduler answers in time."""
    import asyncio
    import logging

    require_extra("--scheduler", "cluster", "distributed")
    import distributed
    from distributed.comm.addressing import parse_address, parse_host_port
    from distributed.comm.registry import get_backend

    try:
        scheme, location = parse_address(address)
        get_backend(scheme)
        parse_host_port(location)
    except ValueError:
        raise ParameterError("scheduler", address, "the address of a Dask scheduler, such as host:8786") from None
    for name in ("distributed", "distributed.client"):  # what they have to say ends as an error of ours
        logging.getLogger(name).setLevel(logging.CRITICAL)
    # A client waits without end for a listener that stays silent, and makes noise when it is given up.
    if not asyncio.run(_answers(address)):
        msg = f"no Dask scheduler answers at {address} within {CONNECT_WITHIN:g} s"
        raise EnvironmentFailure(msg)
    with distributed.Client(address, timeout=CONNECT_WITHIN, set_as_default=False) as client:
        if not quiet and not client.nthreads():
            click.echo("note: the cluster has no workers yet; the sweep waits for them", err=True)
        try:
            # Not pure: a result that another sweep left in the cluster's memory is not taken for this one's.
            yield client.get_executor(pure=False)
        except distributed.KilledWorker as error:
            msg = f"a point ended its workers again and again: {error}"
            raise EnvironmentFailure(msg) from None
        except (ImportError, RuntimeError) as error:
            if not isinstance(error, ImportError) and "deserialization" not in str(error):
                raise
            msg = f"the cluster at {address} cannot run a search: ropesearch must be installed there, in this version"
            raise EnvironmentFailure(msg) from None


async def _answers(address: str) -> bool:
    """Whether a Dask scheduler answers."""
    import asyncio

    from distributed.core import connect, send_recv

    async def ask() -> bool:
        comm = await connect(address, timeout=CONNECT_WITHIN)
        try:
            reply = await send_recv(comm, op="identity")
        finally:
            comm.abort()
        return bool(reply["type"] == "Scheduler")

    try:
        return await asyncio.wait_for(ask(), CONNECT_WITHIN)
    except Exception:  # whatever else listens there may answer anything
        return False


def print_rows(rows: Sequence[dict[str, Any]], *, as_json: bool) -> None:
    """Print the rows of a sweep on stdout, as a table or as a JSON list."""
    if as_json:
        click.echo("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]")
        return
    from rich.console import Console
    from rich.table import Table

    figures = [
        name
        for name in ("floor", "mean", "ripple")
        if any(row.get("coverage", {}).get(name) is not None for row in rows)
    ]
    options = ("stride", "bmin", "bmax", "heads", "max_distance", "strategy")
    table = Table(title=f"{len(rows)} points")
    for name in (*options, "bases", *figures):
        table.add_column(name.replace("_", " "), justify="right")
    for row in rows:
        shown = [_shown(row["point"][name]) for name in options]
        n_bases = str(len(row["base_set"]["bases"])) if "base_set" in row else "failed"
        values = [row.get("coverage", {}).get(name) for name in figures]
        table.add_row(*shown, n_bases, *("–" if value is None else f"{value:.5f}" for value in values))
    console = Console()
    if not console.is_terminal:
        console.width = max(console.width, PIPE_WIDTH)
    console.print(table)


def _shown(value: Any) -> str:
    if value is None:
        return "–"
    return value if isinstance(value, str) else shown(value)
