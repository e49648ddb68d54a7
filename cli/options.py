"""Options that several commands share. Where results go is in `output`."""

from collections.abc import Callable
from dataclasses import MISSING
from typing import Any, TypeVar, get_args

import click

from ropesearch.core.spec import COVERED_TO, EXTREMA_OPTIONS, SearchSpec

F = TypeVar("F", bound=Callable[..., Any])


def combined(*options: Callable[[F], F]) -> Callable[[F], F]:
    """Return several option decorators as one, in the order in which help shows them."""

    def decorate(function: F) -> F:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


scheme_option = click.option(
    "--scheme",
    "schemes",
    multiple=True,
    metavar="SPEC",
    help="A position scheme, such as pi:32, yarn:32 or self-extend:1024,group=32. Repeat it for several.",
)
model_config_option = click.option(
    "--model-config",
    metavar="MODEL",
    help="Take heads, KV heads and head_dim from a model: its folder or config.json, a .gguf file, a name on the hub.",
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
scaling_option = click.option(
    "--scaling",
    metavar="NAME",
    help="For a model with a rule such as llama3, linear or yarn: replace drops it, closest to HARPE; keep applies it "
    "to every base.",
)
figure_option = click.option(
    "-o", "--output", type=click.Path(), metavar="FILE", required=True, help="The figure: .png, .svg or .pdf."
)
device_option = click.option(
    "--device",
    default="cpu",
    show_default=True,
    metavar="NAME",
    help="Where waveforms are computed: cpu, or with torch, cuda or cuda:N.",
)
overwrite_option = click.option("--overwrite", is_flag=True, help="Replace a file that exists.")
quiet_option = click.option("--quiet", is_flag=True, help="Print no progress and no notes on stderr.")


def spec_option(name: str, *flags: str, note: str = "", **changes: Any) -> Callable[[F], F]:
    """Return an option of the search, of whose type, default and help `SearchSpec` is the one home.

    Parameters
    ----------
    name : str
        The field.
    *flags : str
        Its flags, where one with its name is not all.
    note : str
        What the help says beside: when it is required, or what stands for a default of None.
    **changes
        Other settings of `click.option` that differ, such as a list as its type.
    """
    field = SearchSpec.__dataclass_fields__[name]
    kind = (get_args(field.type) or (field.type,))[0]  # float of `float | None`
    settings: dict[str, Any] = {"help": field.metadata["help"] + (f"  [{note}]" if note else "")}
    settings["default"] = None if field.default is MISSING else field.default
    settings |= {"is_flag": True} if kind is bool else {"type": kind, "show_default": settings["default"] is not None}
    if kind is str:
        settings["metavar"] = "NAME"
    return click.option(*(flags or [f"--{name.replace('_', '-')}"]), name, **settings | changes)


head_dim_option = spec_option("head_dim")
kv_heads_option = spec_option("kv_heads", note="default: as many as --heads")
extrema_options = combined(*map(spec_option, EXTREMA_OPTIONS))
matching_options = combined(*map(spec_option, ("matching", "tolerance", "normalize")))


def distance_options(min_distance: int) -> Callable[[F], F]:
    """--min-distance and --max-distance, both included."""
    last = "Last distance, in tokens, included."
    return combined(spec_option("min_distance", default=min_distance), spec_option("max_distance", help=last))


def covered_option(text: str = "Last distance, in tokens, included.") -> Callable[[F], F]:
    """--max-distance of what computes coverage."""
    return click.option("--max-distance", type=int, default=COVERED_TO, show_default=True, help=text)
