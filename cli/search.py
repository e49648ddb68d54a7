"""`ropesearch search`."""

import os
from dataclasses import asdict
from typing import Any

import click

from ropesearch import checks
from ropesearch.files import check_output

from .options import (
    Command,
    by_hand,
    combined,
    distance_options,
    extrema_options,
    head_dim_option,
    note_options_without_effect,
    overwrite_option,
    quiet_option,
    reading_inputs,
)
from .progress import ProgressReport
from .show import print_base_set

search_options = combined(
    click.option("--bmin", type=float, help="Smallest base, above 1; always chosen.  [needed]"),
    click.option("--bmax", type=float, help="Largest base allowed.  [needed]"),
    click.option("--stride", type=float, help="Step of the candidate grid.  [needed, but for uniform]"),
    click.option("--heads", type=int, help="Query heads of the model.  [needed]"),
    click.option("--kv-heads", type=int, help="KV heads, one base each.  [default: as many as heads]"),
    head_dim_option,
    click.option(
        "--model-config",
        type=click.Path(),
        metavar="PATH",
        help="Take heads, KV heads and head_dim from a Hugging Face config.json, or the folder that holds it.",
    ),
    click.option(
        "--preset",
        metavar="NAME",
        help="Start from the options of a published set: table2 (HARPE) or attention-buckets.",
    ),
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
    click.option(
        "--matching",
        default="coincidence",
        show_default=True,
        metavar="NAME",
        help="coincidence: most peaks on valleys wins; distance: the least sum of nearest distances.",
    ),
    click.option(
        "--tolerance",
        type=int,
        default=3,
        show_default=True,
        help="coincidence: how far apart a peak and a valley may be, in tokens.",
    ),
    click.option("--normalize", is_flag=True, help="distance: divide each sum by its number of terms."),
    click.option("--refine", is_flag=True, help="floor, ripple: then move the bases off the grid too."),
    click.option(
        "--order",
        default="ascending",
        show_default=True,
        metavar="NAME",
        help="Bases over the heads: ascending, descending or selection (the order of choice).",
    ),
    click.option("--threads", type=int, help="Threads for the waveforms.  [default: one per processor]"),
)


@click.command(cls=Command)
@search_options
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
    options = _filled_in(ctx, options, preset, model_config)
    _check_outputs(output, plot, overwrite)

    from ropesearch import search_bases

    with ProgressReport(quiet=quiet) as progress:
        base_set = search_bases(**options, progress=progress)
        if coverage:
            base_set = base_set.with_coverage(options["max_distance"])
    if plot:
        from ropesearch.plots.coverage import plot_coverage
        from ropesearch.plots.style import save_figure

        save_figure(plot_coverage(base_set, options["max_distance"]), plot, overwrite=overwrite)
    if output:
        base_set.save(output, overwrite=overwrite)
    print_base_set(base_set, as_json=as_json)
    if quiet:
        return
    note_options_without_effect(ctx, options)
    for path in (output, plot):
        if path:
            click.echo(f"wrote {path}", err=True)


def _filled_in(
    ctx: click.Context, options: dict[str, Any], preset: str | None, model_config: str | None
) -> dict[str, Any]:
    """Options given by hand, over those of the model, over those of the preset, over the defaults."""
    filled = dict(options)
    sources: list[dict[str, Any]] = []
    if preset is not None:
        from ropesearch.presets import PRESETS

        sources.append(PRESETS[checks.choice("preset", preset, PRESETS)])
    if model_config is not None:
        from ropesearch.model_config import read_model_shape

        sources.append(asdict(reading_inputs(lambda: read_model_shape(model_config))))
    for source in sources:
        filled |= {name: value for name, value in source.items() if not by_hand(ctx, name)}
    if by_hand(ctx, "heads") and not by_hand(ctx, "kv_heads"):
        filled["kv_heads"] = None  # a model's KV heads say nothing about another number of heads
    needed = ["bmin", "bmax", "heads", *(["stride"] if filled["strategy"] != "uniform" else [])]
    missing = [f"--{name}" for name in needed if filled[name] is None]
    if missing:
        instead = " (--heads also by --model-config, all by --preset)"
        msg = f"{' and '.join(missing)} must be given{instead}"
        raise click.UsageError(msg)
    return filled


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
