"""Options that several commands share. Where results go is in `output`."""

from collections.abc import Callable
from dataclasses import MISSING
from typing import TYPE_CHECKING, Any, TypeVar, get_args

import click

from ropesearch.core.numbers import read_number, read_range
from ropesearch.core.spec import COVERED_TO, EXTREMA_OPTIONS, SearchSpec

F = TypeVar("F", bound=Callable[..., Any])


if TYPE_CHECKING:
    NumberType = click.ParamType[Any]
else:
    NumberType = click.ParamType  # not generic in click 8.1


class Number(NumberType):
    """A number, with k or m after it for thousands and millions, or for 1024s where it counts tokens."""

    def __init__(self, name: str, *, whole: bool, binary: bool = False) -> None:
        self.name, self.whole, self.binary = name, whole, binary

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Convert one number."""
        if not isinstance(value, str):
            return value
        try:
            return self._checked(read_number(value, binary=self.binary))
        except ValueError:
            return self.fail(f"{value!r} is not a valid {self.name}.", param, ctx)

    def convert_range(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> list[Any]:
        """Convert a number, or all those of a range."""
        if ":" not in value:
            return [self.convert(value, param, ctx)]
        try:
            return [self._checked(number) for number in read_range(value, binary=self.binary)]
        except ValueError:
            self.fail(f"{value!r} is not a valid range: first:last:step, such as 10k:50k:10k", param, ctx)

    def _checked(self, number: float) -> int | float:
        if self.whole and not isinstance(number, int):
            raise ValueError
        return number if self.whole else float(number)


BASE = Number("float", whole=False)
LENGTH = Number("integer", whole=True, binary=True)
COUNT = Number("integer", whole=True)


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
by_layer_option = click.option(
    "--by-layer", is_flag=True, help="With --order-by: in each layer by its own slopes; layers then differ."
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


def check_by_layer(order_by: str | None, *, by_layer: bool) -> None:
    """Raise UsageError for --by-layer without --order-by."""
    if by_layer and order_by is None:
        raise click.UsageError("--by-layer needs --order-by: it says by what layers differ")


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
    kind = {"bmin": BASE, "bmax": BASE, "stride": BASE}.get(name, LENGTH if name.endswith("_distance") else kind)
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
    return click.option("--max-distance", type=LENGTH, default=COVERED_TO, show_default=True, help=text)
