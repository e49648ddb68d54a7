"""The device that computes, by its name."""

import re
from typing import TYPE_CHECKING, Any

from .errors import DeviceError, ParameterError, require_extra

if TYPE_CHECKING:
    import torch


def find_device(name: Any) -> "torch.device | None":
    """Return the torch device of a name such as cuda or cuda:1, or None for cpu, which needs no torch."""
    if name == "cpu":
        return None
    found = re.fullmatch(r"cuda(?::(\d+))?", name) if isinstance(name, str) else None
    if not found:
        raise ParameterError("device", name, "cpu, cuda or cuda:N")
    require_extra(f"device {name}", "torch", "torch")
    import torch

    if not torch.cuda.is_available():
        msg = f"device {name}: torch finds no CUDA device here"
        raise DeviceError(msg)
    if int(found[1] or 0) >= torch.cuda.device_count():
        n = torch.cuda.device_count()
        msg = f"device {name}: {n} CUDA device{'s' * (n != 1)} found, counted from 0"
        raise DeviceError(msg)
    return torch.device(name)
