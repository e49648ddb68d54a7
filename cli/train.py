"""`ropesearch train`."""

import json
import os
from collections.abc import Callable
from dataclasses import fields
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ropesearch.core.errors import InputError, require_extra
from ropesearch.core.machine import readable_size
from ropesearch.core.numbers import read_number
from ropesearch.training.spec import (
    PRESET_TOKENS,
    PRESETS,
    Stage,
    TrainSpec,
    parse_stage,
    preset_stages,
    whole_number,
)

from .errors import Command
from .inputs import quiet_transformers, read_input
from .options import quiet_option
from .output import echo, note
from .progress import progress_on_stderr

if TYPE_CHECKING:
    from ropesearch.training.plan import Plan

F = TypeVar("F", bound=Callable[..., Any])


def spec_options(function: F) -> F:
    """Every option of a `TrainSpec` but the stages; the type is that of the default."""
    for option in reversed([field for field in fields(TrainSpec) if field.name != "stages"]):
        name, text = "--" + option.name.replace("_", "-"), option.metadata["help"]
        if isinstance(option.default, bool):
            function = click.option(name, is_flag=True, default=None, help=text)(function)
            continue
        kind = str if option.default is None else type(option.default)
        function = click.option(
            name,
            type={int: str, float: float, str: str}[kind],
            metavar={int: "INTEGER", float: "NUMBER", str: "NAME"}[kind],
            help=text if option.default is None else f"{text}  [default: {option.default}]",
        )(function)
    return function


@click.command(cls=Command)
@click.argument("model")
@click.option(
    "--data",
    multiple=True,
    metavar="PATH",
    help="Text to train on: a file or folder of .jsonl (.gz, .zst), .parquet or .txt, or a hub name. Repeat for more.",
)
@click.option(
    "--scheme", metavar="SPEC", help="Position scheme, such as harpe:bases.json.  [default: own, the model's]"
)
@click.option("--length", metavar="INTEGER", help="Tokens in a row.")
@click.option(
    "--tokens", metavar="NUMBER", help=f"Tokens to train on, such as 1e9.  [default: {PRESET_TOKENS:.0e} with --preset]"
)
@click.option(
    "--stage",
    "stages",
    multiple=True,
    metavar="BASE:LENGTH:TOKENS",
    help="A stage in place of --scheme, --length and --tokens; repeat it for several.",
)
@click.option("--preset", metavar="NAME", help=f"Stages of the paper, which share --tokens: {', '.join(PRESETS)}.")
@spec_options
@click.option("--args", "args_file", metavar="FILE", help="YAML with training arguments of transformers or TRL.")
@click.option("--cache", metavar="DIR", help="Keep tokens here, for other runs too.  [default: in the run folder]")
@click.option("--save-every", default=100, show_default=True, help="Steps between checkpoints.")
@click.option("--keep", default=2, show_default=True, help="Checkpoints to keep of each stage.")
@click.option("--resume", is_flag=True, help="Go on with the run in DIR, if there is one.")
@click.option("--plan", "planned", is_flag=True, help="Say what the run takes, and do not start it.")
@click.option("--gpu", metavar="NAME", help="--plan: a100-80, h100 and others.  [default: CPU]")
@click.option("--devices", default=1, show_default=True, help="--plan: how many; they share weights (FSDP2).")
@click.option("--sequence-parallel", default=1, show_default=True, help="--plan: devices that share each row.")
@click.option("--utilization", default=0.4, show_default=True, help="--plan: share of the GPU's operations in use.")
@click.option("--json", "as_json", is_flag=True, help="--plan: print JSON.")
@click.option("-o", "--output", metavar="DIR", help="The run folder.")
@quiet_option
def train(
    model: str,
    data: tuple[str, ...],
    scheme: str | None,
    length: str | None,
    tokens: str | None,
    stages: tuple[str, ...],
    preset: str | None,
    args_file: str | None,
    cache: str | None,
    save_every: int,
    keep: int,
    resume: bool,
    output: str | None,
    planned: bool,
    gpu: str | None,
    devices: int,
    sequence_parallel: int,
    utilization: float,
    as_json: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Pretrain the model MODEL further, at another length and under any position scheme.

    \b
        ropesearch train path/to/model --data text.jsonl --scheme harpe:bases.json \\
            --length 131072 --tokens 1e9 -o run

    Prints the last checkpoint, a model's folder that other commands take. The run folder holds settings.json,
    metrics.jsonl with a line for each step, the order of the data, checkpoints, and loss.png. Several processes:
    accelerate launch -m ropesearch train ... Needs the extra `train`.
    """  # noqa: D301  (click reads the control character \b as: leave these lines as they are)
    if output is None and not planned:
        raise click.UsageError("-o must name the run folder")
    quiet = quiet or int(os.environ.get("RANK", "0")) > 0
    quiet_transformers(quiet=quiet)
    arguments: dict[str, Any] = {}
    if args_file is not None:
        require_extra("--args", "train", "yaml", "trl")
        from ropesearch.training.arguments import read_arguments

        arguments = read_input(lambda: read_arguments(args_file))
    spec = make_spec(chosen_stages(scheme, length, tokens, stages, preset), options, arguments)

    if planned:
        require_extra("--plan", "train", "torch", "transformers", "trl")
        from ropesearch.training.plan import plan_run

        print_plan(
            plan_run(
                model,
                spec,
                gpu=gpu,
                devices=devices,
                sequence_parallel=sequence_parallel,
                rows=int(arguments.get("per_device_train_batch_size", 1)),
                checkpointed=arguments.get("activation_checkpointing"),
                utilization=utilization,
            ),
            as_json=as_json,
        )
        return
    assert output is not None  # asked for above
    from ropesearch.training.run import train_model

    with progress_on_stderr(quiet=quiet) as progress:
        try:
            last = train_model(
                model,
                data,
                output,
                spec,
                arguments=arguments,
                resume=resume,
                cache=cache,
                save_every=save_every,
                keep=keep,
                progress=progress,
                note=lambda line: note(line, quiet=quiet),
            )
        except ArithmeticError as error:  # the loss is not finite
            raise click.ClickException(str(error)) from None
    if int(os.environ.get("RANK", "0")) == 0:
        from ropesearch.plots.training import draw_run

        draw_run(output)
        echo(f"{last}\n")


def print_plan(plan: "Plan", *, as_json: bool) -> None:
    """Print a plan, as a list of its parts or as JSON."""
    if as_json:
        echo(json.dumps(plan.to_dict(), indent=2) + "\n")
        return
    lines = [f"parameters    {plan.parameters:,}", f"memory of each device, rows of {plan.length:,} tokens"]
    lines += [f"  {part:<12}{readable_size(size):>10}" for part, size in plan.memory.items()]
    lines.append(f"  {'in all':<12}{readable_size(plan.total):>10}   (layer and logits are not there at once)")
    if plan.available is not None:
        lines.append(f"  {'available':<12}{readable_size(plan.available):>10}")
    if not plan.fits:
        longest = f"{plan.longest:,} tokens would fit" if plan.longest else "no length would fit"
        lines.append(f"does not fit: {longest}")
    lines.append(f"operations    {plan.flops:.3g}")
    if plan.hours is not None:
        lines.append(f"hours         {plan.hours:,.1f}")
    echo("\n".join(lines) + "\n")


def chosen_stages(
    scheme: str | None, length: str | None, tokens: str | None, stages: tuple[str, ...], preset: str | None
) -> tuple[Stage, ...]:
    """Stages by the one of three ways in which they were given."""
    if stages:
        if scheme or length or tokens or preset:
            raise click.UsageError("--stage says it all: give no --scheme, --length, --tokens or --preset")
        return tuple(parse_stage(text) for text in stages)
    if preset is not None:
        if scheme or length:
            raise click.UsageError("--preset says scheme and length: give no --scheme or --length")
        return preset_stages(preset, PRESET_TOKENS if tokens is None else tokens_of("tokens", tokens))
    if tokens is None:
        raise click.UsageError("--tokens must be given (or --stage, or --preset)")
    if length is None:
        raise click.UsageError("--length must be given (or --stage, or --preset)")
    return (Stage(scheme, tokens_of("length", length), tokens_of("tokens", tokens)),)


def tokens_of(name: str, text: str) -> int:
    """Read a number of tokens as people write it: 4096, 1e9."""
    try:
        return whole_number(name, read_number(text, binary=name == "length"))
    except (ValueError, OverflowError) as error:
        if isinstance(error, InputError):
            raise
        msg = f"--{name} must be a whole number of at least 1, not {text!r}"
        raise InputError(msg) from None


def make_spec(stages: tuple[Stage, ...], options: dict[str, Any], arguments: dict[str, Any]) -> TrainSpec:
    """Spec of what the command line says; a training argument that means the same may stand in its place."""
    from ropesearch.training.arguments import SPEC_KEYS

    values: dict[str, Any] = {}
    for key, name in SPEC_KEYS.items():
        if key in arguments:
            values[name] = arguments[key]
    for name, value in options.items():
        if value is None:
            continue
        default = TrainSpec.__dataclass_fields__[name].default
        whole = isinstance(default, int) and not isinstance(default, bool)
        values[name] = (int(value) if str(value).strip().isdigit() else _float(value)) if whole else value
    for name in ("batch_tokens", "warmup_steps", "seed", "long_from"):
        if isinstance(values.get(name), float) and values[name].is_integer():
            values[name] = int(values[name])
    return TrainSpec(stages=stages, **values)


def _float(text: str) -> Any:
    try:
        return float(text)
    except ValueError:
        return text
