"""`ropesearch apply`."""

from pathlib import Path

import click

from .options import Command, note_order, order_by_option, quiet_option, quiet_transformers, read_base_set, read_order


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
    qwen2 or qwen3, without RoPE scaling. Weights and tokenizer are copied as they are. AutoModelForCausalLM loads DIR
    where ropesearch.model is imported, and elsewhere with trust_remote_code=True. Needs torch and transformers.
    """
    base_set = read_base_set(bases)
    from ropesearch.model.checkpoints import apply_to_checkpoint

    quiet_transformers(quiet=quiet)
    source: str | Path = model
    if order_by is not None:
        from ropesearch.decay.order import order_by_decay
        from ropesearch.model.checkpoints import local_model, read_config

        source = local_model(model)
        config = read_config(source)
        decay = read_order(order_by, config)
        base_set = order_by_decay(base_set, decay, config)
        if not quiet:
            click.echo("note: the bases are laid over the heads by measured slope, which is beyond the paper", err=True)
            note_order(decay)
    apply_to_checkpoint(source, base_set, output)
    if not quiet:
        click.echo(f"wrote {output}", err=True)
