"""Position schemes: what turns positions into angles, read from one line of text such as `yarn:32`.

`parse_scheme` reads the text; what comes back gives frequencies, an attention factor, the distances that the model
sees, and the attention waveform of all that. Where Hugging Face transformers has a rule, this is the same rule.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, NoReturn

import numpy as np
import numpy.typing as npt

from . import checks
from .base_set import BaseSet
from .candidates import evenly_spaced_bases
from .coverage import Coverage, coverage_of
from .extrema import EXTREMA_DEFAULTS, extrema_rule
from .memory import require_memory
from .model_config import LongRope, read_long_rope
from .presets import PRESETS, TABLE_2
from .progress import Progress
from .rope import inv_freq
from .waveforms import decay_bound_of, waveform_memory, waveform_of

Floats = npt.NDArray[np.float64]
Distances = npt.NDArray[np.int64]

ABF_STAGES = ((1e6, 32768), (2e6, 65536), (5e6, 131072))
"""Multi-stage ABF: the base that is set at each stage, and the length that is trained with it, in tokens."""


@dataclass(frozen=True)
class Scheme:
    """A way to turn positions into angles; `parse_scheme` makes one.

    Rows are heads: one row per base for a set of
    bases, in head order, and one row that stands for every head otherwise.

    Attributes
    ----------
    name : str
        The text that `parse_scheme` reads as this scheme: only options that are not the default.
    head_dim : int
        Channels per head, even.
    original : int
        Length that the model was trained on before its context was extended, in tokens.
    bases : tuple of float
        RoPE theta of each row, dimensionless; `inv_freq` may be more than what follows from them alone.
    """

    name: str
    head_dim: int
    original: int
    bases: tuple[float, ...]

    def inv_freq(self, length: int | None = None) -> Floats:
        """Frequencies of every row.

        Parameters
        ----------
        length : int, optional
            Length of the sequence in tokens, positions 0 … length − 1. Only `dynamic` and `longrope` depend on it.
            If left out, it is the length that the scheme extends to: `original` times the factor for `dynamic`,
            max_position_embeddings of the model for `longrope`.

        Returns
        -------
        ndarray of float64, shape (rows, head_dim / 2)
            In radians per token.

        Raises
        ------
        ValueError
            If `length` is no integer of at least 1.
        """
        return self._frequencies(self._length(length))

    def attention_factor(self, length: int | None = None) -> float:
        """What cosines and sines are multiplied by; the scores are multiplied by its square.

        Parameters
        ----------
        length : int, optional
            As for `inv_freq`. Only `longrope` may depend on it.

        Returns
        -------
        float
            Dimensionless, 1 for most schemes.

        Raises
        ------
        ValueError
            If `length` is no integer of at least 1.
        """
        return self._attention_factor(self._length(length))

    def distances(self, m: npt.ArrayLike, *, upper: bool = False) -> Distances:
        """Distances as the model sees them.

        Parameters
        ----------
        m : array_like of int, any shape
            Query position − key position, in tokens, ≥ 0.
        upper : bool
            `self-extend` sees one of two distances, by where query and key fall in their groups: the smaller one,
            or with `upper` the greater one. The others see the distance itself.

        Returns
        -------
        ndarray of int64, the shape of `m`
            In tokens.

        Raises
        ------
        ValueError
            If `m` holds anything but integers of at least 0.
        """
        given = np.asarray(m)
        if given.dtype.kind not in "iu" or (given.size and given.min() < 0):
            raise checks.ParameterError("m", m, "integers of at least 0")
        return self._distances(given.astype(np.int64), upper)

    def waveforms(
        self, max_distance: int, *, min_distance: int = 0, length: int | None = None, upper: bool = False
    ) -> Floats:
        """Pre-softmax attention of an all-ones query and key, by distance, for every row.

        Parameters
        ----------
        max_distance, min_distance : int
            First and last distance, in tokens, both included.
        length : int, optional
            As for `inv_freq`: the length is the same all along the curve, and is not taken from `max_distance`.
        upper : bool
            As for `distances`.

        Returns
        -------
        ndarray of float64, shape (rows, max_distance - min_distance + 1)
            f²·(2/√d)·Σ_i cos(m'·θ_i) with the attention factor f and the distance m' that the model sees, in logits.

        Raises
        ------
        ValueError
            If an argument is out of range; the message names it and shows its value.
        MemoryError
            If the curves do not fit in memory; the message says how much they need.

        References
        ----------
        Su et al., arXiv:2104.09864, sections 3.4.2-3.4.3, with q = k = 1; the scheme's own are at its name in
        `SCHEMES`.
        """
        return self._curves(waveform_of, min_distance, max_distance, length, upper)

    def decay_bounds(
        self, max_distance: int, *, min_distance: int = 0, length: int | None = None, upper: bool = False
    ) -> Floats:
        """RoFormer's upper bound on how attention decays, by distance, for every row.

        Parameters
        ----------
        max_distance, min_distance, length, upper
            As for `waveforms`.

        Returns
        -------
        ndarray of float64, shape (rows, max_distance - min_distance + 1)
            f²·(2/d)·Σ_j |Σ_{i≤j} e^{i·m'·θ_i}|, dimensionless; see `waveforms`.

        Raises
        ------
        ValueError, MemoryError
            As for `waveforms`.

        References
        ----------
        Su et al., arXiv:2104.09864, section 3.4.3.
        """
        return self._curves(decay_bound_of, min_distance, max_distance, length, upper)

    def coverage(
        self,
        max_distance: int = 131072,
        *,
        length: int | None = None,
        upper: bool = False,
        progress: Progress | None = None,
    ) -> Coverage:
        """How the waveforms of the rows cover the distances 1 … `max_distance` − 1.

        Peaks and valleys are those of the defaults of `search_bases`.

        Parameters
        ----------
        max_distance : int
            One more than the last distance, in tokens, at least 2.
        length, upper
            As for `waveforms`.
        progress : callable, optional
            Called as progress("coverage", rows done, rows).

        Returns
        -------
        Coverage

        Raises
        ------
        ValueError
            If an argument is out of range; the message names it and shows its value.
        MemoryError
            If it does not fit in memory; the message says how much it needs.
        """
        last = checks.integer("max_distance", max_distance, 2) - 1
        return coverage_of(
            self.row_waveforms(last, length=length, upper=upper),
            len(self.bases),
            rule=extrema_rule(**EXTREMA_DEFAULTS),
            min_distance=min(1000, last),
            max_distance=last + 1,
            tolerance=3,
            progress=progress,
        )

    def row_waveforms(
        self, max_distance: int, *, min_distance: int = 0, length: int | None = None, upper: bool = False
    ) -> Callable[[int], Floats]:
        """Return a function that gives one row of `waveforms`, for whoever need not hold all of them at once."""
        return self._rows(waveform_of, min_distance, max_distance, length, upper)

    def _curves(
        self,
        curve: Callable[[Floats, int, int], Floats],
        min_distance: Any,
        max_distance: Any,
        length: Any,
        upper: bool,
    ) -> Floats:
        first, last = checks.distances(min_distance, max_distance)
        n_rows, n = len(self.bases), last - first + 1
        # Beside the rows and the curve being computed: distances before and after, and what it takes to map them.
        needed = 8 * n_rows * n + waveform_memory(self.head_dim, n) + 40 * n
        require_memory(needed, f"{n_rows} curve{'s' * (n_rows > 1)} over {n} distances")
        row_of = self._rows(curve, first, last, length, upper)
        out = np.empty((n_rows, n))
        for i, row in enumerate(out):
            row[:] = row_of(i)
        return out

    def _rows(
        self, curve: Callable[[Floats, int, int], Floats], first: int, last: int, length: int | None, upper: bool
    ) -> Callable[[int], Floats]:
        """One row at a time; what the rows share is computed once."""
        thetas, scale = self.inv_freq(length), self.attention_factor(length) ** 2
        seen = self.distances(np.arange(first, last + 1), upper=upper)
        start, end = int(seen[0]), int(seen[-1])  # no scheme changes the order of distances
        seen -= start
        return lambda i: curve(thetas[i], start, end)[seen] * scale

    def _length(self, length: int | None) -> int:
        return self._target() if length is None else checks.integer("length", length, 1)

    # What a scheme changes of plain rotary position embedding.

    def _target(self) -> int:
        return self.original

    def _frequencies(self, length: int) -> Floats:
        return inv_freq(self.bases, self.head_dim)

    def _attention_factor(self, length: int) -> float:
        return 1.0

    def _distances(self, m: Distances, upper: bool) -> Distances:
        return m


@dataclass(frozen=True)
class _PositionInterpolation(Scheme):
    factor: float

    def _frequencies(self, length: int) -> Floats:
        return super()._frequencies(length) / self.factor


@dataclass(frozen=True)
class _Dynamic(Scheme):
    factor: float

    def _target(self) -> int:
        return round(self.original * self.factor)

    def _frequencies(self, length: int) -> Floats:
        stretch = self.factor * max(length, self.original) / self.original - (self.factor - 1)
        return inv_freq([_ntk_base(base, stretch, self.head_dim) for base in self.bases], self.head_dim)


@dataclass(frozen=True)
class _NtkByParts(Scheme):
    factor: float

    def _frequencies(self, length: int) -> Floats:
        theta = super()._frequencies(length)
        (base,) = self.bases
        # Index of the frequency that turns 32 times, and of the one that turns once, over the trained length.
        fast, slow = (
            self.head_dim * math.log(self.original / (turns * 2 * math.pi)) / (2 * math.log(base)) for turns in (32, 1)
        )
        first, last = float(max(math.floor(fast), 0)), float(min(math.ceil(slow), self.head_dim - 1))
        width = last - first or 1  # a ramp of whole indices that begins and ends at one is a step
        ramp: Floats = np.clip((np.arange(self.head_dim // 2) - first) / width, 0, 1)
        return theta * (1 - ramp) + theta / self.factor * ramp


@dataclass(frozen=True)
class _Yarn(_NtkByParts):
    def _attention_factor(self, length: int) -> float:
        return 0.1 * math.log(self.factor) + 1


@dataclass(frozen=True)
class _Llama3(Scheme):
    factor: float
    low_freq_factor: float
    high_freq_factor: float

    def _frequencies(self, length: int) -> Floats:
        theta = super()._frequencies(length)
        turns = self.original * theta / (2 * math.pi)
        kept: Floats = np.clip((turns - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor), 0, 1)
        return theta * kept + theta / self.factor * (1 - kept)


@dataclass(frozen=True)
class _LongRope(Scheme):
    rule: LongRope

    def _target(self) -> int:
        return self.rule.longest

    def _frequencies(self, length: int) -> Floats:
        divisors = self.rule.long_factor if length > self.original else self.rule.short_factor
        return super()._frequencies(length) / np.array(divisors, dtype=np.float64)

    def _attention_factor(self, length: int) -> float:
        return self.rule.long_attention_factor if length > self.original else self.rule.short_attention_factor


@dataclass(frozen=True)
class _SelfExtend(Scheme):
    window: int
    group: int

    def _distances(self, m: Distances, upper: bool) -> Distances:
        # ⌊q/G⌋ − ⌊k/G⌋ is ⌊(q−k)/G⌋ or ⌈(q−k)/G⌉, which are one where the group divides q − k.
        groups = -(-m // self.group) if upper else m // self.group
        return np.where(m < self.window, m, groups + (self.window - self.window // self.group))


def parse_scheme(text: str) -> Scheme:
    """Position scheme out of a line of text, `NAME[:VALUE][,key=value…]`.

    Parameters
    ----------
    text : str
        A name of `SCHEMES`, its value where it has one, and options. `original` is the trained length in tokens
        (4096), `head_dim` the channels per head (128), `base` the RoPE theta that a scheme starts from (10000). A
        scheme that brings one of them, in its value, its file or its bases, does not take it as an option too.
        `self-extend` needs `group`; `llama3` has `low_freq_factor` (1) and `high_freq_factor` (4).

    Returns
    -------
    Scheme
        `parse_scheme(scheme.name)` is the same scheme again.

    Raises
    ------
    OSError
        If a file that the text names cannot be read.
    ValueError
        If there is no such scheme, or a value or an option is missing, unknown or out of range, or a file does not
        hold what it should; the message is one line that says what would be right.

    Examples
    --------
    >>> float(parse_scheme("pi:32").inv_freq()[0, 0])
    0.03125
    """
    if not isinstance(text, str):
        raise checks.ParameterError("scheme", text, "a text such as 'yarn:32'")
    return _Words(text).scheme()


class SchemeKind(NamedTuple):
    """A name that `parse_scheme` knows.

    `description` is one line, `example` a text to start from, `value` what the value is ("" where there is none),
    `keys` are the options.
    """

    description: str
    example: str
    value: str
    keys: tuple[str, ...]
    make: Callable[["_Words"], Scheme]


class _Words:
    """The parts of a scheme's text; those that are read make up its canonical name."""

    def __init__(self, text: str) -> None:
        self.text = text
        name = re.split("[:,]", text, maxsplit=1)[0]
        rest = text[len(name) :]
        self.name = name.strip()
        if self.name not in SCHEMES:
            hint = checks.nearest(self.name, SCHEMES)
            msg = f"there is no position scheme {checks.shown(self.name)}, only {', '.join(SCHEMES)}{hint}"
            raise checks.InputError(msg)
        self.kind = SCHEMES[self.name]
        self.given: dict[str, str] = {}
        # Options are taken off the end, for the value may be a path with commas in it.
        while found := re.search(r",\s*(\w+)\s*=([^,]*)\Z", rest):
            self._give(found[1], found[2])
            rest = rest[: found.start()]
        if rest.startswith(","):
            self.refuse(f"an option must be key=value, not {checks.shown(rest[1:])}")
        self.value = rest[1:]
        if self.value.strip() and not self.kind.value:
            self.refuse(f"{self.name} takes no value, not {checks.shown(self.value)}")
        self.written: dict[str, str] = {}

    def _give(self, key: str, value: str) -> None:
        if key not in self.kind.keys:
            known = f", only {', '.join(self.kind.keys)}" if self.kind.keys else ", for the file says all there is"
            self.refuse(f"there is no option {key}{known}")
        if key in self.given:
            self.refuse(f"the option {key} is given twice")
        self.given[key] = value

    def refuse(self, what: str) -> NoReturn:
        msg = f"scheme {checks.shown(self.text)}: {what}"
        raise checks.InputError(msg) from None

    def scheme(self) -> Scheme:
        try:
            made = self.kind.make(self)
        except checks.ParameterError as error:
            # Not as a ParameterError: what it names is a word of this text, not a parameter of whoever called.
            self.refuse(str(error))
        options = [self.written[key] for key in self.kind.keys if key in self.written]
        return replace(made, name=",".join([self.name + self.written.get("", ""), *options]))

    def file(self) -> str:
        if not self.value.strip():
            self.refuse(f"a {self.kind.value} is missing, as in {self.kind.example}")
        self.written[""] = f":{self.value}"
        return self.value

    def number(self, check: Callable[[str, Any], Any], default: float | None = None) -> Any:
        """Value of the scheme as a number; None as the default says that it must be given."""
        if default is not None and not self.value.strip():
            return default
        value = check(self.kind.value, _number(self.file()))
        self.written[""] = f":{_written(value)}" if value != default else ""
        return value

    def option(self, key: str, check: Callable[[str, Any], Any], default: float | None = None) -> Any:
        if key in self.given:
            value = check(key, _number(self.given[key]))
        elif default is not None:
            value = default
        else:
            self.refuse(f"the option {key} is missing, as in {self.kind.example}")
        if value != default:
            self.written[key] = f"{key}={_written(value)}"
        return value

    def base(self) -> tuple[float]:
        return (self.option("base", checks.base, 10000.0),)

    def head_dim(self) -> int:
        return int(self.option("head_dim", lambda _, value: checks.head_dim(value), 128))

    def original(self) -> int:
        return int(self.option("original", _at_least_one, 4096))

    def factor(self) -> float:
        factor = float(self.number(lambda name, value: checks.number(name, value, "a number of at least 1", least=1.0)))
        most = checks.LARGEST_INTEGER // self.original()
        if factor > most:
            raise checks.ParameterError("factor", factor, f"at most {most} with original {self.original()}")
        return factor

    def common(self) -> dict[str, Any]:
        return {"name": self.name, "head_dim": self.head_dim(), "original": self.original()}


def _number(text: str) -> int | float | str:
    """Return the number that a text says, or the text, for a message to show."""
    try:
        return int(text)
    except ValueError:
        pass
    try:
        value = float(text)
    except ValueError:
        return text
    return int(value) if value.is_integer() else value


def _written(value: float) -> str:
    """Return a number in its shortest words: 5e6, 10000, 0.5."""
    text = re.sub(r"e\+0*", "e", f"{value:g}")
    return text if float(text) == value else checks.shown(value)


def _at_least_one(name: str, value: Any) -> int:
    return checks.integer(name, value, 1)


def _ntk_base(base: float, factor: float, head_dim: int) -> float:
    if head_dim < 4:
        raise checks.ParameterError("head_dim", head_dim, "at least 4 here, for the exponent head_dim / (head_dim - 2)")
    return checks.base("base", base * factor ** (head_dim / (head_dim - 2)))


def _stretched(kind: Callable[..., Scheme]) -> Callable[[_Words], Scheme]:
    return lambda words: kind(bases=words.base(), factor=words.factor(), **words.common())


def _of_bases(bases: Callable[[_Words], tuple[float, ...]]) -> Callable[[_Words], Scheme]:
    return lambda words: Scheme(bases=bases(words), **words.common())


def _stage(words: _Words) -> tuple[float, ...]:
    stages = len(ABF_STAGES)
    stage = words.number(lambda name, value: checks.integer(name, value, 1, stages), stages)
    return (ABF_STAGES[stage - 1][0],)


def _ntk(words: _Words) -> tuple[float, ...]:
    (base,) = words.base()
    return (_ntk_base(base, words.factor(), words.head_dim()),)


def _dynamic(words: _Words) -> Scheme:
    scheme = _Dynamic(bases=words.base(), factor=words.factor(), **words.common())
    scheme.inv_freq()  # what is out of range is said now
    return scheme


def _llama3(words: _Words) -> Scheme:
    low, high = (
        words.option(key, lambda name, value: checks.number(name, value, "a finite number above 0", above=0.0), default)
        for key, default in (("low_freq_factor", 1.0), ("high_freq_factor", 4.0))
    )
    if high <= low:
        raise checks.ParameterError("high_freq_factor", high, f"greater than low_freq_factor, {checks.shown(low)}")
    return _Llama3(
        bases=words.base(), factor=words.factor(), low_freq_factor=low, high_freq_factor=high, **words.common()
    )


def _long_rope(words: _Words) -> Scheme:
    rule = read_long_rope(words.file())
    return _LongRope(words.name, rule.head_dim, rule.original, (rule.base,), rule)


def _self_extend(words: _Words) -> Scheme:
    return _SelfExtend(
        bases=words.base(),
        window=words.number(_at_least_one),
        group=words.option("group", _at_least_one),
        **words.common(),
    )


def _uniform(words: _Words) -> tuple[float, ...]:
    published = PRESETS["table2"]
    return tuple(evenly_spaced_bases(published["bmin"], published["bmax"], published["heads"]))


def _harpe(words: _Words) -> Scheme:
    base_set = BaseSet.load(words.file())
    return Scheme(words.name, base_set.head_dim, words.original(), base_set.bases)


_SHAPE = ("original", "head_dim")
_KEYS = ("original", "base", "head_dim")

SCHEMES: Mapping[str, SchemeKind] = {
    "rope": SchemeKind(
        "plain rotary position embedding of the given base (arXiv:2104.09864)",
        "rope:10000", "base", _SHAPE, _of_bases(lambda words: (words.number(checks.base),)),
    ),
    "pi": SchemeKind(
        "position interpolation: positions divided by the factor (arXiv:2306.15595)",
        "pi:32", "factor", _KEYS, _stretched(_PositionInterpolation),
    ),
    "abf": SchemeKind(
        "adjusted base frequency: another base (arXiv:2309.16039)",
        "abf:5e6", "base", _SHAPE, _of_bases(lambda words: (words.number(checks.base),)),
    ),
    "abf-multi-stage": SchemeKind(
        "ABF in stages, 1e6 to 32k, 2e6 to 64k, 5e6 to 128k: the base of the last, or of the stage 1, 2 or 3",
        "abf-multi-stage", "stage", _SHAPE, _of_bases(_stage),
    ),
    "ntk": SchemeKind(
        "NTK-aware: the base times factor^(d/(d-2)), which divides the lowest frequency by the factor",
        "ntk:32", "factor", _KEYS, _of_bases(_ntk),
    ),
    "dynamic": SchemeKind(
        "dynamic NTK: NTK-aware with a factor that grows with the sequence beyond the trained length",
        "dynamic:32", "factor", _KEYS, _dynamic,
    ),
    "ntk-by-parts": SchemeKind(
        "NTK-by-parts: YaRN with an attention factor of 1 (arXiv:2309.00071)",
        "ntk-by-parts:32", "factor", _KEYS, _stretched(_NtkByParts),
    ),
    "yarn": SchemeKind(
        "YaRN: low frequencies divided by the factor, high ones kept, scores scaled (arXiv:2309.00071)",
        "yarn:32", "factor", _KEYS, _stretched(_Yarn),
    ),
    "llama3": SchemeKind(
        "Llama 3.1: frequencies divided by the factor where they turn less than once over the trained length",
        "llama3:8,original=8192,base=5e5", "factor", (*_KEYS, "low_freq_factor", "high_freq_factor"), _llama3,
    ),
    "longrope": SchemeKind(
        "LongRoPE: one divisor per frequency, out of a model's config.json (arXiv:2402.13753)",
        "longrope:config.json", "file", (), _long_rope,
    ),
    "self-extend": SchemeKind(
        "Self-Extend: distances beyond a window counted in groups (arXiv:2401.01325)",
        "self-extend:1024,group=32", "window", ("group", *_KEYS), _self_extend,
    ),
    "uniform": SchemeKind(
        "32 bases evenly spaced from 1e6 to 5e6, one per head (HARPE, arXiv:2412.07171, Eq. 9)",
        "uniform", "", _SHAPE, _of_bases(_uniform),
    ),
    "uniform-descending": SchemeKind(
        "the same from 5e6 down to 1e6",
        "uniform-descending", "", _SHAPE, _of_bases(lambda words: _uniform(words)[::-1]),
    ),
    "table2": SchemeKind(
        "the 32 bases of HARPE's Table 2, one per head (arXiv:2412.07171)",
        "table2", "", _SHAPE, _of_bases(lambda _: TABLE_2),
    ),
    "harpe": SchemeKind(
        "the bases of a base-set file, one per KV head",
        "harpe:bases.json", "file", ("original",), _harpe,
    ),
}  # fmt: skip
"""What `parse_scheme` knows, by name."""
