"""Figures that the paper prints, HARPE (arXiv:2412.07171), as far as they are kept here."""

from collections.abc import Mapping
from dataclasses import dataclass

from ropesearch.core.errors import InputError, shown

NIAH_BY_STRIDE = {10000: 84.51, 20000: 85.57, 30000: 86.82, 40000: 84.69, 50000: 83.68}
"""Table 6: average of "needle in a haystack" in percent, by the stride of `peak-valley`."""
NIAH_UNIFORM = {"ascending": 84.30, "descending": 85.30}
"""Table 6: the same of uniform bases, by their order over the heads."""


@dataclass(frozen=True)
class PaperTable:
    """Rows of a table that the paper prints.

    Attributes
    ----------
    source : str
    suite : str
        The suite that measures the same.
    column : str
        Name of the column.
    rows : mapping
        The printed figures, accuracies in percent, by the name of the row.
    """

    source: str
    suite: str
    column: str
    rows: Mapping[str, float]


TABLES: Mapping[int, PaperTable] = {
    6: PaperTable(
        "HARPE, arXiv:2412.07171, Table 6",
        "niah",
        "average",
        {
            **{f"peak-valley, stride {stride}": score for stride, score in NIAH_BY_STRIDE.items()},
            **{f"uniform, {order}": score for order, score in NIAH_UNIFORM.items()},
        },
    )
}


def paper_table(number: int, suite: str) -> PaperTable:
    """Figures of a table of the paper, to stand beside those of a suite.

    Raises
    ------
    ValueError
        If they are not here, or another suite measures them.
    """
    if number not in TABLES:
        known = " and ".join(map(str, TABLES))
        msg = f"`paper={number}`: the figures of that table are not in this version, only those of Table {known}"
        raise InputError(msg)
    table = TABLES[number]
    if table.suite != suite:
        msg = f"`paper={number}` is a table of {table.suite}, and the results are of {shown(suite)}"
        raise InputError(msg)
    return table
