"""What commands say about the options that they were given, beside the result."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import click

from ropesearch.core.machine import processors

from .inputs import by_hand

if TYPE_CHECKING:
    from ropesearch import Decay

# Options that only one value of another option gives a meaning.
BELONGS_TO = {
    "count": ("extrema", "dominant"),
    "gap": ("extrema", "dominant"),
    "valley_gap": ("extrema", "dominant"),
    "look_ahead": ("extrema", "dominant"),
    "level_tolerance": ("extrema", "dominant"),
    "prominence": ("extrema", "local"),
    "min_separation": ("extrema", "local"),
    "tolerance": ("matching", "coincidence"),
    "normalize": ("matching", "distance"),
}


def options_without_effect(ctx: click.Context, options: Mapping[str, Any]) -> Iterator[str]:
    """Name the options that were given by hand and have nothing to work on."""
    if "peak-valley" not in options.get("strategy", "peak-valley"):  # of one strategy, or of a list of them
        for name in ("min_distance", "extrema", "matching", *BELONGS_TO):
            if by_hand(ctx, name):
                yield f"--{name.replace('_', '-')} has no effect unless --strategy is peak-valley"
        return
    for name, (other, value) in BELONGS_TO.items():
        if name in options and by_hand(ctx, name) and options[other] != value:
            yield f"--{name.replace('_', '-')} has no effect unless --{other} is {value}"


def cut_to_processors(name: str, asked: int | None) -> Iterator[str]:
    """Say that more threads or worker processes were asked for than there are processors."""
    lent = processors()
    if asked is not None and asked > lent:
        yield f"--{name} {asked} is cut to {lent}, one for each processor"


def certainty_of_order(decay: "Decay") -> Iterator[str]:
    """Say so if the order by a decay file may be due to chance."""
    slopes, errors = decay.kv_head_slopes(), decay.kv_head_slope_errors()
    apart, error = slopes.max() - slopes.min(), errors.max()
    if len(slopes) > 1 and apart < 2 * error:
        yield (
            f"the slopes of the KV heads are at most {apart:.2f} apart, and their standard error between layers"
            f" is {error:.2f}: the order may be due to chance"
        )
