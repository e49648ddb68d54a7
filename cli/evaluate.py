"""`ropesearch evaluate`."""

from collections.abc import Callable
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import click

from ropesearch.core.errors import ParameterError, require_extra
from ropesearch.core.numbers import read_number
from ropesearch.evaluation.reader import CHUNK
from ropesearch.evaluation.spec import PRESETS, EvaluationSpec, preset_options

from .errors import Command
from .inputs import quiet_transformers, read_input
from .options import F
from .output import Output, file_options, note
from .progress import progress_on_stderr
from .table import for_terminal

if TYPE_CHECKING:
    from ropesearch import Results

METAVARS = {"suite": "NAME", "lengths": "LIST", "tasks": "LIST", "text_key": "NAME"}


def spec_options(function: F) -> F:
    """Every option of an `EvaluationSpec`, of whose default and help it is the one home."""
    for option in reversed(fields(EvaluationSpec)):
        name, text, default = "--" + option.name.replace("_", "-"), option.metadata["help"], option.default
        if isinstance(default, bool):
            decorate: Callable[[F], F] = click.option(name, is_flag=True, default=None, help=text)
        else:
            shown = isinstance(default, int | str) and default != ""
            decorate = click.option(
                name,
                type=str if option.name in METAVARS else int,
                metavar=METAVARS.get(option.name, "INTEGER"),
                help=text + (f"  [default: {default}]" if shown else ""),
                required=option.name == "suite",
            )
        function = decorate(function)
    return function


@click.command(cls=Command)
@click.argument("models", nargs=-1, required=True, metavar="MODEL...")
@spec_options
@click.option(
    "--preset",
    metavar="NAME",
    help=f"perplexity: stride and documents of a published protocol: {', '.join(PRESETS)}.",
)
@click.option(
    "--scheme",
    "schemes",
    multiple=True,
    metavar="SPEC",
    help="A position scheme to put into the models in memory, such as yarn:32, harpe:bases.json or "
    "self-extend:1024,group=32; own is what a model has. Repeat it for several.  [default: own]",
)
@click.option(
    "--data",
    multiple=True,
    metavar="PATH",
    help="Documents of perplexity, or the text around pairs and needles: a file or folder of .jsonl, .parquet or .txt, "
    "or a hub name. Repeat it for several.  [default: for recall and needle, texts that come with ropesearch]",
)
@click.option(
    "--essays",
    metavar="DIR",
    help="niah, ruler: a folder of .txt files to hide needles in.  [default: lm-eval's own essays, from the hub]",
)
@click.option("--resume", is_flag=True, help="Keep the samples that an interrupted run has scored.")
@click.option(
    "--device", default="cpu", show_default=True, metavar="NAME", help="Where the models run: cpu, cuda or cuda:N."
)
@click.option(
    "--dtype", metavar="NAME", help="Type of the weights: float32, bfloat16 or float16.  [default: as stored]"
)
@click.option("--batch-size", type=int, metavar="INTEGER", help="Samples to read at once.  [default: found by trying]")
@click.option("--chunk", type=int, default=CHUNK, show_default=True, help="Tokens to read at once; fewer save memory.")
@file_options("the results", ".json", ".json", also="a .samples.jsonl of the same name with every sample")
def evaluate(
    models: tuple[str, ...],
    preset: str | None,
    schemes: tuple[str, ...],
    data: tuple[str, ...],
    essays: str | None,
    resume: bool,
    device: str,
    dtype: str | None,
    batch_size: int | None,
    chunk: int,
    out: Output,
    **options: Any,
) -> None:
    """Evaluate each MODEL under its own position scheme or others, all on the same samples.

    \b
        ropesearch evaluate path/to/model path/to/other --suite recall --lengths 2048,4096 -o results.json
        ropesearch evaluate path/to/model --scheme own --scheme yarn:4 --suite perplexity --data docs.jsonl \\
            --lengths 4096,8192 -o results.json

    MODEL is a folder as transformers saves it, a .gguf file or a hub name. Prints a table with 95 % intervals;
    `ropesearch table` and `ropesearch plot` make more of the results file. Needs the extra `evaluate`.
    """  # noqa: D301  (click reads the control character \b as: leave these lines as they are)
    spec = make_spec(options, preset)
    for name in without_effect(spec.suite, options):
        note(f"--{name.replace('_', '-')} has no effect on {spec.suite}", quiet=out.quiet)
    quiet_transformers(quiet=out.quiet)
    require_extra("an evaluation", "evaluate", "torch", "transformers")
    from ropesearch.evaluation.run import evaluate_models

    with progress_on_stderr(quiet=out.quiet) as progress:
        results = read_input(
            lambda: evaluate_models(
                models,
                spec,
                schemes=schemes or (None,),
                data=data,
                essays=essays,
                output=out.path,
                resume=resume,
                overwrite=out.overwrite,
                device=device,
                dtype=dtype,
                batch_size=batch_size,
                chunk=chunk,
                progress=progress,
                note=lambda line: note(line, quiet=out.quiet),
            )
        )
    out.print({"": lambda: in_tables(results), ".json": results.to_json})
    if out.path is not None:
        from ropesearch.evaluation.samples import samples_path

        out.wrote(f"{out.path} and {samples_path(out.path)}")


def in_tables(results: "Results") -> str:
    """Results as `ropesearch table` prints them, without differences: those need the samples."""
    from ropesearch.evaluation.table import Evaluated, make_tables

    tables, _ = make_tables([Evaluated("the results", results)])
    return for_terminal(tables)


def without_effect(suite: str, options: dict[str, Any]) -> list[str]:
    """Options given by hand that the suite has no use for."""
    given = [name for name, value in options.items() if value is not None]
    return [name for name in given if suite not in EvaluationSpec.__dataclass_fields__[name].metadata["suites"]]


def make_spec(options: dict[str, Any], preset: str | None) -> EvaluationSpec:
    """Spec of the options given by hand, over those of the preset, over the defaults."""
    given = {name: value for name, value in options.items() if value is not None}
    if "lengths" in given:
        given["lengths"] = parse_lengths(given["lengths"])
    if "tasks" in given:
        given["tasks"] = [task.strip() for task in given["tasks"].split(",")]
    EvaluationSpec.checked("suite", given["suite"])
    if preset is None:
        return EvaluationSpec(**given)
    if given["suite"] != "perplexity":
        msg = f"--preset is for --suite perplexity, not {given['suite']}"
        raise click.UsageError(msg)
    return EvaluationSpec(**(preset_options(preset) | given))


def parse_lengths(text: str) -> list[int]:
    """Read a list of lengths."""
    try:
        lengths = [read_number(part, binary=True) for part in text.split(",")]
    except ValueError:
        lengths = []
    whole = [length for length in lengths if isinstance(length, int)]
    if not lengths or len(whole) < len(lengths):
        raise ParameterError("lengths", text, "a list such as 4096,8192")
    return whole
