"""Models on disk and on the hub: load one, and write one that carries a base set."""

import glob
import json
import os
import re
import shutil
from collections.abc import Iterable
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from ropesearch.core.base_set import BaseSet
from ropesearch.core.errors import InputError, require_extra
from ropesearch.core.files import check_new_folder, new_folder
from ropesearch.core.machine import readable_size, user_cache_folder

from .apply import apply_bases, check_fit, require_torch

# What transformers looks for in a folder, in its order; an index names the files that it stands for.
WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
# What else belongs to a model; the rest of a folder (training state, cards, other formats) stays behind.
COMPANIONS = (
    "generation_config.json",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab*",
    "merges.txt",
    "chat_template*",
    "tekken.json",
    "*.tiktoken",
    "LICENSE*",
    "NOTICE*",
)
TOKENIZERS = ("tokenizer*", "vocab*", "tekken.json")
HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
FILE_SUFFIXES = (".gguf", ".json", ".safetensors", ".bin", ".pt")


def apply_to_checkpoint(model: str | os.PathLike[str], base_set: BaseSet, output: str | os.PathLike[str]) -> None:
    """Write a checkpoint whose config holds the bases and whose attention rotates each KV head by its own.

    Weights and tokenizer are copied as they are; those of a .gguf file are unpacked. Where `ropesearch.model` is
    imported, the Auto classes of transformers load the folder; elsewhere they do with `trust_remote_code=True`, from
    the code file in it.

    Parameters
    ----------
    model : path-like or str
        Folder of a model as transformers saves it, a .gguf file or a folder with one, or a hub name such as org/name;
        of type llama, mistral, qwen2 or qwen3.
    base_set : BaseSet
        Made for the model's heads, KV heads and head_dim.
    output : path-like
        The new folder; written whole or not at all.

    Raises
    ------
    ValueError
        If there is no such model, or it has no weights or not those that its config speaks of, or it cannot take the
        bases: see `apply_bases`.
    OSError
        If `output` exists or cannot be written, the disk has no room, or the hub cannot be reached.
    ImportError
        If torch or transformers is not installed; the message names the extra that brings them.
    """
    check_new_folder(output)
    folder, gguf_file = find_model(model)
    if gguf_file is not None:
        _unpack_with_bases(folder, gguf_file, base_set, Path(output))
        return
    config = _read_json(folder / "config.json")
    check_fit(base_set, config, str(model))
    if config.get("quantization_config"):
        msg = f"the weights of {model} are quantized; bases can be given to one that is not"
        raise InputError(msg)
    weights = _weight_files(folder)
    require_torch("apply")
    per_head = _per_head_model(folder, base_set)
    _check_weights(weights, per_head, str(model))

    companions = {file for pattern in COMPANIONS for file in folder.glob(pattern) if file.is_file()}
    files = sorted({*weights, *companions})
    templates = [file for file in (folder / "additional_chat_templates").glob("*") if file.is_file()]
    _require_room(sum(file.stat().st_size for file in [*files, *templates]), Path(output))
    with new_folder(output) as temporary:
        for file in [*files, *templates]:
            copy = temporary / file.relative_to(folder)
            copy.parent.mkdir(exist_ok=True)
            shutil.copyfile(file, copy)
        per_head.config.save_pretrained(temporary)  # and the code file with it
        _keep_tokenizer_class(folder, temporary)


def load_model(model: str | os.PathLike[str], *, keep_unpacked: bool = False, **options: Any) -> tuple[Any, Any]:
    """Load a causal language model and its tokenizer, for use and not for training.

    Parameters
    ----------
    model : path-like or str
        As for `apply_to_checkpoint`, and of any type that transformers knows; one that carries bases rotates by them.
    keep_unpacked : bool
        Whether a .gguf file is kept unpacked in the user's cache folder (`~/.cache/ropesearch` on Linux), four bytes
        for each weight, from where it loads much faster the next time; until the file changes.
    **options
        For `AutoModelForCausalLM.from_pretrained`, such as dtype, device_map or attn_implementation. Weights are
        taken in their own dtype where none is named.

    Returns
    -------
    model, tokenizer
        None in the tokenizer's place where there is none.

    Raises
    ------
    ValueError
        If there is no such model, or it cannot be read, or weights are missing.
    OSError
        If the hub cannot be reached.
    MemoryError
        If the weights do not fit in the memory of the device.
    ImportError
        If torch or transformers is not installed; the message names the extra that brings them.
    """
    folder, gguf_file = find_model(model)
    require_torch("loading a model")
    if gguf_file is not None and keep_unpacked:
        folder, gguf_file = _kept_unpacked(folder, gguf_file)
    import torch
    from transformers import AutoModelForCausalLM

    options = {"dtype": "auto", "trust_remote_code": False} | options
    if gguf_file is not None:
        _require_gguf()
        options["gguf_file"] = gguf_file
        options |= _unpacked()
    try:
        loaded, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True, **options)
    except MemoryError:
        raise
    except torch.cuda.OutOfMemoryError:
        msg = f"the weights of {model} do not fit in the memory of the device"
        raise MemoryError(msg) from None
    except Exception as error:  # of many classes, for a file that is no model or cut off
        if "allocate memory" in str(error):  # by torch, or by the system where the file is mapped
            msg = f"the weights of {model} do not fit in memory"
            raise MemoryError(msg) from None
        msg = f"{model} cannot be loaded: {_first_line(error)}"
        raise InputError(msg) from None
    if info["missing_keys"]:
        msg = f"{model} has no weights for {_some(info['missing_keys'])}"
        raise InputError(msg)
    return loaded.eval(), _tokenizer(folder, gguf_file)


def read_config(model: str | os.PathLike[str]) -> dict[str, Any]:
    """Content of a model's config, as in its config.json; raises as `load_model`."""
    folder, gguf_file = find_model(model)
    if gguf_file is None:
        return _read_json(folder / "config.json")
    require_torch("reading a .gguf file")
    _require_gguf()
    from transformers import AutoConfig

    try:
        config: dict[str, Any] = AutoConfig.from_pretrained(folder, gguf_file=gguf_file).to_dict()
    except Exception as error:  # of many classes, for a file that is no model or cut off
        msg = f"{model} cannot be read: {_first_line(error)}"
        raise InputError(msg) from None
    return config


def local_model(model: str | os.PathLike[str]) -> Path:
    """Folder or .gguf file of a model, fetched from the hub where need be, for several uses; raises as `load_model`."""
    folder, gguf_file = find_model(model)
    return folder if gguf_file is None else folder / gguf_file


def find_model(model: str | os.PathLike[str]) -> tuple[Path, str | None]:
    """Folder of a model, fetched from the hub where need be, and the name of the .gguf file in it that is meant."""
    path = Path(model)
    if not os.fspath(model):  # which as a path would be the current folder
        msg = "`model` must be a model's folder, a .gguf file or a hub name such as org/name, not ''"
        raise InputError(msg)
    if os.path.isdir(path):
        if os.path.exists(path / "config.json"):
            return path, None
        packed = sorted(file.name for file in path.glob("*.gguf"))
        if len(packed) == 1:
            return path, packed[0]
        found = f"{len(packed)} .gguf files: name the one" if packed else "no config.json and no .gguf file"
        msg = f"{model} is not one model's folder: it has {found}"
        raise InputError(msg)
    if os.path.isfile(path):
        if path.suffix != ".gguf":
            msg = f"{model} is a file: `model` must be a model's folder, a .gguf file or a hub name such as org/name"
            raise InputError(msg)
        return path.parent, path.name
    if HUB_NAME.fullmatch(str(model)) and path.suffix not in FILE_SUFFIXES:
        return _fetch(str(model)), None
    msg = f"{model} does not exist: `model` must be a model's folder, a .gguf file or a hub name such as org/name"
    raise InputError(msg)


def _fetch(name: str) -> Path:
    require_torch(f"{name}, which is no folder here and so a hub name,")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import RepositoryNotFoundError

    others = ["config.json", *COMPANIONS, "additional_chat_templates/*"]
    try:
        folder = Path(snapshot_download(name, allow_patterns=[*others, "model*.safetensors*"]))
        if not any((folder / file).exists() for file in WEIGHTS):
            folder = Path(snapshot_download(name, allow_patterns=[*others, "pytorch_model*.bin*"]))
    except RepositoryNotFoundError:
        msg = f"{name} is no folder here, and the hub has no such model, or shows it only to who has logged in"
        raise InputError(msg) from None
    except Exception as error:  # of whatever carries the requests
        msg = f"{name} is no folder here, and could not be fetched from the hub: {_first_line(error)}"
        raise OSError(msg) from None
    return folder


def _weight_files(folder: Path) -> list[Path]:
    """Files of the weights, with the index where they are sharded."""
    for name in WEIGHTS:
        file = folder / name
        if not file.is_file():
            continue
        if file.suffix != ".json":
            return [file]
        shards = _read_json(file).get("weight_map")
        if not isinstance(shards, dict):
            msg = f"{file} has no weight_map that says where the weights are"
            raise InputError(msg)
        files = [folder / Path(str(shard)).name for shard in sorted(set(shards.values()))]
        missing = [shard.name for shard in files if not shard.is_file()]
        if missing:
            msg = f"{file} speaks of {_some(missing)}, not to be found beside it"
            raise InputError(msg)
        return [file, *files]
    msg = f"{folder} holds no weights: none of {', '.join(WEIGHTS)}"
    raise InputError(msg)


def _per_head_model(folder: Path, base_set: BaseSet, gguf_file: str | None = None) -> Any:
    """The model with bases that a config stands for, without memory for its weights."""
    import torch
    from transformers import AutoConfig

    from . import modeling_harpe

    options = {} if gguf_file is None else {"gguf_file": gguf_file}
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False, **options)
        check_fit(base_set, config.to_dict(), str(folder / (gguf_file or "")))  # with what transformers fills in
        causal_lm = modeling_harpe.FAMILIES[config.model_type][-1]
        with torch.device("meta"):
            return causal_lm(modeling_harpe.with_bases(config, base_set.bases))
    except InputError:
        raise
    except Exception as error:  # a value that cannot be, or a file cut off, raises errors of many classes
        msg = f"{folder / (gguf_file or 'config.json')} cannot be used: {_first_line(error)}"
        raise InputError(msg) from None


def _check_weights(files: Iterable[Path], model: Any, name: str) -> None:
    """Hold names and shapes in the files to those of the model."""
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
        msg = f"{name} holds no weights for {_some(missing)}, which its config speaks of"
        raise InputError(msg)
    for key, shape in needed.items():
        if found[key] != shape:
            msg = f"{key} in {name} has the shape {found[key]}, and by its config it must have {shape}"
            raise InputError(msg)


def _shapes(file: Path) -> list[tuple[str, tuple[int, ...]]]:
    """Name and shape of every tensor in a file, without reading the tensors."""
    try:
        if file.suffix == ".safetensors":
            from safetensors import safe_open

            with safe_open(file, framework="pt") as tensors:
                return [(key, tuple(tensors.get_slice(key).get_shape())) for key in tensors.keys()]  # noqa: SIM118
        import torch

        return [(key, tuple(t.shape)) for key, t in torch.load(file, map_location="meta", mmap=True).items()]
    except Exception as error:  # of many classes, for a file of something else or cut off
        msg = f"{file} cannot be read as weights: {_first_line(error)}"
        raise InputError(msg) from None


def _unpack_with_bases(folder: Path, gguf_file: str, base_set: BaseSet, output: Path) -> None:
    require_torch("apply")
    _require_gguf()
    parameters = _per_head_model(folder, base_set, gguf_file).parameters()
    _require_room(sum(p.numel() * p.element_size() for p in parameters), output)
    model, tokenizer = load_model(folder / gguf_file)
    apply_bases(model, base_set)
    with new_folder(output) as temporary:
        try:
            model.save_pretrained(temporary)
        except SafetensorError as error:  # which a full disk is to safetensors, and no OSError
            msg = f"{output} cannot be written: {_first_line(error)}"
            raise OSError(msg) from None
        if tokenizer is not None:
            tokenizer.save_pretrained(temporary)


def _kept_unpacked(folder: Path, gguf_file: str) -> tuple[Path, str | None]:
    """The folder in the user's cache that a .gguf file is unpacked in, or the file itself where none can be made."""
    from importlib.metadata import version

    place = user_cache_folder()
    if place is None:
        return folder, gguf_file
    file = (folder / gguf_file).resolve()
    state = file.stat()
    made_of = (state.st_size, state.st_mtime_ns, version("transformers"))
    digests = [sha256(repr(what).encode()).hexdigest()[:12] for what in (str(file), made_of)]
    name = f"{file.stem}-{digests[0]}"
    kept = place / "models" / f"{name}-{digests[1]}"
    if not kept.exists():
        loaded, tokenizer = load_model(folder / gguf_file)
        with suppress(OSError, SafetensorError):  # no room, a folder that cannot be written, another process's
            kept.parent.mkdir(parents=True, exist_ok=True)
            for old in kept.parent.glob(f"{glob.escape(name)}-*"):
                shutil.rmtree(old, ignore_errors=True)
            _require_room(sum(p.numel() * p.element_size() for p in loaded.parameters()), kept)
            with new_folder(kept) as temporary:
                loaded.save_pretrained(temporary)
                if tokenizer is not None:
                    tokenizer.save_pretrained(temporary)
    return (kept, None) if kept.exists() else (folder, gguf_file)


def _require_gguf() -> None:
    require_extra("a .gguf file", "torch", "gguf", "accelerate")


def _unpacked() -> dict[str, Any]:
    """Option that makes transformers unpack a .gguf file; the first 5.x do nothing else."""
    try:
        from transformers import GgufConfig
    except ImportError:
        return {}
    return {"quantization_config": GgufConfig(dequantize=True)}


def _tokenizer(folder: Path, gguf_file: str | None = None) -> Any:
    """Tokenizer of a model, or None where there is none that loads without code of its own."""
    from transformers import AutoTokenizer

    options = {} if gguf_file is None else {"gguf_file": gguf_file}
    if not options and not any(file for pattern in TOKENIZERS for file in folder.glob(pattern)):
        return None
    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False, **options)
    except Exception:  # of many classes
        return None


def _keep_tokenizer_class(folder: Path, copy: Path) -> None:
    """Write down the class of the tokenizer, which transformers takes from the model type in some families."""
    tokenizer = _tokenizer(folder)
    if tokenizer is None:
        return
    file = copy / "tokenizer_config.json"
    config = _read_json(file) if file.exists() else {}
    config["tokenizer_class"] = type(tokenizer).__name__
    file.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _require_room(n_bytes: int, output: Path) -> None:
    free = shutil.disk_usage(output.parent).free
    if n_bytes > free:
        msg = f"{output} needs {readable_size(n_bytes)}, and the disk has {readable_size(free)} free"
        raise OSError(msg)


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
        msg = f"{file} holds no JSON object"
        raise InputError(msg)
    return content


def _some(names: Iterable[str]) -> str:
    first, *others = sorted(names)
    return first if not others else f"{first} and {len(others)} more"


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
