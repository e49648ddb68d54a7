"""Weights written anew, in another dtype or in shards of another size, one shard in memory at a time."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ropesearch.core import checks
from ropesearch.core.errors import InputError, ParameterError, first_line
from ropesearch.core.progress import Progress, counter

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

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


def plan_weights(
    files: Iterable[Path], tied: Mapping[str, str], form: WeightFormat
) -> "dict[str, tuple[Path, torch.Tensor]]":
    """Say which tensors of weight files are to be written anew.

    Parameters
    ----------
    files : iterable of Path
        Without an index.
    tied : mapping
        Names of weights that are left out where they equal another, whose name is the value.
    form : WeightFormat
        How they are to be written.

    Returns
    -------
    dict
        For each name the file that has the tensor, and the tensor as it will be: on the device "meta", without memory
        for its values.

    Raises
    ------
    ValueError
        If a file cannot be read.
    """
    import torch
    from transformers.core_model_loading import dot_natural_key

    tensors = {name: (file, tensor) for file in files for name, tensor in _mapped(file).items()}
    for name, source in tied.items():
        # transformers unties them where they differ.
        if {name, source} <= tensors.keys() and torch.equal(tensors[name][1], tensors[source][1]):
            del tensors[name]
    ordered = [(name, *tensors[name]) for name in sorted(tensors, key=dot_natural_key)]
    return {name: (file, _cast(tensor.to("meta"), form)) for name, file, tensor in ordered}


def write_weights(
    plan: "dict[str, tuple[Path, torch.Tensor]]",
    form: WeightFormat,
    folder: Path,
    progress: Progress | None = None,
) -> None:
    """Write tensors of weight files as safetensors, as `save_pretrained` of the loaded model does.

    Parameters
    ----------
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

    planned = {name: tensor for name, (_, tensor) in plan.items()}
    split = split_torch_state_dict_into_shards(planned, max_shard_size=form.shard_size)
    report = counter(progress, "writing weights", len(split.filename_to_tensors))
    for file, names in split.filename_to_tensors.items():
        # Each is opened for itself: what was read of a file then leaves memory with it.
        shard = {name: _converted(name, _mapped(plan[name][0], name)[name], form).contiguous() for name in names}
        try:
            save_file(shard, folder / file, metadata={"format": "pt"})
        except SafetensorError as error:  # not OSError, on a full disk
            msg = f"{file} cannot be written: {first_line(error)}"
            raise OSError(msg) from None
        del shard  # before the next one is read
        report()
    if split.is_sharded:
        count = sum(tensor.numel() for tensor in planned.values())
        index = {"metadata": {"total_parameters": count, **split.metadata}, "weight_map": split.tensor_to_filename}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")


def convert_weights(model: "PreTrainedModel", form: WeightFormat) -> None:
    """Convert the weights of a model in memory; raises ValueError if float16 cannot hold one."""
    import torch

    if form.dtype is None:
        return
    for name, weight in model.named_parameters():
        _converted(name, weight, form)
    model.to(getattr(torch, form.dtype))


def read_shapes(file: Path) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor in a weight file, without reading the tensors: torch may lack their dtypes."""
    if file.suffix != ".safetensors":
        return {name: tuple(tensor.shape) for name, tensor in _mapped(file).items()}
    from safetensors import safe_open

    with _reading(file), safe_open(file, framework="pt") as content:
        return {name: tuple(content.get_slice(name).get_shape()) for name in content.keys()}  # noqa: SIM118


def _mapped(file: Path, only: str | None = None) -> "dict[str, torch.Tensor]":
    """Tensors of a weight file, mapped into memory: nothing of them is read until it is used. Perhaps only one."""
    import torch
    from safetensors import safe_open

    with _reading(file):
        if file.suffix != ".safetensors":
            tensors: dict[str, torch.Tensor] = torch.load(
                file,
                map_location="cpu",
                mmap=True,
                weights_only=True,  # runs no code of the file
            )
            return tensors
        with safe_open(file, framework="pt") as content:
            return {name: content.get_tensor(name) for name in ([only] if only else content.keys())}


@contextmanager
def _reading(file: Path) -> Iterator[None]:
    """Raise InputError where a weight file cannot be read."""
    try:
        yield
    except Exception as error:  # of many classes, for a file of another kind or cut off
        msg = f"{file} cannot be read as weights: {first_line(error)}"
        raise InputError(msg) from None


def _converted(name: str, tensor: "torch.Tensor", form: WeightFormat) -> "torch.Tensor":
    """Tensor as it is to be written; InputError where float16 cannot hold it."""
    result = _cast(tensor, form)
    if form.dtype == "float16" and result.isinf().any() and not tensor.isinf().any():
        msg = f"{name} has values that float16 cannot hold: `dtype=bfloat16` can"
        raise InputError(msg)
    return result


def _cast(tensor: "torch.Tensor", form: WeightFormat) -> "torch.Tensor":
    import torch

    return tensor.to(getattr(torch, form.dtype)) if form.dtype and tensor.is_floating_point() else tensor
