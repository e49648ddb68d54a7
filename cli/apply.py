"""`ropesearch apply`."""

import click

from ropesearch.core.model_source import ModelSource

from .errors import Command
from .inputs import quiet_transformers, read_base_set, read_order
from .notes import certainty_of_order, where_kept
from .options import by_layer_option, check_by_layer, order_by_option, quiet_option, scaling_option
from .output import note, say
from .progress import announcing_progress


@click.command(cls=Command)
@click.argument("model")
@click.option(
    "--bases",
    type=click.Path(),
    metavar="FILE",
    help="A base-set file: every KV head, or each of every layer, gets its own base.",
)
@click.option(
    "--scheme",
    metavar="SPEC",
    help="Or a position scheme, such as yarn:32, abf:5e6, abf-multi-stage or uniform. The trained length (original), "
    "base, head_dim and number of KV heads are the model's where SPEC does not say them.",
)
@click.option(
    "--max-position-embeddings",
    type=int,
    metavar="N",
    help="Length to write into the config, in tokens.  [default: the scheme's, where it has one, else the model's]",
)
@click.option(
    "-o", "--output", required=True, type=click.Path(), metavar="DIR", help="The folder to create; it must not exist."
)
@click.option("--dtype", metavar="NAME", help="Convert the weights to bfloat16, float16 or float32.")
@click.option(
    "--max-shard-size",
    metavar="SIZE",
    help="Split the weights into files of at most this size, such as 5GB, the default with --dtype. As much "
    "is in memory.",
)
@scaling_option
@order_by_option
@by_layer_option
@quiet_option
def apply(
    model: str,
    bases: str | None,
    scheme: str | None,
    max_position_embeddings: int | None,
    output: str,
    dtype: str | None,
    max_shard_size: str | None,
    scaling: str | None,
    order_by: str | None,
    by_layer: bool,
    quiet: bool,
) -> None:
    """Write a copy of the model MODEL that rotates by a base set or a position scheme.

    MODEL is a folder as transformers saves it, a .gguf file or a hub name such as org/name, of a type of the Llama,
    Mistral, Qwen, Gemma, Phi, OLMo, Granite, GLM or other families that docs/models.md lists. One with RoPE scaling
    needs --scaling. Weights and tokenizer are copied unchanged, unless --dtype or --max-shard-size is given; a .gguf
    file is unpacked into the user's cache folder and kept there. A scheme that transformers has is written into the
    config alone, and DIR is a stock checkpoint. With a base per KV head (--bases, uniform, table2, harpe)
    AutoModelForCausalLM loads DIR once ropesearch.model is imported, or with trust_remote_code=True. Needs torch and
    transformers.
    """
    if (bases is None) == (scheme is None):
        raise click.UsageError("either --bases or --scheme must be given" + (", not both" if bases else ""))
    if order_by is not None and bases is None:
        raise click.UsageError("--order-by orders the bases of a file: it needs --bases")
    check_by_layer(order_by, by_layer=by_layer)
    base_set = None if bases is None else read_base_set(bases)
    source = ModelSource.find(model)
    quiet_transformers(quiet=quiet)
    from ropesearch.model.load import as_kept, kept_folder
    from ropesearch.model.write import apply_to_checkpoint

    if base_set is not None and order_by is not None:
        from ropesearch.decay.order import order_by_decay

        config = as_kept(source).config()
        decay = read_order(order_by, config)
        base_set = order_by_decay(base_set, decay, config, by_layer=by_layer)
        note("the bases are assigned to the heads by measured slope, which is beyond the paper", quiet=quiet)
        for text in certainty_of_order(decay, by_layer=by_layer):
            note(text, quiet=quiet)
    with announcing_progress(quiet=quiet) as progress:
        change = apply_to_checkpoint(
            source,
            str(scheme) if base_set is None else base_set,
            output,
            max_position_embeddings=max_position_embeddings,
            scaling=scaling,
            dtype=dtype,
            max_shard_size=max_shard_size,
            progress=progress,
        )
    if scheme is not None or max_position_embeddings is not None or change.scaling is not None:
        say(str(change), quiet=quiet)
    for text in (*change.left_behind, *where_kept(model, kept_folder(source))):
        note(text, quiet=quiet)
    say(f"wrote {output}", quiet=quiet)
