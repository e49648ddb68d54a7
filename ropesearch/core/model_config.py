"""Heads, KV heads, head_dim and LongRoPE's factors out of a Hugging Face config.json."""

import json
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from . import checks
from .errors import InputError, ParameterError, shown

# Any of these keys, even with null behind it, says that a model rotates queries and keys.
ROPE_KEYS = ("rope_theta", "rope_parameters", "rope_scaling", "rotary_emb_base", "rotary_pct", "rotary_dim")
# Llama's first checkpoints have none of the keys.
ROPE_MODEL_TYPES = ("llama", "mistral", "mixtral", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "gemma", "gemma2")

SUPPORTED = ("llama", "mistral", "qwen2", "qwen3")
"""Model types that can have a base per KV head."""
MODEL_TYPES = tuple(f"harpe_{name}" for name in SUPPORTED)
"""The same, with bases."""

T = TypeVar("T")


@dataclass(frozen=True)
class ModelShape:
    """What a base-set search needs to know of a model."""

    heads: int
    kv_heads: int
    head_dim: int


@dataclass(frozen=True)
class LongRope:
    """How a model stretches its rotation by LongRoPE.

    `short_factor` divides the frequencies up to the trained length `original`, `long_factor` beyond it; so go the
    two attention factors. `longest` is the length that the model is made for. Lengths in tokens.
    """

    head_dim: int
    base: float
    original: int
    longest: int
    short_factor: tuple[float, ...]
    long_factor: tuple[float, ...]
    short_attention_factor: float
    long_attention_factor: float


def read_model_shape(path: str | os.PathLike[str]) -> ModelShape:
    """Read a Hugging Face `config.json`, or the one in a folder.

    Parameters
    ----------
    path : path-like
        The file, or the folder that holds it.

    Returns
    -------
    ModelShape
        KV heads are as many as heads where the file has none; head_dim, where it has none, is
        hidden_size / num_attention_heads.

    Raises
    ------
    OSError
        If there is no such file or it cannot be read.
    ValueError
        If it is not JSON, describes a model without RoPE or one that rotates only part of each head, or lacks
        or contradicts itself in a number; the message names the file and says why.
    """
    return _read(path, lambda config: _shape(config, ": give `heads` and `head_dim`"))


def model_shape(config: Any) -> ModelShape:
    """Read the content of a Hugging Face `config.json`; raises ValueError as `read_model_shape`."""
    return _shape(config, "")


def read_long_rope(path: str | os.PathLike[str]) -> LongRope:
    """Read the LongRoPE rule of a Hugging Face `config.json`, or of the one in a folder.

    Parameters
    ----------
    path : path-like
        The file, or the folder that holds it.

    Returns
    -------
    LongRope
        Where the file has no attention factor, it is √(1 + ln s / ln L) for a factor s > 1 and the trained length L;
        where it has no `factor`, s is max_position_embeddings / L.

    Raises
    ------
    OSError
        If there is no such file or it cannot be read.
    ValueError
        As `read_model_shape`, or if there are no short_factor and long_factor of head_dim / 2 numbers above 0.

    References
    ----------
    LongRoPE, arXiv:2402.13753; Phi-3, arXiv:2404.14219.
    """
    return _read(path, _long_rope)


def read_config_file(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Content of a Hugging Face `config.json`, or of the one in a folder; raises as `read_model_shape`."""
    return _read(path, _language_model)


def _read(path: str | os.PathLike[str], interpret: Callable[[Any], T]) -> T:
    file = Path(path)
    if file.is_dir():
        file /= "config.json"
    data = file.read_bytes()
    try:
        return interpret(json.loads(data.decode()))
    except InputError as error:
        msg = f"{file}: {error}"
        raise InputError(msg) from None
    except (ValueError, RecursionError) as error:
        msg = f"{file} is not JSON: {error}"
        raise InputError(msg) from None


def _language_model(config: Any) -> dict[str, Any]:
    if not isinstance(config, dict):
        raise InputError("it is not a model's configuration, for it is no JSON object")
    if "num_attention_heads" not in config and isinstance(config.get("text_config"), dict):
        config = config["text_config"]  # a model of text and images keeps its language model's numbers there
    return dict(config)


def _shape(config: Any, instead: str) -> ModelShape:
    """`instead` says what to do about a model that rotates a part of each head."""
    config = _language_model(config)
    model_type = config.get("model_type")
    if config.get("alibi") or not (model_type in ROPE_MODEL_TYPES or any(key in config for key in ROPE_KEYS)):
        msg = f"a model of type {shown(model_type)} has no rotary position embedding that its keys speak of"
        raise InputError(msg)
    if "qk_rope_head_dim" in config:
        raise InputError("its heads share one rotary key (multi-head latent attention): no base per KV head")
    rope_parameters = config.get("rope_parameters")
    nested = rope_parameters if isinstance(rope_parameters, dict) else {}
    for holder, key in ((config, "partial_rotary_factor"), (config, "rotary_pct"), (nested, "partial_rotary_factor")):
        if holder.get(key) not in (None, 1, 1.0):
            msg = f"it rotates only a part of each head ({key} {shown(holder[key])}){instead}"
            raise InputError(msg)
    heads = checks.integer("num_attention_heads", _needed(config, "num_attention_heads"), 1)
    given = config.get("num_key_value_heads")
    kv_heads = heads if given is None else checks.integer("num_key_value_heads", given, 1)
    if heads % kv_heads:
        raise ParameterError("num_key_value_heads", kv_heads, f"a divisor of the {heads} heads")
    if config.get("head_dim") is not None:
        head_dim = checks.head_dim(config["head_dim"])
    else:
        hidden_size = checks.integer("hidden_size", _needed(config, "hidden_size"), 2)
        if hidden_size % heads:
            raise ParameterError("hidden_size", hidden_size, f"a multiple of the {heads} heads")
        head_dim = checks.head_dim(hidden_size // heads)
    return ModelShape(heads, kv_heads, head_dim)


def _long_rope(config: Any) -> LongRope:
    config = _language_model(config)
    half = _shape(config, "").head_dim // 2
    rule = config.get("rope_scaling") or config.get("rope_parameters")
    if not isinstance(rule, dict) or not {"short_factor", "long_factor"} <= rule.keys():
        raise InputError("it has no short_factor and long_factor in rope_scaling or rope_parameters")
    base = checks.base("rope_theta", _first(rule.get("rope_theta"), config.get("rope_theta"), 10000.0))
    longest = checks.integer("max_position_embeddings", _needed(config, "max_position_embeddings"), 1)
    key = "original_max_position_embeddings"
    original = checks.integer(key, _first(config.get(key), rule.get(key), longest), 2)
    factor = _positive("factor", _first(rule.get("factor"), longest / original))
    attention = math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 else 1.0
    # Phi-3.5-MoE has an attention factor for each of the two ranges.
    short, long = (
        _positive(key, _first(rule.get(key), rule.get("attention_factor"), attention))
        for key in ("short_mscale", "long_mscale")
    )
    return LongRope(
        head_dim=2 * half,
        base=base,
        original=original,
        longest=longest,
        short_factor=_divisors(rule, "short_factor", half),
        long_factor=_divisors(rule, "long_factor", half),
        short_attention_factor=short,
        long_attention_factor=long,
    )


def _divisors(rule: dict[str, Any], key: str, n: int) -> tuple[float, ...]:
    if not isinstance(rule[key], list) or len(rule[key]) != n:
        raise ParameterError(key, rule[key], f"a list of {n} numbers, one per frequency")
    return tuple(_positive(f"every one of {key}", x) for x in rule[key])


def _first(*values: Any) -> Any:
    """First value that the file gives."""
    return next(value for value in values if value is not None)


def _positive(name: str, value: Any) -> float:
    return checks.number(name, value, "a finite number above 0", above=0.0)


def _needed(config: dict[str, Any], key: str) -> Any:
    if config.get(key) is None:
        msg = f"it has no {key}"
        raise InputError(msg)
    return config[key]
