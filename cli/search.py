"""`ropesearch search`."""

import os
import shlex
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from ropesearch.core.files import check_output

from .options import (
    Command,
    by_hand,
    combined,
    distance_options,
    extrema_options,
    filled_in,
    head_dim_option,
    kv_heads_option,
    matching_options,
    model_config_option,
    note_if_cut,
    note_options_without_effect,
    note_order,
    order_by_option,
    order_option,
    overwrite_option,
    preset_option,
    quiet_option,
    read_config,
    read_order,
    refine_option,
)
from .progress import ProgressReport
from .show import print_base_set

if TYPE_CHECKING:
    from ropesearch import BaseSet, Decay

search_options = combined(
    click.option("--bmin", type=float, help="Smallest base, above 1; always chosen.  [needed]"),
    click.option("--bmax", type=float, help="Largest base allowed.  [needed]"),
    click.option("--stride", type=float, help="Step of the candidate grid.  [needed, but for uniform]"),
    click.option("--heads", type=int, help="Query heads of the model.  [needed]"),
    kv_heads_option,
    head_dim_option,
    model_config_option,
    preset_option,
    click.option(
        "--strategy",
        default="peak-valley",
        show_default=True,
        metavar="NAME",
        help="peak-valley (Algorithm 1 of HARPE), uniform (evenly spaced), floor (the highest lowest value of the best"
        " head) or ripple (the smoothest mean of the heads).",
    ),
    distance_options(1000),
    extrema_options,
    matching_options,
    refine_option,
    order_option,
    click.option("--threads", type=int, help="Threads, at most one per processor.  [default: as many]"),
)


@click.command(cls=Command)
@search_options
@order_by_option
@click.option(
    "--device", default="cpu", show_default=True, metavar="NAME", help="cuda or cuda:N: waveforms on a GPU, by torch."
)
@click.option("-o", "--output", type=click.Path(), metavar="FILE", help="Write the base-set file (JSON).")
@click.option("--plot", type=click.Path(), metavar="FILE", help="Draw waveform coverage as .png, .svg or .pdf.")
@click.option("--json", "as_json", is_flag=True, help="Print the base-set file instead of a table.")
@click.option("--coverage", is_flag=True, help="Also say how the set covers the distances up to --max-distance.")
@overwrite_option
@quiet_option
@click.pass_context
def search(
    ctx: click.Context,
    /,
    output: str | None,
    plot: str | None,
    order_by: str | None,
    as_json: bool,
    coverage: bool,
    overwrite: bool,
    quiet: bool,
    preset: str | None,
    model_config: str | None,
    **options: Any,
) -> None:
    """Choose one RoPE base per KV head.

    \b
    The paper's set:
        ropesearch search --bmin 1e6 --bmax 5e6 --stride 30000 --heads 32 -o bases.json
    For a model's own shape:
        ropesearch search --bmin 1e6 --bmax 5e6 --stride 30000 --model-config path/to/model
    """  # noqa: D301  (click reads the control character \b as: leave these lines as they are)
    options = filled_in(ctx, options, preset, model_config)
    decay = None if order_by is None else _decay_for(ctx, order_by, model_config, options)
    _check_outputs(output, plot, overwrite)

    from ropesearch import search_bases

    with ProgressReport(quiet=quiet) as progress:
        base_set = search_bases(**options, progress=progress)
        if decay is not None:
            base_set = _ordered(base_set, decay, str(order_by))
        if coverage:
            base_set = base_set.with_coverage(options["max_distance"], progress=progress)
        if plot:
            from ropesearch.plots.coverage import plot_coverage
            from ropesearch.plots.style import save_figure

            figure = plot_coverage(base_set, options["max_distance"], progress=progress)
            save_figure(figure, plot, overwrite=overwrite)
    if output:
        base_set.save(output, overwrite=overwrite)
    print_base_set(base_set, as_json=as_json)
    if quiet:
        return
    note_options_without_effect(ctx, options)
    note_if_cut("threads", options["threads"])
    if decay is not None:
        note_order(decay)
    for path in (output, plot):
        if path:
            click.echo(f"wrote {path}", err=True)


def _decay_for(ctx: click.Context, path: str, model_config: str | None, options: Mapping[str, Any]) -> "Decay":
    """Read a decay file, and refuse one of another model, as far as that is known, before the work."""
    if by_hand(ctx, "order"):
        raise click.UsageError("either --order or --order-by must be given")
    decay = read_order(path, None if model_config is None else read_config(model_config))
    decay.check_heads(options["heads"], options["kv_heads"] or options["heads"], options["head_dim"])
    return decay


def _ordered(base_set: "BaseSet", decay: "Decay", path: str) -> "BaseSet":
    from ropesearch import order_by_decay

    command = f"{base_set.made_by['command']} --order-by {shlex.quote(path)}"
    return order_by_decay(replace(base_set, made_by={**base_set.made_by, "command": command}), decay)


def _check_outputs(output: str | None, plot: str | None, overwrite: bool) -> None:
    """Refuse, before the work, what could not be written after it."""
    if output is not None and plot is not None and os.path.realpath(output) == os.path.realpath(plot):
        msg = f"--output and --plot must be two files, not both {output}"
        raise click.UsageError(msg)
    if output is not None:
        check_output(output, overwrite=overwrite)
    if plot is not None:
        from ropesearch.plots.style import check_figure_path

        check_figure_path(plot, overwrite=overwrite)
