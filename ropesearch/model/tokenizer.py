"""The tokenizer of a model: its files are checked, and it is loaded without code of the model's own."""

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from ropesearch.core.errors import InputError, first_line
from ropesearch.core.files import check_size_of_json
from ropesearch.core.machine import readable_size
from ropesearch.core.model_source import ModelSource
from ropesearch.core.tokens import check_known, raise_unless_failed

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FILES = ("tokenizer*", "vocab*", "tekken.json")
"""A model has a tokenizer if it has one of these."""
BESIDE = ("special_tokens_map.json", "added_tokens.json", "merges.txt", "chat_template*", "*.tiktoken")
"""What else transformers reads for it."""
MOST_BYTES = 2**27
"""How large one of its files may be; that of a million words has 60 MB."""
MOST_BYTES_OF_SETTINGS = 32_000_000
MOST_TOKENS = 2**24
"""Ids from there on are refused; no model has as many."""
SETTINGS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")


def check_tokenizer_files(folder: Path) -> None:
    """Raise InputError for a file of a tokenizer that is none, too large, or JSON of no object or too many values.

    Whether its content makes sense is for transformers to say.
    """
    for file in sorted({file for pattern in FILES + BESIDE for file in folder.glob(pattern)}):
        if not file.is_dir():
            _check_file(file)


def _check_file(file: Path) -> None:
    try:
        found = os.stat(file)
        if not stat.S_ISREG(found.st_mode):
            msg = f"{file} is not a regular file"
            raise InputError(msg)
        most = MOST_BYTES_OF_SETTINGS if file.name in SETTINGS else MOST_BYTES
        if found.st_size > most:
            msg = f"{file} is too large: it may have at most {readable_size(most)}"
            raise InputError(msg)
        if file.suffix != ".json":
            return
        with file.open("rb") as content:
            begin = content.read(4096).lstrip()[:1]
            content.seek(max(found.st_size - 4096, 0))
            end = content.read(4096).rstrip()[-1:]
    except OSError as error:
        msg = f"{file} cannot be read: {error.strerror or error}"
        raise InputError(msg) from None
    if (begin, end) != (b"{", b"}"):
        msg = f"{file} is not a JSON object, or it is cut off"
        raise InputError(msg)
    if file.name in SETTINGS:
        try:
            check_size_of_json(file.read_bytes().decode(errors="replace"))
        except InputError as error:
            msg = f"{file}: {error}"
            raise InputError(msg) from None


def load_tokenizer(source: ModelSource, *, required: bool = False) -> "PreTrainedTokenizerBase | None":
    """Load the tokenizer of a model; None if it has none that loads without custom code.

    Raises
    ------
    ValueError
        If one of its files fails `check_tokenizer_files`; with `required`, also if it has none that loads.
    """
    from transformers import AutoTokenizer

    options = {} if source.gguf_file is None else {"gguf_file": source.gguf_file}
    why = "it has no file of one"
    if not options:
        check_tokenizer_files(source.folder)
    if options or any(file for pattern in FILES for file in source.folder.glob(pattern)):
        try:
            found = AutoTokenizer.from_pretrained(source.folder, trust_remote_code=False, **options)
            check_known(found.get_vocab().values(), MOST_TOKENS)  # some of its methods go through all numbers
            return found
        except BaseException as error:  # of many classes
            raise_unless_failed(error)
            why = first_line(error)
    if required:
        msg = f"{source.name} has no tokenizer that loads: {why}"
        raise InputError(msg)
    return None
