"""`ropesearch search`."""

import shlex
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from ropesearch.core.spec import SearchSpec

from .errors import Command
from .inputs import by_hand, filled_in, read_config, read_order
from .notes import certainty_of_order, changed_preset, cut_to_processors, options_without_effect, scaled_model
from .options import (
    by_layer_option,
    check_by_layer,
    combined,
    device_option,
    extrema_options,
    head_dim_option,
    kv_heads_option,
    matching_options,
    model_config_option,
    order_by_option,
    preset_option,
    spec_option,
)
from .output import Output, file_options, note
from .progress import progress_on_stderr
from .show import forms_of

if TYPE_CHECKING:
    from ropesearch import BaseSet, Decay

search_options = combined(
    spec_option("bmin", note="required"),
    spec_option("bmax", note="required"),
    spec_option("stride", note="required unless --strategy uniform"),
    spec_option("heads", note="required unless --model-config"),
    kv_heads_option,
    head_dim_option,
    model_config_option,
    preset_option,
    spec_option("strategy"),
    spec_option("min_distance"),
    spec_option("max_distance"),
    extrema_options,
    matching_options,
    spec_option("refine"),
    spec_option("order"),
    click.option("--threads", type=int, help="Threads, at most one per processor.  [default: one per processor]"),
)


@click.command(cls=Command)
@search_options
@order_by_option
@by_layer_option
@device_option
@click.option("--plot", type=click.Path(), metavar="FILE", help="Draw waveform coverage as .png, .svg or .pdf.")
@click.option("--coverage", is_flag=True, help="Also say how well the set covers the distances up to --max-distance.")
@file_options("the base-set file", ".json", ".json")
@click.pass_context
def search(
    ctx: click.Context,
    /,
    plot: str | None,
    order_by: str | None,
    by_layer: bool,
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
    if model_config is not None:
        for text in scaled_model(read_config(model_config)):
            note(text, quiet=out.quiet)
    check_by_layer(order_by, by_layer=by_layer)
    if by_layer and coverage:
        raise click.UsageError("--coverage is of one layer: with --by-layer, ask for it by show FILE#0 --coverage")
    decay = None if order_by is None else _decay_for(ctx, order_by, model_config, options)
    if plot is not None:
        from ropesearch.plots.style import check_figure_path

        check_figure_path(plot, overwrite=out.overwrite)

    from ropesearch.search.run import run_search

    runtime = {name: options.pop(name) for name in ("threads", "device")}
    spec = SearchSpec(**options)
    with progress_on_stderr(quiet=out.quiet) as progress:
        base_set = drawn = run_search(spec, **runtime, progress=progress)
        if decay is not None:
            base_set = _ordered(base_set, decay, str(order_by), by_layer=by_layer)
        if coverage:
            base_set = base_set.with_coverage(spec.covered_to, progress=progress)
        if plot is not None:
            from ropesearch.plots.coverage import plot_coverage
            from ropesearch.plots.style import save_figure

            figure = plot_coverage(drawn if by_layer else base_set, spec.max_distance, progress=progress)
            save_figure(figure, plot, overwrite=out.overwrite)
    notes = [
        *changed_preset(ctx, options, preset),
        *options_without_effect(ctx, options),
        *cut_to_processors("threads", runtime["threads"]),
    ]
    notes += [] if decay is None else certainty_of_order(decay, by_layer=by_layer)
    out.deliver(forms_of(base_set), notes)
    out.wrote(plot)


def _decay_for(ctx: click.Context, path: str, model_config: str | None, options: Mapping[str, Any]) -> "Decay":
    """Read a decay file, and refuse one of another model, as far as that is known, before the work."""
    if by_hand(ctx, "order"):
        raise click.UsageError("--order and --order-by exclude each other; give one of them")
    decay = read_order(path, None if model_config is None else read_config(model_config))
    decay.check_heads(options["heads"], options["kv_heads"] or options["heads"], options["head_dim"])
    return decay


def _ordered(base_set: "BaseSet", decay: "Decay", path: str, *, by_layer: bool) -> "BaseSet":
    from ropesearch import order_by_decay

    command = f"{base_set.made_by['command']} --order-by {shlex.quote(path)}" + " --by-layer" * by_layer
    made_by = {**base_set.made_by, "command": command}
    return order_by_decay(replace(base_set, made_by=made_by), decay, by_layer=by_layer)
