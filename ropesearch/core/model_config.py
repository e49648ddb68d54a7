"""What a Hugging Face config.json says about a model: heads, sizes, and how it rotates queries and keys."""

import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from . import checks
from .errors import InputError, ParameterError, shown
from .files import check_size_of_json, read_file

# Any of these keys, even if null, means that a model rotates queries and keys.
ROPE_KEYS = ("rope_theta", "rope_parameters", "rope_scaling", "rotary_emb_base", "rotary_pct", "rotary_dim")

SUPPORTED = (
    "llama",
    "mistral",
    "ministral",
    "mixtral",
    "qwen2",
    "qwen2_moe",
    "qwen3",
    "qwen3_moe",
    "gemma",
    "gemma2",
    "gemma3_text",
    "glm",
    "glm4",
    "granite",
    "nemotron",
    "olmo2",
    "olmo3",
    "phi",
    "phi3",
    "smollm3",
    "stablelm",
    "starcoder2",
)
"""Model types that can have a base per KV head; Llama's first checkpoints have none of the keys above."""
MODEL_TYPES = tuple(f"harpe_{name}" for name in SUPPORTED)
"""The same types, once they have bases."""

MOST_BYTES = 4_000_000
"""How large a config.json may be."""
MOST_VALUES = 200_000
"""How many values it may hold."""
MOST_LAYERS = 10_000
"""How many layers a model may have; a config that asks for more would keep transformers busy for hours."""
SCALING = ("replace", "keep")
"""What becomes of the rule of a scaled model that gets bases: it is dropped, or applied to every base."""
KEPT_RULES = ("linear", "llama3", "yarn")
"""Rules of a scaled model that can be applied to every base of a set: they do not change with the length."""
BY_LAYER_TYPE = "one for each type of layer"

DEFAULT_BASE = 10000.0
"""The default of transformers for `rope_theta`, for Phi-3 and for the types in SUPPORTED, two aside."""
OTHER_DEFAULT = ("mixtral", "smollm3", "gemma3_text", "olmo3")
GLOBAL = "full_attention"
GLOBAL_LAYERS = {"gemma3_text": 6, "olmo3": 4}
"""The types in SUPPORTED with a rope for each type of layer. One of so many layers, if the file says no other number,
sees the whole text; it has the rope of GLOBAL."""

PART = "partial_rotary_factor"
ROTATED_SHARES = {"phi3": 1.0, "phi": 0.5, "stablelm": 0.25, "glm": 0.5, "glm4": 0.5, "nemotron": 0.5}
"""The types in SUPPORTED that may rotate a part of each head, and which if the file does not say."""
OWN_RULES = {"phi3": ("default", "longrope")}
"""The types in SUPPORTED that take no other rules for the frequencies than these."""


class PartialRotationError(InputError):
    """The model rotates only part of each head."""


@dataclass(frozen=True)
class ModelShape:
    """What a base-set search needs to know about a model; `head_dim` counts the channels of a head that rotate."""

    heads: int
    kv_heads: int
    head_dim: int


@dataclass(frozen=True)
class LongRope:
    """The LongRoPE settings of a model.

    `short_factor` and `short_attention_factor` apply up to the trained length `original`, `long_factor` and
    `long_attention_factor` beyond it; the factors divide the frequencies. `longest` is the longest length the model
    supports. Lengths are in tokens.
    """

    head_dim: int
    base: float
    original: int
    longest: int
    short_factor: tuple[float, ...]
    long_factor: tuple[float, ...]
    short_attention_factor: float
    long_attention_factor: float


@dataclass(frozen=True, eq=False)
class ModelConfig:
    """The configuration of a model, checked on access: a missing or invalid value raises only when it is needed.

    Attributes
    ----------
    content : mapping
        The content of the file.
    name : str
        How error messages refer to the model or its file.

    Raises
    ------
    ValueError
        By any property, if a value that it needs is missing, out of range or contradictory; the message starts with
        `name` and says why.
    """

    content: Mapping[str, Any]
    name: str = "config"

    @classmethod
    def of(cls, content: object, name: str = "config") -> "ModelConfig":
        """Wrap the content of a config.json; a ModelConfig is returned unchanged."""
        if isinstance(content, ModelConfig):
            return content
        if not isinstance(content, Mapping):
            msg = f"{name}: it is not a JSON object"
            raise InputError(msg)
        return cls(content, name)

    @classmethod
    def read(cls, path: str | os.PathLike[str], name: str | None = None) -> "ModelConfig":
        """Read a config.json, or the one in a folder; error messages start with `name` if given, else with the path.

        Raises
        ------
        OSError
            If the file does not exist or cannot be read.
        ValueError
            If it is not a JSON object; the message names the file.
        """
        file = Path(path)
        if file.is_dir():
            file /= "config.json"
        data = read_file(file, MOST_BYTES)
        try:
            text = data.decode()
            check_size_of_json(text, MOST_VALUES)
            content = json.loads(text)
        except InputError as error:  # it holds too many values
            msg = f"{file}: {error}"
            raise InputError(msg) from None
        except (ValueError, RecursionError) as error:
            msg = f"{file} is not JSON: {error}"
            raise InputError(msg) from None
        return cls.of(content, name or str(file))

    @property
    def model_type(self) -> str | None:
        """The model type, as transformers names it."""
        return self.content.get("model_type")

    @property
    def inner_type(self) -> str | None:
        """The type of the language model, which differs in a model of text and images."""
        return self._language.get("model_type")

    @property
    def three_positions(self) -> bool:
        """Whether each token has three positions, in time, height and width (mrope)."""
        return isinstance(self._rope, Mapping) and "mrope_section" in self._rope

    @cached_property
    def _language(self) -> Mapping[str, Any]:
        """The settings of the language model; a model of text and images keeps them in `text_config`."""
        nested = self.content.get("text_config")
        return nested if "num_attention_heads" not in self.content and isinstance(nested, Mapping) else self.content

    @cached_property
    def shape(self) -> ModelShape:
        """Heads, KV heads (heads if not given) and head_dim (hidden_size / heads if not given).

        Of a model that rotates a part of each head, `head_dim` is that of the part: `whole_head_dim` is the other.

        Raises
        ------
        ValueError
            Also for a model without RoPE, or one that rotates only part of each head and cannot have bases.
        """
        self._require_full_rotation()
        self._read_count("num_hidden_layers", MOST_LAYERS)  # whoever builds the model asks for its shape before
        with self._prefix_errors():
            config = self._language
            heads = checks.integer("num_attention_heads", self._require("num_attention_heads"), 1)
            given = config.get("num_key_value_heads")
            kv_heads = heads if given is None else checks.integer("num_key_value_heads", given, 1)
            if heads % kv_heads:
                raise ParameterError("num_key_value_heads", kv_heads, f"a divisor of the {heads} heads")
        whole, share = self.whole_head_dim, self.rotated_share
        turning = int(whole * share)
        if turning < 2 or turning % 2:
            msg = f"{self.name}: it rotates {turning} of the {whole} channels of each head ({PART} {share:g}): "
            msg += "the number must be even and at least 2"
            raise InputError(msg)
        return ModelShape(heads, kv_heads, turning)

    @property
    def whole_head_dim(self) -> int:
        """Channels per head, whether they rotate or not."""
        with self._prefix_errors():
            heads = checks.integer("num_attention_heads", self._require("num_attention_heads"), 1)
            if self._language.get("head_dim") is not None:
                return checks.head_dim(self._language["head_dim"])
            hidden_size = checks.integer("hidden_size", self._require("hidden_size"), 2)
            if hidden_size % heads:
                raise ParameterError("hidden_size", hidden_size, f"a multiple of the {heads} heads")
            return checks.head_dim(hidden_size // heads)

    @property
    def rotated_share(self) -> float:
        """Which part of the channels of each head rotates, from the first on; 1 in most models."""
        default = ROTATED_SHARES.get(self._plain_type)
        if default is None:
            return 1.0
        with self._prefix_errors():
            given = self._rope_value(PART)
            share = default if given is None else checks.number(PART, given, "a number above 0, at most 1", above=0.0)
            if share > 1:
                raise ParameterError(PART, given, "a number above 0, at most 1")
            return share

    @property
    def rules(self) -> tuple[str, ...] | None:
        """The rules for the frequencies that models of this type take; None for all that transformers knows."""
        return OWN_RULES.get(self._plain_type)

    @property
    def _plain_type(self) -> str:
        """The type of the language model without our prefix."""
        return str(self._language.get("model_type")).removeprefix("harpe_")

    @property
    def heads(self) -> int:
        """Query heads."""
        return self.shape.heads

    @property
    def kv_heads(self) -> int:
        """KV heads."""
        return self.shape.kv_heads

    @property
    def head_dim(self) -> int:
        """Channels per head that rotate."""
        return self.shape.head_dim

    @property
    def hidden_size(self) -> int | None:
        """Channels of the residual stream."""
        return self._read_count("hidden_size")

    @property
    def intermediate_size(self) -> int | None:
        """Channels of the feed-forward layers."""
        return self._read_count("intermediate_size")

    @property
    def num_hidden_layers(self) -> int | None:
        """Layers."""
        return self._read_count("num_hidden_layers", MOST_LAYERS)

    @property
    def rotating_layers(self) -> tuple[int, ...]:
        """The layers that rotate queries and keys by bases that can be given, counted from 0.

        SmolLM3 has layers that do not rotate. Where each type of layer has a rope, layers with a window keep theirs.
        """
        n_layers = self.num_hidden_layers or 0
        if self.by_layer_type:
            types, every = self._language.get("layer_types"), self._language.get("sliding_window_pattern")
            if isinstance(types, list) and len(types) == n_layers:
                return tuple(layer for layer, kind in enumerate(types) if kind == GLOBAL)
            with self._prefix_errors():
                default = GLOBAL_LAYERS[self._plain_type]
                every = default if every is None else checks.integer("sliding_window_pattern", every, 1)
            return tuple(range(every - 1, n_layers, every))
        listed = self._language.get("no_rope_layers")  # in spite of its name, 1 for those that rotate
        if not isinstance(listed, list) or len(listed) != n_layers:
            return tuple(range(n_layers))
        return tuple(layer for layer in range(n_layers) if listed[layer])

    @property
    def vocab_size(self) -> int | None:
        """Tokens in the vocabulary."""
        return self._read_count("vocab_size")

    @property
    def max_position_embeddings(self) -> int | None:
        """The longest length that the model supports, in tokens."""
        return self._read_count("max_position_embeddings")

    @property
    def quantized(self) -> bool:
        """Whether the weights are quantized."""
        return bool(self.content.get("quantization_config"))

    @cached_property
    def _rope(self) -> Any:
        """Settings of the rotary embedding: a mapping, unless the file is wrong.

        As transformers 5 merges them (modeling_rope_utils.py, convert_rope_params_to_dict): a non-empty `rope_scaling`
        replaces all of `rope_parameters`; keys in neither are taken from the config itself. Where each type of layer
        has a rope, it is that of GLOBAL, to which `rope_scaling` adds.
        """
        if self.by_layer_type:
            by_type, scaling = self._language.get("rope_parameters") or {}, self._language.get("rope_scaling") or {}
            own = (by_type.get(GLOBAL) if isinstance(by_type, Mapping) else None) or {}
            return {**own, **scaling} if isinstance(own, Mapping) and isinstance(scaling, Mapping) else own or scaling
        return self._language.get("rope_scaling") or self._language.get("rope_parameters") or {}

    @property
    def by_layer_type(self) -> bool:
        """Whether each type of layer has a rope: bases are for the layers that see the whole text."""
        return self._plain_type in GLOBAL_LAYERS

    @property
    def other_rules(self) -> tuple[str, ...]:
        """The rules of the layers that keep their rope, where each type of layer has one."""
        by_type = self._language.get("rope_parameters") if self.by_layer_type else None
        others = [rope for kind, rope in by_type.items() if kind != GLOBAL] if isinstance(by_type, Mapping) else []
        return tuple(str(rope.get("rope_type", "default")) for rope in others if isinstance(rope, Mapping))

    def _rope_value(self, key: str) -> Any:
        own = self._rope.get(key) if isinstance(self._rope, Mapping) else None
        return self._language.get(key) if own is None else own

    @property
    def rope_rule(self) -> str:
        """The rule for the frequencies: 'default' for plain RoPE, or the name of another rule."""
        rope = self._rope
        if not isinstance(rope, Mapping):
            return str(rope)
        if "bases" not in rope and any(isinstance(value, Mapping) for value in rope.values()):
            return BY_LAYER_TYPE  # beside bases it is the rule that is applied to each of them
        return str(rope.get("rope_type", rope.get("type", "default")))

    @property
    def rope_values(self) -> dict[str, Any]:
        """The rule for the frequencies as transformers writes it, without its base; {} for plain RoPE.

        Of a model that carries bases, it is the rule that is applied to every one of them.
        """
        rule = self._rope.get("scaling") or {} if self.bases is not None else self._rope
        if self.rope_rule == "default" or not isinstance(rule, Mapping):
            return {}
        given = {key: value for key, value in rule.items() if key not in ("type", "rope_theta", PART)}
        return given | {"rope_type": str(rule.get("rope_type", rule.get("type")))} if given else {}

    @property
    def base(self) -> float | None:
        """RoPE base before any rule or base set; None if neither the file nor the model type gives one."""
        base = self._rope_value("rope_theta")
        if base is None:
            model_type = self._plain_type
            return DEFAULT_BASE if model_type in SUPPORTED and model_type not in OTHER_DEFAULT else None
        with self._prefix_errors():
            return checks.base("rope_theta", base)

    @property
    def bases(self) -> tuple[Any, ...] | None:
        """The bases that the model carries, one per KV head, or None; where layers differ, a tuple of those of each."""
        bases = self._rope.get("bases") if isinstance(self._rope, Mapping) else None
        if bases is None:
            return None
        with self._prefix_errors():
            if not isinstance(bases, list | tuple):
                raise ParameterError("bases", bases, "a list of bases")
            return tuple(_read_bases(base) for base in bases)

    @cached_property
    def long_rope(self) -> LongRope:
        """The LongRoPE rule.

        If the file has no attention factor, it is √(1 + ln s / ln L) for a factor s > 1 and the trained length L; if it
        has no `factor`, s is max_position_embeddings / L.

        Raises
        ------
        ValueError
            Also if short_factor or long_factor is not a list of head_dim / 2 numbers above 0.

        References
        ----------
        LongRoPE, arXiv:2402.13753; Phi-3, arXiv:2404.14219.
        """
        head_dim, base, rule = self.head_dim, self._rope_value("rope_theta"), self._rope
        with self._prefix_errors():
            if not isinstance(rule, Mapping) or not {"short_factor", "long_factor"} <= rule.keys():
                raise InputError("it has no short_factor and long_factor in rope_scaling or rope_parameters")
            longest = checks.integer("max_position_embeddings", self._require("max_position_embeddings"), 1)
            key = "original_max_position_embeddings"  # Phi-3 keeps it outside the rule, and that one takes precedence
            original = checks.integer(key, _first_given(self._language.get(key), rule.get(key), longest), 2)
            factor = checks.positive("factor", _first_given(rule.get("factor"), longest / original))
            attention = math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 else 1.0
            # Phi-3.5-MoE has an attention factor for each of the two ranges.
            short, long = (
                checks.positive(key, _first_given(rule.get(key), rule.get("attention_factor"), attention))
                for key in ("short_mscale", "long_mscale")
            )
            return LongRope(
                head_dim=head_dim,
                base=checks.base("rope_theta", _first_given(base, DEFAULT_BASE)),
                original=original,
                longest=longest,
                short_factor=_read_divisors(rule, "short_factor", head_dim // 2),
                long_factor=_read_divisors(rule, "long_factor", head_dim // 2),
                short_attention_factor=short,
                long_attention_factor=long,
            )

    def identity(self) -> dict[str, Any]:
        """Return what tells models apart: type, sizes, heads and base; None for what the file does not say."""
        sizes = {key: getattr(self, key) for key in ("num_hidden_layers", "hidden_size", "vocab_size")}
        return {"model_type": self._language.get("model_type"), **sizes, **asdict(self.shape), "base": self.base}

    def _require_full_rotation(self) -> None:
        """Raise InputError unless the model rotates all channels of each head, each KV head separately."""
        config, model_type = self._language, self._language.get("model_type")
        if config.get("alibi") or not (model_type in SUPPORTED or any(key in config for key in ROPE_KEYS)):
            if model_type is not None:
                msg = f"{self.name}: a model of type {shown(model_type)} has no rotary position embedding settings"
                raise InputError(msg)
            msg = f"no rotary embedding settings found in {self.name}"
            written = str(config.get("format", ""))
            if written.startswith("ropesearch."):
                msg += f"; it looks like a {written.removeprefix('ropesearch.')} file"
            raise InputError(msg)
        if "qk_rope_head_dim" in config:
            msg = f"{self.name}: its heads share one rotary key (multi-head latent attention): no base per KV head"
            raise InputError(msg)
        for key in ("rotary_pct",) if self._plain_type in ROTATED_SHARES else (PART, "rotary_pct"):
            for value in (config.get(key), self._rope_value(key)):
                if value not in (None, 1, 1.0):
                    msg = f"{self.name}: it rotates only part of each head ({key} {shown(value)})"
                    raise PartialRotationError(msg)

    def _read_count(self, key: str, most: int = checks.LARGEST_INTEGER) -> int | None:
        with self._prefix_errors():
            value = self._language.get(key)
            return None if value is None else checks.integer(key, value, 1, most)

    def _require(self, key: str) -> Any:
        if self._language.get(key) is None:
            msg = f"it has no {key}"
            raise InputError(msg)
        return self._language[key]

    @contextmanager
    def _prefix_errors(self) -> Iterator[None]:
        """Prefix errors with the name."""
        try:
            yield
        except InputError as error:
            msg = f"{self.name}: {error}"
            raise InputError(msg) from None


def _read_divisors(rule: Mapping[str, Any], key: str, n: int) -> tuple[float, ...]:
    if not isinstance(rule[key], list) or len(rule[key]) != n:
        raise ParameterError(key, rule[key], f"a list of {n} numbers, one per frequency")
    return tuple(checks.positive(f"every value of {key}", x) for x in rule[key])


def _read_bases(value: Any) -> Any:
    """Read one base, or a list of them, those of a layer."""
    if isinstance(value, list | tuple):
        return tuple(checks.base("every value of bases", base) for base in value)
    return checks.base("every value of bases", value)


def _first_given(*values: Any) -> Any:
    """Return the first value that is not None."""
    return next(value for value in values if value is not None)
