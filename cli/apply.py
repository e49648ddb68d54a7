"""`ropesearch apply`."""

import click

from ropesearch.core.model_source import ModelSource

from .errors import Command
from .inputs import quiet_transformers, read_base_set, read_order
from .notes import certainty_of_order, where_kept
from .options import order_by_option, quiet_option
from .output import note, say
from .progress import announce


@click.command(cls=Command)
@click.argument("model")
@click.option("--bases", required=True, type=click.Path(), metavar="FILE", help="The base-set file to apply.")
@click.option(
    "-o", "--output", required=True, type=click.Path(), metavar="DIR", help="The folder to create; it must not exist."
)
@order_by_option
@quiet_option
def apply(model: str, bases: str, output: str, order_by: str | None, quiet: bool) -> None:
    """Write a copy of the model MODEL in which every KV head rotates by its own base.

    MODEL is a folder as transformers saves it, a .gguf file or a hub name such as org/name. Its type must be llama,
    mistral, qwen2 or qwen3, without RoPE scaling. Weights and tokenizer are copied unchanged; a .gguf file is unpacked
    into the user's cache folder and kept there. AutoModelForCausalLM loads DIR once ropesearch.model is imported, or
    with trust_remote_code=True. Needs torch and transformers.
    """
    base_set = read_base_set(bases)
    source = ModelSource.find(model)
    quiet_transformers(quiet=quiet)
    from ropesearch.model.load import as_kept, kept_folder
    from ropesearch.model.write import apply_to_checkpoint

    if order_by is not None:
        from ropesearch.decay.order import order_by_decay

        config = as_kept(source).config()
        decay = read_order(order_by, config)
        base_set = order_by_decay(base_set, decay, config)
        note("the bases are assigned to the heads by measured slope, which is beyond the paper", quiet=quiet)
        for text in certainty_of_order(decay):
            note(text, quiet=quiet)
    apply_to_checkpoint(source, base_set, output, progress=None if quiet else announce)
    for text in where_kept(model, kept_folder(source)):
        note(text, quiet=quiet)
    say(f"wrote {output}", quiet=quiet)
