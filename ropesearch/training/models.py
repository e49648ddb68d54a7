"""The model that is trained: found, named by its digest, loaded, and given a position scheme."""

import hashlib
import json
import os
from typing import Any

from ropesearch.core.base_set import BaseSet
from ropesearch.core.errors import InputError
from ropesearch.core.model_config import model_shape
from ropesearch.model.apply import apply_bases, find_decoder
from ropesearch.model.checkpoints import find_model, load_model, read_config
from ropesearch.schemes.grammar import parse_scheme
from ropesearch.schemes.rules import Scheme

ONE_BASE = ("rope", "abf", "abf-multi-stage")
CHECKPOINTED_FROM = 2048
"""Tokens in a row from which a CPU too computes activations again in place of keeping them."""


def identity(model: str | os.PathLike[str]) -> dict[str, Any]:
    """What says that a model is the same: its configuration, and names and sizes of its files of weights."""
    folder, gguf_file = find_model(model)
    files = [folder / gguf_file] if gguf_file else sorted([*folder.glob("*.safetensors"), *folder.glob("*.bin")])
    config = json.dumps(read_config(model), sort_keys=True, default=str)
    whole = hashlib.sha256(repr((config, [(file.name, file.stat().st_size) for file in files])).encode())
    return {"name": os.fspath(model), "digest": whole.hexdigest()}


def load_tokenizer(model: str | os.PathLike[str]) -> Any:
    """Tokenizer of a model; raises ValueError if it has none."""
    from transformers import AutoTokenizer

    folder, gguf_file = find_model(model)
    try:
        return AutoTokenizer.from_pretrained(folder, **({"gguf_file": gguf_file} if gguf_file else {}))
    except Exception as error:  # of many classes, for a file that is no tokenizer
        msg = f"{model} has no tokenizer that can be loaded: {(str(error).splitlines() or [''])[0]}"
        raise InputError(msg) from None


def load_stock(model: str | os.PathLike[str], config: Any = None) -> Any:
    """Load a model in float32, for training; with `config`, its weights under that configuration."""
    options = {} if config is None else {"config": config}
    loaded, _ = load_model(model, dtype="float32", **options)
    return loaded.train()


def put_scheme(model: Any, scheme: str | None, length: int) -> None:
    """Let a model in memory turn positions by a scheme, as its checkpoints will; None keeps its own.

    Raises
    ------
    ValueError
        If the scheme does not fit the model.
    """
    if scheme is not None:
        parsed = parse_scheme(scheme)
        name = parsed.name.partition(":")[0]
        if name in ONE_BASE:
            _put_base(model, parsed.bases[0])
        elif name == "harpe" or len(parsed.bases) > 1:
            apply_bases(model, _base_set(parsed, model))
        else:
            msg = f"the scheme {parsed.name} cannot be trained yet: {', '.join(ONE_BASE)} and sets of bases can"
            raise InputError(msg)
    config = model.config
    config.max_position_embeddings = max(getattr(config, "max_position_embeddings", None) or 0, length)


def check_scheme(model: str | os.PathLike[str], scheme: str | None, length: int) -> None:
    """Raise ValueError if a scheme does not fit a model, before its weights are loaded."""
    if scheme is not None:
        put_scheme(bare_model(stock_config(model)), scheme, length)


def bare_model(config: Any) -> Any:
    """Model of a configuration, without memory for its weights; raises ValueError if there is no such kind."""
    import torch
    from transformers import AutoModelForCausalLM

    try:
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")
    except (ValueError, KeyError) as error:
        msg = f"a model of type {config.model_type} cannot be trained: {error}"
        raise InputError(msg) from None


def scheme_bases(scheme: str | None) -> list[float] | None:
    """Bases that a scheme stands for: a base-set file may change under its name."""
    return None if scheme is None else list(parse_scheme(scheme).bases)


def _base_set(scheme: Scheme, model: Any) -> BaseSet:
    if scheme.name.startswith("harpe:"):
        return BaseSet.load(scheme.name.removeprefix("harpe:").rsplit(",original=", 1)[0])
    heads = model_shape(model.config.to_dict()).heads
    kv_heads = len(scheme.bases)
    return BaseSet(max(heads, kv_heads), kv_heads, scheme.head_dim, scheme.bases, scheme.bases, scheme.name)


def _put_base(model: Any, base: float) -> None:
    """Give a stock model another base; the rotary embedding is made anew from the config, as when it was loaded."""
    decoder, config = find_decoder(model), model.config
    rule = config.rope_parameters
    if rule.get("rope_type", "default") != "default":
        msg = f"the model scales its rotary embedding by the rule {rule['rope_type']!r}: another base would not undo it"
        raise InputError(msg)
    rule["rope_theta"] = base
    decoder.rotary_emb = type(decoder.rotary_emb)(config=decoder.config)


def stock_config(model: str | os.PathLike[str]) -> Any:
    """Configuration that a model comes with."""
    from transformers import AutoConfig

    folder, gguf_file = find_model(model)
    return AutoConfig.from_pretrained(folder, **({"gguf_file": gguf_file} if gguf_file else {}))


def vocabulary(model: str | os.PathLike[str]) -> int | None:
    """How many tokens a model knows."""
    size = read_config(model).get("vocab_size")
    return size if isinstance(size, int) else None
