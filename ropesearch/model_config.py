"""Heads, KV heads and head_dim out of a Hugging Face config.json."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import checks

# Any of these keys, even with null behind it, says that a model rotates queries and keys.
ROPE_KEYS = ("rope_theta", "rope_parameters", "rope_scaling", "rotary_emb_base", "rotary_pct", "rotary_dim")
# Llama's first checkpoints have none of the keys.
ROPE_MODEL_TYPES = ("llama", "mistral", "mixtral", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "gemma", "gemma2")


@dataclass(frozen=True)
class ModelShape:
    """What a base-set search needs to know of a model."""

    heads: int
    kv_heads: int
    head_dim: int


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
    file = Path(path)
    if file.is_dir():
        file /= "config.json"
    data = file.read_bytes()
    try:
        return _shape(json.loads(data.decode()))
    except checks.InputError as error:
        msg = f"{file}: {error}"
        raise checks.InputError(msg) from None
    except (ValueError, RecursionError) as error:
        msg = f"{file} is not JSON: {error}"
        raise checks.InputError(msg) from None


def _shape(config: Any) -> ModelShape:
    if not isinstance(config, dict):
        raise checks.InputError("it is not a model's configuration, for it is no JSON object")
    if "num_attention_heads" not in config and isinstance(config.get("text_config"), dict):
        config = config["text_config"]  # a model of text and images keeps its language model's numbers there
    model_type = config.get("model_type")
    if config.get("alibi") or not (model_type in ROPE_MODEL_TYPES or any(key in config for key in ROPE_KEYS)):
        msg = f"a model of type {checks.shown(model_type)} has no rotary position embedding that its keys speak of"
        raise checks.InputError(msg)
    if "qk_rope_head_dim" in config:
        raise checks.InputError("its heads share one rotary key (multi-head latent attention): no base per KV head")
    rope_parameters = config.get("rope_parameters")
    nested = rope_parameters if isinstance(rope_parameters, dict) else {}
    for holder, key in ((config, "partial_rotary_factor"), (config, "rotary_pct"), (nested, "partial_rotary_factor")):
        if holder.get(key) not in (None, 1, 1.0):
            msg = (
                f"it rotates only a part of each head ({key} {checks.shown(holder[key])}): give --heads and --head-dim"
            )
            raise checks.InputError(msg)
    heads = checks.integer("num_attention_heads", _needed(config, "num_attention_heads"), 1)
    given = config.get("num_key_value_heads")
    kv_heads = heads if given is None else checks.integer("num_key_value_heads", given, 1)
    if heads % kv_heads:
        raise checks.ParameterError("num_key_value_heads", kv_heads, f"a divisor of the {heads} heads")
    if config.get("head_dim") is not None:
        head_dim = checks.head_dim(config["head_dim"])
    else:
        hidden_size = checks.integer("hidden_size", _needed(config, "hidden_size"), 2)
        if hidden_size % heads:
            raise checks.ParameterError("hidden_size", hidden_size, f"a multiple of the {heads} heads")
        head_dim = checks.head_dim(hidden_size // heads)
    return ModelShape(heads, kv_heads, head_dim)


def _needed(config: dict[str, Any], key: str) -> Any:
    if config.get(key) is None:
        msg = f"it has no {key}"
        raise checks.InputError(msg)
    return config[key]
