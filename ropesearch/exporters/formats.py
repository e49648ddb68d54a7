"""The formats that a base set can be written in."""

import os
from collections.abc import Callable
from pathlib import Path

from ropesearch.core import checks
from ropesearch.core.base_set import BaseSet
from ropesearch.core.errors import InputError
from ropesearch.core.files import check_output, write_whole

from .table import to_csv, to_latex, to_markdown
from .tensors import npz_bytes, pt_bytes, safetensors_bytes, to_tensors

TEXT_FORMATS: dict[str, Callable[[BaseSet], str]] = {
    "json": BaseSet.to_json,
    "csv": to_csv,
    "md": to_markdown,
    "tex": to_latex,
}
TENSOR_FORMATS = {"safetensors": safetensors_bytes, "npz": npz_bytes, "pt": pt_bytes}
NO_GGUF = (
    "no .gguf file can hold a base per head: llama.cpp takes one table of frequency factors for all heads of a layer"
)


def export(base_set: BaseSet, path: str | os.PathLike[str], *, dtype: str = "float32", overwrite: bool = False) -> None:
    """Write a base set in the format that the suffix of `path` names, whole or not at all.

    Parameters
    ----------
    base_set : BaseSet
    path : path-like
        Ends in .json (the base-set file), .csv, .md or .tex (its table; LaTeX with the package booktabs), .safetensors
        (tensors for `safetensors.torch.load_file`), .npz (for `numpy.load`) or .pt (for `torch.load`; only this needs
        torch).
    dtype : {'float32', 'float64'}
        Type of the frequencies in a tensor file; see `to_tensors`.
    overwrite : bool
        Whether an existing file may be replaced.

    Raises
    ------
    ValueError
        If the suffix or `dtype` is unknown, or the suffix is .gguf: llama.cpp has no base per head.
    OSError
        If the file exists and `overwrite` is false, or cannot be written.
    ImportError
        If `path` ends in .pt and torch is not installed; the message names the extra that brings it.
    """
    checks.instance("base_set", base_set, BaseSet, "a BaseSet")
    if Path(path).suffix == ".gguf":
        raise InputError(NO_GGUF)
    known = [*TEXT_FORMATS, *TENSOR_FORMATS]
    suffix = checks.choice("the suffix of the file", Path(path).suffix, [f".{name}" for name in known])
    check_output(path, overwrite=overwrite)
    if suffix[1:] in TEXT_FORMATS:
        write_whole(path, TEXT_FORMATS[suffix[1:]](base_set), overwrite=overwrite)
    else:
        tensors = to_tensors(base_set, dtype)
        write_whole(path, TENSOR_FORMATS[suffix[1:]](tensors), overwrite=overwrite)
