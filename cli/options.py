"""Options that several commands share. Where results go is in `output`."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


def combined(*options: Callable[[F], F]) -> Callable[[F], F]:
    """Return several option decorators as one, in the order in which help shows them."""

    def decorate(function: F) -> F:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


head_dim_option = click.option("--head-dim", type=int, default=128, show_default=True, help="Channels per head, even.")
scheme_option = click.option(
    "--scheme",
    "schemes",
    multiple=True,
    metavar="SPEC",
    help="A position scheme, such as pi:32, yarn:32 or self-extend:1024,group=32. Repeat it for several.",
)
kv_heads_option = click.option(
    "--kv-heads", type=int, help="KV heads; each gets one base.  [default: as many as --heads]"
)
model_config_option = click.option(
    "--model-config",
    type=click.Path(),
    metavar="PATH",
    help="Take heads, KV heads and head_dim from a Hugging Face config.json, or the folder that holds it.",
)
preset_option = click.option(
    "--preset",
    metavar="NAME",
    help="Start from the options of a published set: table2 (HARPE) or attention-buckets.",
)
order_by_option = click.option(
    "--order-by",
    type=click.Path(),
    metavar="FILE",
    help="Beyond the paper: give the smallest base to the KV head whose slope is steepest in this decay file.",
)
figure_option = click.option(
    "-o", "--output", type=click.Path(), metavar="FILE", required=True, help="The figure: .png, .svg or .pdf."
)
overwrite_option = click.option("--overwrite", is_flag=True, help="Replace a file that exists.")
quiet_option = click.option("--quiet", is_flag=True, help="Print no progress and no notes on stderr.")


def distance_options(min_distance: int) -> Callable[[F], F]:
    """--min-distance and --max-distance, both included."""
    return combined(
        click.option(
            "--min-distance", type=int, default=min_distance, show_default=True, help="First distance, in tokens."
        ),
        click.option("--max-distance", type=int, default=131072, show_default=True, help="Last distance, in tokens."),
    )


extrema_options = combined(
    click.option(
        "--extrema",
        default="dominant",
        show_default=True,
        metavar="RULE",
        help="Which peaks and valleys count: dominant (those on the waveform's upper and lower edge) or local (all).",
    ),
    click.option(
        "--count", type=int, default=30, show_default=True, help="dominant: the most peaks, and valleys, to keep."
    ),
    click.option(
        "--gap",
        type=int,
        default=50,
        show_default=True,
        help="dominant: peaks must be more than this far apart, in tokens.",
    ),
    click.option(
        "--valley-gap",
        type=int,
        default=60,
        show_default=True,
        help="dominant: valleys must be more than this far apart, in tokens.",
    ),
    click.option(
        "--look-ahead",
        type=int,
        default=500,
        show_default=True,
        help="dominant: how many tokens ahead to look for the level that the next peak must reach.",
    ),
    click.option(
        "--level-tolerance",
        type=float,
        default=1e-3,
        show_default=True,
        help="dominant: how far from the level a peak or valley may be, in logits.",
    ),
    click.option("--prominence", type=float, help="local: the least prominence, in logits."),
    click.option(
        "--min-separation", type=int, help="local: the least distance between two peaks, or two valleys, in tokens."
    ),
)

matching_options = combined(
    click.option(
        "--matching",
        default="coincidence",
        show_default=True,
        metavar="NAME",
        help="How candidates are scored: coincidence (most peaks on valleys) or distance (smallest sum of distances"
        " from each to the nearest).",
    ),
    click.option(
        "--tolerance",
        type=int,
        default=3,
        show_default=True,
        help="coincidence: how far apart a peak and a valley may be, in tokens.",
    ),
    click.option("--normalize", is_flag=True, help="distance: divide each sum by its number of terms."),
)
refine_option = click.option(
    "--refine", is_flag=True, help="floor, ripple: once the bases are chosen, also move them off the grid."
)
order_option = click.option(
    "--order",
    default="ascending",
    show_default=True,
    metavar="NAME",
    help="Order of the bases over the heads: ascending, descending or selection (as they were chosen).",
)
