"""A base set: one RoPE base per KV head, and the file that carries it."""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, SupportsIndex, overload

import numpy as np
import numpy.typing as npt

from . import checks
from .errors import InputError, ParameterError, shown
from .files import read_versioned, write_whole
from .progress import Progress
from .rope import inv_freq
from .spec import COVERED_TO

if TYPE_CHECKING:
    from ropesearch.curves.coverage import Coverage

FORMAT = "ropesearch.base-set"
VERSION = 1

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
    """The RoPE bases of one model's heads, one per KV head, the same in every layer.

    It indexes and iterates as the tuple of its bases. `BaseSet.of` makes one from numbers, `BaseSet.load` from a file,
    `search_bases` by a search.

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
        The same bases in the order in which the search chose them.
    strategy : str
        What chose them.
    parameters, coverage_figures, made_by : mapping
        Every option that shaped the set; how it covers the distances (`coverage` in the file), if that was computed;
        versions and the command that repeats it.

    Raises
    ------
    ValueError
        If a value is out of range or counts disagree.
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
            object.__setattr__(self, name, tuple(checks.base(f"every one of {name}", b) for b in values))
            if len(getattr(self, name)) != self.kv_heads:
                msg = f"{name} must have one base per KV head: {self.kv_heads}, not {len(getattr(self, name))}"
                raise InputError(msg)
        if sorted(self.bases) != sorted(self.selection):
            raise InputError("selection must hold the same bases as bases, in another order")
        if not isinstance(self.strategy, str):
            raise ParameterError("strategy", self.strategy, "a string")
        for key in ("parameters", "coverage", "made_by"):
            value = getattr(self, _attribute(key))
            if not isinstance(value, Mapping):
                raise ParameterError(key, value, "an object of names and values")

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
            Query heads, a multiple of the bases; as many as bases if left out.
        head_dim : int
            Channels per head, even.
        strategy : str
            What the file names as the way they were chosen.

        Raises
        ------
        ValueError
            If a value is out of range, or the bases do not divide the heads.
        """
        try:
            values = () if isinstance(bases, str | bytes | Mapping) else tuple(bases)
        except TypeError:
            values = ()
        if not values:
            raise ParameterError("bases", bases, "a list of bases")
        n = len(values) if heads is None else heads
        return cls(n, len(values), head_dim, bases=values, selection=values, strategy=strategy)

    def __len__(self) -> int:
        """Return the number of KV heads."""
        return self.kv_heads

    @overload
    def __getitem__(self, index: SupportsIndex) -> float: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[float, ...]: ...
    def __getitem__(self, index: SupportsIndex | slice) -> float | tuple[float, ...]:
        """Return the base of a KV head, or those of a slice of them as a tuple."""
        return self.bases[index]

    def __iter__(self) -> Iterator[float]:
        """Iterate over the bases in head order."""
        return iter(self.bases)

    def __hash__(self) -> int:
        """Hash by bases and heads; equal are sets that agree in all that their files say."""
        return hash((self.bases, self.heads, self.head_dim))

    def __repr__(self) -> str:
        """Show the bases, of many the first, and the heads that they are for."""
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

        Which peaks and valleys count, from which distance on, and how far apart they may be, is taken from the options
        that shaped the set, and for a set that has none, from the defaults of `search_bases`.

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
            If `max_distance` is out of range, or an option in `parameters` is.
        MemoryError
            If it does not fit in memory; the message says how much it needs.
        """
        from ropesearch.curves.coverage import coverage_of_bases  # a room above: numba loads with the first call

        return coverage_of_bases(self, max_distance, progress=progress)

    def with_coverage(self, max_distance: int = COVERED_TO, *, progress: Progress | None = None) -> "BaseSet":
        """Return the same set with the figures of `coverage` in the file."""
        return replace(self, coverage_figures=self.coverage(max_distance, progress=progress).to_dict())

    def to_json(self) -> str:
        """Return the text of the base-set file."""
        content = {"format": FORMAT, "version": VERSION} | {key: getattr(self, _attribute(key)) for key in _KEYS}
        lines = [f"  {json.dumps(key)}: {json.dumps(value, allow_nan=False)}" for key, value in content.items()]
        return "{\n" + ",\n".join(lines) + "\n}\n"

    @classmethod
    def from_json(cls, text: str) -> "BaseSet":
        """Read the text of a base-set file; keys that this version does not know are ignored.

        Raises
        ------
        ValueError
            If the text is not JSON, of another format or a newer version, lacks a key, or holds a value or a
            count that cannot be; the message is one line.
        """
        content = read_versioned(text, FORMAT, VERSION, _KEYS)
        return cls(**{_attribute(key): content[key] for key in _KEYS})

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
            If there is no such file or it cannot be read.
        ValueError
            If it is no base-set file; the message names it and says why.
        """
        data = Path(path).read_bytes()
        try:
            return cls.from_json(data.decode())
        except ValueError as error:
            msg = f"{path} is not a base-set file that can be used: {error}"
            raise InputError(msg) from None


def _attribute(key: str) -> str:
    """Name of the attribute that a key of the file fills."""
    return "coverage_figures" if key == "coverage" else key
