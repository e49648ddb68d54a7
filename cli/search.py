"""`ropesearch search`."""

import shlex
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from .errors import Command
from .inputs import by_hand, filled_in, read_input, read_order
from .notes import certainty_of_order, cut_to_processors, options_without_effect
from .options import (
    combined,
    distance_options,
    extrema_options,
    head_dim_option,
    kv_heads_option,
    matching_options,
    model_config_option,
    order_by_option,
    order_option,
    preset_option,
    refine_option,
)
from .output import Output, file_options
from .progress import progress_on_stderr
from .show import forms_of

if TYPE_CHECKING:
    from ropesearch import BaseSet, Decay

search_options = combined(
    click.option("--bmin", type=float, help="Smallest base, above 1; always chosen.  [required]"),
    click.option("--bmax", type=float, help="Largest base allowed.  [required]"),
    click.option("--stride", type=float, help="Step of the candidate grid.  [required unless --strategy uniform]"),
    click.option("--heads", type=int, help="Query heads of the model.  [required unless --model-config]"),
    kv_heads_option,
    head_dim_option,
    model_config_option,
    preset_option,
    click.option(
        "--strategy",
        default="peak-valley",
        show_default=True,
        metavar="NAME",
        help="How to choose: peak-valley (Algorithm 1 of HARPE), uniform (evenly spaced), floor (the best worst case:"
        " the largest minimum, over distance, of the best head) or ripple (the smoothest mean of the heads).",
    ),
    distance_options(1000),
    extrema_options,
    matching_options,
    refine_option,
    order_option,
    click.option("--threads", type=int, help="Threads, at most one per processor.  [default: one per processor]"),
)


@click.command(cls=Command)
@search_options
@order_by_option
@click.option(
    "--device",
    default="cpu",
    show_default=True,
    metavar="NAME",
    help="Where waveforms are computed: cpu, or with torch, cuda or cuda:N.",
)
@click.option("--plot", type=click.Path(), metavar="FILE", help="Draw waveform coverage as .png, .svg or .pdf.")
@click.option("--coverage", is_flag=True, help="Also say how well the set covers the distances up to --max-distance.")
@file_options("the base-set file", ".json", ".json")
@click.pass_context
def search(
    ctx: click.Context,
    /,
    plot: str | None,
    order_by: str | None,
    coverage: bool,
    preset: str | None,
    model_config: str | None,
    out: Output,
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
    if plot is not None:
        from ropesearch.plots.style import check_figure_path

        check_figure_path(plot, overwrite=out.overwrite)

    from ropesearch import search_bases

    with progress_on_stderr(quiet=out.quiet) as progress:
        base_set = search_bases(**options, progress=progress)
        if decay is not None:
            base_set = _ordered(base_set, decay, str(order_by))
        if coverage:
            base_set = base_set.with_coverage(options["max_distance"], progress=progress)
        if plot is not None:
            from ropesearch.plots.coverage import plot_coverage
            from ropesearch.plots.style import save_figure

            figure = plot_coverage(base_set, options["max_distance"], progress=progress)
            save_figure(figure, plot, overwrite=out.overwrite)
    notes = [*options_without_effect(ctx, options), *cut_to_processors("threads", options["threads"])]
    notes += [] if decay is None else certainty_of_order(decay)
    out.deliver(forms_of(base_set), notes)
    out.wrote(plot)


def _decay_for(ctx: click.Context, path: str, model_config: str | None, options: Mapping[str, Any]) -> "Decay":
    """Read a decay file, and refuse one of another model, as far as that is known, before the work."""
    if by_hand(ctx, "order"):
        raise click.UsageError("--order and --order-by exclude each other; give one of them")
    config = None
    if model_config is not None:
        from ropesearch.core.model_config import read_config_file

        config = read_input(lambda: read_config_file(model_config))
    decay = read_order(path, config)
    decay.check_heads(options["heads"], options["kv_heads"] or options["heads"], options["head_dim"])
    return decay


def _ordered(base_set: "BaseSet", decay: "Decay", path: str) -> "BaseSet":
    from ropesearch import order_by_decay

    command = f"{base_set.made_by['command']} --order-by {shlex.quote(path)}"
    return order_by_decay(replace(base_set, made_by={**base_set.made_by, "command": command}), decay)
