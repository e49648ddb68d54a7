"""Base-set search and RoPE waveform analysis for head-adaptive context extension (HARPE, arXiv:2412.07171)."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from . import _auto

__version__ = "0.1.0"

_auto.install()

if TYPE_CHECKING:
    from .base_set import BaseSet
    from .checkpoints import apply_to_checkpoint, load_model
    from .coverage import Coverage
    from .decay import Decay, order_by_decay
    from .exporters import export
    from .extrema import Extrema, find_extrema
    from .measure import measure_decay, shipped_texts
    from .models import AppliedBases, apply_bases
    from .presets import PRESETS
    from .rope import inv_freq
    from .schemes import Scheme, parse_scheme
    from .search import search_bases, uniform_bases
    from .tables import to_csv, to_markdown
    from .tensors import cache_row, cos_sin_cache, cos_sin_tables, to_tensors
    from .waveforms import decay_bound, waveform

__all__ = [
    "PRESETS",
    "AppliedBases",
    "BaseSet",
    "Coverage",
    "Decay",
    "Extrema",
    "Scheme",
    "apply_bases",
    "apply_to_checkpoint",
    "cache_row",
    "cos_sin_cache",
    "cos_sin_tables",
    "decay_bound",
    "export",
    "find_extrema",
    "inv_freq",
    "load_model",
    "measure_decay",
    "order_by_decay",
    "parse_scheme",
    "search_bases",
    "shipped_texts",
    "to_csv",
    "to_markdown",
    "to_tensors",
    "uniform_bases",
    "waveform",
]

_HOME = {
    "PRESETS": "presets",
    "AppliedBases": "models",
    "BaseSet": "base_set",
    "Coverage": "coverage",
    "Decay": "decay",
    "Extrema": "extrema",
    "Scheme": "schemes",
    "apply_bases": "models",
    "apply_to_checkpoint": "checkpoints",
    "cache_row": "tensors",
    "cos_sin_cache": "tensors",
    "cos_sin_tables": "tensors",
    "decay_bound": "waveforms",
    "export": "exporters",
    "find_extrema": "extrema",
    "inv_freq": "rope",
    "load_model": "checkpoints",
    "measure_decay": "measure",
    "order_by_decay": "decay",
    "parse_scheme": "schemes",
    "search_bases": "search",
    "shipped_texts": "measure",
    "to_csv": "tables",
    "to_markdown": "tables",
    "to_tensors": "tensors",
    "uniform_bases": "search",
    "waveform": "waveforms",
}


def __getattr__(name: str) -> Any:
    # numpy and numba take longer to import than `ropesearch --help` may take: they load with what needs them.
    if name not in _HOME:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    value = getattr(import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
