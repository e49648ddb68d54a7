"""transformers' own training arguments, out of a YAML file, checked by transformers' own parser."""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, NoReturn

from ropesearch.core import checks
from ropesearch.core.errors import InputError, shown
from ropesearch.core.files import read_file

SPEC_KEYS = {
    "learning_rate": "learning_rate",
    "adam_beta1": "beta1",
    "adam_beta2": "beta2",
    "weight_decay": "weight_decay",
    "warmup_steps": "warmup_steps",
    "lr_scheduler_type": "schedule",
    "max_grad_norm": "max_grad_norm",
    "seed": "seed",
}
"""Training arguments that are options of a `TrainSpec` too, by the option's name."""

OWN_KEYS = {
    "output_dir": "-o",
    "max_steps": "--tokens",
    "num_train_epochs": "--tokens",
    "gradient_accumulation_steps": "--batch-tokens",
    "max_length": "--length",
    "save_steps": "--save-every",
    "save_strategy": "--save-every",
    "save_total_limit": "--keep",
    "resume_from_checkpoint": "--resume",
    "parallelism_config": "the configuration file of accelerate launch",
    **dict.fromkeys(
        (
            "packing", "packing_strategy", "eval_packing", "padding_free", "dataset_text_field", "dataset_kwargs",
            "dataset_num_proc", "shuffle_dataset", "truncation_mode", "train_sampling_strategy",
            "remove_unused_columns", "dataloader_drop_last", "completion_only_loss", "assistant_only_loss",
            "chat_template_path",
            "pad_to_multiple_of", "auto_find_batch_size", "do_train", "do_eval", "do_predict",
            "eval_strategy", "eval_steps", "eval_on_start", "load_best_model_at_end", "save_only_model",
            "logging_nan_inf_filter", "ignore_data_skip", "push_to_hub", "loss_type", "label_smoothing_factor",
        ),
        "train itself: it packs rows, trains on all tokens and keeps its checkpoints",
    ),
}  # fmt: skip
"""Training arguments that are not the user's to set, and what sets them."""

MOST_BYTES = 1_000_000
"""How large a file of training arguments may be."""

NOT_SHAPING = (
    "report_to", "run_name", "project", "logging_dir", "logging_steps", "logging_first_step", "log_level",
    "log_level_replica", "disable_tqdm", "dataloader_num_workers", "dataloader_pin_memory",
    "dataloader_persistent_workers", "dataloader_prefetch_factor", "ddp_timeout", "ddp_backend", "use_cpu", "fsdp",
    "fsdp_config", "deepspeed", "per_device_train_batch_size", "activation_checkpointing",
    "gradient_checkpointing", "activation_checkpointing_kwargs", "gradient_checkpointing_kwargs",
    "activation_offloading", "save_on_each_node", "torch_empty_cache_steps", "include_num_input_tokens_seen",
    "skip_memory_metrics", "trackio_space_id", "hub_token", "model_init_kwargs",
)  # fmt: skip
"""Training arguments of which a run may have others when it is resumed: they say where and how fast, not what."""


def read_arguments(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read training arguments from a YAML or JSON file.

    Raises
    ------
    OSError
        If the file cannot be read.
    ValueError
        If it is no mapping, or has a key that is unknown or not the user's to set; the message names it.
    """
    import yaml

    text = read_file(path, MOST_BYTES)
    try:
        content = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        msg = f"{path} is not YAML: {' '.join(str(error).split())}"
        raise InputError(msg) from None
    if content is None:
        return {}
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        msg = f"{path} must hold training arguments, one `key: value` a line"
        raise InputError(msg)
    return checked_keys(content)


def checked_keys(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Training arguments, if every key is one and the user's to set; raises ValueError."""
    from trl import SFTConfig

    known = {field.name for field in fields(SFTConfig) if field.init}
    for key in arguments:
        if key not in known:
            msg = f"there is no training argument {shown(key)}{checks.nearest(key, known - OWN_KEYS.keys())}"
            raise InputError(msg)
        if key in OWN_KEYS:
            msg = f"the training argument {key} is not for a file: it is set by {OWN_KEYS[key]}"
            raise InputError(msg)
    if not isinstance(arguments.get("model_init_kwargs") or {}, Mapping):
        msg = "training arguments: model_init_kwargs must be a mapping, such as {attn_implementation: sdpa}"
        raise InputError(msg)
    return dict(arguments)


def shaping(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of the training arguments that shape a run, beside the spec."""
    return {key: value for key, value in arguments.items() if key not in (*NOT_SHAPING, *SPEC_KEYS)}


def make_config(arguments: Mapping[str, Any], **own: Any) -> Any:
    """`trl.SFTConfig` of a user's arguments and our own; raises ValueError with what transformers' parser says."""
    from transformers import HfArgumentParser
    from trl import SFTConfig

    class Parser(HfArgumentParser):
        def error(self, message: str) -> NoReturn:
            said = re.sub(r"^argument --(\w+)\S*:", r"\1:", " ".join(message.split()))
            msg = f"training arguments: {said}"
            raise InputError(msg)

    words: list[str] = []
    for key, value in arguments.items():
        if isinstance(value, list) and not any(isinstance(item, dict) for item in value):
            words += [f"--{key}", *map(_word, value)]
        elif value is not None:
            words.append(f"--{key}={_word(value)}")
    parser = Parser(SFTConfig, allow_abbrev=False)
    given = vars(parser.parse_args(words))
    try:
        return SFTConfig(**{key: given[key] for key in arguments if arguments[key] is not None}, **own)
    except InputError:
        raise
    except (ValueError, TypeError, KeyError, ImportError) as error:
        msg = f"training arguments: {' '.join(str(error).split())}"
        raise InputError(msg) from None


def _word(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
