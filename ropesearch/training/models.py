"""The model that is trained: found, named by its digest, loaded, and given a position scheme."""

import hashlib
import json
import os
from dataclasses import replace
from typing import Any

from ropesearch.core.errors import InputError, first_line
from ropesearch.core.model_config import ModelConfig
from ropesearch.core.model_source import ModelSource
from ropesearch.model.apply import apply_scheme
from ropesearch.model.load import load_model
from ropesearch.schemes.grammar import parse_scheme
from ropesearch.schemes.rules import LayerBases, Scheme

CHECKPOINTED_FROM = 2048
"""Tokens in a row from which a CPU too computes activations again in place of keeping them."""


def identity(source: ModelSource) -> dict[str, Any]:
    """What says that a model is the same: its configuration, and names and sizes of its files of weights."""
    folder = source.folder
    files = [source.path] if source.gguf_file else sorted([*folder.glob("*.safetensors"), *folder.glob("*.bin")])
    config = json.dumps(stock_config(source).to_dict(), sort_keys=True, default=str)
    whole = hashlib.sha256(repr((config, [(file.name, file.stat().st_size) for file in files])).encode())
    return {"name": source.name, "digest": whole.hexdigest()}


def stock_config(source: ModelSource) -> Any:
    """Configuration that a model comes with, as transformers has it."""
    from transformers import AutoConfig

    options = {"gguf_file": source.gguf_file} if source.gguf_file else {}
    place = source.folder if source.local is not None else source.name
    source.refuse_scaled_gguf()
    try:
        return AutoConfig.from_pretrained(place, trust_remote_code=False, **options)
    except Exception as error:  # of many classes, for a file that is no model or cut off
        msg = f"{source.name} cannot be used: {first_line(error)}"
        raise InputError(msg) from None


def load_for_training(weights: str | os.PathLike[str] | ModelSource, config: Any = None, **options: Any) -> Any:
    """Load a model in float32; with `config`, its weights under that configuration."""
    own = {"dtype": "float32"} if config is None else {"dtype": "float32", "config": config}
    loaded, _ = load_model(weights, **(options | own))
    return loaded.train()


def bare_model(config: Any) -> Any:
    """Model of a configuration, without memory for its weights; raises ValueError if there is no such kind."""
    import torch
    from transformers import AutoModelForCausalLM

    try:
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")
    except (ValueError, KeyError) as error:
        msg = f"a model of type {config.model_type} cannot be trained: {first_line(error)}"
        raise InputError(msg) from None


def put_scheme(model: Any, scheme: Scheme | str | None, length: int) -> None:
    """Let a model in memory turn positions by a scheme, as its checkpoints will; None keeps its own.

    Its config says the length that it is trained at, or a longer one that model or scheme speak of.

    Raises
    ------
    ValueError
        If the scheme does not fit the model.
    """
    if scheme is not None:
        apply_scheme(model, scheme)
    config = model.config
    if (config.rope_parameters or {}).get("rope_type") != "dynamic":  # which reads its trained length there
        config.max_position_embeddings = max(getattr(config, "max_position_embeddings", None) or 0, length)


def check_scheme(source: ModelSource, scheme: str | None, length: int) -> None:
    """Raise ValueError if a scheme does not fit a model, before its weights are loaded."""
    put_scheme(bare_model(stock_config(source)), scheme, length)


def scheme_of_one_layer(config: Any, scheme: str | None) -> Scheme | None:
    """Return a scheme, and where layers differ in their bases that of a model of the first layer alone."""
    if scheme is None:
        return None
    parsed = parse_scheme(scheme, model=ModelConfig.of(config.to_dict()))
    if not isinstance(parsed, LayerBases):
        return parsed
    return replace(parsed, bases=parsed.bases[: len(parsed.bases) // parsed.layers], layers=1)


def scheme_bases(source: ModelSource, scheme: str | None) -> list[float] | None:
    """Bases that a scheme stands for in a model: a base-set file may change under its name."""
    if scheme is None:
        return None
    config = source.config()
    try:
        return list(parse_scheme(scheme, model=config).bases)
    except OSError as error:
        msg = f"the scheme {scheme} cannot be used: {error.filename} cannot be read: {error.strerror or error}"
        raise InputError(msg) from None
