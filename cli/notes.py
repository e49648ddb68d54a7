"""What commands say about the options that they were given, beside the result."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import click

from ropesearch.core.machine import processors
from ropesearch.core.model_config import KEPT_RULES
from ropesearch.core.presets import PRESETS
from ropesearch.core.spec import SearchSpec, conditions, unmet

from .inputs import by_hand

MODEL_OPTIONS = ("heads", "kv_heads", "head_dim")
"""What --model-config may have set."""

if TYPE_CHECKING:
    from pathlib import Path

    from ropesearch import Decay
    from ropesearch.core.model_config import ModelConfig


def options_without_effect(ctx: click.Context, options: Mapping[str, Any]) -> Iterator[str]:
    """Name the options of the search that were given by hand and have nothing to work on."""
    # Beside uniform, --stride says nothing wrong, and coverage has a use for --max-distance.
    silent = ("stride", "max_distance")
    names = [str(p.name) for p in ctx.command.params if p.name in options and p.name not in silent]
    given = [name for name in names if name in SearchSpec.__dataclass_fields__ and by_hand(ctx, name)]
    for name in sorted(given, key=lambda name: len(conditions(name))):  # choices before what belongs to them
        missing = unmet(name, options)
        if missing is not None:
            other, values = missing
            yield f"--{name.replace('_', '-')} has no effect unless --{other} is {' or '.join(values)}"


def changed_preset(ctx: click.Context, options: Mapping[str, Any], preset: str | None) -> Iterator[str]:
    """Say that options given by hand are not those of the published set."""
    if preset is None:
        return
    published = {name: getattr(SearchSpec, name, None) for name in SearchSpec.__dataclass_fields__} | PRESETS[preset]
    published["kv_heads"] = published["heads"]
    names = [name for name in published if name in options and (by_hand(ctx, name) or name in MODEL_OPTIONS)]
    differ = [name for name in names if _values(options[name]) not in ([published[name]], [None])]
    if differ:
        flags = " and ".join(f"--{name.replace('_', '-')}" for name in differ)
        depart = "departs" if len(differ) == 1 else "depart"
        yield f"{flags} {depart} from the preset {preset}: these are no longer the options of the published set"


def _values(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def cut_to_processors(name: str, asked: int | None) -> Iterator[str]:
    """Say that more threads or worker processes were asked for than there are processors."""
    lent = processors()
    if asked is not None and asked > lent:
        yield f"--{name} {asked} is cut to {lent}, one for each processor"


def certainty_of_order(decay: "Decay", *, by_layer: bool = False) -> Iterator[str]:
    """Say so if the order by a decay file may be due to chance; by layer, where it is not that of the means."""
    if by_layer:
        differ, n = decay.differing_layers(), len(decay.layers)
        yield f"{len(differ)} of {n} layers measured get the bases in another order than that of the mean slopes"
        if n < decay.count_layers():
            yield "layers that were not measured get them in that order, if bases turn them"
        return
    slopes, errors = decay.kv_head_slopes(), decay.kv_head_slope_errors()
    apart, error = slopes.max() - slopes.min(), errors.max()
    if len(slopes) > 1 and apart < 2 * error:
        yield (
            f"the slopes of the KV heads are at most {apart:.2f} apart, and their standard error between layers"
            f" is {error:.2f}: the order may be due to chance"
        )


def scaled_model(config: "ModelConfig") -> Iterator[str]:
    """Say in time that a model is scaled, so that bases for it need a decision."""
    rule = config.rope_rule
    if rule not in ("default", "harpe"):
        yield (
            f"{config.name} scales its rotary embedding by the rule {rule}: apply and measure take bases for it with"
            " --scaling replace" + (" or keep" if rule in KEPT_RULES else "")
        )


def where_kept(model: str, folder: "Path | None") -> Iterator[str]:
    """Say where a .gguf file is kept unpacked."""
    if folder is not None and folder.exists():
        yield f"{model} is kept unpacked in {folder}"
