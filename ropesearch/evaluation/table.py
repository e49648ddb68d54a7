"""Tables of results: models and schemes by length or by task, their paired differences, and the paper's rows beside."""

import math
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ropesearch.core.errors import InputError, shown

from .paper import PaperTable, paper_table
from .results import Results, figure_of
from .samples import Record, read_samples, samples_path
from .statistics import Interval, paired_difference, wilson

FEWEST = 6
"""A difference of fewer samples that differ is never more than noise: the sign test of five cannot reach 5 %."""
AVERAGE = "average"
"""Name of the column that averages over tasks."""
Place = tuple[str, int | None]
"""Task and length."""


@dataclass(frozen=True)
class Evaluated:
    """A results file and the samples beside it.

    Attributes
    ----------
    name : str
        What notes and errors call it.
    results : Results
    records : sequence of mapping
        Of the samples; none if they are not there.
    """

    name: str
    results: Results
    records: Sequence[Record] = ()

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Evaluated":
        """Read a results file, and the samples beside it if they are there.

        Raises
        ------
        OSError
            If one of them cannot be read.
        ValueError
            If the first is no results file, or what lies beside it are no samples.
        """
        results, samples = Results.load(path), samples_path(path)
        return cls(str(path), results, read_samples(samples)[1] if samples.exists() else ())


@dataclass(frozen=True)
class Difference:
    """A figure minus that of another row, over the same samples.

    Attributes
    ----------
    value : float
        Accuracy: as a share. Perplexity: as a share of the other's perplexity.
    interval : (float, float)
        95 %, by the paired bootstrap; minus to plus infinity where there is none, as of a single document.
    n, differing : int
        Documents or questions, and how many of them differ.
    """

    value: float
    interval: Interval
    n: int
    differing: int

    @property
    def beyond_noise(self) -> bool:
        """Whether the interval excludes zero, and enough samples differ for it to be trusted."""
        low, high = self.interval
        return self.differing >= FEWEST and (low > 0 or high < 0)


@dataclass(frozen=True)
class Cell:
    """A figure of a table.

    Attributes
    ----------
    value : float
        Perplexity, or accuracy from 0 to 1.
    interval : (float, float) or None
        95 %.
    n : int or None
        Documents or questions; None if it is the paper's.
    best : bool
        Whether it is better than the second of its column, beyond the noise.
    difference : Difference or None
        To the row that all are compared with.
    """

    value: float
    interval: Interval | None = None
    n: int | None = None
    best: bool = False
    difference: Difference | None = None


@dataclass(frozen=True)
class Line:
    """A row of a table: a model or scheme, or a row that the paper prints (`source` says where)."""

    label: str
    cells: tuple[Cell | None, ...]
    source: str | None = None


@dataclass(frozen=True)
class Table:
    """Figures of one suite.

    Attributes
    ----------
    suite, figure : str
        Such as "niah" and "accuracy".
    about : str
        What the table is of beside the suite, such as a length; may be empty.
    columns : tuple of str
    lines : tuple of Line
    versus : str
        Label of the row that differences are to.
    """

    suite: str
    figure: str
    about: str
    columns: tuple[str, ...]
    lines: tuple[Line, ...]
    versus: str


@dataclass
class _Group:
    """Rows and samples of one model under one scheme."""

    label: str
    rows: dict[Place, list[Mapping[str, Any]]] = field(default_factory=dict)
    units: dict[Place, dict[Any, tuple[float, float]]] = field(default_factory=dict)
    """Sum and count of each document or question, from which the figure is made."""
    prompts: dict[Place, frozenset[str]] = field(default_factory=dict)
    model: str = ""

    def figure(self, place: Place) -> tuple[float, int]:
        """Figure of a place and its n, over all depths if there are some."""
        rows = self.rows[place]
        if len(rows) == 1:
            return figure_of(rows[0])[1], rows[0]["n"]
        n = sum(row["n"] for row in rows)
        return sum(figure_of(row)[1] * row["n"] for row in rows) / n, n


@dataclass(frozen=True)
class _Column:
    name: str
    places: tuple[Place, ...]


def make_tables(
    files: Sequence[Evaluated],
    *,
    by_task: bool = False,
    versus: str | None = None,
    paper: int | None = None,
) -> tuple[list[Table], list[str]]:
    """Put the rows of results files together.

    Rows are models and schemes. Columns are lengths, with the average over tasks (and depths); for `short`, and
    `by_task`, they are tasks and their average, one table for each length. Averages are over those tasks that all rows
    have. Their intervals are Wilson's, at the variance of as many questions of one task.

    Parameters
    ----------
    files : sequence of Evaluated
        Of one suite.
    by_task : bool
        Whether tasks are columns.
    versus : str, optional
        Label of the row that differences are to; by default the first.
    paper : int, optional
        Number of a table of the paper, whose rows are put below.

    Returns
    -------
    tables : list of Table
    notes : list of str
        What is missing and why, each in one line.

    Raises
    ------
    ValueError
        If the results are of different suites, two files hold the same row, or `versus` or `paper` names nothing.
    """
    suite, figure = _suite_of(files)
    printed = None if paper is None else paper_table(paper, suite)
    notes: dict[str, None] = dict.fromkeys(_settings_notes(files))
    groups = _grouped(files, figure, notes)
    labels = [group.label for group in groups]
    if versus is not None and versus not in labels:
        msg = f"`versus` must be one of {', '.join(map(shown, labels))}, not {shown(versus)}"
        raise InputError(msg)
    first = groups[0 if versus is None else labels.index(versus)]
    tables = []
    for about, asked in _layouts(groups, suite, figure, by_task=by_task):
        columns = [_shared(column, groups, notes) for column in asked]
        cells = [_cells(column, groups, first, figure, notes) for column in columns]
        lines = [Line(group.label, tuple(own)) for group, own in zip(groups, zip(*cells, strict=True), strict=True)]
        names = [column.name for column in columns]
        if printed is not None:
            names, lines = _with_paper(names, lines, printed)
            notes[f"the paper's rows are of its own models and tasks: {printed.source}"] = None
        tables.append(Table(suite, figure, about, tuple(names), tuple(lines), first.label))
    return tables, list(notes)


def _suite_of(files: Sequence[Evaluated]) -> tuple[str, str]:
    """The suite and the figure that all rows have."""
    found: dict[tuple[str, str], str] = {}
    for file in files:
        if not file.results.rows:
            msg = f"{file.name} has no rows"
            raise InputError(msg)
        for row in file.results.rows:
            found.setdefault((row["suite"], figure_of(row)[0]), file.name)
    if len(found) > 1:
        each = ", ".join(f"{suite} ({name})" for (suite, _), name in found.items())
        msg = f"a table is of one suite, and these results are of several: {each}"
        raise InputError(msg)
    (only,) = found
    return only


def _settings_notes(files: Sequence[Evaluated]) -> Iterable[str]:
    """Say that figures were measured in different ways."""
    for file in files[1:]:
        a, b = files[0].results.spec, file.results.spec
        keys = [key for key in sorted(a.keys() & b.keys()) if a[key] != b[key] and key not in ("lengths", "tasks")]
        if keys:
            each = ", ".join(f"{key} {shown(a[key])} and {shown(b[key])}" for key in keys)
            yield f"{files[0].name} and {file.name} have different settings: {each}"


def _grouped(files: Sequence[Evaluated], figure: str, notes: dict[str, None]) -> list[_Group]:
    """Rows and samples by model and scheme, in the order in which they appear."""
    rows = [row for file in files for row in file.results.rows]
    labels = labels_of(rows)
    groups = {key: _Group(label, model=key[0]) for key, label in labels.items()}
    came_from: dict[tuple[Any, Place], int] = {}
    for i, file in enumerate(files):
        for row in file.results.rows:
            key, place = _key(row), (row["task"], row["length"])
            before = files[came_from.setdefault((key, place), i)]
            if before is not file:
                msg = f"{before.name} and {file.name} both have {labels[key]}, {_named(place)}: give one of them"
                raise InputError(msg)
            if figure == "perplexity" and place in groups[key].rows:  # accuracies may have a row for each depth
                msg = f"{file.name} has {labels[key]}, {_named(place)}, twice"
                raise InputError(msg)
            if row["n"]:
                groups[key].rows.setdefault(place, []).append(row)
    for file in files:
        own = {_key(row) for row in file.results.rows}
        by_key: dict[Any, list[Record]] = defaultdict(list)
        for record in file.records:
            by_key[_key(record)].append(record)
        if not file.records and len(groups) > 1:
            notes[f"{file.name} has no samples beside it: no differences of its rows, and no best"] = None
        for key in own:
            _add_units(groups[key], by_key[key], figure)
    for group in groups.values():
        _check_units(group, figure, notes)
    return list(groups.values())


def labels_of(rows: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str | None], str]:
    """Names of models and schemes, all different, in the order in which these appear."""
    keys = list(dict.fromkeys(map(_key, rows)))
    one_model = len({model for model, _ in keys}) == 1 and len(keys) > 1
    labels = {key: _label(*key, one_model) for key in keys}
    if len(set(labels.values())) < len(labels):  # folders with the same name
        return {(model, scheme): model if scheme is None else f"{model}, {scheme}" for model, scheme in labels}
    return labels


def _label(model: str, scheme: str | None, one_model: bool) -> str:
    """What tells a model under a scheme from others: the scheme, the model, or both."""
    if one_model:
        return scheme or "own"
    name = Path(model).name or model
    return name if scheme is None else f"{name}, {scheme}"


def _key(row: Mapping[str, Any]) -> tuple[str, str | None]:
    return row["model"], row["scheme"]


def _named(place: Place) -> str:
    task, length = place
    return task if length is None else f"{task} at {length}"


def _add_units(group: _Group, records: Sequence[Record], figure: str) -> None:
    """Add up the samples by document, or by question."""
    units: dict[Place, dict[Any, tuple[float, float]]] = defaultdict(dict)
    prompts: dict[Place, set[str]] = defaultdict(set)
    for record in records:
        try:
            if figure == "perplexity":
                unit, new = record.get("document", record["sample"]), (record["nll"], record["n"])
            else:
                unit = record["sample"]
                new = (record["hits"], record["n"]) if "hits" in record else (record["score"], 1)
            place = (record["task"], record["length"])
            total, count = units[place].get(unit, (0.0, 0.0))
            units[place][unit] = (total + float(new[0]), count + float(new[1]))
        except (KeyError, TypeError, ValueError, OverflowError):
            msg = f"the sample {shown(record.get('sample'))} of {group.label} has no score"
            raise InputError(msg) from None
        prompts[place].add(str(record.get("prompt")))
    group.units |= units
    group.prompts |= {place: frozenset(found) for place, found in prompts.items()}


def _check_units(group: _Group, figure: str, notes: dict[str, None]) -> None:
    """Leave out samples that do not make the figure that stands in the row."""
    for place in sorted(group.units.keys() & group.rows.keys(), key=_named):
        total, count = map(sum, zip(*group.units[place].values(), strict=True))
        known = group.figure(place)[0]
        if figure == "perplexity":
            known = math.log(known) if known > 0 else math.nan
        if count <= 0 or not math.isclose(total / count, known, rel_tol=1e-6, abs_tol=1e-6):
            del group.units[place]
            notes[f"the samples of {group.label}, {_named(place)}, do not make its {figure}: they are left out"] = None


def _layouts(
    groups: Sequence[_Group], suite: str, figure: str, *, by_task: bool
) -> Iterable[tuple[str, list[_Column]]]:
    """Columns of each table, and what it is of."""
    places = list(dict.fromkeys(place for group in groups for place in group.rows))
    tasks = list(dict.fromkeys(task for task, _ in places))
    lengths = sorted({length for _, length in places}, key=lambda length: length or 0)
    if by_task or lengths == [None]:
        for length in lengths:
            own = [task for task in tasks if (task, length) in places]
            columns = [_Column(task.removeprefix(f"{suite}_"), ((task, length),)) for task in own]
            if len(own) > 1:
                columns.append(_Column(AVERAGE, tuple((task, length) for task in own)))
            yield "" if length is None else f"{length} tokens", columns
    elif figure == "perplexity":  # an average over texts would say nothing
        for task in tasks:
            own_lengths = [length for length in lengths if (task, length) in places]
            yield task if len(tasks) > 1 else "", [_Column(str(n), ((task, n),)) for n in own_lengths]
    else:
        about = f"average of {len(tasks)} tasks" if len(tasks) > 1 else ""
        yield about, [_Column(str(n), tuple(place for place in places if place[1] == n)) for n in lengths]


def _shared(column: _Column, groups: Sequence[_Group], notes: dict[str, None]) -> _Column:
    """The column over the tasks that all rows have, of those that have any."""
    there = [group for group in groups if any(place in group.rows for place in column.places)]
    places = tuple(place for place in column.places if all(place in group.rows for group in there))
    missing = [place for place in column.places if place not in places]
    if missing and len(column.places) > 1:
        names = ", ".join(task for task, _ in missing)
        length = missing[0][1]
        where = "" if length is None else f" at {length}"
        notes[f"left out of the average{where}, as some rows lack it: {names}"] = None
    return replace(column, places=places)


def _cells(
    column: _Column, groups: Sequence[_Group], first: _Group, figure: str, notes: dict[str, None]
) -> list[Cell | None]:
    cells = [_cell(column, group) for group in groups]
    known = [i for i, cell in enumerate(cells) if cell is not None]
    for i in known:
        if groups[i] is not first and groups.index(first) in known:
            cells[i] = replace(_there(cells[i]), difference=_difference(column, first, groups[i], figure, notes))
    if len(known) > 1:
        best, second = sorted(known, key=lambda i: _there(cells[i]).value, reverse=figure != "perplexity")[:2]
        gain = _difference(column, groups[second], groups[best], figure, notes)
        cells[best] = replace(_there(cells[best]), best=gain is not None and gain.beyond_noise)
    return cells


def _there(cell: Cell | None) -> Cell:
    assert cell is not None
    return cell


def _cell(column: _Column, group: _Group) -> Cell | None:
    """The figure of a column: of one row, or the average of several."""
    if not column.places or not all(place in group.rows for place in column.places):
        return None
    rows = [row for place in column.places for row in group.rows[place]]
    if len(rows) == 1:
        interval = rows[0]["interval"]
        return Cell(figure_of(rows[0])[1], None if interval is None else (interval[0], interval[1]), rows[0]["n"])
    values, counts = zip(*(group.figure(place) for place in column.places), strict=True)
    mean = sum(values) / len(values)
    if figure_of(rows[0])[0] != "accuracy":  # of texts of several kinds, whose perplexities have nothing in common
        return Cell(mean, None, sum(counts))
    # With equal numbers of questions this is their sum, so that the interval is that of all questions together.
    as_many = len(counts) ** 2 / sum(1 / n for n in counts)
    return Cell(mean, wilson(mean * as_many, as_many), sum(counts))


def _difference(
    column: _Column, first: _Group, second: _Group, figure: str, notes: dict[str, None]
) -> Difference | None:
    """Second minus first over the same samples; None, with a note, where they are not the same."""
    tasks, n, differing = [], 0, 0
    for place in column.places:
        a, b = first.units.get(place), second.units.get(place)
        if a is None or b is None:
            return None  # a note says already that there are no samples
        if not _same_samples(place, first, second, figure):
            pair = " and ".join(sorted((first.label, second.label)))
            notes[f"{pair} did not read the same samples: no difference of the two"] = None
            return None
        units = sorted(a, key=str)
        n += len(units)
        differing += sum(a[unit] != b[unit] for unit in units)
        tasks.append((np.array([a[unit] for unit in units]), np.array([b[unit] for unit in units])))
    value, (low, high) = paired_difference(tasks)
    if figure == "perplexity":
        value, low, high = (math.expm1(min(nats, 700)) if math.isfinite(nats) else nats for nats in (value, low, high))
    return Difference(value, (low, high), n, differing)


def _same_samples(place: Place, first: _Group, second: _Group, figure: str) -> bool:
    """Whether both read the same; the digests of another model's prompts may differ, as its tokenizer may."""
    if first.units[place].keys() != second.units[place].keys():
        return False
    if first.model == second.model or figure == "perplexity":
        return first.prompts[place] == second.prompts[place]
    return True


def _with_paper(names: Sequence[str], lines: Sequence[Line], printed: PaperTable) -> tuple[list[str], list[Line]]:
    """Add the paper's rows, and its column if there is none of that name."""
    columns, ours = list(names), list(lines)
    if printed.column not in columns:
        columns.append(printed.column)
        ours = [replace(line, cells=(*line.cells, None)) for line in ours]
    place = columns.index(printed.column)
    for name, percent in printed.rows.items():
        cells = tuple(Cell(percent / 100) if i == place else None for i in range(len(columns)))
        ours.append(Line(f"paper: {name}", cells, printed.source))
    return columns, ours
