"""Write a model that carries a base set, as a checkpoint."""

import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from ropesearch.core.base_set import BaseSet
from ropesearch.core.errors import InputError, first_line
from ropesearch.core.files import check_new_folder, new_folder
from ropesearch.core.model_config import ModelConfig
from ropesearch.core.model_source import COMPANIONS, WEIGHTS, ModelSource
from ropesearch.core.progress import Progress

from .apply import apply_bases, check_fit
from .load import as_kept, keep, load_model, load_tokenizer, require_room, some

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def apply_to_checkpoint(
    model: str | os.PathLike[str] | ModelSource,
    base_set: BaseSet,
    output: str | os.PathLike[str],
    *,
    progress: Progress | None = None,
) -> None:
    """Write a checkpoint whose config holds the bases and whose attention rotates each KV head by its own.

    Weights and tokenizer are copied unchanged. A .gguf file is unpacked, and the unpacked copy is kept in the user's
    cache folder, as by `load_model(FILE, keep_unpacked=True)`. Once `ropesearch.model` is imported, the Auto classes of
    transformers load the folder; without it, `trust_remote_code=True` loads it with the code file that it contains.

    Parameters
    ----------
    model : path-like, str or ModelSource
        A folder saved by transformers, a .gguf file or a folder with one, or a hub name such as org/name; of type
        llama, mistral, qwen2 or qwen3.
    base_set : BaseSet
        Made for the model's heads, KV heads and head_dim.
    output : path-like
        The new folder; written whole or not at all.
    progress : callable, optional
        Called while a .gguf file is unpacked, as by `load_model`.

    Raises
    ------
    ValueError
        If the model does not exist, its weights do not fit its config, or it cannot take the bases (see
        `apply_bases`).
    OSError
        If `output` exists or cannot be written, the disk has no room, or the hub cannot be reached.
    ImportError
        If torch or transformers is not installed; the message names the extra that brings them.
    """
    check_new_folder(output)
    source = as_kept(ModelSource.find(model))
    config = source.config()
    check_fit(base_set, config)
    if config.quantized:
        msg = f"the weights of {source.name} are quantized; only a model that is not can take bases"
        raise InputError(msg)
    if source.gguf_file is None:
        _copy_with_bases(source, base_set, Path(output))
    else:
        _unpack_with_bases(source, base_set, Path(output), progress)


def _copy_with_bases(source: ModelSource, base_set: BaseSet, output: Path) -> None:
    folder = source.folder
    weights = _weight_files(folder)
    per_head = _per_head_model(source, base_set)
    _check_weights(weights, per_head, source.name)

    companions = {file for pattern in COMPANIONS for file in folder.glob(pattern) if file.is_file()}
    files = sorted({*weights, *companions})
    templates = [file for file in (folder / "additional_chat_templates").glob("*") if file.is_file()]
    require_room(sum(file.stat().st_size for file in [*files, *templates]), output)
    with new_folder(output) as temporary:
        for file in [*files, *templates]:
            copy = temporary / file.relative_to(folder)
            copy.parent.mkdir(exist_ok=True)
            shutil.copyfile(file, copy)
        per_head.config.save_pretrained(temporary)  # also copies the code file
        _keep_tokenizer_class(source, temporary)


def _unpack_with_bases(source: ModelSource, base_set: BaseSet, output: Path, progress: Progress | None) -> None:
    parameters = _per_head_model(source, base_set).parameters()
    require_room(sum(p.numel() * p.element_size() for p in parameters), output)
    kept = keep(source, progress)
    if kept.gguf_file is None:
        _copy_with_bases(kept, base_set, output)
        return
    model, tokenizer = load_model(source, progress=progress)
    apply_bases(model, base_set)
    with new_folder(output) as temporary:
        try:
            model.save_pretrained(temporary)
        except SafetensorError as error:  # safetensors raises this, not OSError, on a full disk
            msg = f"{output} cannot be written: {first_line(error)}"
            raise OSError(msg) from None
        if tokenizer is not None:
            tokenizer.save_pretrained(temporary)


def _weight_files(folder: Path) -> list[Path]:
    """Return the files of the weights, with the index if they are sharded."""
    for name in WEIGHTS:
        file = folder / name
        if not file.is_file():
            continue
        if file.suffix != ".json":
            return [file]
        shards = _read_json(file).get("weight_map")
        if not isinstance(shards, dict):
            msg = f"{file} has no weight_map to say where the weights are"
            raise InputError(msg)
        files = [folder / Path(str(shard)).name for shard in sorted(set(shards.values()))]
        missing = [shard.name for shard in files if not shard.is_file()]
        if missing:
            msg = f"{file} lists {some(missing)}, not found in its folder"
            raise InputError(msg)
        return [file, *files]
    msg = f"{folder} holds no weights: none of {', '.join(WEIGHTS)}"
    raise InputError(msg)


def _per_head_model(source: ModelSource, base_set: BaseSet) -> "PreTrainedModel":
    """Build the model with bases from its config, without memory for its weights."""
    import torch
    from transformers import AutoConfig

    from . import modeling_harpe

    options = {} if source.gguf_file is None else {"gguf_file": source.gguf_file}
    try:
        config = AutoConfig.from_pretrained(source.folder, trust_remote_code=False, **options)
        check_fit(base_set, ModelConfig.of(config.to_dict(), source.name))  # includes what transformers fills in
        causal_lm = modeling_harpe.FAMILIES[config.model_type][-1]
        with torch.device("meta"):
            return causal_lm(modeling_harpe.with_bases(config, base_set.bases))
    except InputError:
        raise
    except Exception as error:  # invalid values and cut-off files raise errors of many classes
        msg = f"{source.path if options else source.folder / 'config.json'} cannot be used: {first_line(error)}"
        raise InputError(msg) from None


def _check_weights(files: Iterable[Path], model: "PreTrainedModel", name: str) -> None:
    """Raise InputError unless the names and shapes in the files are those of the model."""
    found = {key: shape for file in files if file.suffix != ".json" for key, shape in _shapes(file)}
    needed = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    prefix = f"{model.base_model_prefix}."
    without_head = not any(key.startswith(prefix) for key in found)
    if without_head:  # saved from an AutoModel: the names have no prefix
        needed = {key.removeprefix(prefix): shape for key, shape in needed.items()}
    if without_head or model.config.tie_word_embeddings:
        needed.pop("lm_head.weight")
    missing = [key for key in needed if key not in found]
    if missing:
        msg = f"{name} holds no weights for {some(missing)}, which its config requires"
        raise InputError(msg)
    for key, shape in needed.items():
        if found[key] != shape:
            msg = f"{key} in {name} has the shape {found[key]}, but its config requires {shape}"
            raise InputError(msg)


def _shapes(file: Path) -> list[tuple[str, tuple[int, ...]]]:
    """Return name and shape of every tensor in a file, without reading the tensors."""
    try:
        if file.suffix == ".safetensors":
            from safetensors import safe_open

            with safe_open(file, framework="pt") as tensors:
                return [(key, tuple(tensors.get_slice(key).get_shape())) for key in tensors.keys()]  # noqa: SIM118
        import torch

        tensors = torch.load(file, map_location="meta", mmap=True, weights_only=True)  # runs no code of the file
        return [(key, tuple(t.shape)) for key, t in tensors.items()]
    except Exception as error:  # of many classes, for a file of another kind or cut off
        msg = f"{file} cannot be read as weights: {first_line(error)}"
        raise InputError(msg) from None


def _keep_tokenizer_class(source: ModelSource, copy: Path) -> None:
    """Record the class of the tokenizer, which transformers derives from the model type in some families."""
    tokenizer = load_tokenizer(source)
    if tokenizer is None:
        return
    file = copy / "tokenizer_config.json"
    config = _read_json(file) if file.exists() else {}
    config["tokenizer_class"] = type(tokenizer).__name__
    file.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_bytes())
    except OSError as error:
        msg = f"{file} cannot be read: {error.strerror or error}"
        raise InputError(msg) from None
    except (ValueError, RecursionError) as error:
        msg = f"{file} is not JSON: {error}"
        raise InputError(msg) from None
    if not isinstance(content, dict):
        msg = f"{file} is not a JSON object"
        raise InputError(msg)
    return content
