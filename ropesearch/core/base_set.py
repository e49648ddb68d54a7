"""A base set: one RoPE base per KV head, and the file that carries it."""

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, SupportsIndex, overload

import numpy as np
import numpy.typing as npt

from . import checks
from .errors import InputError, ParameterError, shown
from .files import check_versioned, read_file, read_json, write_whole
from .frames import as_dataframe
from .model_config import BY_LAYER_TYPE, ModelConfig
from .progress import Progress
from .rope import inv_freq
from .spec import COVERED_TO

if TYPE_CHECKING:
    from pandas import DataFrame

    from ropesearch.curves.coverage import Coverage

FORMAT = "ropesearch.base-set"
VERSION = 1
MOST_BYTES = 4_000_000
"""How large a base-set file may be; one of 1024 heads has less than 0.1 MB."""

_KEYS = (
    "heads",
    "kv_heads",
    "head_dim",
    "bases",
    "selection",
    "strategy",
    "parameters",
    "coverage",
    "made_by",
)


@dataclass(frozen=True)
class BaseSet:
    """The RoPE bases of a model, one per KV head, the same in every layer.

    It indexes and iterates like the tuple of its bases. `BaseSet.of` makes one from numbers, `BaseSet.load` reads one
    from a file, and `search_bases` searches for one.

    Attributes
    ----------
    heads, kv_heads : int
        Query heads and KV heads; `kv_heads` divides `heads`. Query heads h·g … h·g + g − 1, g = heads / kv_heads,
        share the keys, and so the base, of KV head h.
    head_dim : int
        Channels per head, even.
    bases : tuple of float, length kv_heads
        In head order, dimensionless, each above 1.
    selection : tuple of float, length kv_heads
        The same bases, in the order in which the search chose them.
    strategy : str
        How they were chosen.
    parameters, coverage_figures, made_by : mapping
        Every option that shaped the set; how it covers the distances (`coverage` in the file), if computed; versions
        and the command that repeats the search.

    Raises
    ------
    ValueError
        If a value is out of range or the counts disagree.
    """

    heads: int
    kv_heads: int
    head_dim: int
    bases: tuple[float, ...]
    selection: tuple[float, ...]
    strategy: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    coverage_figures: Mapping[str, Any] = field(default_factory=dict)
    made_by: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check every value; lists become tuples."""
        checks.integer("heads", self.heads, 1)
        checks.kv_heads(checks.integer("kv_heads", self.kv_heads, 1), self.heads)
        checks.head_dim(self.head_dim)
        for name in ("bases", "selection"):
            values = getattr(self, name)
            if isinstance(values, str | Mapping) or not hasattr(values, "__iter__"):
                raise ParameterError(name, values, "a list of bases")
            object.__setattr__(self, name, tuple(checks.base(f"every value of {name}", b) for b in values))
            if len(getattr(self, name)) != self.kv_heads:
                msg = f"{name} must have one base per KV head: {self.kv_heads}, not {len(getattr(self, name))}"
                raise InputError(msg)
        if sorted(self.bases) != sorted(self.selection):
            raise InputError("selection must hold the same values as `bases`, in any order")
        if not isinstance(self.strategy, str):
            raise ParameterError("strategy", self.strategy, "a string")
        for key in ("parameters", "coverage", "made_by"):
            value = getattr(self, _attribute_name(key))
            if not isinstance(value, Mapping):
                raise ParameterError(key, value, "a mapping of names to values")

    @classmethod
    def of(
        cls, bases: Iterable[float], *, heads: int | None = None, head_dim: int = 128, strategy: str = "given"
    ) -> "BaseSet":
        """Make a set from plain numbers.

        Parameters
        ----------
        bases : iterable of float
            One per KV head, in head order, dimensionless, each above 1.
        heads : int, optional
            Query heads, a multiple of the number of bases. By default one per base.
        head_dim : int
            Channels per head, even.
        strategy : str
            How they were chosen, as the file records it.

        Raises
        ------
        ValueError
            If a value is out of range, or the number of bases does not divide `heads`.
        """
        try:
            values = () if isinstance(bases, str | bytes | Mapping) else tuple(bases)
        except TypeError:
            values = ()
        if not values:
            raise ParameterError("bases", bases, "a list of bases")
        n = len(values) if heads is None else heads
        return cls(n, len(values), head_dim, bases=values, selection=values, strategy=strategy)

    @classmethod
    def of_model(cls, config: ModelConfig) -> "BaseSet":
        """Return the bases that a model carries; one with a single base for all heads gives that for every KV head.

        Raises
        ------
        ValueError
            If the model has no RoPE, rotates only part of each head, has a base for each type of layer, or says none.
        """
        shape = config.shape
        if config.rope_rule == BY_LAYER_TYPE:
            msg = f"{config.name} has a rotary embedding for each type of layer, and a base set one for all"
            raise InputError(msg)
        if config.bases is not None:
            return cls.of(config.bases, heads=shape.heads, head_dim=shape.head_dim, strategy="carried by a model")
        if config.base is None:
            msg = f"{config.name}: it has no rope_theta"
            raise InputError(msg)
        one = [config.base] * shape.kv_heads
        return cls.of(one, heads=shape.heads, head_dim=shape.head_dim, strategy="one base of a model")

    def __len__(self) -> int:
        """Return the number of KV heads."""
        return self.kv_heads

    @overload
    def __getitem__(self, index: SupportsIndex) -> float: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[float, ...]: ...
    def __getitem__(self, index: SupportsIndex | slice) -> float | tuple[float, ...]:
        """Return the base of one KV head, or the bases of a slice as a tuple."""
        return self.bases[index]

    def __iter__(self) -> Iterator[float]:
        """Iterate over the bases in head order."""
        return iter(self.bases)

    def __hash__(self) -> int:
        """Hash by bases and heads. Sets are equal if all values of their files are."""
        return hash((self.bases, self.heads, self.head_dim))

    def __repr__(self) -> str:
        """Show the bases (only the first of many) and the shape of the heads."""
        first = [shown(base) for base in self.bases[:3]]
        more = [shown(base) for base in self.bases[3:4]] if len(self) <= 4 else ["..."]
        listed = ", ".join(first + more) + ("," if len(self) == 1 else "")
        kv_heads = "" if self.kv_heads == self.heads else f", kv_heads={self.kv_heads}"
        return f"BaseSet(({listed}), heads={self.heads}{kv_heads}, head_dim={self.head_dim})"

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        """Return the bases in head order, shape (kv_heads,)."""
        return np.array(self.bases, dtype=dtype)

    def inv_freq(self) -> npt.NDArray[np.float64]:
        """Frequencies of every KV head, shape (kv_heads, head_dim / 2), in radians per token."""
        return inv_freq(self.bases, self.head_dim)

    def coverage(self, max_distance: int = COVERED_TO, *, progress: Progress | None = None) -> "Coverage":
        """How the waveforms of the bases cover the distances 1 … `max_distance`.

        The options that shaped the set say which peaks and valleys count, from which distance on, and how far apart a
        pair may be. Options that the set does not hold take the defaults of `search_bases`.

        Parameters
        ----------
        max_distance : int
            The last distance, in tokens, included.
        progress : callable, optional
            Called as progress("coverage", heads done, heads).

        Returns
        -------
        Coverage

        Raises
        ------
        ValueError
            If `max_distance` or an option in `parameters` is out of range.
        MemoryError
            If it does not fit in memory; the message says how much it needs.
        """
        from ropesearch.curves.coverage import coverage_of_bases  # a higher room: numba loads on the first call

        return coverage_of_bases(self, max_distance, progress=progress)

    def with_coverage(self, max_distance: int = COVERED_TO, *, progress: Progress | None = None) -> "BaseSet":
        """Return a copy that carries the figures of `coverage`."""
        return replace(self, coverage_figures=self.coverage(max_distance, progress=progress).to_dict())

    def to_dataframe(self) -> "DataFrame":
        """Return one row per KV head as a pandas data frame: kv_head, base and its place in the order of choice.

        Raises
        ------
        ImportError
            If pandas is not installed.
        """
        left = list(self.selection)
        rows = []
        for head, base in enumerate(self.bases):
            place = left.index(base)
            left[place] = math.nan  # a base that was chosen twice has two places
            rows.append((head, base, place + 1))
        return as_dataframe(["kv_head", "base", "chosen"], rows)

    def to_json(self) -> str:
        """Return the text of the base-set file."""
        content = {"format": FORMAT, "version": VERSION} | {key: getattr(self, _attribute_name(key)) for key in _KEYS}
        lines = [f"  {json.dumps(key)}: {json.dumps(value, allow_nan=False)}" for key, value in content.items()]
        return "{\n" + ",\n".join(lines) + "\n}\n"

    @classmethod
    def from_json(cls, text: str) -> "BaseSet":
        """Read the text of a base-set file; unknown keys are ignored.

        Raises
        ------
        ValueError
            If the text is not JSON, has another format or a newer version, lacks a key, or holds an invalid value or
            count; the message is one line.
        """
        return cls.from_content(read_json(text))

    @classmethod
    def from_content(cls, content: Any) -> "BaseSet":
        """Read the parsed content of a base-set file; raises as `from_json`."""
        content = check_versioned(content, FORMAT, VERSION, _KEYS)
        return cls(**{_attribute_name(key): content[key] for key in _KEYS})

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write the base-set file, whole or not at all.

        Raises
        ------
        OSError
            If the file exists and `overwrite` is false, or cannot be written.
        """
        write_whole(path, self.to_json(), overwrite=overwrite)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "BaseSet":
        """Read a base-set file.

        Raises
        ------
        OSError
            If the file does not exist or cannot be read.
        ValueError
            If it is not a base-set file, or has more than 4 MB; the message names it and says why.
        """
        data = read_file(path, MOST_BYTES)
        try:
            return cls.from_json(data.decode())
        except ValueError as error:
            msg = f"{path} is not a usable base-set file: {error}"
            raise InputError(msg) from None


def _attribute_name(key: str) -> str:
    """Return the name of the attribute that holds a key of the file."""
    return "coverage_figures" if key == "coverage" else key
