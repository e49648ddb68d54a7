"""The files beside the weights that a copy of a model takes along, and the code that it leaves behind.

Whoever loads the copy with `trust_remote_code=True` trusts the code file that ropesearch writes, and no other.
"""

import json
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ropesearch.core.errors import InputError
from ropesearch.core.files import read_file
from ropesearch.core.model_source import COMPANIONS

TOKENIZER_CONFIG = "tokenizer_config.json"
CODE_SUFFIXES = (".py", ".pyc", ".so")


def find_companions(folder: Path) -> list[Path]:
    """Return the files of a model's folder, beside weights and config, that a copy takes along."""
    found = {file for pattern in COMPANIONS for file in folder.glob(pattern)}
    found.update((folder / "additional_chat_templates").glob("*"))
    return sorted(file for file in found if file.is_file() and file.suffix not in CODE_SUFFIXES)


def check_links(files: Iterable[Path], folder: Path) -> None:
    """Raise InputError for a file that is a link out of the folder, to one that was never the model's.

    The hub's cache keeps all files in a store of its own and links to them.
    """
    inside = [folder.resolve()]
    if inside[0].parent.name == "snapshots":
        inside.append(inside[0].parent.parent / "blobs")
    for file in files:
        target = file.resolve()
        if not any(target.is_relative_to(place) for place in inside):
            msg = f"{file} is a link that leaves its folder, to {target}: a copy of the model would hold that file"
            raise InputError(msg)


def copy_file(file: Path, copy: Path) -> None:
    """Copy a file of a model; that of the tokenizer's settings without the names of its code."""
    copy.parent.mkdir(exist_ok=True)
    content = read_json(file) if file.name == TOKENIZER_CONFIG else {}
    if content.pop("auto_map", None) is None:
        shutil.copyfile(file, copy)
    else:
        write_json(copy, content)


def code_left_behind(folder: Path) -> Iterator[str]:
    """Say which code of its own a model names that its copy does not have."""
    for name in ("config.json", TOKENIZER_CONFIG):
        content = read_json(folder / name) if (folder / name).is_file() else {}
        if content.get("auto_map"):
            yield f"{name} names code of its own by auto_map, which is left behind: transformers' own classes are used"
    code = sorted(file.name for file in folder.iterdir() if file.suffix in CODE_SUFFIXES)
    if code:
        yield f"{', '.join(code)} {'is' if len(code) == 1 else 'are'} code, and left behind"


def read_json(file: Path) -> dict[str, Any]:
    """Read a JSON object, or raise InputError."""
    try:
        data = read_file(file)
    except OSError as error:
        msg = f"{file} cannot be read: {error.strerror or error}"
        raise InputError(msg) from None
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        msg = f"{file} is not JSON: {error}"
        raise InputError(msg) from None
    if not isinstance(content, dict):
        msg = f"{file} is not a JSON object"
        raise InputError(msg)
    return content


def write_json(file: Path, content: dict[str, Any]) -> None:
    """Write a JSON object as transformers does."""
    file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
