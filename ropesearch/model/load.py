"""Load a model from disk or the hub. A .gguf file is unpacked, and can be kept so."""

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
from ropesearch.core.model_source import ModelSource, require_gguf
from ropesearch.core.progress import Progress

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

TOKENIZERS = ("tokenizer*", "vocab*", "tekken.json")


def load_model(
    model: str | os.PathLike[str] | ModelSource,
    *,
    keep_unpacked: bool = False,
    progress: Progress | None = None,
    **options: Any,
) -> tuple["PreTrainedModel", "PreTrainedTokenizerBase | None"]:
    """Load a causal language model and its tokenizer, for use and not for training.

    Parameters
    ----------
    model : path-like, str or ModelSource
        As for `apply_to_checkpoint`, and of any type that transformers knows; one that carries bases rotates by them.
    keep_unpacked : bool
        Whether a .gguf file is kept unpacked in the user's cache folder (`~/.cache/ropesearch` on Linux), four bytes
        for each weight, from where it loads much faster the next time; until the file changes.
    progress : callable, optional
        Called as progress("unpacking FILE", 0, 1) before a .gguf file is unpacked, which may take minutes, and with
        1, 1 after it. In between transformers shows its own bars, where it has not been told to hide them.
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
    import torch
    from transformers import AutoModelForCausalLM

    source = ModelSource.find(model)
    if keep_unpacked:
        source = keep(source, progress)
    options = {"dtype": "auto", "trust_remote_code": False} | options
    packed = source.gguf_file is not None
    if packed:
        require_gguf()
        options |= {"gguf_file": source.gguf_file} | _unpacking()
    tell = progress if packed and progress else lambda *_: None
    tell(f"unpacking {source.name}", 0, 1)
    try:
        loaded, info = AutoModelForCausalLM.from_pretrained(source.folder, output_loading_info=True, **options)
    except MemoryError:
        raise
    except torch.cuda.OutOfMemoryError:
        msg = f"the weights of {source.name} do not fit in the memory of the device"
        raise MemoryError(msg) from None
    except Exception as error:  # of many classes, for a file that is no model or cut off
        if "allocate memory" in str(error):  # by torch, or by the system where the file is mapped
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


def load_tokenizer(source: ModelSource) -> "PreTrainedTokenizerBase | None":
    """Tokenizer of a model, or None where there is none that loads without code of its own."""
    from transformers import AutoTokenizer

    options = {} if source.gguf_file is None else {"gguf_file": source.gguf_file}
    if not options and not any(file for pattern in TOKENIZERS for file in source.folder.glob(pattern)):
        return None
    try:
        return AutoTokenizer.from_pretrained(source.folder, trust_remote_code=False, **options)
    except Exception:  # of many classes
        return None


def kept_folder(source: ModelSource) -> Path | None:
    """Folder in the user's cache that holds a .gguf file unpacked, or would; None for a user without a cache.

    Of any other model it is None too. Its name changes with the file, and with transformers, which unpacks it.
    """
    place = user_cache_folder()
    if place is None or source.gguf_file is None:
        return None
    file = source.path.resolve()
    state = file.stat()
    made_of = (state.st_size, state.st_mtime_ns, version("transformers"))
    digests = [sha256(repr(what).encode()).hexdigest()[:12] for what in (str(file), made_of)]
    return place / "models" / "-".join([file.stem, *digests])


def as_kept(source: ModelSource) -> ModelSource:
    """Return the unpacked copy of a .gguf file that is kept, under the same name, or else the model itself."""
    kept = kept_folder(source)
    return source if kept is None or not kept.exists() else replace(source, local=kept, gguf_file=None)


def keep(source: ModelSource, progress: Progress | None = None) -> ModelSource:
    """Do as `as_kept`, and make the copy if there is none: where there is neither room nor right to, none is made."""
    kept = kept_folder(source)
    # The copy needs more room than the file, but how much more is known only once it is unpacked.
    if kept is None or kept.exists() or not _can_take(kept, source.path.stat().st_size):
        return as_kept(source)
    loaded, tokenizer = load_model(source, progress=progress)
    with suppress(OSError, SafetensorError):  # the disk is full after all, or another process was faster
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
    """Whether a folder can be made and has room for as much, by what of its path is there."""
    nearest = next(place for place in folder.parents if place.exists())
    return os.access(nearest, os.W_OK | os.X_OK) and shutil.disk_usage(nearest).free >= n_bytes


def require_room(n_bytes: int, output: Path) -> None:
    """Raise OSError unless the disk of a file or folder to be written has as much room."""
    free = shutil.disk_usage(output.parent).free
    if n_bytes > free:
        msg = f"{output} needs {readable_size(n_bytes)}, and the disk has {readable_size(free)} free"
        raise OSError(msg)


def some(names: Iterable[str]) -> str:
    """Name the first, and say how many more there are."""
    first, *others = sorted(names)
    return first if not others else f"{first} and {len(others)} more"


def _unpacking() -> dict[str, Any]:
    """Option that makes transformers unpack a .gguf file; the first 5.x do nothing else."""
    try:
        from transformers import GgufConfig
    except ImportError:
        return {}
    return {"quantization_config": GgufConfig(dequantize=True)}
