"""`ropesearch export`."""

from dataclasses import replace
from functools import partial

import click

from .errors import Command
from .inputs import read_base_set
from .output import Output, result_options


@click.command(cls=Command)
@click.argument("name", metavar="BASES")
@click.option(
    "--dtype", default="float32", show_default=True, help="Type of the frequencies in tensors: float32 or float64."
)
@click.option("--format", "text_format", type=click.Choice(["csv", "md"]), hidden=True, help="As --csv.")
@result_options(".md", ".json", ".csv", ".md", ".tex", ".safetensors", ".npz", ".pt")
def export(name: str, dtype: str, text_format: str | None, out: Output) -> None:
    """Write a base set as tensors for training, or as a table.

    BASES is a base-set file, a row of a sweep file such as sweep.jsonl#3, a preset, or a position scheme that is
    nothing but bases, such as uniform:1e6..5e6,heads=32.

    Tensors are inv_freq, of shape (KV heads, head_dim / 2), and bases, both after an axis of layers where these differ.
    The .pt format needs torch.
    """
    base_set = read_base_set(name)
    from ropesearch.exporters import formats

    if text_format is not None and out.printed == ".md":
        out = replace(out, printed=f".{text_format}")
    if out.path is not None:
        formats.export(base_set, out.path, dtype=dtype, overwrite=out.overwrite)
    out.print({f".{name}": partial(write, base_set) for name, write in formats.TEXT_FORMATS.items()})
    out.wrote(out.path)
