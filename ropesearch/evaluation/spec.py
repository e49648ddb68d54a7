"""The options of an evaluation: their types, defaults, checks and help texts stand here and nowhere else.

What does not shape the figures (device, number type, batch size, where results go) is no part of it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from functools import partial
from typing import Any

from ropesearch.core import checks
from ropesearch.core.errors import InputError, ParameterError

SUITES: Mapping[str, str] = {
    "perplexity": "perplexity by length and by position, in a sliding window (the paper's Table 3)",
    "recall": "key-value pairs at every distance, scored by log-probability",
    "needle": "one sentence at every depth of a text, to be repeated (the paper's Figure 2)",
    "niah": "the eight needle tasks of RULER (the paper's Tables 4 and 8), by lm-eval",
    "ruler": "all thirteen tasks of RULER, by lm-eval",
    "short": "MMLU, HellaSwag, ARC-c, PIQA and TriviaQA (the paper's Table 5), by lm-eval",
}
HARNESS = ("niah", "ruler", "short")
"""Suites whose tasks are lm-eval's."""
PRESETS: Mapping[str, Mapping[str, Any]] = {
    "proof-pile": {"stride": 256, "truncate": True, "min_tokens": 131072, "limit": 10},
    "govreport": {"stride": 256, "min_tokens": 16384, "limit": 50},
}
"""Protocols of perplexity as YaRN (arXiv:2309.00071) and its evaluation script have them: the first ten documents of
Proof-pile with 128k tokens and more, each cut to the length that is evaluated; the first fifty of GovReport with 16k
and more, in whole."""


LONGEST = 2**24
"""Tokens; no model reads as many."""


def _option(check: checks.Check, default: Any, help_text: str, suites: Iterable[str] = SUITES) -> Any:
    """Field of an option, which has an effect on some suites only; its help begins with them."""
    some = tuple(suites)
    text = help_text if some == tuple(SUITES) else f"{', '.join(some)}: {help_text}"
    return field(default=default, metadata={"check": check, "help": text, "suites": some})


def _lengths(name: str, value: Any) -> tuple[int, ...]:
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise ParameterError(name, value, "a list of lengths in tokens")
    return tuple(sorted({checks.integer(name, length, 16, LONGEST) for length in value}))


def _names(name: str, value: Any) -> tuple[str, ...]:
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise ParameterError(name, value, "a list of names")
    found = tuple(value)
    if not all(isinstance(item, str) and item for item in found):
        raise ParameterError(name, value, "a list of names")
    return tuple(dict.fromkeys(found))


_positive = partial(checks.integer, least=1)


@dataclass(frozen=True, kw_only=True)
class EvaluationSpec:
    """Every option that shapes the figures of an evaluation, checked, beside models, schemes and texts.

    Raises
    ------
    ValueError
        If an option is out of range, or has no effect on the suite; the message names it and shows its value.
    """

    suite: str = _option(partial(checks.choice, choices=SUITES), MISSING, f"What to measure: {', '.join(SUITES)}.")
    lengths: tuple[int, ...] = _option(_lengths, (), "Lengths in tokens, such as 4096,8192; required but for short.")
    tasks: tuple[str, ...] = _option(_names, (), "only these tasks.  [default: all]", HARNESS)
    limit: int | None = _option(
        checks.optional(_positive),
        None,
        "Samples: documents of perplexity, contexts of recall, needles at each depth, questions of each task.  "
        "[default: all documents; 20 contexts; 5 needles; all questions]",
    )
    seed: int = _option(partial(checks.integer, least=0), 0, "Seed of keys, values, needles and of where texts begin.")
    stride: int = _option(_positive, 256, "tokens by which the window moves on.", ["perplexity"])
    truncate: bool = _option(checks.truth, False, "cut every document to the length.", ["perplexity"])
    min_tokens: int | None = _option(
        checks.optional(_positive),
        None,
        "leave out documents with fewer tokens.  [default: the longest length]",
        ["perplexity"],
    )
    depths: int = _option(partial(checks.integer, least=1, most=1000), 11, "depths, from 0 to 1.", ["needle"])
    pairs: int = _option(partial(checks.integer, least=1, most=64), 32, "pairs in a context.", ["recall"])
    text_key: str = _option(
        checks.text, "text", "column of JSON, Parquet and hub data with the text.", ["perplexity", "recall", "needle"]
    )

    def __post_init__(self) -> None:
        """Check every option alone, then against the suite."""
        for option in fields(self):
            object.__setattr__(self, option.name, self.checked(option.name, getattr(self, option.name)))
        if self.suite != "short" and not self.lengths:
            msg = f"`lengths` must be given for {self.suite}"
            raise InputError(msg)
        if self.suite == "short" and self.lengths:
            msg = "`lengths` has no effect on short: its questions have the length that they have"
            raise InputError(msg)
        if self.tasks and self.suite not in HARNESS:
            msg = f"`tasks` has no effect on {self.suite}, only on {', '.join(HARNESS)}"
            raise InputError(msg)
        if self.lengths and self.stride >= self.lengths[0] and self.suite == "perplexity":
            requirement = f"less than the shortest length, {self.lengths[0]}"
            raise ParameterError("stride", self.stride, requirement, "; its default is 256")

    @classmethod
    def checked(cls, name: str, value: Any) -> Any:
        """Return the value of one option, checked by itself and of the option's own type."""
        return cls.__dataclass_fields__[name].metadata["check"](name, value)

    def limit_or(self, default: int) -> int:
        """The limit, or what stands for it where none was asked for."""
        return default if self.limit is None else self.limit

    def effective(self) -> dict[str, Any]:
        """Return the options that have an effect on the suite, by name, as JSON holds them."""
        options = self.to_dict()
        return {option.name: options[option.name] for option in fields(self) if self.suite in option.metadata["suites"]}

    def to_dict(self) -> dict[str, Any]:
        """Return every option by name, as JSON holds it: `EvaluationSpec(**spec.to_dict())` is the spec again."""
        options = asdict(self)
        return options | {"lengths": list(self.lengths), "tasks": list(self.tasks)}


def preset_options(name: str) -> dict[str, Any]:
    """Options of a protocol of perplexity.

    Raises
    ------
    ValueError
        If there is no such preset.
    """
    return dict(PRESETS[checks.choice("preset", name, PRESETS)])
