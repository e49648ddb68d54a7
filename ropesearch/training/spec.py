"""The options of a training run: their types, defaults, checks and help texts stand here and nowhere else.

What does not shape the result (device, processes, where tokens are kept, how often it saves) is no part of it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from functools import partial
from itertools import pairwise
from typing import Any

from ropesearch.core import checks
from ropesearch.core.errors import InputError, ParameterError, shown
from ropesearch.core.numbers import read_number

SCHEDULES = ("constant", "constant_with_warmup", "linear", "cosine")
MOST_TOKENS = 10**15


@dataclass(frozen=True)
class Stage:
    """One stretch of training at one length.

    Attributes
    ----------
    scheme : str or None
        Position scheme, as `parse_scheme` reads it; None or "own" keeps what the model has.
    length : int
        Tokens in a row.
    tokens : int
        Tokens to train on, at least; the last step is a whole one.
    """

    scheme: str | None
    length: int
    tokens: int

    def __post_init__(self) -> None:
        """Check each value; a scheme of "own", as `evaluate` takes it, becomes None."""
        if self.scheme == "own":
            object.__setattr__(self, "scheme", None)
        object.__setattr__(self, "length", checks.integer("length", self.length, 2))
        object.__setattr__(self, "tokens", whole_number("tokens", self.tokens))


def whole_number(name: str, value: Any) -> int:
    """`value` as an int from 1 to 10^15; 1e9 is one."""
    number = checks.number(name, value, "a whole number of at least 1", least=1.0)
    if number != int(number) or number > MOST_TOKENS:
        raise ParameterError(name, value, f"a whole number from 1 to {MOST_TOKENS:.0e}")
    return int(number)


def parse_stage(text: str) -> Stage:
    """Read a stage from `base:length:tokens`; in the base's place may be any position scheme, such as yarn:8.

    Raises
    ------
    ValueError
        If a part is missing or out of range; the message shows the text.
    """
    parts = str(text).rsplit(":", 2)
    if len(parts) != 3 or not all(parts):
        raise ParameterError("stage", text, "base:length:tokens, such as 1e6:32768:1e9")
    scheme, length, tokens = (part.strip() for part in parts)
    try:
        base = float(scheme)
    except ValueError:
        pass
    else:
        checks.base("stage", base)
        scheme = f"abf:{scheme}"
    try:
        return Stage(
            scheme, whole_number("length", _number(length, binary=True)), whole_number("tokens", _number(tokens))
        )
    except ParameterError as error:
        msg = f"stage {shown(text)}: {error}"
        raise InputError(msg) from None


def _number(text: str, *, binary: bool = False) -> Any:
    """Read a number as people write it, or return the text itself for an error message to show."""
    try:
        return read_number(text, binary=binary)
    except ValueError:
        return text


PRESETS: Mapping[str, tuple[tuple[str, int], ...]] = {
    "abf": (("abf:5e6", 131072),),
    "abf-multi-stage": (("abf:1e6", 32768), ("abf:2e6", 65536), ("abf:5e6", 131072)),
    "pi": (("pi:32", 131072),),
    "ntk": (("ntk:32", 131072),),
    "yarn": (("yarn:32", 131072),),
    "uniform": (("uniform", 131072),),
    "uniform-descending": (("uniform-descending", 131072),),
    "harpe": (("table2", 131072),),
}
"""The schemes of the paper that are trained, for a model with 4096 trained tokens: scheme and length of each stage."""
PRESET_TOKENS = 6 * 10**9
"""Tokens that the paper trains every model on (HARPE, arXiv:2412.07171, section 4.4)."""


def preset_stages(name: str, tokens: Any = PRESET_TOKENS) -> tuple[Stage, ...]:
    """Stages of a preset, which share the tokens evenly: the three of `abf-multi-stage` as in the paper's Table 1.

    That table's other schedule, "carefully selected", is not printed.

    Raises
    ------
    ValueError
        If there is no such preset, or `tokens` is out of range.
    """
    stages = PRESETS[checks.choice("preset", name, PRESETS)]
    share = -(-whole_number("tokens", tokens) // len(stages))
    return tuple(Stage(scheme, length, share) for scheme, length in stages)


def _option(check: checks.Check, help_text: str, default: Any = MISSING) -> Any:
    return field(default=default, metadata={"check": check, "help": help_text})


def _stages(name: str, value: Any) -> tuple[Stage, ...]:
    if isinstance(value, str | Mapping) or not isinstance(value, Iterable):
        raise ParameterError(name, value, "a list of stages")
    stages = tuple(stage if isinstance(stage, Stage) else Stage(**stage) for stage in value)
    if not stages:
        raise ParameterError(name, value, "at least one stage")
    for before, after in pairwise(stages):
        if after.length < before.length:
            msg = f"the length of a stage must not fall: {before.length} is followed by {after.length}"
            raise InputError(msg)
    return stages


def _share(name: str, value: Any) -> float:
    result = checks.number(name, value, "a number above 0 and at most 1", above=0.0)
    if result > 1:
        raise ParameterError(name, value, "a number above 0 and at most 1")
    return result


def _moment(name: str, value: Any) -> float:
    result = checks.number(name, value, "a number from 0 to less than 1", least=0.0)
    if result >= 1:
        raise ParameterError(name, value, "a number from 0 to less than 1")
    return result


@dataclass(frozen=True, kw_only=True)
class TrainSpec:
    """Every option that shapes a trained model, checked, beside the model and the data.

    Defaults come from HARPE (arXiv:2412.07171: AdamW with β 0.9 and 0.95, learning rate 2e-5). What that paper does
    not print comes from Fu et al. (arXiv:2402.10171: constant rate, 4M tokens a step, short documents kept with
    p = 0.1) and from the training scripts of YaRN (arXiv:2309.00071) and LongLoRA (arXiv:2309.12307): 20 steps of
    warm-up, no weight decay. Gradients are clipped at 1, transformers' default.

    Raises
    ------
    ValueError
        If an option is out of range, or several do not go together; the message names it and shows its value.
    """

    stages: tuple[Stage, ...] = _option(_stages, "Stages of training, in order; lengths never fall.")
    batch_tokens: int = _option(whole_number, "Tokens of one optimizer step, a multiple of every length.", 4194304)
    learning_rate: float = _option(checks.positive, "Peak learning rate of AdamW.", 2e-5)
    beta1: float = _option(_moment, "AdamW: decay of the mean of gradients.", 0.9)
    beta2: float = _option(_moment, "AdamW: decay of the mean of squared gradients.", 0.95)
    weight_decay: float = _option(checks.not_negative, "AdamW: weight decay.", 0.0)
    warmup_steps: int = _option(partial(checks.integer, least=0), "Steps of linear warm-up, in each stage.", 20)
    schedule: str = _option(
        partial(checks.choice, choices=SCHEDULES),
        "Learning rate after the warm-up: constant_with_warmup, linear or cosine; constant takes no warm-up.",
        "constant_with_warmup",
    )
    max_grad_norm: float = _option(checks.not_negative, "Clip gradients to this norm; 0 does not clip.", 1.0)
    seed: int = _option(partial(checks.integer, least=0), "Seed of the order of documents and of dropout.", 0)
    mask_documents: bool = _option(
        checks.truth,
        "Documents in a row do not see each other, and positions restart in each.  [default: full attention]",
        False,
    )
    upsample_long: bool = _option(
        checks.truth,
        "Keep documents shorter than --long-from tokens with probability --keep-short; each source keeps its share.",
        False,
    )
    long_from: int = _option(partial(checks.integer, least=1), "Upsampling: tokens that make a document long.", 4096)
    keep_short: float = _option(_share, "Upsampling: probability to keep a document that is not long.", 0.1)
    text_key: str = _option(checks.text, "Column of JSON, Parquet and hub data that holds the text.", "text")
    source_key: str | None = _option(
        checks.optional(checks.text),
        "Column whose values are sources of their own, such as meta.redpajama_set_name.  [default: each --data is one]",
        None,
    )

    def __post_init__(self) -> None:
        """Check every option alone, then those that must go together."""
        for option in fields(self):
            object.__setattr__(self, option.name, self.checked(option.name, getattr(self, option.name)))
        for stage in self.stages:
            if self.batch_tokens % stage.length:
                raise ParameterError("batch_tokens", self.batch_tokens, f"a multiple of the length {stage.length}")
            if stage.tokens < self.batch_tokens:
                raise ParameterError(
                    "tokens", stage.tokens, f"at least one step of {self.batch_tokens} (`batch_tokens`) in every stage"
                )

    @classmethod
    def checked(cls, name: str, value: Any) -> Any:
        """Return the value of one option, checked by itself and of the option's own type."""
        return cls.__dataclass_fields__[name].metadata["check"](name, value)

    def steps(self, stage: Stage) -> int:
        """Optimizer steps of a stage; the last is a whole one."""
        return -(-stage.tokens // self.batch_tokens)

    def rows_per_step(self, stage: Stage) -> int:
        """Rows of the stage's length in one optimizer step."""
        return self.batch_tokens // stage.length

    def to_dict(self) -> dict[str, Any]:
        """Return every option by name, as JSON holds it: `TrainSpec(**spec.to_dict())` is the spec again."""
        options = {option.name: getattr(self, option.name) for option in fields(self)}
        return options | {"stages": [asdict(stage) for stage in self.stages]}
