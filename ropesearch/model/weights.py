"""Weights written anew, in another dtype or in shards of another size, one shard in memory at a time."""

import json
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ropesearch.core import checks
from ropesearch.core.errors import InputError, ParameterError, first_line
from ropesearch.core.progress import Progress, counter

if TYPE_CHECKING:
    import torch

DTYPES = ("float32", "bfloat16", "float16")
DEFAULT_SHARD = "5GB"
"""Of weights in another dtype. It is what they take in memory, too."""
_SIZE = re.compile(r"\d+(\.\d+)?\s*[KMGT]B", re.IGNORECASE)


@dataclass(frozen=True)
class WeightFormat:
    """How weights are written; None leaves as it is what the model has.

    Attributes
    ----------
    dtype : str or None
        Their dtype.
    max_shard_size : int, str or None
        The most that a file holds, in bytes or as a text such as 5GB; a weight larger than that gets a file of its own.
    """

    dtype: str | None = None
    max_shard_size: int | str | None = None

    @classmethod
    def of(cls, dtype: Any, max_shard_size: Any) -> "WeightFormat":
        """Check both; a dtype of torch is taken by its name."""
        name = None if dtype is None else checks.choice("dtype", str(dtype).removeprefix("torch."), DTYPES)
        size = max_shard_size
        if isinstance(size, str):
            if not _SIZE.fullmatch(size.strip()) or not float(size.strip()[:-2]):
                raise ParameterError("max_shard_size", size, "a number and KB, MB, GB or TB, such as 5GB")
        elif size is not None:
            size = checks.integer("max_shard_size", size, 1, 2**63 - 1)
        return cls(name, size)

    @property
    def is_own(self) -> bool:
        """Whether the model's own files will do."""
        return self.dtype is None and self.max_shard_size is None

    @property
    def shard_size(self) -> int | str:
        """The most that a file holds, where weights are written anew."""
        return self.max_shard_size or DEFAULT_SHARD


def plan_weights(files: Iterable[Path], tied: Mapping[str, str], form: WeightFormat) -> "dict[str, torch.Tensor]":
    """Say which tensors of weight files are to be written anew: on the device "meta", without memory for their values.

    Parameters
    ----------
    files : iterable of Path
        Without an index.
    tied : mapping
        Names of weights that are left out where they equal another, whose name is the value.
    form : WeightFormat
        How they are to be written.
    """
    import torch
    from transformers.core_model_loading import dot_natural_key

    tensors = {name: tensor for file in files for name, tensor in _mapped(file).items()}
    for name, source in tied.items():
        # transformers unties them where they differ.
        if {name, source} <= tensors.keys() and torch.equal(tensors[name], tensors[source]):
            del tensors[name]
    return {name: _cast(tensors[name].to("meta"), form) for name in sorted(tensors, key=dot_natural_key)}


def write_weights(
    files: Collection[Path],
    plan: "dict[str, torch.Tensor]",
    form: WeightFormat,
    folder: Path,
    progress: Progress | None = None,
) -> None:
    """Write tensors of weight files as safetensors, as `save_pretrained` of the loaded model does.

    Parameters
    ----------
    files : collection of Path
        Without an index.
    plan : dict
        By `plan_weights`.
    form : WeightFormat
        How they are written.
    folder : Path
        Where to.
    progress : callable, optional
        Called after each file.

    Raises
    ------
    ValueError
        If a file cannot be read, or float16 cannot hold a weight.
    OSError
        If the disk is full.
    """
    from huggingface_hub import split_torch_state_dict_into_shards
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    file_of = {name: file for file in files for name in _mapped(file)}
    split = split_torch_state_dict_into_shards(plan, max_shard_size=form.shard_size)
    report = counter(progress, "writing weights", len(split.filename_to_tensors))
    for file, names in split.filename_to_tensors.items():
        # Each is opened for itself: what was read of a file then leaves memory with it.
        shard = {name: _read(file_of[name], name, form) for name in names}
        try:
            save_file(shard, folder / file, metadata={"format": "pt"})
        except SafetensorError as error:  # not OSError, on a full disk
            msg = f"{file} cannot be written: {first_line(error)}"
            raise OSError(msg) from None
        del shard  # before the next one is read
        report()
    if split.is_sharded:
        count = sum(tensor.numel() for tensor in plan.values())
        index = {"metadata": {"total_parameters": count, **split.metadata}, "weight_map": split.tensor_to_filename}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")


def _mapped(file: Path, only: str | None = None) -> "dict[str, torch.Tensor]":
    """Tensors of a weight file, mapped into memory: nothing of them is read until it is used. Perhaps only one."""
    import torch
    from safetensors import safe_open

    try:
        if file.suffix == ".safetensors":
            with safe_open(file, framework="pt") as content:
                return {name: content.get_tensor(name) for name in ([only] if only else content.keys())}
        tensors: dict[str, torch.Tensor] = torch.load(file, map_location="cpu", mmap=True, weights_only=True)
    except Exception as error:  # of many classes, for a file of another kind or cut off
        msg = f"{file} cannot be read as weights: {first_line(error)}"
        raise InputError(msg) from None
    return tensors


def _read(file: Path, name: str, form: WeightFormat) -> "torch.Tensor":
    """Tensor of a file as it is to be written; InputError where float16 cannot hold it."""
    own = _mapped(file, name)[name]
    result = _cast(own, form).contiguous()
    if form.dtype == "float16" and result.isinf().any() and not own.isinf().any():
        msg = f"{name} has values that float16 cannot hold: `dtype=bfloat16` can"
        raise InputError(msg)
    return result


def _cast(tensor: "torch.Tensor", form: WeightFormat) -> "torch.Tensor":
    import torch

    return tensor.to(getattr(torch, form.dtype)) if form.dtype and tensor.is_floating_point() else tensor
