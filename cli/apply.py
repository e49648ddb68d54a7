"""`ropesearch apply`."""

import click

from ropesearch.core.model_source import ModelSource

from .options import (
    Command,
    note_kept,
    note_order,
    order_by_option,
    quiet_option,
    quiet_transformers,
    read_base_set,
    read_order,
)
from .progress import announce


@click.command(cls=Command)
@click.argument("model")
@click.option("--bases", required=True, type=click.Path(), metavar="FILE", help="The base-set file.")
@click.option(
    "-o", "--output", required=True, type=click.Path(), metavar="DIR", help="The new folder; never one that exists."
)
@order_by_option
@quiet_option
def apply(model: str, bases: str, output: str, order_by: str | None, quiet: bool) -> None:
    """Write the model MODEL with a base set in it: every KV head rotates by its own base.

    MODEL is a folder as transformers saves it, a .gguf file, or a hub name such as org/name; of type llama, mistral,
    qwen2 or qwen3, without RoPE scaling. Weights and tokenizer are copied as they are; a .gguf file is kept unpacked in
    the user's cache folder. AutoModelForCausalLM loads DIR where ropesearch.model is imported, and elsewhere with
    trust_remote_code=True. Needs torch and transformers.
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
        if not quiet:
            click.echo("note: the bases are laid over the heads by measured slope, which is beyond the paper", err=True)
            note_order(decay)
    apply_to_checkpoint(source, base_set, output, progress=None if quiet else announce)
    if not quiet:
        note_kept(model, kept_folder(source))
        click.echo(f"wrote {output}", err=True)
