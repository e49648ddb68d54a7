"""Locate a model from what the user typed: a folder, a .gguf file or a hub name."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from .errors import InputError, first_line, require_extra
from .gguf_header import read_header
from .model_config import ModelConfig

# The files that transformers looks for in a folder, in its order; an index lists the shards.
WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
# Other files of a model; the rest of a folder (training state, cards, other formats) is not copied.
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
HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
"""How a repository on the hub is called."""
# What says in a .gguf file that frequencies are scaled: tensors of divisors, and keys with other values than these. A
# factor without a type means linear scaling, which has an older key too.
ROPE_TENSORS = ("rope_freqs.", "rope_factors_")
ROPE_KEYS = {".rope.scaling.type": ("none",), ".rope.scaling.factor": (0, 1), ".rope.scale_linear": (0, 1)}
FILE_SUFFIXES = (".gguf", ".json", ".jsonl", ".safetensors", ".bin", ".pt")
KINDS = "a model's folder, a .gguf file or a hub name such as org/name"


@dataclass(frozen=True)
class ModelSource:
    """A model on disk or on the hub. It reads and fetches nothing until asked.

    Attributes
    ----------
    name : str
        As the user typed it.
    local : Path or None
        Folder that holds the model; None for a model on the hub.
    gguf_file : str or None
        Name of the .gguf file in the folder; None for a folder saved by transformers.
    """

    name: str
    local: Path | None
    gguf_file: str | None = None

    @classmethod
    def find(cls, model: "str | os.PathLike[str] | ModelSource") -> "ModelSource":
        """Find a model by its folder, its .gguf file or a folder with one, or its name on the hub.

        Raises
        ------
        ValueError
            If it is none of these.
        """
        if isinstance(model, ModelSource):
            return model
        name, path = os.fspath(model), Path(model)
        if not name:  # as a path it would mean the current folder
            msg = f"`model` must be {KINDS}, not ''"
            raise InputError(msg)
        if os.path.isdir(path):
            if os.path.exists(path / "config.json"):
                return cls(name, path)
            packed = sorted(file.name for file in path.glob("*.gguf"))
            if len(packed) == 1:
                return cls(name, path, packed[0])
            found = f"{len(packed)} .gguf files: name one of them" if packed else "no config.json and no .gguf file"
            msg = f"{name} does not hold one model: it has {found}"
            raise InputError(msg)
        if os.path.isfile(path):
            if path.suffix != ".gguf":
                msg = f"{name} is a file: `model` must be {KINDS}"
                raise InputError(msg)
            return cls(name, path.parent, path.name)
        if _is_hub_name(name):
            return cls(name, None)
        msg = f"{name} does not exist: `model` must be {KINDS}"
        raise InputError(msg)

    @cached_property
    def folder(self) -> Path:
        """Folder of the model, fetched from the hub if necessary.

        Raises
        ------
        ValueError, OSError
            If the hub has no such model, or cannot be reached.
        ImportError
            If huggingface_hub is not installed; the message names the extra that brings it.
        """
        return self._fetch() if self.local is None else self.local

    @property
    def path(self) -> Path:
        """The folder, or the .gguf file in it."""
        return self.folder if self.gguf_file is None else self.folder / self.gguf_file

    def config(self) -> ModelConfig:
        """Read the configuration; for a model on the hub, without fetching its weights.

        Raises
        ------
        ValueError
            If it cannot be read.
        OSError, ImportError
            As `folder`; reading a .gguf file needs transformers.
        """
        return self._config

    @cached_property
    def _config(self) -> ModelConfig:
        if self.gguf_file is not None:
            return self._gguf_config()
        file = (
            self._from_hub("hf_hub_download", filename="config.json")
            if self.local is None
            else self.local / "config.json"
        )
        try:
            return ModelConfig.read(file, self.name)
        except OSError as error:
            msg = f"{file} cannot be read: {error.strerror or error}"
            raise InputError(msg) from None

    def refuse_scaled_gguf(self) -> None:
        """Raise InputError for a .gguf file whose rotary embedding is scaled: transformers would drop the rule.

        The header says so, by a tensor of divisors or by a key, as llama.cpp reads them. Also raised for a header that
        claims more than the file holds.
        """
        if self.gguf_file is None:
            return
        require_gguf()
        header = read_header(self.path)
        scaled = [name for name in header.tensors if name.startswith(ROPE_TENSORS)]
        for name, value in header.fields.items():
            if any(name.endswith(key) and value not in plain for key, plain in ROPE_KEYS.items()):
                scaled.append(f"{name} {value}")
        if scaled:
            msg = f"{self.name} scales its rotary embedding ({scaled[0]}), and transformers drops the rule when it "
            msg += "reads a .gguf file: use the model as transformers saves it"
            raise InputError(msg)

    def _gguf_config(self) -> ModelConfig:
        require_extra("reading a .gguf file", "torch", "torch", "transformers")
        self.refuse_scaled_gguf()
        from transformers import AutoConfig

        try:
            content = AutoConfig.from_pretrained(
                self.folder, gguf_file=self.gguf_file, trust_remote_code=False
            ).to_dict()
        except Exception as error:  # of many classes, for a file that is not a model or is cut off
            msg = f"{self.name} cannot be used: {first_line(error)}"
            raise InputError(msg) from None
        return ModelConfig.of(content, self.name)

    def _fetch(self) -> Path:
        others = ["config.json", *COMPANIONS, "additional_chat_templates/*"]
        folder = self._from_hub("snapshot_download", allow_patterns=[*others, "model*.safetensors*"])
        if not any((folder / file).exists() for file in WEIGHTS):
            folder = self._from_hub("snapshot_download", allow_patterns=[*others, "pytorch_model*.bin*"])
        return folder

    def _from_hub(self, function: str, **options: Any) -> Path:
        """Call a function of huggingface_hub; its errors become one line."""
        require_extra(f"{self.name}, taken as a hub name,", "torch", "huggingface_hub")
        import huggingface_hub
        from huggingface_hub.errors import DisabledRepoError, RemoteEntryNotFoundError, RepositoryNotFoundError

        try:
            with quiet_hub():
                return Path(getattr(huggingface_hub, function)(self.name, **options))
        except RepositoryNotFoundError:
            msg = f"{self.name} is not a folder here, and the hub has no such model, or it requires a login"
            raise InputError(msg) from None
        except RemoteEntryNotFoundError:
            msg = f"{self.name} is not a folder here, and on the hub it has no config.json"
            raise InputError(msg) from None
        except Exception as error:  # of many classes, by the HTTP library in use
            # "Check your connection", the hub's library says of whatever went wrong, which is the cause.
            cause = error.__cause__ if isinstance(error.__cause__, Exception) else error
            if isinstance(cause, DisabledRepoError):
                msg = f"{self.name} is not a folder here, and the hub has disabled it"
                raise InputError(msg) from None
            msg = f"{self.name} is not a folder here, and could not be fetched from the hub: {first_line(cause)}"
            raise OSError(msg) from None


@contextmanager
def quiet_hub() -> Iterator[None]:
    """Keep huggingface_hub from warning at each of its tries: the error in the end says the same."""
    from huggingface_hub.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def find_config(model: str | os.PathLike[str]) -> ModelConfig:
    """Read the config of a model, found as by `ModelSource.find`, or a bare config.json.

    Raises
    ------
    OSError
        If the file does not exist, or the hub cannot be reached.
    ValueError
        If it cannot be read as a configuration; the message says why.
    """
    if os.path.isdir(model) or (names_model(model) and Path(model).name != "config.json"):
        return ModelSource.find(model).config()
    return ModelConfig.read(model)


def names_model(model: str | os.PathLike[str]) -> bool:
    """Whether this is a model: a folder that holds one, a config.json, a .gguf file or a name on the hub."""
    path = Path(model)
    if os.path.isdir(path):
        return os.path.exists(path / "config.json") or any(path.glob("*.gguf"))
    return path.suffix == ".gguf" or path.name == "config.json" or _is_hub_name(os.fspath(model))


def require_gguf() -> None:
    """Raise MissingExtraError unless the packages that read .gguf files are installed."""
    require_extra("a .gguf file", "torch", "gguf", "accelerate")


def _is_hub_name(name: str) -> bool:
    """Whether the text names a model on the hub: it has that form, and no file or folder has that name."""
    return bool(HUB_NAME.fullmatch(name)) and Path(name).suffix not in FILE_SUFFIXES and not os.path.exists(name)
