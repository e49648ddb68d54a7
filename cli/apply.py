"""`ropesearch apply`."""

import os
import sys

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

    # Read where transformers is imported, which takes seconds: not here, where MODEL may be nowhere.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    if quiet or not sys.stderr.isatty():
        os.environ |= {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "TQDM_DISABLE": "1"}
    apply_to_checkpoint(model, base_set, output)
    if not quiet:
        click.echo(f"wrote {output}", err=True)
