"""What commands read: base sets, position schemes, decay files, texts, the shape of a model."""

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ropesearch.core import checks
from ropesearch.core.errors import InputError
from ropesearch.core.files import read_file
from ropesearch.core.numbers import read_number

from .output import note, on_terminal

if TYPE_CHECKING:
    from ropesearch import BaseSet, Decay, Scheme
    from ropesearch.core.model_config import ModelConfig, ModelShape

T = TypeVar("T")


def by_hand(ctx: click.Context, name: str) -> bool:
    """Whether an option was given, and is not its default."""
    source = ctx.get_parameter_source(name)
    return source is not None and source is not click.core.ParameterSource.DEFAULT


def read_input(read: Callable[[], T]) -> T:
    """Read input files: one that is missing or unreadable is wrong input (exit 2), not a wrong environment (exit 1)."""
    try:
        return read()
    except OSError as error:
        if error.filename is None:  # the hub
            raise
        msg = f"{error.filename} cannot be read: {error.strerror or error}"
        raise InputError(msg) from None


def read_bases(name: str) -> "BaseSet | Scheme":
    """Find what a name stands for: a base-set file, a row of a sweep file, a preset or a position scheme."""
    from ropesearch.search.named import find_bases

    return read_input(lambda: find_bases(name))


def read_one_layer(name: str, what: str) -> "BaseSet | Scheme":
    """Do as `read_bases`, but refuse a set whose layers differ, since `what` is of one layer's bases."""
    from ropesearch.core.base_set import BaseSet

    found = read_bases(name)
    if isinstance(found, BaseSet):
        found.of_all_layers(what, name)
    return found


def read_base_set(name: str) -> "BaseSet":
    """Find the bases that a name stands for, as `read_bases` does; a scheme that is more than bases is refused."""
    from ropesearch.search.named import find_base_set

    return read_input(lambda: find_base_set(name))


def read_bases_of_model(model: str, *, quiet: bool) -> "BaseSet":
    """Read the bases that a model carries; a note says where a rule changes them."""
    from ropesearch.core.base_set import BaseSet
    from ropesearch.core.model_source import find_config

    quiet_transformers(quiet=True)
    config = read_input(lambda: find_config(model))
    base_set = BaseSet.of_model(config)
    if config.rope_values:
        note(f"the rule {config.rope_values['rope_type']} of {model} changes what these bases give", quiet=quiet)
    return base_set


def read_sweep_rows(name: str) -> list[dict[str, Any]] | None:
    """Return the rows of a sweep file; None if the name is of anything else."""
    from ropesearch.core.presets import PRESETS

    if name in PRESETS or not os.path.isfile(name):
        return None
    from ropesearch.search.sweep_file import is_sweep_file, read_sweep

    return read_input(lambda: read_sweep(name) if is_sweep_file(name) else None)


def read_decay(path: str) -> "Decay":
    """Read a decay file and the arrays beside it."""
    from ropesearch import Decay

    return read_input(lambda: Decay.load(path))


def read_config(model: str) -> "ModelConfig":
    """Read the config of a model that --model-config names."""
    from ropesearch.core.model_source import find_config

    quiet_transformers(quiet=True)  # it is small, wherever it comes from
    try:
        return read_input(lambda: find_config(model))
    except InputError as error:
        raise InputError(str(error).replace("`model`", "`model_config`")) from None


def read_shape(model: str) -> "ModelShape":
    """Read how many heads and KV heads a model has, and their channels."""
    from ropesearch.core.model_config import PartialRotationError

    try:
        return read_config(model).shape
    except PartialRotationError as error:
        msg = f"{error}: give `heads` and `head_dim`"
        raise InputError(msg) from None


def read_order(path: str, config: "ModelConfig | None") -> "Decay":
    """Read a decay file that is to order bases, for a model with this config, if one is known."""
    from ropesearch.decay.order import check_order

    decay = read_decay(path)
    check_order(decay, config)
    return decay


def read_text(path: str) -> str:
    """Read a text in UTF-8."""
    data = read_input(lambda: read_file(path))
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        msg = f"{path} is not a text in UTF-8: {error.reason} at byte {error.start}"
        raise InputError(msg) from None


def read_schemes(texts: Sequence[str]) -> "list[Scheme]":
    """Read position schemes, some of which name files."""
    from ropesearch import parse_scheme

    return [read_input(partial(parse_scheme, text)) for text in texts]


def labels_of(scheme: "Scheme") -> list[str]:
    """One label per head of a scheme: its name, with a number where there are several."""
    n = len(scheme.bases)
    return [scheme.name] if n == 1 else [f"{scheme.name}[{i}]" for i in range(n)]


def bases_and_head_dim(
    ctx: click.Context, arguments: Sequence[str], head_dim: int, schemes: Sequence[str]
) -> tuple[list[float], int]:
    """Bases given as numbers or as names of base sets, whose head_dim holds unless one was given by hand."""
    if not arguments and not schemes:
        raise click.UsageError("BASES must be given: numbers or base-set files, or position schemes by --scheme")

    bases: list[float] = []
    sizes: dict[int, str] = {}
    for argument in arguments:
        value = _as_number(argument)
        if value is None:
            base_set = _number_or_base_set(argument)
            bases += base_set.of_all_layers("a waveform", argument)
            sizes[base_set.head_dim] = argument
        else:
            bases.append(checks.base("bases", value))
    if sizes and not by_hand(ctx, "head_dim"):
        if len(sizes) > 1:
            each = ", ".join(f"{path} {size}" for size, path in sizes.items())
            msg = f"the base-set files differ in head_dim ({each}); choose one with --head-dim"
            raise InputError(msg)
        (head_dim,) = sizes
    return bases, checks.head_dim(head_dim)


def _as_number(text: str) -> float | None:
    try:
        return read_number(text)
    except ValueError:
        return None


def _number_or_base_set(name: str) -> "BaseSet":
    try:
        return read_base_set(name)
    except InputError as error:
        if not str(error).startswith(f"{name!r} is not a file"):
            raise
        what = "neither a number nor a file, a preset or a position scheme"
        msg = f"{name!r} is {what}; a base is a number such as 10000, 500k or 5e6"
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
        sources.append(asdict(read_shape(model_config)))
    for source in sources:
        filled |= {name: value for name, value in source.items() if not by_hand(ctx, name)}
    if by_hand(ctx, "heads") and not by_hand(ctx, "kv_heads"):
        filled["kv_heads"] = None  # a model's KV heads say nothing about another number of heads
    needed = ["bmin", "bmax", "heads", *(["stride"] if filled["strategy"] not in ("uniform", ["uniform"]) else [])]
    missing = [f"--{name}" for name in needed if filled[name] is None]
    if missing:
        names = " and ".join(filter(None, [", ".join(missing[:-1]), missing[-1]]))
        msg = f"{names} must be given (--model-config gives --heads, --preset gives all)"
        raise click.UsageError(msg)
    return filled


def quiet_transformers(*, quiet: bool) -> None:
    """Keep the messages of transformers off stderr, and its bars where nobody looks at them."""
    # Read where transformers is imported, which takes seconds: not here, where MODEL may be nowhere.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    if quiet or not on_terminal():
        os.environ |= {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "TQDM_DISABLE": "1"}
