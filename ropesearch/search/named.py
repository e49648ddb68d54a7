"""What a name stands for wherever bases are wanted: a file, a row of a sweep, a preset or a position scheme."""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ropesearch.core import checks
from ropesearch.core.base_set import BaseSet
from ropesearch.core.errors import InputError, ParameterError
from ropesearch.core.presets import PRESETS
from ropesearch.schemes.grammar import SCHEMES, parse_scheme, scheme_word
from ropesearch.schemes.rules import HeadBases, MultiStage, Scheme, Stretched

from .sweep_file import is_sweep_file, read_sweep

_ROW = re.compile(r"(.+)#(-?[0-9]{1,9})")


def find_bases(name: str) -> BaseSet | Scheme:
    """Return what a name stands for.

    Parameters
    ----------
    name : str
        A preset (`table2`, `attention-buckets`), a position scheme (`yarn:32`), a base-set file, a row of a sweep
        file by its number (`sweep.jsonl#3`), from 1, as `read_sweep` sorts them, or a layer, counted from 0, of a
        base-set file whose layers differ (`bases.json#3`). A name of a preset or scheme stands for that, also where a
        file is called so: `./table2` is the file.

    Returns
    -------
    BaseSet or Scheme
        A Scheme if the name is that of one, and of no preset.

    Raises
    ------
    OSError
        If a file that the name stands for cannot be read.
    ValueError
        If it is none of these, or a file or row holds no bases; the message says what is known.
    """
    if not isinstance(name, str):
        raise ParameterError("name", name, "text: a file, a preset or a position scheme")
    if name in PRESETS:
        from .run import search_bases  # loads numba, which other names do without

        return search_bases(**PRESETS[name])
    word = scheme_word(name)
    if word in SCHEMES:
        return parse_scheme(name)
    row = _ROW.fullmatch(name)
    if row and not os.path.exists(name):
        if os.path.isfile(row[1]) and not is_sweep_file(row[1]):
            return BaseSet.load(name)  # of a layer
        return row_of_sweep(row[1], read_sweep(row[1]), int(row[2]))
    if os.path.exists(name):
        if os.path.isfile(name) and is_sweep_file(name):
            msg = f"{name} is a sweep file: choose one of its {len(read_sweep(name))} rows, as in {name}#1"
            raise InputError(msg)
        return BaseSet.load(name)
    if os.sep in name or Path(name).suffix in (".json", ".jsonl"):
        Path(name).read_bytes()  # raises what a missing file raises
    known = list(dict.fromkeys([*PRESETS, *SCHEMES]))
    hint = checks.nearest(word, known)
    msg = f"{name!r} is not a file, a preset or a position scheme ({', '.join(known)}){hint}"
    raise InputError(msg)


def find_base_set(name: str) -> BaseSet:
    """Return the bases that a name stands for.

    Parameters
    ----------
    name : str
        As for `find_bases`. A position scheme must be one that changes nothing but bases.

    Returns
    -------
    BaseSet

    Raises
    ------
    OSError, ValueError
        As `find_bases`; ValueError also for a scheme that is more than bases.
    """
    found = find_bases(name)
    return found if isinstance(found, BaseSet) else as_base_set(found)


def as_base_set(scheme: Scheme) -> BaseSet:
    """Return a scheme that is nothing but bases as a base set; raise ValueError for any other."""
    if isinstance(scheme, HeadBases):
        return scheme.base_set()
    if type(scheme) not in (Scheme, MultiStage, Stretched):
        msg = f"{scheme.name} is more than bases: it changes frequencies or distances, which a base set cannot hold"
        raise InputError(msg)
    return BaseSet.of(scheme.bases, head_dim=scheme.head_dim, strategy=scheme.name)


def base_set_of_row(row: dict[str, Any]) -> BaseSet:
    """Return the base set of a row of a sweep, with the coverage that the sweep computed."""
    if "base_set" not in row:
        msg = f"the row has no bases: {row.get('error', 'it holds neither bases nor an error')}"
        raise InputError(msg)
    return BaseSet.from_content(row["base_set"] | {"coverage": row.get("coverage", {})})


def row_of_sweep(path: str, rows: Sequence[dict[str, Any]], number: int) -> BaseSet:
    """Return the base set of one of the rows of a sweep file, by its number from 1."""
    if not 1 <= number <= len(rows):
        msg = f"{path} has rows 1 to {len(rows)}, and no row {number}"
        raise InputError(msg)
    try:
        return base_set_of_row(rows[number - 1])
    except InputError as error:
        msg = f"row {number} of {path}: {error}"
        raise InputError(msg) from None
