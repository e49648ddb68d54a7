"""Make the page of several results, and write it."""

import os
from collections.abc import Iterable
from pathlib import Path

from ropesearch.core import checks
from ropesearch.core.base_set import BaseSet
from ropesearch.core.errors import ArgumentTypeError, InputError, ParameterError
from ropesearch.core.files import check_output, write_whole
from ropesearch.core.progress import Progress
from ropesearch.core.spec import COVERED_TO
from ropesearch.decay.data import Decay
from ropesearch.evaluation.results import Results
from ropesearch.schemes.rules import Scheme

from .inputs import KINDS, Readable, find, make_sections
from .page import make_page

MOST_SECTIONS = 50


def write_report(
    files: Readable | Iterable[Readable],
    output: str | os.PathLike[str],
    *,
    title: str | None = None,
    max_distance: int = COVERED_TO,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> None:
    """Write results as one HTML page to explore, which holds all that it shows and loads nothing.

    Each input is a section; results of evaluations of one suite share one, to be compared. Of base sets and position
    schemes the page holds the bases, and computes their waveforms when it is opened.

    Parameters
    ----------
    files : str, path-like, BaseSet, Scheme, Decay or Results, or several of them
        A name stands for a base-set file, a preset, a position scheme, a row of a sweep file (`sweep.jsonl#3`), a
        sweep file, a decay file, the results of an evaluation, or the folder of a training run.
    output : path-like
        The page, an .html file.
    title : str, optional
        Its heading; by default the names of the inputs.
    max_distance : int
        Last distance of the waveforms of base sets and schemes, in tokens, included.
    overwrite : bool
        Whether a file that exists may be replaced.
    progress : callable, optional
        Called as progress(what, done, total).

    Raises
    ------
    ValueError
        If an input is none of these or holds nothing to show, `output` is no .html file, or the waveforms of all heads
        together have more values than a page can keep in memory; the message names the input.
    OSError
        If an input cannot be read, or the page cannot be written.
    """
    checks.choice("the suffix of the page", Path(output).suffix, (".html",))
    check_output(output, overwrite=overwrite)
    text = report_text(files, title=title, max_distance=max_distance, progress=progress)
    write_whole(output, text, overwrite=overwrite)


def report_text(
    files: Readable | Iterable[Readable],
    *,
    title: str | None = None,
    max_distance: int = COVERED_TO,
    progress: Progress | None = None,
) -> str:
    """Return the page that `write_report` writes."""
    last = checks.integer("max_distance", max_distance, 64)
    if title is not None and not isinstance(title, str):
        raise ArgumentTypeError("title", title, "text")
    several = [files] if isinstance(files, (str, os.PathLike, BaseSet, Scheme, Decay, Results)) else files
    if not isinstance(several, Iterable):
        raise ArgumentTypeError("files", files, f"names of {KINDS}, a preset or a position scheme")
    found = [find(source) for source in several]
    if not found:
        raise InputError("files must have at least one input")
    if len(found) > MOST_SECTIONS:
        raise ParameterError("files", len(found), f"at most {MOST_SECTIONS} inputs")
    sections = make_sections(found, last, progress=progress)
    names = [Path(name).name if os.sep in name else name for name, _ in found]
    own = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return make_page(sections, title or own)
