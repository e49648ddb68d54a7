"""Write a model that carries a base set or a position scheme, as a checkpoint."""

import os
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from ropesearch.core.errors import InputError, first_line
from ropesearch.core.files import check_new_folder, new_folder
from ropesearch.core.model_config import ModelConfig
from ropesearch.core.model_source import WEIGHTS, ModelSource
from ropesearch.core.progress import Progress

from .apply import put_rope
from .change import RopeChange, Wanted, rope_change
from .companions import (
    TOKENIZER_CONFIG,
    check_links,
    code_left_behind,
    copy_file,
    find_companions,
    read_json,
    write_json,
)
from .load import as_kept, keep, load_model, require_room, some
from .tokenizer import check_tokenizer_files, load_tokenizer
from .weights import WeightFormat, convert_weights, plan_weights, read_shapes, write_weights

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def apply_to_checkpoint(
    model: str | os.PathLike[str] | ModelSource,
    base_set_or_scheme: Wanted,
    output: str | os.PathLike[str],
    *,
    max_position_embeddings: int | None = None,
    scaling: str | None = None,
    dtype: Any = None,
    max_shard_size: int | str | None = None,
    progress: Progress | None = None,
) -> RopeChange:
    """Write a checkpoint of a model that rotates by a base set or a position scheme.

    Weights and tokenizer are copied as they are, unless a dtype or a size of shards is asked for. Those of a .gguf file
    are unpacked, and kept so in the user's cache folder, as by `load_model(FILE, keep_unpacked=True)`. Code of the
    model's own is left behind. A rule that transformers has, such as YaRN's, is written into the config alone, and the
    checkpoint is a stock one. Bases per KV head come with a code file: where `ropesearch.model` is imported, the Auto
    classes of transformers load the folder; elsewhere they do with `trust_remote_code=True`.

    Parameters
    ----------
    model : path-like, str or ModelSource
        Folder of a model as transformers saves it, a .gguf file or a folder with one, or a hub name such as org/name;
        of a type that docs/models.md lists.
    base_set_or_scheme : BaseSet, Scheme or str
        A base set made for the model's heads, KV heads and head_dim, or a scheme as for `apply_scheme`.
    output : path-like
        The new folder; written whole or not at all.
    max_position_embeddings : int, optional
        As for `apply_scheme`; a base set leaves the model's.
    scaling : {"replace", "keep"}, optional
        As for `apply_bases`.
    dtype : {"float32", "bfloat16", "float16"} or torch.dtype, optional
        Convert the weights.
    max_shard_size : int or str, optional
        The most that a file of weights holds, in bytes or as a text such as "5GB", which is the default where weights
        are converted. A shard at a time is in memory, and the files are those that `save_pretrained` would write.
    progress : callable, optional
        Called while a .gguf file is unpacked, as by `load_model`, and while weights are written anew.

    Returns
    -------
    RopeChange
        What the config says now; as a text, one line with the rule, the length, and where that comes from.
        `left_behind` names code of the model's own that is not in the copy.

    Raises
    ------
    ValueError
        If there is no such model, it has no weights or not those that its config speaks of, one of its files is a link
        out of its folder, or it cannot take the bases or the scheme: see `apply_bases` and `apply_scheme`.
    OSError
        If `output` exists or cannot be written, the disk has no room, or the hub cannot be reached.
    ImportError
        If torch or transformers is not installed; the message names the extra that brings them.
    """
    form = WeightFormat.of(dtype, max_shard_size)
    check_new_folder(output)
    source = as_kept(ModelSource.find(model))
    config = source.config()
    asked = _Asked(base_set_or_scheme, max_position_embeddings, scaling, form)
    asked.change_of(config)  # refused before weights are fetched
    if config.quantized and not form.is_own:
        msg = f"the weights of {source.name} are quantized and can only be copied as they are, without `dtype` and "
        msg += "`max_shard_size`"
        raise InputError(msg)
    if source.gguf_file is None:
        return _copy(source, asked, Path(output), progress)
    return _unpack(source, asked, Path(output), progress)


@dataclass(frozen=True)
class _Asked:
    """What a model is to be given."""

    wanted: Wanted
    max_position_embeddings: int | None
    scaling: str | None
    form: WeightFormat

    def change_of(self, config: ModelConfig) -> RopeChange:
        """Return what it makes of a model."""
        return rope_change(self.wanted, config, self.max_position_embeddings, self.scaling)


def _copy(source: ModelSource, asked: _Asked, output: Path, progress: Progress | None) -> RopeChange:
    folder, form = source.folder, asked.form
    weights = _weight_files(folder)
    files = [file for file in weights if file.suffix != ".json"]
    change, changed = _changed_model(source, asked)
    check = _check_quantized if source.config().quantized else _check_weights
    check(files, changed, source.name)

    others = find_companions(folder)
    check_links([folder / "config.json", *weights, *others], folder)
    check_tokenizer_files(folder)
    copied, plan = [*weights, *others], {}
    if not form.is_own:
        copied, plan = others, plan_weights(files, changed.all_tied_weights_keys, form)
    n_bytes = sum(file.stat().st_size for file in copied) + sum(tensor.nbytes for _, tensor in plan.values())
    require_room(n_bytes, output)
    with new_folder(output) as temporary:
        for file in copied:
            copy_file(file, temporary / file.relative_to(folder))
        if plan:
            write_weights(plan, form, temporary, progress)
        if change.base_set is None:
            _write_stock_config(folder / "config.json", change, temporary, form)
        else:
            changed.config.save_pretrained(temporary)  # and the code file with it
            _keep_tokenizer_class(source, temporary)
    return replace(change, left_behind=tuple(code_left_behind(folder)))


def _unpack(source: ModelSource, asked: _Asked, output: Path, progress: Progress | None) -> RopeChange:
    _, changed = _changed_model(source, asked)
    require_room(sum(p.numel() * p.element_size() for p in changed.parameters()), output)
    kept = keep(source, progress)
    if kept.gguf_file is None:
        return _copy(kept, asked, output, progress)
    model, tokenizer = load_model(source, progress=progress)
    form = asked.form
    convert_weights(model, form)
    change = put_rope(model, asked.wanted, asked.max_position_embeddings, asked.scaling).change
    with new_folder(output) as temporary:
        try:
            model.save_pretrained(temporary, **({} if form.is_own else {"max_shard_size": form.shard_size}))
        except SafetensorError as error:  # safetensors raises this, not OSError, on a full disk
            msg = f"{output} cannot be written: {first_line(error)}"
            raise OSError(msg) from None
        if change.base_set is None:
            _write_stock_config(temporary / "config.json", change, temporary, form)
        if tokenizer is not None:
            tokenizer.save_pretrained(temporary)
    return change


def _write_stock_config(own: Path, change: RopeChange, folder: Path, form: WeightFormat) -> None:
    """Write the model's own config.json with another rule and dtype in it, and all else that it says."""
    content = change.stock_content(read_json(own))
    if form.dtype is not None:
        content.pop("torch_dtype", None)  # its older name
        content["dtype"] = form.dtype
    write_json(folder / "config.json", content)


def _weight_files(folder: Path) -> list[Path]:
    """Return the files of the weights, with the index if they are sharded."""
    for name in WEIGHTS:
        file = folder / name
        if not file.is_file():
            continue
        if file.suffix != ".json":
            return [file]
        shards = read_json(file).get("weight_map")
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


def _changed_model(source: ModelSource, asked: _Asked) -> tuple[RopeChange, "PreTrainedModel"]:
    """The change, and the model that comes of it, without memory for its weights."""
    import torch
    import transformers

    from . import modeling_harpe

    options = {} if source.gguf_file is None else {"gguf_file": source.gguf_file}
    try:
        config = transformers.AutoConfig.from_pretrained(source.folder, trust_remote_code=False, **options)
        # Once more, with what transformers fills in.
        change = asked.change_of(ModelConfig.of(config.to_dict(), source.name))
        changed = change.config(config)
        if asked.form.dtype is not None:
            changed.dtype = asked.form.dtype
        ours = modeling_harpe.model_class(config)
        with torch.device("meta"):
            if change.base_set is None:
                return change, getattr(transformers, ours.__name__.removeprefix("Harpe"))(changed)
            return change, ours(changed)
    except InputError:
        raise
    except Exception as error:  # invalid values and cut-off files raise errors of many classes
        msg = f"{source.path if options else source.folder / 'config.json'} cannot be used: {first_line(error)}"
        raise InputError(msg) from None


def _check_weights(files: Iterable[Path], model: "PreTrainedModel", name: str) -> None:
    """Raise InputError unless the names and shapes in the files are those of the model."""
    found = _found(files)
    needed = _needed(model, found)
    _refuse_missing([key for key in needed if key not in found], name)
    for key, tensor in needed.items():
        if found[key] != tuple(tensor.shape):
            msg = f"{key} in {name} has the shape {found[key]}, but its config requires {tuple(tensor.shape)}"
            raise InputError(msg)


def _check_quantized(files: Iterable[Path], model: "PreTrainedModel", name: str) -> None:
    """Raise InputError unless quantized weights are there for every module: names and shapes are each method's own."""
    found = _found(files)
    needed = _needed(model, found)
    modules = {".".join(parts[:i]) for parts in (key.split(".") for key in found) for i in range(len(parts))}
    _refuse_missing([key for key in needed if key not in found and key.rpartition(".")[0] not in modules], name)
    if found.keys() <= needed.keys() | {"lm_head.weight"}:
        msg = f"the config of {name} says that its weights are quantized, but its files hold plain ones"
        raise InputError(msg)


def _found(files: Iterable[Path]) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor in weight files, by its name."""
    return {key: shape for file in files for key, shape in read_shapes(file).items()}


def _needed(model: "PreTrainedModel", found: Collection[str]) -> dict[str, Any]:
    """Weights that files with the names `found` must have, under the names that they have there."""
    from transformers.core_model_loading import revert_weight_conversion

    # Mixtures of experts have other names in memory.
    needed: dict[str, Any] = revert_weight_conversion(model, model.state_dict())
    prefix = f"{model.base_model_prefix}."
    without_head = not any(key.startswith(prefix) for key in found)
    if without_head:  # saved from an AutoModel: the names have no prefix
        needed = {key.removeprefix(prefix): tensor for key, tensor in needed.items()}
    if without_head or model.config.tie_word_embeddings:
        needed.pop("lm_head.weight", None)
    return needed


def _refuse_missing(missing: list[str], name: str) -> None:
    if missing:
        msg = f"{name} holds no weights for {some(missing)}, which its config requires"
        raise InputError(msg)


def _keep_tokenizer_class(source: ModelSource, copy: Path) -> None:
    """Record the class of the tokenizer, which transformers derives from the model type in some families."""
    tokenizer = load_tokenizer(source)
    if tokenizer is None:
        return
    file = copy / TOKENIZER_CONFIG
    config = read_json(file) if file.exists() else {}
    write_json(file, config | {"tokenizer_class": type(tokenizer).__name__})
