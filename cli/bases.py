"""`ropesearch bases`."""

import click

from ropesearch.core.model_source import find_config

from .errors import Command
from .inputs import quiet_transformers, read_input
from .output import Output, file_options, note
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
    from ropesearch.core.base_set import BaseSet

    quiet_transformers(quiet=True)
    config = read_input(lambda: find_config(model))
    base_set = BaseSet.of_model(config)
    if config.rope_values:
        note(f"the rule {config.rope_values['rope_type']} of {model} changes what these bases give", quiet=out.quiet)
    out.deliver(forms_of(base_set))
