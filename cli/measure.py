"""`ropesearch measure`."""

import re

import click

from ropesearch.core.errors import ParameterError
from ropesearch.core.model_source import ModelSource

from . import tables
from .errors import Command
from .inputs import quiet_transformers, read_base_set, read_text
from .notes import where_kept
from .options import LENGTH, scaling_option
from .output import Output, file_options, note, say
from .progress import announce, progress_on_stderr

DTYPES = ("float32", "bfloat16", "float16")


@click.command(cls=Command)
@click.argument("model")
@click.option(
    "--text",
    "texts",
    multiple=True,
    type=click.Path(),
    metavar="FILE",
    help="A UTF-8 text to read. Repeat it for several.  [default: the two that come with ropesearch]",
)
@click.option(
    "--length", type=LENGTH, default=2048, show_default=True, help="Tokens to read from each text, at least 64."
)
@click.option("--layers", metavar="LIST", help="Layers to measure, counted from 0, such as 0,5,10-12.  [default: all]")
@click.option(
    "--bases", type=click.Path(), metavar="FILE", help="Predict what the bases in this base-set file would change."
)
@scaling_option
@click.option("--verify", is_flag=True, help="With --bases: also run the model with them, to check the prediction.")
@click.option("--softmax", is_flag=True, help="Also measure attention after the softmax; takes longer.")
@click.option(
    "--device", default="cpu", show_default=True, metavar="NAME", help="Where the model runs: cpu, cuda or cuda:N."
)
@click.option(
    "--dtype", metavar="NAME", help="Type of the weights: float32, bfloat16 or float16.  [default: as stored]"
)
@file_options("the decay file", ".json", ".json", also="beside it a .npz with its arrays")
def measure(
    model: str,
    texts: tuple[str, ...],
    length: int,
    layers: str | None,
    bases: str | None,
    scaling: str | None,
    verify: bool,
    softmax: bool,
    device: str,
    dtype: str | None,
    out: Output,
) -> None:
    """Measure how the attention of the model MODEL decays over distance, in every layer and head.

    \b
        ropesearch measure path/to/model --bases bases.json --verify -o decay.json

    MODEL is a folder as transformers saves it, a .gguf file or a hub name such as org/name, of a type that
    docs/models.md lists, with or without a base set in it. A .gguf file is unpacked into the user's cache folder and
    kept there. Needs torch and transformers.

    The table shows the median head of every layer: the slope of its mean score before the softmax, in nats per decade
    of distance; the correlation of that score with the unit waveform of the head's base, with −log distance and with
    the model curve, made of the mean query and key; and how well two texts agree.
    """  # noqa: D301  (click reads the control character \b as: leave these lines as they are)
    wanted = None if layers is None else parse_layers(layers)
    if verify and bases is None:
        raise click.UsageError("--verify needs --bases: it runs the model with them")
    if dtype is not None and dtype not in DTYPES:
        raise ParameterError("dtype", dtype, "one of " + ", ".join(DTYPES))
    if out.path is not None:
        from ropesearch.decay.file import check_decay_path

        check_decay_path(out.path, overwrite=out.overwrite)
    base_set = None if bases is None else read_base_set(bases)
    contents = {name: read_text(name) for name in texts} or None

    source = ModelSource.find(model)
    quiet_transformers(quiet=out.quiet)
    from ropesearch.core.device import find_device
    from ropesearch.decay.measure import check_request, measure_decay
    from ropesearch.model.load import as_kept, kept_folder, load_model

    found = find_device(device)
    check_request(as_kept(source), length=length, layers=wanted, base_set=base_set, scaling=scaling)
    options = {} if dtype is None else {"dtype": dtype}
    on_device = {} if found is None else {"device_map": {"": found}}
    tell = None if out.quiet else announce
    loaded, tokenizer = load_model(source, keep_unpacked=True, any_head=True, progress=tell, **options, **on_device)
    for text in where_kept(model, kept_folder(source)):
        note(text, quiet=out.quiet)
    positions = getattr(loaded.config, "max_position_embeddings", None)
    if positions is not None and length > positions:
        line = f"warning: length {length} is beyond the {positions} positions that {model} is made for"
        say(line, quiet=out.quiet)
    with progress_on_stderr(quiet=out.quiet) as progress:
        decay = measure_decay(
            loaded,
            tokenizer,
            contents,
            length=length,
            layers=wanted,
            base_set=base_set,
            scaling=scaling,
            verify=verify,
            softmax=softmax,
            name=model,
            progress=progress,
        )
    arrays = None if out.path is None else decay.save(out.path, overwrite=out.overwrite)
    notes = ["of one short text, the two halves of the queries are compared"] if len(decay.texts) == 1 else []
    out.print({"": lambda: tables.of_decay(decay), ".json": decay.to_json}, notes)
    if arrays is not None:
        out.wrote(f"{out.path} and {arrays}")


def parse_layers(text: str) -> list[int]:
    """Read a list of layers and ranges of them, both ends included."""
    layers: list[int] = []
    for part in text.split(","):
        found = re.fullmatch(r"\s*(\d{1,6})(?:-(\d{1,6}))?\s*", part)
        if not found or int(found[2] or found[1]) < int(found[1]):
            raise ParameterError("layers", text, "a list such as 0,5,10-12")
        layers += range(int(found[1]), int(found[2] or found[1]) + 1)
    return layers
