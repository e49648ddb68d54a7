"""What a page can be made of: any name of bases, any file that a command writes, a run folder; and what each is."""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ropesearch.core.base_set import FORMAT as BASE_SET
from ropesearch.core.base_set import BaseSet
from ropesearch.core.errors import ArgumentTypeError, InputError, shown
from ropesearch.core.files import check_size_of_json, read_file
from ropesearch.core.presets import PRESETS
from ropesearch.core.progress import Progress
from ropesearch.decay.data import Decay
from ropesearch.decay.file import FORMAT as DECAY
from ropesearch.evaluation.results import FORMAT as RESULTS
from ropesearch.evaluation.results import Results
from ropesearch.evaluation.table import Evaluated
from ropesearch.schemes.grammar import SCHEMES, scheme_word
from ropesearch.schemes.rules import Scheme
from ropesearch.search.named import find_bases
from ropesearch.search.sweep_file import is_sweep_file, read_sweep

from .bases import section_of_bases
from .decays import section_of_decay
from .evaluations import section_of_evaluations
from .runs import section_of_run
from .section import Section
from .sweeps import section_of_sweep

Readable = str | os.PathLike[str] | BaseSet | Scheme | Decay | Results
KINDS = "a base-set file, a sweep, a decay file, the results of an evaluation or the folder of a training run"


@dataclass(frozen=True)
class Sweep:
    """The rows of a sweep file."""

    rows: list[dict[str, Any]]


@dataclass(frozen=True)
class Run:
    """The folder of a training run."""

    path: str


Found = BaseSet | Scheme | Decay | Evaluated | Sweep | Run


def find(source: Readable) -> tuple[str, Found]:
    """Return the name of an input, and what it holds.

    Raises
    ------
    OSError
        If a file cannot be read.
    ValueError
        If it is none that a page can be made of; the message says what is.
    """
    if isinstance(source, BaseSet):
        return source.strategy, source
    if isinstance(source, Scheme):
        return source.name, source
    if isinstance(source, Decay):
        return str(source.model["name"]), source
    if isinstance(source, Results):
        return "results", Evaluated("results", source)
    if not isinstance(source, str | os.PathLike):
        raise ArgumentTypeError("files", source, f"names, or objects, of {KINDS}, a preset or a position scheme")
    name = os.fspath(source)
    if name in PRESETS or scheme_word(name) in SCHEMES or not os.path.exists(name):
        return name, find_bases(name)
    if os.path.isdir(name):
        if not os.path.exists(os.path.join(name, "settings.json")):
            msg = f"{name} is not the folder of a training run: it has no settings.json"
            if os.path.exists(os.path.join(name, "config.json")):
                msg += f"; of a model, `ropesearch bases {name} -o FILE` makes a base-set file"
            raise InputError(msg)
        return name, Run(name)
    return name, _found_in_file(name)


def _found_in_file(name: str) -> Found:
    if os.path.isfile(name) and is_sweep_file(name):
        return Sweep(read_sweep(name))
    readers: dict[str, Callable[[str], Found]] = {BASE_SET: BaseSet.load, DECAY: Decay.load, RESULTS: Evaluated.load}
    found = _format_of(name)
    if not isinstance(found, str) or found not in readers:
        has = "no format" if found is None else f"the format {shown(found)}"
        msg = f"{name} is nothing that a page can be made of: it has {has}, and must be {KINDS}"
        raise InputError(msg)
    return readers[found](name)


def _format_of(name: str) -> Any:
    """Return what the format of a file says: of a first line that is JSON, or of JSON."""
    text = read_file(name).decode(errors="replace")
    for part in dict.fromkeys((text.partition("\n")[0], text)):
        try:
            check_size_of_json(part)
        except InputError as error:
            msg = f"{name}: {error}"
            raise InputError(msg) from None
        try:
            content = json.loads(part)
        except (ValueError, RecursionError):
            continue
        return content.get("format") if isinstance(content, dict) else None
    return None


def make_sections(
    found: Sequence[tuple[str, Found]], max_distance: int, *, progress: Progress | None = None
) -> list[Section]:
    """Make the sections of several inputs; the results of one suite share one, where the first of them stands."""
    n_decays = sum(isinstance(one, Decay) for _, one in found)
    sections: list[Section] = []
    suites: dict[str, list[Evaluated]] = {}
    for _, one in found:
        if isinstance(one, Evaluated):
            suites.setdefault(_suite_of(one), []).append(one)
    for name, one in found:
        if isinstance(one, Evaluated):
            if files := suites.pop(_suite_of(one), None):
                sections.append(section_of_evaluations(files))
        elif isinstance(one, Decay):
            sections.append(section_of_decay(name, one, share=n_decays))
        elif isinstance(one, Sweep):
            sections.append(section_of_sweep(name, one.rows))
        elif isinstance(one, Run):
            sections.append(section_of_run(one.path))
        else:
            sections.append(section_of_bases(name, one, max_distance, progress=progress))
    return sections


def _suite_of(found: Evaluated) -> str:
    rows = found.results.rows
    return str(rows[0]["suite"]) if rows else ""
