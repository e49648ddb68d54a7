"""`ropesearch bases`."""

import click

from .errors import Command
from .inputs import read_bases_of_model
from .output import Output, file_options
from .show import forms_of


@click.command(cls=Command)
@click.argument("model")
@file_options("the base-set file", ".json", ".json")
def bases(model: str, out: Output) -> None:
    """Show the bases that the model MODEL carries, as a base set.

    MODEL is a folder as transformers saves it or its config.json, a .gguf file or a hub name such as org/name. A model
    with one base for all heads gives that for every KV head. The file goes wherever a base-set file does: show, export,
    plot coverage, apply.
    """
    out.deliver(forms_of(read_bases_of_model(model, quiet=out.quiet)))
