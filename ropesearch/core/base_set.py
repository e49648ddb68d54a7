"""A base set: one RoPE base per KV head, or per layer and KV head, and the file that carries it."""

import json
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, SupportsIndex

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
VERSION = 2
"""Of a file with bases for each layer; one with the same for all is of version 1."""
OF_MODEL = ("carried by a model", "one base of a model")
"""Strategies of sets that were read from a model, where nothing was chosen: its own bases, or its one base."""
MOST_BYTES = 4_000_000
"""How large a base-set file may be; one of 100 layers of 128 heads has less than 0.5 MB."""

_LAYER = re.compile(r"(.+)#(-?[0-9]{1,9})")

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
    """The RoPE bases of a model, one per KV head: the same in every layer, or each layer's own.

    It indexes and iterates like the tuple of its bases. `BaseSet.of` makes one from numbers, `BaseSet.load` reads one
    from a file, and `search_bases` searches for one.

    Attributes
    ----------
    heads, kv_heads : int
        Query heads and KV heads; `kv_heads` divides `heads`. Query heads h·g … h·g + g − 1, g = heads / kv_heads,
        share the keys, and so the base, of KV head h.
    head_dim : int
        Channels of a head that rotate, even; all of them in most models.
    bases : tuple of float, length kv_heads, or tuple of such tuples, one for each layer
        In head order, dimensionless, each above 1.
    selection : tuple, as `bases`
        The same bases, in the order in which the search chose them; where layers differ, layer by layer.
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
    bases: tuple[Any, ...]
    selection: tuple[Any, ...]
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
            object.__setattr__(self, name, _checked(name, getattr(self, name), self.kv_heads))
        if _sorted(self.bases) != _sorted(self.selection):
            of_layers = "" if self.layers is None else ", layer by layer"
            msg = f"selection must hold the same values as `bases`, in any order{of_layers}"
            raise InputError(msg)
        if not isinstance(self.strategy, str):
            raise ParameterError("strategy", self.strategy, "a string")
        for key in ("parameters", "coverage", "made_by"):
            value = getattr(self, _attribute_name(key))
            if not isinstance(value, Mapping):
                raise ParameterError(key, value, "a mapping of names to values")

    @classmethod
    def of(
        cls, bases: Iterable[Any], *, heads: int | None = None, head_dim: int = 128, strategy: str = "given"
    ) -> "BaseSet":
        """Make a set from plain numbers.

        Parameters
        ----------
        bases : iterable of float, or of lists, tuples or arrays of them
            One per KV head, in head order, dimensionless, each above 1; or those of each layer.
        heads : int, optional
            Query heads, a multiple of the number of bases. By default one per base.
        head_dim : int
            Channels of a head that rotate, even; all of them in most models.
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
        row = values[0] if has_layers(values) else values
        if not len(row):
            raise ParameterError("bases", bases, "a list of bases")
        n = len(row) if heads is None else heads
        return cls(n, len(row), head_dim, bases=values, selection=values, strategy=strategy)

    @classmethod
    def of_model(cls, config: ModelConfig) -> "BaseSet":
        """Return the bases that a model carries; one with a single base for all heads gives that for every KV head.

        Raises
        ------
        ValueError
            If the model has no RoPE or says no base; or if it is of a type that cannot have bases, and rotates only
            part of each head or has a rotary embedding for each type of layer.
        """
        shape = config.shape
        if config.rope_rule == BY_LAYER_TYPE:
            msg = f"{config.name} has a rotary embedding for each type of layer, and a base set one for all"
            raise InputError(msg)
        if config.bases is not None:
            return cls.of(config.bases, heads=shape.heads, head_dim=shape.head_dim, strategy=OF_MODEL[0])
        if config.base is None:
            msg = f"{config.name}: it has no rope_theta"
            raise InputError(msg)
        one = [config.base] * shape.kv_heads
        return cls.of(one, heads=shape.heads, head_dim=shape.head_dim, strategy=OF_MODEL[1])

    @property
    def layers(self) -> int | None:
        """Layers that have bases of their own; None if all layers have the same."""
        return len(self.bases) if has_layers(self.bases) else None

    def layer(self, layer: int) -> "BaseSet":
        """Return the bases of one layer as a set of their own, without figures of coverage.

        Parameters
        ----------
        layer : int
            Counted from 0.

        Raises
        ------
        ValueError
            If there is no such layer, or all layers have the same bases.
        """
        if self.layers is None:
            raise InputError("all layers of the set have the same bases: there is none to choose")
        row = checks.integer("layer", layer, 0)
        if row >= self.layers:
            msg = f"layer {row} does not exist: the set has {self.layers} layers, 0 to {self.layers - 1}"
            raise InputError(msg)
        return replace(
            self,
            bases=self.bases[row],
            selection=self.selection[row],
            parameters={**self.parameters, "layer": row},
            coverage_figures={},
        )

    def of_all_layers(self, what: str, file: str | None = None) -> tuple[float, ...]:
        """Return the bases of a set whose layers have the same; raise InputError for `what` if layers differ.

        The message tells to choose a layer of `file`, if the set is known to come from one.
        """
        if self.layers is None:
            return self.bases
        msg = f"{what} is of one layer's bases, and the set has bases for each of {self.layers} layers: choose a layer,"
        msg += " as in FILE#0, or BaseSet.layer(0)" if file is None else f" as in {file}#0"
        raise InputError(msg)

    def __len__(self) -> int:
        """Return the number of KV heads; where layers differ, of layers."""
        return len(self.bases)

    def __getitem__(self, index: SupportsIndex | slice) -> Any:
        """Return the base of one KV head, or where layers differ those of one layer; of a slice, a tuple of them."""
        return self.bases[index]

    def __iter__(self) -> Iterator[Any]:
        """Iterate over the bases in head order; where layers differ, over the tuples of their bases."""
        return iter(self.bases)

    def __hash__(self) -> int:
        """Hash by bases and heads. Sets are equal if all values of their files are."""
        return hash((self.bases, self.heads, self.head_dim))

    def __repr__(self) -> str:
        """Show the bases (only the first of many) and the shape of the heads."""
        kv_heads = "" if self.kv_heads == self.heads else f", kv_heads={self.kv_heads}"
        layers = "" if self.layers is None else f", layers={self.layers}"
        return f"BaseSet({_brief(self.bases)}, heads={self.heads}{kv_heads}, head_dim={self.head_dim}{layers})"

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        """Return the bases in head order, shape (kv_heads,) or (layers, kv_heads)."""
        return np.array(self.bases, dtype=dtype)

    def inv_freq(self) -> npt.NDArray[np.float64]:
        """Frequencies of every KV head, shape (kv_heads, head_dim / 2) or (layers, …), in radians per token."""
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
            If `max_distance` or an option in `parameters` is out of range, or layers differ: choose one by `layer`.
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

        Where layers differ, `layer` stands before them.

        Raises
        ------
        ImportError
            If pandas is not installed.
        """
        columns = ["kv_head", "base", "chosen"]
        if self.layers is None:
            return as_dataframe(columns, self._heads())
        rows = [(layer, *row) for layer in range(self.layers) for row in self.layer(layer)._heads()]
        return as_dataframe(["layer", *columns], rows)

    def _heads(self) -> list[tuple[int, float, int]]:
        """KV head, base and place in the order of choice, of a set whose layers have the same bases."""
        left = list(self.selection)
        rows = []
        for head, base in enumerate(self.bases):
            place = left.index(base)
            left[place] = math.nan  # a base that was chosen twice has two places
            rows.append((head, base, place + 1))
        return rows

    def to_json(self) -> str:
        """Return the text of the base-set file."""
        version = 1 if self.layers is None else VERSION
        content = {"format": FORMAT, "version": version} | {key: getattr(self, _attribute_name(key)) for key in _KEYS}
        lines = [f"  {json.dumps(key)}: {json.dumps(value, allow_nan=False)}" for key, value in content.items()]
        return "{\n" + ",\n".join(lines) + "\n}\n"

    @classmethod
    def from_json(cls, text: str) -> "BaseSet":
        """Read the text of a base-set file; unknown keys are ignored.

        Raises
        ------
        ValueError
            If the text is not JSON, has another format or a newer version, lacks a key, or holds an invalid value or
            count; the message is one line. Version 1 holds no bases of layers, and version 2 no others.
        """
        return cls.from_content(read_json(text))

    @classmethod
    def from_content(cls, content: Any) -> "BaseSet":
        """Read the parsed content of a base-set file; raises as `from_json`."""
        content = check_versioned(content, FORMAT, VERSION, _KEYS)
        bases = content["bases"]
        if content["version"] > 1 and not has_layers(bases):
            raise ParameterError("bases", bases, f"a list of bases for each layer in version {content['version']}")
        if content["version"] == 1 and isinstance(bases, list):
            for base in bases:
                if _is_row(base):
                    hint = "; bases for each layer need version 2"
                    raise ParameterError("every value of bases", base, "a finite number above 1", hint)
                checks.base("every value of bases", base)
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

        Parameters
        ----------
        path : path-like
            The file. FILE#3 is layer 3, counted from 0, of a set whose layers differ, unless a file is called so.

        Raises
        ------
        OSError
            If the file does not exist or cannot be read.
        ValueError
            If it is not a base-set file, has more than 4 MB or no such layer; the message names it and says why.
        """
        chosen = _LAYER.fullmatch(os.fsdecode(path))
        if chosen and not os.path.exists(path):
            whole, layer = cls.load(chosen[1]), int(chosen[2])
            if layer < 0:
                msg = f"{path}: layer {layer} does not exist: layers are counted from 0"
                raise InputError(msg)
            try:
                return whole.layer(layer)
            except InputError as error:
                msg = f"{path}: {error}"
                raise InputError(msg) from None
        data = read_file(path, MOST_BYTES)
        try:
            return cls.from_json(data.decode())
        except ValueError as error:
            msg = f"{path} is not a usable base-set file: {error}"
            raise InputError(msg) from None


def _attribute_name(key: str) -> str:
    """Return the name of the attribute that holds a key of the file."""
    return "coverage_figures" if key == "coverage" else key


def has_layers(bases: Any) -> bool:
    """Whether these are bases of each layer, and not those of all layers together."""
    return isinstance(bases, list | tuple) and bool(bases) and _is_row(bases[0])


def _is_row(value: Any) -> bool:
    """Whether a value in a list of bases is itself one: that of a layer."""
    return isinstance(value, list | tuple | BaseSet) or getattr(value, "ndim", 0) == 1


def _checked(name: str, values: Any, kv_heads: int) -> tuple[Any, ...]:
    """Return bases as a tuple, or where layers differ as a tuple of tuples; raise InputError for anything else."""
    if isinstance(values, str | Mapping) or not hasattr(values, "__iter__"):
        raise ParameterError(name, values, "a list of bases")
    given = tuple(values)
    if not has_layers(given):
        return _checked_row(name, given, kv_heads)
    return tuple(_checked_row(f"{name} of layer {layer}", row, kv_heads) for layer, row in enumerate(given))


def _checked_row(name: str, values: Any, kv_heads: int) -> tuple[float, ...]:
    if not _is_row(values):
        raise ParameterError(name, values, "a list of bases")
    found = tuple(checks.base(f"every value of {name}", base) for base in values)
    if len(found) != kv_heads:
        msg = f"{name} must have one base per KV head: {kv_heads}, not {len(found)}"
        raise InputError(msg)
    return found


def _sorted(bases: tuple[Any, ...]) -> list[Any]:
    """Bases in ascending order, layer by layer."""
    return [sorted(row) for row in bases] if has_layers(bases) else sorted(bases)


def _brief(values: tuple[Any, ...]) -> str:
    """Show a tuple of bases, or of tuples of them; only the first of many."""
    each = [_brief(value) if _is_row(value) else shown(value) for value in values[:4]]
    listed = ", ".join(each if len(values) <= 4 else [*each[:3], "..."])
    return f"({listed},)" if len(values) == 1 else f"({listed})"
