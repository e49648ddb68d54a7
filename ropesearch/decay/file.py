"""The decay file, .json, and the file of its arrays, .npz, beside it: written and read as a pair."""

import io
import json
import math
import os
import re
import zipfile
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ropesearch.core import checks
from ropesearch.core.base_set import has_layers
from ropesearch.core.errors import InputError, ParameterError, first_line, shown
from ropesearch.core.files import check_output, read_file, read_versioned, remove_leftovers, write_whole, written
from ropesearch.core.model_config import MOST_LAYERS

from .figures import null_for_nan

if TYPE_CHECKING:
    from .data import Decay

FORMAT = "ropesearch.decay"
VERSION = 2
"""Of a file of a model, or of bases to predict for, whose layers differ; others are of version 1."""
MOST_BYTES = 32_000_000
"""How large the .json file may be; that of 200 layers of 128 heads has half of it."""
SHORTEST = 8
"""Tokens of the shortest text whose figures mean something."""
LARGEST_VALUE = 1e30
"""Beyond it, figures would overflow."""

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


def check_decay_path(path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
    """Raise the error that `Decay.save` would end with for this path."""
    checks.choice("the suffix of the decay file", Path(path).suffix, (".json",))
    check_output(path, overwrite=overwrite)


def write_decay(decay: "Decay", path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
    """Write both files and return the path of the arrays; raises as `Decay.save`.

    The arrays come first, under a name of their own; then the .json file is switched, which names them; then those that
    it named before are removed. A kill in between leaves a pair, the old or the new, and at most a file of arrays too
    many, which the next writer of the pair removes.
    """
    check_decay_path(path, overwrite=overwrite)
    path = Path(path)
    packed = _pack_arrays(decay)
    digest = sha256(packed).hexdigest()
    arrays_path = path.with_name(f"{path.stem}.{digest[:16]}.npz")
    before = _named_arrays(path)
    with written(arrays_path, packed, overwrite=True):
        try:
            write_whole(path, decay_json(decay, {"file": arrays_path.name, "sha256": digest}), overwrite=overwrite)
        except BaseException:
            if arrays_path.name not in (before, _named_arrays(path)):
                arrays_path.unlink()  # of no use alone
            raise
    if before is not None and before != arrays_path.name:
        path.with_name(before).unlink(missing_ok=True)
    own = re.compile(re.escape(path.stem) + r"\.[0-9a-f]{16}\.npz")
    remove_leftovers(path.parent, own, lambda name: name == arrays_path.name or name == _named_arrays(path))
    return arrays_path


def _named_arrays(path: Path) -> str | None:
    """Return the name of the file of arrays that belongs to a decay file; None if there is none, or it is another's."""
    try:
        content = read_versioned(read_file(path, MOST_BYTES).decode(), FORMAT, VERSION, (*_FACTS, "arrays"))
        named = content["arrays"]
        _read_arrays(named, path, _check_facts({key: content[key] for key in _FACTS}))
    except (OSError, ValueError, MemoryError):
        return None
    name = Path(named["file"]).name
    return name if name.startswith(f"{path.stem}.") and name.endswith(".npz") else None


def decay_json(decay: "Decay", arrays: Mapping[str, str] | None = None) -> str:
    """Return the text of the .json file; `arrays` says which file holds the arrays."""
    version = VERSION if decay.inv_freq.ndim > 2 or has_layers(decay.bases) else 1
    content = {"format": FORMAT, "version": version} | {key: getattr(decay, key) for key in _FACTS[:-1]}
    content |= {
        "distances": [0, decay.max_distance],
        "summary": decay.summary(),
        "kv_head_slopes": [null_for_nan(x) for x in decay.kv_head_slopes().tolist()],
        "kv_head_slope_errors": [null_for_nan(x) for x in decay.kv_head_slope_errors().tolist()],
        "differing_layers": decay.differing_layers(),
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
    data = read_file(path, MOST_BYTES)
    try:
        content = read_versioned(data.decode(), FORMAT, VERSION, (*_FACTS, "arrays"))
        facts = _check_facts({key: content[key] for key in _FACTS})
        return facts | _unpack_arrays(_read_arrays(content["arrays"], Path(path), facts), facts)
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


def _read_arrays(named: Any, path: Path, facts: Mapping[str, Any]) -> bytes:
    """Content of the .npz file that the decay file names, if it is the one written with it."""
    try:
        beside = path.with_name(Path(named["file"]).name)
        digest = named["sha256"]
    except (KeyError, TypeError, ValueError):
        raise InputError("it names no file of arrays: it was printed, not saved") from None
    try:
        packed = read_file(beside, _most_bytes(facts))
    except (OSError, ValueError) as error:  # ValueError: another kind of file, or a name that no file can have
        why = getattr(error, "strerror", None) or error
        msg = f"the file of its arrays, {beside.name}, cannot be read: {why}"
        raise InputError(msg) from None
    if sha256(packed).hexdigest() != digest:
        msg = f"{beside.name} beside it is not the file that was written with it"
        raise InputError(msg)
    return packed


def _check_facts(facts: dict[str, Any]) -> dict[str, Any]:
    """Return what the .json file says, checked; lists become tuples."""
    try:
        return _checked_facts(facts)
    except (KeyError, ValueError) as error:
        msg = f"its values do not fit together: {error}"
        raise InputError(msg) from None


def _checked_facts(facts: dict[str, Any]) -> dict[str, Any]:
    model, texts, layers, bases = (facts[key] for key in ("model", "texts", "layers", "bases"))
    for name, value in (("model", model), ("made_by", facts["made_by"])):
        if not isinstance(value, dict):
            raise ParameterError(name, value, "an object")
    heads = _integer(model, "heads", 1)
    kv_heads = checks.kv_heads(_integer(model, "kv_heads", 1), heads)
    turning = checks.head_dim(model["head_dim"])
    if "whole_head_dim" in model and checks.head_dim(model["whole_head_dim"]) < turning:
        raise ParameterError("whole_head_dim", model["whole_head_dim"], f"at least head_dim, {turning}")
    if not isinstance(model["name"], str):
        raise ParameterError("name", model["name"], "the name of the model")
    if not isinstance(texts, list) or not texts or not all(isinstance(text, dict) for text in texts):
        raise ParameterError("texts", texts, "a list of objects")
    if not isinstance(layers, list) or not layers:
        raise ParameterError("layers", layers, "a list of layers")
    numbers = [checks.integer("every layer", layer, 0) for layer in layers]
    if numbers != sorted(set(numbers)):
        raise ParameterError("layers", layers, "in ascending order, each once")
    checks.integer("agreement_to", facts["agreement_to"], 1, _integer(facts, "length", SHORTEST) // 2)
    if bases is not None and not has_layers(bases):
        bases = _checked_bases(bases, kv_heads)
    n_layers = model.get("num_hidden_layers")
    if n_layers is not None:  # a file made by hand may lack it: only bases by layer need it
        checks.integer("num_hidden_layers", n_layers, numbers[-1] + 1, MOST_LAYERS)
    for rows in (bases, model.get("bases")):
        if has_layers(rows) and len(rows) != n_layers:
            msg = f"it has bases for {len(rows)} layers of {shown(n_layers)}"
            raise InputError(msg)
    if has_layers(bases):
        bases = tuple(_checked_bases(row, kv_heads) for row in bases)
    return facts | {"texts": tuple(texts), "layers": tuple(layers), "bases": bases}


def _checked_bases(bases: Any, kv_heads: int) -> tuple[float, ...]:
    if not isinstance(bases, list) or len(bases) != kv_heads:
        raise ParameterError("bases", bases, f"one per KV head: {kv_heads}")
    return tuple(checks.base("every one of bases", base) for base in bases)


def _integer(values: Mapping[str, Any], key: str, least: int) -> int:
    return checks.integer(key, values[key], least)


def _unpack_arrays(packed: bytes, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arrays of the .npz file, whose types, shapes and values have been checked."""
    expected = _expected_arrays(facts)
    arrays = {}
    try:
        with zipfile.ZipFile(io.BytesIO(packed)) as archive:
            names = set(archive.namelist())
            for name, (kind, shape) in expected.items():
                if f"{name}.npy" in names or name not in _OPTIONAL:
                    arrays[name] = _read_array(archive, name, np.dtype(kind), shape)
    except (InputError, MemoryError):
        raise
    except Exception as error:  # zipfile and numpy raise errors of many classes
        msg = f"its arrays cannot be read: {first_line(error)}"
        raise InputError(msg) from None
    if "verified" in arrays and facts["bases"] is None:
        raise InputError("it has curves verified with bases, and no bases")
    if ("mass" in arrays) != ("sink_mass" in arrays):
        raise InputError("of mass and sink_mass it has only one")
    return arrays


def _expected_arrays(facts: Mapping[str, Any]) -> dict[str, tuple[type, tuple[int, ...]]]:
    """Types and shapes of the arrays."""
    heads, kv_heads = (facts["model"][key] for key in ("heads", "kv_heads"))
    head_dim = facts["model"].get("whole_head_dim", facts["model"]["head_dim"])
    by_head = (len(facts["layers"]), heads)
    points = facts["length"] // 2 + 1
    curves = (np.float32, (*by_head, points))
    own_layers = by_head[:1] if has_layers(facts["model"].get("bases")) else ()
    return {
        "inv_freq": (np.float64, (*own_layers, kv_heads, head_dim // 2)),
        "coefficients": (np.complex128, (*by_head, head_dim // 2)),
        "pairs": (np.int64, (points,)),
        "score": curves,
        "standard_error": curves,
        "parts": (np.float32, (max(len(facts["texts"]), 2), *by_head, points)),
        "verified": curves,
        "mass": curves,
        "sink_mass": (np.float32, by_head),
    }


def _most_bytes(facts: Mapping[str, Any]) -> int:
    """Return how large the file of the arrays may be: those read, curve, prediction, distances and headers."""
    expected = _expected_arrays(facts)
    kinds = [*expected.values(), expected["score"], expected["score"], expected["pairs"]]
    return 100_000 + sum(math.prod(shape) * np.dtype(kind).itemsize for kind, shape in kinds)


def _read_array(archive: zipfile.ZipFile, name: str, kind: np.dtype[Any], shape: tuple[int, ...]) -> Any:
    """Read one array, once its header has been found to say what it must."""
    member = archive.getinfo(f"{name}.npy")
    if member.compress_type != zipfile.ZIP_STORED:
        msg = f"{name} is compressed"  # as never by us: it could grow without end
        raise InputError(msg)
    with archive.open(member) as file:
        if np.lib.format.read_magic(file) != (1, 0):
            msg = f"{name} is of another version of .npy"
            raise InputError(msg)
        found_shape, _, found_kind = np.lib.format.read_array_header_1_0(file)
        begin = file.tell()
    if found_shape != shape:
        msg = f"its values do not fit together: {name} has shape {shown(found_shape)}, not {shape}"
        raise InputError(msg)
    if found_kind != kind:
        msg = f"{name} has type {shown(str(found_kind))}, not {kind}"
        raise InputError(msg)
    if begin + math.prod(shape) * kind.itemsize != member.file_size:
        msg = f"{name} has not the size that its shape requires"
        raise InputError(msg)
    with archive.open(member) as file:
        values = np.lib.format.read_array(file, allow_pickle=False)
    if (np.abs(values) > LARGEST_VALUE).any() or (name == "inv_freq" and not np.isfinite(values).all()):
        msg = f"{name} has values that no model gives"
        raise InputError(msg)
    return values
