"""The decay file, .json, and the file of its arrays, .npz, beside it: written and read as a pair."""

import io
import json
import os
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import numpy as np

from ropesearch.core import checks
from ropesearch.core.errors import InputError
from ropesearch.core.files import check_output, read_versioned, write_whole

from .figures import null_for_nan

if TYPE_CHECKING:
    from .data import Decay

FORMAT = "ropesearch.decay"
VERSION = 1

# Fields of a Decay in the .json file, and in the .npz file.
_FACTS = ("model", "texts", "length", "layers", "agreement_to", "bases", "made_by")
_ARRAYS = (
    "inv_freq",
    "coefficients",
    "pairs",
    "score",
    "standard_error",
    "parts",
    "verified",
    "mass",
    "sink_mass",
)
_OPTIONAL = ("verified", "mass", "sink_mass")


def check_decay_path(path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
    """Raise the error that `Decay.save` would end with for this path; returns the path of the arrays."""
    checks.choice("the suffix of the decay file", Path(path).suffix, (".json",))
    arrays = Path(path).with_suffix(".npz")
    for file in (path, arrays):
        check_output(file, overwrite=overwrite)
    return arrays


def write_decay(decay: "Decay", path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
    """Write both files, each whole or not at all; raises as `Decay.save`."""
    arrays_path = check_decay_path(path, overwrite=overwrite)
    packed = _pack_arrays(decay)
    text = decay_json(decay, {"file": arrays_path.name, "sha256": sha256(packed).hexdigest()})
    write_whole(arrays_path, packed, overwrite=overwrite)
    try:
        write_whole(path, text, overwrite=overwrite)
    except BaseException:
        arrays_path.unlink()  # of no use alone
        raise


def decay_json(decay: "Decay", arrays: Mapping[str, str] | None = None) -> str:
    """Return the text of the .json file; `arrays` says which file holds the arrays."""
    content = {"format": FORMAT, "version": VERSION} | {key: getattr(decay, key) for key in _FACTS[:-1]}
    content |= {
        "distances": [0, decay.max_distance],
        "summary": decay.summary(),
        "kv_head_slopes": [null_for_nan(x) for x in decay.kv_head_slopes().tolist()],
        "kv_head_slope_errors": [null_for_nan(x) for x in decay.kv_head_slope_errors().tolist()],
        "heads": [],
        "arrays": dict(arrays or {}),
        "made_by": decay.made_by,
    }
    texts = {key: json.dumps(value, allow_nan=False) for key, value in content.items()}
    rows = [json.dumps(row, allow_nan=False) for row in _head_rows(decay)]  # one line for each head
    texts["heads"] = "[\n    " + ",\n    ".join(rows) + "\n  ]"
    return "{\n" + ",\n".join(f"  {json.dumps(key)}: {text}" for key, text in texts.items()) + "\n}\n"


def read_fields(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read both files and return the fields of the Decay that was written; raises as `Decay.load`."""
    data = Path(path).read_bytes()
    try:
        content = read_versioned(data.decode(), FORMAT, VERSION, (*_FACTS, "arrays"))
        return _fields(content, _read_arrays(content["arrays"], Path(path)))
    except ValueError as error:
        msg = f"{path} is not a usable decay file: {error}"
        raise InputError(msg) from None


def _pack_arrays(decay: "Decay") -> bytes:
    arrays = {name: getattr(decay, name) for name in _ARRAYS if getattr(decay, name) is not None}
    arrays |= {"distances": np.arange(decay.max_distance + 1), "curve": decay.curve}
    if decay.prediction is not None:
        arrays["prediction"] = decay.prediction
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def _head_rows(decay: "Decay") -> list[dict[str, Any]]:
    return [
        {"layer": layer, "head": head, "kv_head": head // decay.group}
        | {name: null_for_nan(float(values[row, head])) for name, values in decay.figures.items()}
        for row, layer in enumerate(decay.layers)
        for head in range(decay.model["heads"])
    ]


def _read_arrays(named: Any, path: Path) -> bytes:
    """Content of the .npz file that the decay file names, if it is the one written with it."""
    try:
        beside = path.with_name(Path(named["file"]).name)
        digest = named["sha256"]
    except (KeyError, TypeError, ValueError):
        raise InputError("it names no file of arrays: it was printed, not saved") from None
    try:
        packed = beside.read_bytes()
    except OSError as error:
        msg = f"the file of its arrays, {beside.name}, cannot be read: {error.strerror or error}"
        raise InputError(msg) from None
    if sha256(packed).hexdigest() != digest:
        msg = f"{beside.name} beside it is not the file that was written with it"
        raise InputError(msg)
    return packed


def _fields(content: Mapping[str, Any], packed: bytes) -> dict[str, Any]:
    """Facts and arrays together, once their shapes have been checked."""
    try:
        with np.load(io.BytesIO(packed), allow_pickle=False) as loaded:
            arrays = {name: loaded[name] for name in _ARRAYS if name in loaded or name not in _OPTIONAL}
        facts = {key: content[key] for key in _FACTS}
        for key in ("texts", "layers", "bases"):
            facts[key] = None if facts[key] is None else tuple(facts[key])
        _check_shapes(facts, arrays)
    except (KeyError, TypeError, ValueError, BadZipFile) as error:
        msg = f"its values do not fit together: {error}"
        raise InputError(msg) from None
    return facts | arrays


def _check_shapes(facts: Mapping[str, Any], arrays: Mapping[str, Any]) -> None:
    heads, kv_heads, head_dim = (facts["model"][key] for key in ("heads", "kv_heads", "head_dim"))
    by_head = (len(facts["layers"]), heads)
    curves = (*by_head, arrays["pairs"].size)
    expected = {
        "inv_freq": (kv_heads, head_dim // 2),
        "coefficients": (*by_head, head_dim // 2),
        "score": curves,
        "standard_error": curves,
        "parts": (len(arrays["parts"]), *curves),
        "verified": curves,
        "mass": curves,
        "sink_mass": by_head,
    }
    for name, shape in expected.items():
        if name in arrays and arrays[name].shape != shape:
            msg = f"{name} has shape {arrays[name].shape}, not {shape}"
            raise ValueError(msg)
