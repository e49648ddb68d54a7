"""`ropesearch measure`."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ropesearch.core.errors import InputError, ParameterError
from ropesearch.core.model_source import ModelSource

from .options import (
    Command,
    note_kept,
    overwrite_option,
    quiet_option,
    quiet_transformers,
    read_base_set,
    reading_inputs,
)
from .progress import ProgressReport, announce

if TYPE_CHECKING:
    from ropesearch import Decay

DTYPES = ("float32", "bfloat16", "float16")


@click.command(cls=Command)
@click.argument("model")
@click.option(
    "--text",
    "texts",
    multiple=True,
    type=click.Path(),
    metavar="FILE",
    help="A text to read, in UTF-8; may be given again.  [default: two that come with ropesearch]",
)
@click.option(
    "--length", type=int, default=2048, show_default=True, help="Tokens that are read of each text, at least 64."
)
@click.option("--layers", metavar="LIST", help="Which layers, from 0, such as 0,5,10-12.  [default: all]")
@click.option("--bases", type=click.Path(), metavar="FILE", help="Predict what the bases of a base-set file change.")
@click.option("--verify", is_flag=True, help="With --bases: run the model with them too, to see how good that was.")
@click.option("--softmax", is_flag=True, help="Measure attention after the softmax too, which takes longer.")
@click.option("--device", default="cpu", show_default=True, metavar="NAME", help="cpu, cuda or cuda:N.")
@click.option("--dtype", metavar="NAME", help="float32, bfloat16 or float16.  [default: that of the weights]")
@click.option(
    "-o", "--output", type=click.Path(), metavar="FILE", help="Write the decay file, .json, and beside it the .npz."
)
@click.option("--json", "as_json", is_flag=True, help="Print the decay file instead of a table.")
@overwrite_option
@quiet_option
def measure(
    model: str,
    texts: tuple[str, ...],
    length: int,
    layers: str | None,
    bases: str | None,
    verify: bool,
    softmax: bool,
    device: str,
    dtype: str | None,
    output: str | None,
    as_json: bool,
    overwrite: bool,
    quiet: bool,
) -> None:
    """Measure how the attention of the model MODEL decays over distance, in every layer and head.

    \b
        ropesearch measure path/to/model --bases bases.json --verify -o decay.json

    MODEL is a folder as transformers saves it, a .gguf file, or a hub name such as org/name; of type llama, mistral,
    qwen2 or qwen3, stock or with bases. A .gguf file is kept unpacked in the user's cache folder.

    The table gives, for every layer, the median head: the slope of the mean score before the softmax, in nats per
    decade of distance; how far that score correlates with the unit waveform of the head's base, with −log distance and
    with the curve made of the mean query and key; and how far two texts agree. Needs torch and transformers.
    """  # noqa: D301  (click reads the control character \b as: leave these lines as they are)
    wanted = None if layers is None else parse_layers(layers)
    if verify and bases is None:
        raise click.UsageError("--verify needs --bases: it runs the model with them")
    if dtype is not None and dtype not in DTYPES:
        raise ParameterError("dtype", dtype, "one of " + ", ".join(DTYPES))
    if output is not None:
        from ropesearch.decay.file import check_decay_path

        check_decay_path(output, overwrite=overwrite)
    base_set = None if bases is None else read_base_set(bases)
    contents = {name: _read_text(name) for name in texts} or None

    source = ModelSource.find(model)
    quiet_transformers(quiet=quiet)
    from ropesearch.core.device import find_device
    from ropesearch.decay.measure import check_request, measure_decay
    from ropesearch.model.load import as_kept, kept_folder, load_model

    found = find_device(device)
    check_request(as_kept(source), length=length, layers=wanted, base_set=base_set)
    options = {} if dtype is None else {"dtype": dtype}
    on_device = {} if found is None else {"device_map": {"": found}}
    tell = None if quiet else announce
    loaded, tokenizer = load_model(source, keep_unpacked=True, progress=tell, **options, **on_device)
    if not quiet:
        note_kept(model, kept_folder(source))
    positions = getattr(loaded.config, "max_position_embeddings", None)
    if positions is not None and length > positions and not quiet:
        click.echo(f"warning: length {length} is beyond the {positions} positions that {model} is made for", err=True)
    with ProgressReport(quiet=quiet) as progress:
        decay = measure_decay(
            loaded,
            tokenizer,
            contents,
            length=length,
            layers=wanted,
            base_set=base_set,
            verify=verify,
            softmax=softmax,
            name=model,
            progress=progress,
        )
    if output is not None:
        decay.save(output, overwrite=overwrite)
    _print(decay, as_json=as_json)
    if not quiet:
        if len(decay.texts) == 1:
            click.echo("note: of one short text, it is the two halves of the queries that are compared", err=True)
        if output is not None:
            click.echo(f"wrote {output} and {Path(output).with_suffix('.npz')}", err=True)


def parse_layers(text: str) -> list[int]:
    """Read a list of layers and ranges of them, both ends included."""
    layers: list[int] = []
    for part in text.split(","):
        found = re.fullmatch(r"\s*(\d{1,6})(?:-(\d{1,6}))?\s*", part)
        if not found or int(found[2] or found[1]) < int(found[1]):
            raise ParameterError("layers", text, "a list such as 0,5,10-12")
        layers += range(int(found[1]), int(found[2] or found[1]) + 1)
    return layers


def _read_text(name: str) -> str:
    data: bytes = reading_inputs(Path(name).read_bytes)
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        msg = f"{name} is not a text in UTF-8: {error.reason} at byte {error.start}"
        raise InputError(msg) from None


def _print(decay: "Decay", *, as_json: bool) -> None:
    if as_json:
        click.echo(decay.to_json(), nl=False)
        return
    from rich.console import Console

    from ropesearch.exporters.table import decay_to_rich

    for table in decay_to_rich(decay):
        Console().print(table)
