"""The options of a search: the only home of their types, defaults, checks and help texts.

It is in `core` because curves and schemes share some of these options. What does not shape a result (threads, device,
progress) is not part of it and is never written to a file.
"""

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from functools import partial
from typing import Any

from . import checks
from .errors import ParameterError, shown
from .grid import count_candidates, search_range, widest_stride

STRATEGIES = ("peak-valley", "uniform", "floor", "ripple")
EXTREMA_RULES = ("dominant", "local")
MATCHINGS = ("coincidence", "distance")
ORDERS = ("ascending", "descending", "selection")

CONTEXT_NEEDS = {"floor": 2, "ripple": 8192}
"""Least context, in tokens, for each coverage figure; its distances are 0 … context − 1."""
COVERED_TO = 131071
"""Default last distance for coverage: that of a context of 128k tokens."""

EXTREMA_OPTIONS = (
    "extrema",
    "count",
    "gap",
    "valley_gap",
    "look_ahead",
    "level_tolerance",
    "prominence",
    "min_separation",
)
"""The options that say which peaks and valleys count."""

_HAVE_KEYS = ("heads", "kv_heads", "head_dim", "strategy")
"""Options that have their own keys in the base-set file."""


def _option(check: checks.Check, help_text: str, default: Any = MISSING, **when: str | tuple[str, ...]) -> Any:
    """Define a field; `when` gives the values of other options that it needs to have an effect."""
    values = {name: (value,) if isinstance(value, str) else value for name, value in when.items()}
    return field(default=default, metadata={"check": check, "help": help_text, "when": values})


def _head_dim(_: str, value: Any) -> int:
    return checks.head_dim(value)


_at_least_0 = partial(checks.integer, least=0)
_at_least_1 = partial(checks.integer, least=1)
_stride = checks.optional(checks.positive)

_GRID = ("peak-valley", "floor", "ripple")
_DOMINANT = {"strategy": "peak-valley", "extrema": "dominant"}
_LOCAL = {"strategy": "peak-valley", "extrema": "local"}


@dataclass(frozen=True, kw_only=True)
class SearchSpec:
    """Every option that shapes a base set, checked: the arguments of `search_bases` that the file records.

    Two searches with equal specs give the same set. Options that the strategy, the extrema rule or the matching does
    not use must still be in range, and have no effect. The order of the fields is that of `to_dict` and of the points
    in a sweep file: add new options at the end.

    Raises
    ------
    ValueError
        If an option is out of range or conflicts with another; the message names it and shows its value.
    """

    bmin: float = _option(checks.base, "Smallest base, above 1; always chosen.")
    bmax: float = _option(checks.base, "Largest base allowed.")
    stride: float | None = _option(_stride, "Step of the candidate grid.", None, strategy=_GRID)
    heads: int = _option(_at_least_1, "Query heads of the model.")
    kv_heads: int | None = _option(checks.optional(_at_least_1), "KV heads; each gets one base.", None)
    head_dim: int = _option(_head_dim, "Channels per head, even.", 128)
    min_distance: int = _option(
        _at_least_0, "First distance, in tokens.", checks.DEFAULT_MIN_DISTANCE, strategy="peak-valley"
    )
    max_distance: int = _option(
        _at_least_1,
        "Last distance, in tokens, included; for floor and ripple, tokens of context.",
        131072,
        strategy=_GRID,
    )
    strategy: str = _option(
        partial(checks.choice, choices=STRATEGIES),
        "How to choose: peak-valley (Algorithm 1 of HARPE), uniform (evenly spaced), floor (the best worst case: the"
        " largest minimum, over distance, of the best head) or ripple (the smoothest mean of the heads).",
        "peak-valley",
    )
    extrema: str = _option(
        partial(checks.choice, choices=EXTREMA_RULES),
        "Which peaks and valleys count: dominant (those on the waveform's upper and lower edge) or local (all).",
        "dominant",
        strategy="peak-valley",
    )
    matching: str = _option(
        partial(checks.choice, choices=MATCHINGS),
        "How candidates are scored: coincidence (most peaks on valleys) or distance (smallest sum of distances from"
        " each to the nearest).",
        "coincidence",
        strategy="peak-valley",
    )
    tolerance: int = _option(
        _at_least_0,
        "coincidence: maximum distance between a peak and a valley, in tokens.",
        3,
        strategy="peak-valley",
        matching="coincidence",
    )
    normalize: bool = _option(
        checks.truth,
        "distance: divide each sum by its number of terms.",
        False,
        strategy="peak-valley",
        matching="distance",
    )
    count: int = _option(_at_least_1, "dominant: maximum number of peaks, and of valleys, to keep.", 30, **_DOMINANT)
    gap: int = _option(_at_least_0, "dominant: peaks must be more than this far apart, in tokens.", 50, **_DOMINANT)
    valley_gap: int = _option(
        _at_least_0, "dominant: valleys must be more than this far apart, in tokens.", 60, **_DOMINANT
    )
    look_ahead: int = _option(
        _at_least_1,
        "dominant: how many tokens ahead to look for the level that the next peak must reach.",
        500,
        **_DOMINANT,
    )
    level_tolerance: float = _option(
        checks.not_negative, "dominant: how far from the level a peak or valley may be, in logits.", 1e-3, **_DOMINANT
    )
    prominence: float | None = _option(
        checks.optional(checks.not_negative), "local: minimum prominence, in logits.", None, **_LOCAL
    )
    min_separation: int | None = _option(
        checks.optional(_at_least_1),
        "local: minimum distance between two peaks, or two valleys, in tokens.",
        None,
        **_LOCAL,
    )
    refine: bool = _option(
        checks.truth,
        "floor, ripple: once the bases are chosen, also move them off the grid.",
        False,
        strategy=("floor", "ripple"),
    )
    order: str = _option(
        partial(checks.choice, choices=ORDERS),
        "Order of the bases over the heads: ascending, descending or selection (as they were chosen).",
        "ascending",
    )

    def __post_init__(self) -> None:
        """Check every option alone, then those that depend on each other."""
        for name, option in self.__dataclass_fields__.items():
            object.__setattr__(self, name, option.metadata["check"](name, getattr(self, name)))
        search_range(self.bmin, self.bmax)
        object.__setattr__(self, "kv_heads", checks.kv_heads(self.kv_heads, self.heads))
        if self.strategy == "uniform":
            object.__setattr__(self, "stride", None)
            object.__setattr__(self, "refine", False)
            return
        if self.strategy == "peak-valley":
            checks.distances(self.min_distance, self.max_distance)
            if self.refine:
                raise ParameterError("refine", self.refine, "left out unless `strategy` is floor or ripple")
        else:
            checks.integer("max_distance", self.max_distance, CONTEXT_NEEDS[self.strategy])
        self._check_grid()

    def _check_grid(self) -> None:
        if self.stride is None:
            raise ParameterError("stride", self.stride, "given: the step of the candidate grid")
        n = count_candidates(self.bmin, self.bmax, self.stride)
        if self.n_bases > n + 1:
            name = "heads" if self.n_bases == self.heads else "kv_heads"
            requirement = f"at most {n + 1}, because `stride` {shown(self.stride)} gives {n} candidates besides `bmin`"
            would_do = shown(widest_stride(self.bmin, self.bmax, self.n_bases - 1))
            raise ParameterError(name, self.n_bases, f"{requirement} (a stride of {would_do} is narrow enough)")

    @classmethod
    def checked(cls, name: str, value: Any) -> Any:
        """Return the value of one option, checked on its own and converted to the option's type."""
        return cls.__dataclass_fields__[name].metadata["check"](name, value)

    @property
    def n_bases(self) -> int:
        """How many bases are chosen: one per KV head."""
        return self.kv_heads or self.heads

    @property
    def covered_to(self) -> int:
        """The last distance for the set's coverage: `max_distance` if it was set, else that of a 128k context."""
        return COVERED_TO if self.max_distance == SearchSpec.max_distance else self.max_distance

    def to_dict(self) -> dict[str, Any]:
        """Return every option by name: `SearchSpec(**spec.to_dict()) == spec`."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    def parameters(self) -> dict[str, Any]:
        """Return the options for the file's `parameters`: those with an effect and without a key of their own."""
        options = self.to_dict()
        return {name: options[name] for name in options if name not in _HAVE_KEYS and has_effect(name, options)}

    def command(self) -> str:
        """Return the command line that repeats the search, without options that have their default."""
        words = ["ropesearch search"]
        kept = self.parameters()
        for option in fields(self):
            value = getattr(self, option.name)
            given = option.name in (*_HAVE_KEYS, *kept) and value is not None and value != option.default
            if given and not (option.name == "kv_heads" and value == self.heads):
                words.append(f"--{option.name.replace('_', '-')}")
                words += [] if value is True else [value if isinstance(value, str) else shown(value)]
        return " ".join(words)


def has_effect(name: str, options: Mapping[str, Any]) -> bool:
    """Whether an option has an effect given the others, each of which may be a list of values, as in a sweep."""
    return unmet(name, options) is None


def conditions(name: str) -> dict[str, tuple[str, ...]]:
    """Return which other options, at which values, give an option its effect."""
    found: dict[str, tuple[str, ...]] = SearchSpec.__dataclass_fields__[name].metadata["when"]
    return found


def unmet(name: str, options: Mapping[str, Any]) -> tuple[str, tuple[str, ...]] | None:
    """Return the first option that leaves `name` without effect, and the values that would change that; else None."""
    for other, values in conditions(name).items():
        given = options.get(other, getattr(SearchSpec, other))
        if not any(value in values for value in ([given] if isinstance(given, str) else given)):
            return other, values
    return None


def extrema_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the checked options that say which peaks and valleys count, with defaults for those not given."""
    return {name: SearchSpec.checked(name, given.get(name, getattr(SearchSpec, name))) for name in EXTREMA_OPTIONS}
