"""Load a model from disk or the hub. A .gguf file is unpacked; the unpacked copy can be kept."""

import glob
import os
import shutil
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from ropesearch.core.errors import InputError, first_line
from ropesearch.core.files import new_folder
from ropesearch.core.machine import readable_size, user_cache_folder
from ropesearch.core.model_source import ModelSource
from ropesearch.core.progress import Progress

from .tokenizer import load_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def load_model(
    model: str | os.PathLike[str] | ModelSource,
    *,
    keep_unpacked: bool = False,
    any_head: bool = False,
    progress: Progress | None = None,
    **options: Any,
) -> tuple["PreTrainedModel", "PreTrainedTokenizerBase | None"]:
    """Load a causal language model and its tokenizer, in evaluation mode.

    Parameters
    ----------
    model : path-like, str or ModelSource
        As for `apply_to_checkpoint`, of any type that transformers knows; a model that carries bases uses them.
    keep_unpacked : bool
        Whether to keep a .gguf file unpacked in the user's cache folder (`~/.cache/ropesearch` on Linux), from where it
        loads much faster next time. The copy takes four bytes per weight and is replaced when the file changes.
    any_head : bool
        Whether a model that was saved with another head, such as one that classifies texts, is loaded with that.
    progress : callable, optional
        Called as progress("unpacking FILE", 0, 1) before a .gguf file is unpacked, which may take minutes, and with
        1, 1 afterwards. In between transformers shows its own bars unless told to hide them.
    **options
        For `AutoModelForCausalLM.from_pretrained`, such as dtype, device_map or attn_implementation. Weights keep
        their own dtype by default.

    Returns
    -------
    model, tokenizer
        The tokenizer is None if the model has none.

    Raises
    ------
    ValueError
        If the model does not exist, cannot be read, or lacks weights, or is a .gguf file whose rotary embedding is
        scaled.
    OSError
        If the hub cannot be reached.
    MemoryError
        If the weights do not fit in the memory of the device.
    ImportError
        If torch or transformers is not installed; the message names the extra that brings them.
    """
    import torch
    from transformers import AutoModelForCausalLM

    source = ModelSource.find(model)
    if keep_unpacked:
        source = keep(source, progress)
    options = {"dtype": "auto", "trust_remote_code": False} | options
    packed = source.gguf_file is not None
    if packed:
        source.refuse_scaled_gguf()
        options |= {"gguf_file": source.gguf_file} | _unpacking()
    tell = progress if packed and progress else lambda *_: None
    tell(f"unpacking {source.name}", 0, 1)
    try:
        auto = _class_of_head(source) if any_head and not packed else AutoModelForCausalLM
        loaded, info = auto.from_pretrained(source.folder, output_loading_info=True, **options)
    except MemoryError:
        raise
    except torch.cuda.OutOfMemoryError:
        msg = f"the weights of {source.name} do not fit in the memory of the device"
        raise MemoryError(msg) from None
    except Exception as error:  # of many classes, for a file that is not a model or is cut off
        if "allocate memory" in str(error):  # by torch, or by the system when mapping the file
            msg = f"the weights of {source.name} do not fit in memory"
            raise MemoryError(msg) from None
        msg = f"{source.name} cannot be loaded: {first_line(error)}"
        raise InputError(msg) from None
    if info["missing_keys"]:
        msg = f"{source.name} has no weights for {some(info['missing_keys'])}"
        raise InputError(msg)
    tokenizer = load_tokenizer(source)
    tell(f"unpacking {source.name}", 1, 1)
    return loaded.eval(), tokenizer


def _class_of_head(source: ModelSource) -> Any:
    """Return the Auto class of the head that a model was saved with; that of language modelling if it says none."""
    import transformers

    from .modeling_harpe import MODELS

    named = transformers.PreTrainedConfig.get_config_dict(source.folder)[0].get("architectures") or [""]
    of_head = (auto for auto, ending in MODELS.items() if str(named[0]).endswith(ending))
    return getattr(transformers, next(of_head, "AutoModelForCausalLM"))


def kept_folder(source: ModelSource) -> Path | None:
    """Return the cache folder for the unpacked copy of a .gguf file, whether or not it exists yet.

    None for other models and for a user without a cache. The name changes with the file and with transformers' version.
    """
    place = user_cache_folder()
    if place is None or source.gguf_file is None:
        return None
    file = source.path.resolve()
    state = file.stat()
    # The last word parts the copies made since scaled files are refused from older ones.
    made_of = (state.st_size, state.st_mtime_ns, version("transformers"), "plain")
    digests = [sha256(repr(what).encode()).hexdigest()[:12] for what in (str(file), made_of)]
    return place / "models" / "-".join([file.stem, *digests])


def as_kept(source: ModelSource) -> ModelSource:
    """Return the kept unpacked copy of a .gguf file, under the same name, or else the model itself."""
    kept = kept_folder(source)
    return source if kept is None or not kept.exists() else replace(source, local=kept, gguf_file=None)


def keep(source: ModelSource, progress: Progress | None = None) -> ModelSource:
    """Do as `as_kept`, but first make the copy if it is missing and the cache has room and can be written."""
    kept = kept_folder(source)
    # The copy needs more room than the file; how much is known only after unpacking.
    if kept is None or kept.exists() or not _can_take(kept, source.path.stat().st_size):
        return as_kept(source)
    loaded, tokenizer = load_model(source, progress=progress)
    with suppress(OSError, SafetensorError):  # the disk is full, or another process was faster
        kept.parent.mkdir(parents=True, exist_ok=True)
        of_this_file = glob.escape(kept.name.rpartition("-")[0])
        for old in kept.parent.glob(f"{of_this_file}-*"):
            shutil.rmtree(old, ignore_errors=True)
        require_room(sum(p.numel() * p.element_size() for p in loaded.parameters()), kept)
        with new_folder(kept) as temporary:
            loaded.save_pretrained(temporary)
            if tokenizer is not None:
                tokenizer.save_pretrained(temporary)
    return as_kept(source)


def _can_take(folder: Path, n_bytes: int) -> bool:
    """Whether a folder can be created with room for `n_bytes`, judged by its nearest existing parent."""
    nearest = next(place for place in folder.parents if place.exists())
    return os.access(nearest, os.W_OK | os.X_OK) and shutil.disk_usage(nearest).free >= n_bytes


def require_room(n_bytes: int, output: Path) -> None:
    """Raise OSError unless the disk has room for `n_bytes` at `output`."""
    free = shutil.disk_usage(output.parent).free
    if n_bytes > free:
        msg = f"{output} needs {readable_size(n_bytes)}, but the disk has only {readable_size(free)} free"
        raise OSError(msg)


def some(names: Iterable[str]) -> str:
    """Return the first name, and how many more there are."""
    first, *others = sorted(names)
    return first if not others else f"{first} and {len(others)} more"


def _unpacking() -> dict[str, Any]:
    """Return the option that makes transformers unpack a .gguf file; the first 5.x releases always do."""
    try:
        from transformers import GgufConfig
    except ImportError:
        return {}
    return {"quantization_config": GgufConfig(dequantize=True)}
