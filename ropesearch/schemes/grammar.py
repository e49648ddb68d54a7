"""The text that names a position scheme, `NAME[:VALUE][,key=value…]`, and the table of names."""

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple, NoReturn

from ropesearch.core import checks
from ropesearch.core.base_set import BaseSet
from ropesearch.core.errors import InputError, ParameterError, shown
from ropesearch.core.grid import evenly_spaced_bases
from ropesearch.core.model_config import ModelConfig
from ropesearch.core.numbers import read_number
from ropesearch.core.presets import PRESETS, TABLE_2

from .rules import (
    ABF_STAGES,
    MS_POE_RATIOS,
    Dynamic,
    HeadBases,
    LayerBases,
    Llama3,
    LongRopeScheme,
    MultiScale,
    MultiStage,
    NtkByParts,
    PositionInterpolation,
    Scheme,
    SelfExtend,
    Stretched,
    Yarn,
    ntk_base,
)


def parse_scheme(text: str, *, model: ModelConfig | Mapping[str, Any] | None = None) -> Scheme:
    """Position scheme out of a line of text, `NAME[:VALUE][,key=value…]`.

    Parameters
    ----------
    text : str
        A name of `SCHEMES`, its value where it has one, and options. `original` is the trained length in tokens
        (4096), `head_dim` the channels per head (128), `base` the RoPE theta that a scheme starts from (10000). A
        scheme that brings one of them, in its value, its file or its bases, does not take it as an option too.
        `self-extend` needs `group`; `llama3` has `low_freq_factor` (1) and `high_freq_factor` (4); `uniform`,
        `uniform-descending` and `ms-poe` have `heads` and `kv_heads` (32, or as many as `heads`), the number of rows,
        and take a range as their value, such as 1e6..5e6. Numbers may end in k or m: thousands and millions in bases,
        1024s in lengths.
    model : ModelConfig, or what a config.json holds, optional
        A model that the scheme is for. What the text does not say is then the model's, and not the default:
        max_position_embeddings is `original`, the rest has the same name.

    Returns
    -------
    Scheme
        `parse_scheme(scheme.name)` is the same scheme again, also without the model.

    Raises
    ------
    OSError
        If a file that the text names cannot be read.
    ValueError
        If there is no such scheme, or a value or an option is missing, unknown or out of range, or a file does not
        hold what it should, or the scheme does not fit the model; the message is one line that says what would be
        right.

    Examples
    --------
    >>> float(parse_scheme("pi:32").inv_freq()[0, 0])
    0.03125
    """
    if not isinstance(text, str):
        raise ParameterError("scheme", text, "text such as 'yarn:32'")
    if model is None:
        return _Words(text, {}).scheme()
    config = ModelConfig.of(model)
    scheme = _Words(text, _said_by(config)).scheme()
    scheme.check_fit(config)
    return scheme


def scheme_word(name: str) -> str:
    """Return the word before a colon or a comma; a name in which it is in `SCHEMES` is that of a scheme."""
    return re.split("[:,]", name, maxsplit=1)[0]


def _said_by(config: ModelConfig) -> dict[str, Any]:
    """Return the options that a model's config stands for."""
    own = {
        "original": config.max_position_embeddings,
        "base": config.base,
        "head_dim": config.head_dim,
        "kv_heads": config.kv_heads,
    }
    return {key: value for key, value in own.items() if value is not None}


class SchemeKind(NamedTuple):
    """A name that `parse_scheme` knows.

    `description` is one line, `example` a text to start from, `value` the meaning of the value ("" if it takes none),
    `keys` the options.
    """

    description: str
    example: str
    value: str
    keys: tuple[str, ...]
    make: Callable[["_Words"], Scheme]


class _Words:
    """The parts of a scheme's text; those that are read make up its canonical name.

    `own` holds options of the model that the scheme is for: they stand in for those that the text does not give.
    """

    def __init__(self, text: str, own: Mapping[str, Any]) -> None:
        self.text, self.own = text, own
        name = scheme_word(text)
        rest = text[len(name) :]
        self.name = name.strip()
        if self.name not in SCHEMES:
            hint = checks.nearest(self.name, SCHEMES)
            msg = f"unknown position scheme {shown(self.name)}; known are {', '.join(SCHEMES)}{hint}"
            raise InputError(msg)
        self.kind = SCHEMES[self.name]
        self.given: dict[str, str] = {}
        # Options are split off the end, since the value may be a path with commas in it.
        while found := re.search(r",\s*(\w+)\s*=([^,]*)\Z", rest):
            self._give(found[1], found[2])
            rest = rest[: found.start()]
        if rest.startswith(","):
            self.refuse(f"an option must be key=value, not {shown(rest[1:])}")
        self.value = rest[1:]
        if self.value.strip() and not self.kind.value:
            self.refuse(f"{self.name} takes no value, not {shown(self.value)}")
        self.written: dict[str, str] = {}

    def _give(self, key: str, value: str) -> None:
        if key not in self.kind.keys:
            known = f"known are {', '.join(self.kind.keys)}" if self.kind.keys else "the file sets everything"
            self.refuse(f"unknown option {key}; {known}")
        if key in self.given:
            self.refuse(f"the option {key} is given twice")
        self.given[key] = value

    def refuse(self, what: str) -> NoReturn:
        msg = f"scheme {shown(self.text)}: {what}"
        raise InputError(msg) from None

    def scheme(self) -> Scheme:
        try:
            made = self.kind.make(self)
        except ParameterError as error:
            # Not a ParameterError: what it names is a word of this text, not a parameter of the caller.
            self.refuse(str(error))
        options = [self.written[key] for key in self.kind.keys if key in self.written]
        return replace(made, name=",".join([self.name + self.written.get("", ""), *options]))

    def file(self) -> str:
        if not self.value.strip():
            self.refuse(f"a {self.kind.value} is missing, as in {self.kind.example}")
        self.written[""] = f":{self.value}"
        return self.value

    def number(self, check: Callable[[str, Any], Any], default: float | None = None, *, binary: bool = False) -> Any:
        """Read the value of the scheme as a number; it is required if there is no default."""
        if default is not None and not self.value.strip():
            return default
        value = check(self.kind.value, _parse_number(self.file(), binary=binary))
        self.written[""] = f":{_format_number(value)}" if value != default else ""
        return value

    def option(self, key: str, check: Callable[[str, Any], Any], default: float | None = None) -> Any:
        if key in self.given:
            value = check(key, _parse_number(self.given[key], binary=key == "original"))
        elif key in self.own:
            value = check(key, self.own[key])
        elif default is not None:
            value = default
        else:
            self.refuse(f"the option {key} is missing, as in {self.kind.example}")
        if value != default:
            self.written[key] = f"{key}={_format_number(value)}"
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
            raise ParameterError("factor", factor, f"at most {most} with original {self.original()}")
        return factor

    def common(self) -> dict[str, Any]:
        return {"name": self.name, "head_dim": self.head_dim(), "original": self.original()}


def _parse_number(text: str, *, binary: bool = False) -> int | float | str:
    """Parse a number, or return the text itself for an error message to show."""
    try:
        return int(text)
    except ValueError:
        pass
    try:
        return read_number(text, binary=binary)
    except (ValueError, OverflowError, ZeroDivisionError):
        return text


def _format_number(value: float) -> str:
    """Format a number in its shortest form: 5e6, 10000, 0.5."""
    text = re.sub(r"e\+0*", "e", f"{value:g}")
    return text if float(text) == value else shown(value)


def _at_least_one(name: str, value: Any) -> int:
    return checks.integer(name, value, 1)


def _with_factor(kind: Callable[..., Scheme]) -> Callable[[_Words], Scheme]:
    return lambda words: kind(bases=words.base(), factor=words.factor(), **words.common())


def _per_head(bases: Callable[[_Words], tuple[float, ...]]) -> Callable[[_Words], Scheme]:
    return lambda words: HeadBases(bases=bases(words), **words.common())


def _one_base(words: _Words) -> Scheme:
    return Scheme(bases=(words.number(checks.base),), **words.common())


def _multi_stage(words: _Words) -> Scheme:
    stages = len(ABF_STAGES)
    stage = words.number(lambda name, value: checks.integer(name, value, 1, stages), stages)
    base, length = ABF_STAGES[stage - 1]
    return MultiStage(bases=(base,), stage_length=length, **words.common())


def _ntk(words: _Words) -> Scheme:
    (base,), factor = words.base(), words.factor()
    return Stretched(bases=(ntk_base(base, factor, words.head_dim()),), factor=factor, **words.common())


def _dynamic(words: _Words) -> Scheme:
    scheme = Dynamic(bases=words.base(), factor=words.factor(), **words.common())
    scheme.inv_freq()  # raises now if anything is out of range
    return scheme


def _llama3(words: _Words) -> Scheme:
    low, high = (
        words.option(key, checks.positive, default)
        for key, default in (("low_freq_factor", 1.0), ("high_freq_factor", 4.0))
    )
    if high <= low:
        raise ParameterError("high_freq_factor", high, f"greater than low_freq_factor, {shown(low)}")
    return Llama3(
        bases=words.base(), factor=words.factor(), low_freq_factor=low, high_freq_factor=high, **words.common()
    )


def _long_rope(words: _Words) -> Scheme:
    rule = ModelConfig.read(words.file()).long_rope
    return LongRopeScheme(words.name, rule.head_dim, rule.original, (rule.base,), rule)


def _self_extend(words: _Words) -> Scheme:
    return SelfExtend(
        bases=words.base(),
        window=words.number(_at_least_one, binary=True),
        group=words.option("group", _at_least_one),
        **words.common(),
    )


def _heads(words: _Words) -> tuple[int | None, int]:
    """Return the number of query heads, if it is said, and that of KV heads, 32 by default."""
    default = int(PRESETS["table2"]["heads"])
    heads = int(words.option("heads", _head_count)) if "heads" in words.given else None
    if heads is None or "kv_heads" in words.given:
        kv_heads = int(words.option("kv_heads", _head_count, default))
        return heads, kv_heads if heads is None else checks.kv_heads(kv_heads, heads)
    return heads, heads


def _head_count(name: str, value: Any) -> int:
    return checks.integer(name, value, 1, 4096)


def _range(words: _Words, default: tuple[float, float], check: Callable[[str, Any], Any]) -> tuple[float, float]:
    """Read the value of the scheme as a range, LOW..HIGH."""
    if not words.value.strip():
        return default
    parts = words.value.split("..")
    if len(parts) != 2:
        words.refuse(f"the range must be LOW..HIGH, as in {words.kind.example}, not {shown(words.value)}")
    low, high = (check("each end of the range", _parse_number(part)) for part in parts)
    if high <= low:
        words.refuse(f"the range must rise, not {shown(words.value)}")
    if (low, high) != default:
        words.written[""] = f":{_format_number(low)}..{_format_number(high)}"
    return low, high


def _uniform(words: _Words, *, descending: bool = False) -> Scheme:
    published = PRESETS["table2"]
    low, high = _range(words, (published["bmin"], published["bmax"]), checks.base)
    heads, n = _heads(words)
    bases = tuple(evenly_spaced_bases(low, high, n))
    return HeadBases(bases=bases[::-1] if descending else bases, heads=heads, **words.common())


def _ms_poe(words: _Words) -> Scheme:
    low, high = _range(words, MS_POE_RATIOS, partial(checks.number, requirement="a number of at least 1", least=1.0))
    heads, n = _heads(words)
    ratios = tuple(low + (high - low) * h / max(n - 1, 1) for h in range(n))
    return MultiScale(bases=words.base() * n, ratios=ratios, heads=heads, **words.common())


def _harpe(words: _Words) -> Scheme:
    base_set = BaseSet.load(words.file())
    own = words.name, base_set.head_dim, words.original()
    if base_set.layers is None:
        return HeadBases(*own, base_set.bases, base_set.heads)
    flat = tuple(base for row in base_set.bases for base in row)
    return LayerBases(*own, flat, base_set.heads, base_set.layers)


_SHAPE = ("original", "head_dim")
_KEYS = ("original", "base", "head_dim")
_UNIFORM_KEYS = (*_SHAPE, "heads", "kv_heads")

SCHEMES: Mapping[str, SchemeKind] = {
    "rope": SchemeKind(
        "plain rotary position embedding of the given base (arXiv:2104.09864)",
        "rope:10000", "base", _SHAPE, _one_base,
    ),
    "pi": SchemeKind(
        "position interpolation: positions divided by the factor (arXiv:2306.15595)",
        "pi:32", "factor", _KEYS, _with_factor(PositionInterpolation),
    ),
    "abf": SchemeKind(
        "adjusted base frequency: another base (arXiv:2309.16039)",
        "abf:5e6", "base", _SHAPE, _one_base,
    ),
    "abf-multi-stage": SchemeKind(
        "ABF in stages, 1e6 to 32k, 2e6 to 64k, 5e6 to 128k: the base of the last, or of the stage 1, 2 or 3",
        "abf-multi-stage", "stage", _SHAPE, _multi_stage,
    ),
    "ntk": SchemeKind(
        "NTK-aware: the base times factor^(d/(d-2)), which divides the lowest frequency by the factor",
        "ntk:32", "factor", _KEYS, _ntk,
    ),
    "dynamic": SchemeKind(
        "dynamic NTK: NTK-aware with a factor that grows with the sequence beyond the trained length",
        "dynamic:32", "factor", _KEYS, _dynamic,
    ),
    "ntk-by-parts": SchemeKind(
        "NTK-by-parts: YaRN with an attention factor of 1 (arXiv:2309.00071)",
        "ntk-by-parts:32", "factor", _KEYS, _with_factor(NtkByParts),
    ),
    "yarn": SchemeKind(
        "YaRN: low frequencies divided by the factor, high ones kept, scores scaled (arXiv:2309.00071)",
        "yarn:32", "factor", _KEYS, _with_factor(Yarn),
    ),
    "llama3": SchemeKind(
        "Llama 3.1: frequencies divided by the factor where they turn less than once over the trained length",
        "llama3:8,original=8192,base=5e5", "factor", (*_KEYS, "low_freq_factor", "high_freq_factor"), _llama3,
    ),
    "longrope": SchemeKind(
        "LongRoPE: one divisor per frequency, from a model's config.json (arXiv:2402.13753)",
        "longrope:config.json", "file", (), _long_rope,
    ),
    "self-extend": SchemeKind(
        "Self-Extend: distances beyond a window counted in groups (arXiv:2401.01325)",
        "self-extend:1024,group=32", "window", ("group", *_KEYS), _self_extend,
    ),
    "uniform": SchemeKind(
        "bases evenly spaced from 1e6 to 5e6 or over a range, one per KV head, 32 by default (arXiv:2412.07171, Eq. 9)",
        "uniform:1e6..3e6,heads=8", "range", _UNIFORM_KEYS, _uniform,
    ),
    "uniform-descending": SchemeKind(
        "the same from the highest base down to the lowest",
        "uniform-descending:1e6..3e6,heads=8", "range", _UNIFORM_KEYS, partial(_uniform, descending=True),
    ),
    "table2": SchemeKind(
        "the 32 bases of HARPE's Table 2, one per head (arXiv:2412.07171)",
        "table2", "", _SHAPE, _per_head(lambda _: TABLE_2),
    ),
    "ms-poe": SchemeKind(
        "Ms-PoE: positions divided by a ratio for every KV head, from 1.2 to 1.8 or over a range (arXiv:2403.04797)",
        "ms-poe:1.2..2,heads=8", "range", (*_UNIFORM_KEYS, "base"), _ms_poe,
    ),
    "harpe": SchemeKind(
        "the bases of a base-set file, one per KV head, or one per layer and KV head",
        "harpe:bases.json", "file", ("original",), _harpe,
    ),
}  # fmt: skip
"""What `parse_scheme` knows, by name."""
