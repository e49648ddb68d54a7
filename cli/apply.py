"""`ropesearch apply`."""

from pathlib import Path

import click

from .errors import Command
from .inputs import quiet_transformers, read_base_set, read_order
from .notes import certainty_of_order
from .options import order_by_option, quiet_option
from .output import note, say


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
    mistral, qwen2 or qwen3, without RoPE scaling. Weights and tokenizer are copied unchanged. AutoModelForCausalLM
    loads DIR once ropesearch.model is imported, or with trust_remote_code=True. Needs torch and transformers.
    """
    base_set = read_base_set(bases)
    from ropesearch.model.checkpoints import apply_to_checkpoint

    quiet_transformers(quiet=quiet)
    source: str | Path = model
    if order_by is not None:
        from ropesearch.decay.data import order_by_decay
        from ropesearch.model.checkpoints import local_model, read_config

        source = local_model(model)
        config = read_config(source)
        decay = read_order(order_by, config)
        base_set = order_by_decay(base_set, decay, config)
        note("the bases are assigned to the heads by measured slope, which is beyond the paper", quiet=quiet)
        for text in certainty_of_order(decay):
            note(text, quiet=quiet)
    apply_to_checkpoint(source, base_set, output)
    say(f"wrote {output}", quiet=quiet)
