"""`ropesearch apply`."""

from contextlib import suppress

import click

from .options import Command, quiet_option, read_base_set


@click.command(cls=Command)
@click.argument("model")
@click.option("--bases", required=True, type=click.Path(), metavar="FILE", help="The base-set file.")
@click.option(
    "-o", "--output", required=True, type=click.Path(), metavar="DIR", help="The new folder; never one that exists."
)
@quiet_option
def apply(model: str, bases: str, output: str, quiet: bool) -> None:
    """Write the model MODEL with a base set in it: every KV head rotates by its own base.

    MODEL is a folder as transformers saves it, a .gguf file, or a hub name such as org/name; of type llama, mistral,
    qwen2 or qwen3, without RoPE scaling. Weights and tokenizer are copied as they are. AutoModelForCausalLM loads DIR
    where ropesearch is imported, and elsewhere with trust_remote_code=True. Needs torch and transformers.
    """
    base_set = read_base_set(bases)
    from ropesearch.checkpoints import apply_to_checkpoint

    if quiet:
        with suppress(ImportError):
            from transformers.utils.logging import disable_progress_bar

            disable_progress_bar()
    apply_to_checkpoint(model, base_set, output)
    if not quiet:
        click.echo(f"wrote {output}", err=True)
