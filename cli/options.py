"""What the commands share: the class that turns library errors into exit codes, and the options."""

import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ropesearch.core import checks
from ropesearch.core.errors import InputError, MissingExtraError, ParameterError
from ropesearch.core.files import check_output, write_whole
from ropesearch.core.machine import processors

if TYPE_CHECKING:
    from ropesearch import BaseSet, Decay, Scheme
    from ropesearch.core.model_config import ModelConfig, ModelShape

F = TypeVar("F", bound=Callable[..., Any])


class EnvironmentFailure(click.ClickException):
    """The request is right, and this machine cannot carry it out."""

    exit_code = 1


class Command(click.Command):
    """A command whose library errors end as one line: exit code 2 for what was asked, 1 for the environment."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except ParameterError as error:
            raise click.UsageError(self._with_option_name(error)) from None
        except InputError as error:
            raise click.UsageError(str(error)) from None
        except BrokenPipeError:
            raise
        except MemoryError as error:
            raise EnvironmentFailure(str(error) or "not enough memory") from None
        except (MissingExtraError, OSError) as error:
            raise EnvironmentFailure(str(error)) from None

    def _with_option_name(self, error: ParameterError) -> str:
        options = {p.name: p.opts[-1] for p in self.params if isinstance(p, click.Option)}
        text = str(error)
        return options[error.name] + text.removeprefix(error.name) if error.name in options else text


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
    help="A position scheme, such as pi:32, yarn:32 or self-extend:1024,group=32; may be given again.",
)
kv_heads_option = click.option("--kv-heads", type=int, help="KV heads, one base each.  [default: as many as heads]")
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
overwrite_option = click.option("--overwrite", is_flag=True, help="Replace output files that exist.")
quiet_option = click.option("--quiet", is_flag=True, help="No progress and no messages on stderr.")


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
        help="Which peaks and valleys count: dominant, those at the edges of the waveform; local, every one.",
    ),
    click.option("--count", type=int, default=30, show_default=True, help="dominant: how many of each at most."),
    click.option(
        "--gap", type=int, default=50, show_default=True, help="dominant: peaks are farther apart, in tokens."
    ),
    click.option(
        "--valley-gap",
        type=int,
        default=60,
        show_default=True,
        help="dominant: valleys are farther apart, in tokens.",
    ),
    click.option(
        "--look-ahead",
        type=int,
        default=500,
        show_default=True,
        help="dominant: over how many tokens ahead the level of peaks is taken.",
    ),
    click.option(
        "--level-tolerance",
        type=float,
        default=1e-3,
        show_default=True,
        help="dominant: how far from the level an extremum may be, in logits.",
    ),
    click.option("--prominence", type=float, help="local: least prominence, in logits."),
    click.option("--min-separation", type=int, help="local: least distance of two peaks or valleys, in tokens."),
)

matching_options = combined(
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
)
refine_option = click.option("--refine", is_flag=True, help="floor, ripple: then move the bases off the grid too.")
order_option = click.option(
    "--order",
    default="ascending",
    show_default=True,
    metavar="NAME",
    help="Bases over the heads: ascending, descending or selection (the order of choice).",
)


def output_suffix(output: str | None, printed: str, writers: Iterable[str], *, overwrite: bool) -> str:
    """Suffix that names the format: the output file's, which is checked before the work, or what is printed."""
    if output is None:
        return printed
    suffix = checks.choice("output", Path(output).suffix, writers)
    check_output(output, overwrite=overwrite)
    return suffix


def deliver(content: str | Iterable[bytes], output: str | None, *, overwrite: bool, quiet: bool) -> None:
    """Print content, or write it to the output file and say so."""
    if output is None:
        for part in [content] if isinstance(content, str) else content:
            click.echo(part, nl=False)
        return
    write_whole(output, content, overwrite=overwrite)
    if not quiet:
        click.echo(f"wrote {output}", err=True)


def by_hand(ctx: click.Context, name: str) -> bool:
    """Whether an option was given, and is not its default."""
    source = ctx.get_parameter_source(name)
    return source is not None and source is not click.core.ParameterSource.DEFAULT


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


def note_options_without_effect(ctx: click.Context, options: Mapping[str, Any]) -> None:
    """Say on stderr which options were given by hand and have nothing to work on."""
    if "peak-valley" not in options.get("strategy", "peak-valley"):  # of one strategy, or of a list of them
        for name in ("min_distance", "extrema", "matching", *BELONGS_TO):
            if by_hand(ctx, name):
                click.echo(f"note: --{name.replace('_', '-')} has no effect unless --strategy is peak-valley", err=True)
        return
    for name, (other, value) in BELONGS_TO.items():
        if name in options and by_hand(ctx, name) and options[other] != value:
            flag = name.replace("_", "-")
            click.echo(f"note: --{flag} has no effect unless --{other} is {value}", err=True)


def quiet_transformers(*, quiet: bool) -> None:
    """Keep the messages of transformers off stderr, and its bars where nobody looks at them."""
    # Read where transformers is imported, which takes seconds: not here, where MODEL may be nowhere.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    if quiet or not sys.stderr.isatty():
        os.environ |= {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "TQDM_DISABLE": "1"}


def note_if_cut(name: str, asked: int | None) -> None:
    """Say on stderr that more threads or worker processes were asked for than there are processors."""
    lent = processors()
    if asked is not None and asked > lent:
        click.echo(f"note: --{name} {asked} is cut to {lent}, one for each processor", err=True)


def reading_inputs(read: Callable[[], Any]) -> Any:
    """Run what reads input files: one that is not there or cannot be read is wrong input, not a wrong environment."""
    try:
        return read()
    except OSError as error:
        if error.filename is None:  # the hub
            raise
        msg = f"{error.filename} cannot be read: {error.strerror or error}"
        raise InputError(msg) from None


def filled_in(
    ctx: click.Context, options: dict[str, Any], preset: str | None, model_config: str | None
) -> dict[str, Any]:
    """Options given by hand, over those of the model, over those of the preset, over the defaults."""
    filled = dict(options)
    sources: list[dict[str, Any]] = []
    if preset is not None:
        from ropesearch.core.presets import PRESETS

        sources.append(PRESETS[checks.choice("preset", preset, PRESETS)])
    if model_config is not None:
        sources.append(asdict(_shape_of(model_config)))
    for source in sources:
        filled |= {name: value for name, value in source.items() if not by_hand(ctx, name)}
    if by_hand(ctx, "heads") and not by_hand(ctx, "kv_heads"):
        filled["kv_heads"] = None  # a model's KV heads say nothing about another number of heads
    needed = ["bmin", "bmax", "heads", *(["stride"] if filled["strategy"] not in ("uniform", ["uniform"]) else [])]
    missing = [f"--{name}" for name in needed if filled[name] is None]
    if missing:
        instead = " (--heads also by --model-config, all by --preset)"
        msg = f"{' and '.join(missing)} must be given{instead}"
        raise click.UsageError(msg)
    return filled


def read_config(model: str) -> "ModelConfig":
    """Read the config of a model that a command was given."""
    from ropesearch.core.model_source import find_config

    quiet_transformers(quiet=True)  # it is small, wherever it comes from
    config: ModelConfig = reading_inputs(lambda: find_config(model))
    return config


def _shape_of(model: str) -> "ModelShape":
    from ropesearch.core.model_config import PartialRotationError

    try:
        return read_config(model).shape
    except PartialRotationError as error:
        msg = f"{error}: give --heads and --head-dim"
        raise InputError(msg) from None


def note_kept(model: str, folder: Path | None) -> None:
    """Say on stderr where a .gguf file is kept unpacked."""
    if folder is not None and folder.exists():
        click.echo(f"note: {model} is kept unpacked in {folder}", err=True)


def read_base_set(path: str) -> "BaseSet":
    """Read a base-set file that a command was given."""
    from ropesearch import BaseSet

    base_set: BaseSet = reading_inputs(lambda: BaseSet.load(path))
    return base_set


order_by_option = click.option(
    "--order-by",
    type=click.Path(),
    metavar="FILE",
    help="Beyond the paper: by a decay file of the model, the smallest base to the KV head whose slope is steepest.",
)


def read_order(path: str, config: "ModelConfig | None") -> "Decay":
    """Read a decay file that is to order bases, for a model with this config, if one is known."""
    from ropesearch.decay.data import Decay
    from ropesearch.decay.order import check_order

    decay: Decay = reading_inputs(lambda: Decay.load(path))
    check_order(decay, config)
    return decay


def note_order(decay: "Decay") -> None:
    """Say on stderr how sure the order by a decay file is."""
    slopes, errors = decay.kv_head_slopes(), decay.kv_head_slope_errors()
    apart, error = slopes.max() - slopes.min(), errors.max()
    if len(slopes) > 1 and apart < 2 * error:
        msg = f"note: the slopes of the KV heads are at most {apart:.2f} apart, and their standard error between layers"
        click.echo(f"{msg} is {error:.2f}: their order may be one of chance", err=True)


def read_schemes(texts: Sequence[str]) -> "list[Scheme]":
    """Read the position schemes that a command was given."""
    from ropesearch import parse_scheme

    return [reading_inputs(partial(parse_scheme, text)) for text in texts]


def labels_of(scheme: "Scheme") -> list[str]:
    """One label per head of a scheme: its name, with a number where there are several."""
    n = len(scheme.bases)
    return [scheme.name] if n == 1 else [f"{scheme.name}[{i}]" for i in range(n)]


def bases_and_head_dim(
    ctx: click.Context, arguments: Sequence[str], head_dim: int, schemes: Sequence[str]
) -> tuple[list[float], int]:
    """Bases given as numbers or as base-set files, whose head_dim holds unless one was given by hand."""
    if not arguments and not schemes:
        raise click.UsageError("BASES must be given: numbers or base-set files, or position schemes by --scheme")

    bases: list[float] = []
    sizes: dict[int, str] = {}
    for argument in arguments:
        try:
            value = float(argument)
        except ValueError:
            base_set = read_base_set(argument)
            bases += base_set.bases
            sizes[base_set.head_dim] = argument
        else:
            bases.append(checks.base("BASES", value))
    if sizes and not by_hand(ctx, "head_dim"):
        if len(sizes) > 1:
            each = ", ".join(f"{path} {size}" for size, path in sizes.items())
            msg = f"the base-set files differ in head_dim ({each}); --head-dim says which to take"
            raise InputError(msg)
        (head_dim,) = sizes
    return bases, checks.head_dim(head_dim)
