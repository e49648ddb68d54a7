"""`ropesearch export`."""

import click

from .options import Command, overwrite_option, read_base_set


@click.command(cls=Command)
@click.argument("file", type=click.Path())
@click.option(
    "-o",
    "--output",
    type=click.Path(),
    metavar="FILE",
    help="Where to; the suffix names the format: .safetensors, .npz, .pt, .csv, .md or .json.",
)
@click.option(
    "--format",
    "text_format",
    type=click.Choice(["csv", "md"]),
    default="md",
    show_default=True,
    help="What to print where no output file is given.",
)
@click.option(
    "--dtype", default="float32", show_default=True, help="Of the frequencies in tensors: float32 or float64."
)
@overwrite_option
def export(file: str, output: str | None, text_format: str, dtype: str, overwrite: bool) -> None:
    """Write the base-set file FILE as tensors for training, or as a table.

    Tensors are inv_freq, of shape (KV heads, head_dim / 2), and bases. The .pt format needs torch.
    """
    base_set = read_base_set(file)
    from ropesearch.exporters import formats

    if output is None:
        click.echo(formats.TEXT_FORMATS[text_format](base_set), nl=False)
    else:
        formats.export(base_set, output, dtype=dtype, overwrite=overwrite)
        click.echo(f"wrote {output}", err=True)
