"""A figure of coverage against an option that a sweep varied."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ropesearch.core import checks
from ropesearch.core.errors import ArgumentTypeError, InputError

from .style import MARKERS, Width, line_style, sheet

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FIGURES = {
    "floor": "floor of the best head (mean cosine)",
    "mean": "mean of the best head (mean cosine)",
    "quantile_01": "1 % quantile of the best head (mean cosine)",
    "ripple": "ripple of the mean (mean cosine)",
}


def plot_sweep(
    rows: Sequence[Mapping[str, Any]],
    figure: str = "floor",
    against: str = "stride",
    *,
    logx: bool = False,
    ax: "Axes | None" = None,
    width: Width = None,
    title: str | None = None,
) -> "Figure":
    """Draw a figure of coverage for every point of a sweep, against an option that the points vary.

    Points that differ in other options are on lines of their own. A point without the option, such as the stride of
    `uniform`, is a level line.

    Parameters
    ----------
    rows : sequence of mapping
        As `read_sweep` returns them.
    figure : {'floor', 'mean', 'quantile_01', 'ripple'}
        What is drawn.
    against : str
        The option along the horizontal axis, a number.
    logx : bool
        Whether that axis has a log scale.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default, a new figure.
    width : float or {'single', 'double'}, optional
        Of the new figure: inches, or one or two columns of a paper.
    title : str, optional
        In place of the figure's own; "" for none.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        If no row has the figure, or the points do not vary the option.
    """
    checks.choice("figure", figure, FIGURES)
    if not all(isinstance(row, Mapping) for row in rows):
        raise ArgumentTypeError("rows", rows, "the rows that `read_sweep` returns")
    known = [row for row in rows if row.get("coverage", {}).get(figure) is not None]
    if not known:
        msg = f"no row of the sweep has the figure {figure}"
        raise InputError(msg)
    numeric = varied_numbers(known)
    if against not in numeric:
        choices = f"vary {', '.join(numeric)}" if numeric else "vary no number"
        msg = f"`against` must be an option that the points vary, not {against!r}: they {choices}"
        raise InputError(msg)
    lines: dict[str, list[tuple[float | None, float]]] = {}
    for row, name in zip(known, lines_of(known, against), strict=True):
        lines.setdefault(name, []).append((row["point"].get(against), row["coverage"][figure]))

    with sheet(width, title) as page:
        from matplotlib.ticker import EngFormatter, MaxNLocator

        axes = page.axes(8, 4.8, ax)
        for i, (name, points) in enumerate(lines.items()):
            look = {**line_style(i), "lw": page.lw(1.5), "label": name or None}
            along = sorted((x, y) for x, y in points if x is not None)
            if along:
                axes.plot(*zip(*along, strict=True), marker=MARKERS[i % len(MARKERS)], ms=page.lw(6), **look)
            for _, y in [point for point in points if point[0] is None]:
                axes.axhline(y, **look)
        if logx:
            axes.set_xscale("log")
            axes.xaxis.set_minor_formatter("")
        whole = all(isinstance(row["point"].get(against), int) for row in known)
        if whole and not logx:
            axes.xaxis.set_major_locator(MaxNLocator(7, integer=True))
        axes.xaxis.set_major_formatter("{x:,.0f}" if whole else EngFormatter(sep=""))
        axes.margins(y=0.08)
        axes.set(xlabel=against.replace("_", " "), ylabel=FIGURES[figure])
        page.write_title(axes, f"{figure.replace('quantile_01', '1 % quantile').capitalize()} against {against}")
        if any(lines):
            page.write_legend(axes)
    return page.figure_of(axes)


def varied_numbers(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the options that the points vary and that are numbers, or left out."""
    values = _values(rows)
    return [name for name in _varied(values) if all(value is None or _is_number(value) for value in values[name])]


def lines_of(rows: Sequence[Mapping[str, Any]], against: str) -> list[str]:
    """Return for each row the name of its line: the options, beside `against`, in which the points differ."""
    values = _values(rows)
    others = [
        name
        for name in _varied(values)
        if name != against and not (name == "kv_heads" and values[name] == values["heads"])
    ]
    if against in ("heads", "kv_heads"):
        others = [name for name in others if name not in ("heads", "kv_heads")]
    points = [row["point"] for row in rows]
    return [
        ", ".join(_option(other, point.get(other)) for other in others if point.get(other) is not None)
        for point in points
    ]


def _is_number(value: Any) -> bool:
    return isinstance(value, bool) or checks.is_number(value)


def _values(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    return {name: [row["point"].get(name) for row in rows] for name in rows[0]["point"]}


def _varied(values: Mapping[str, list[Any]]) -> list[str]:
    return [name for name in values if any(value != values[name][0] for value in values[name])]


def _option(name: str, value: Any) -> str:
    if not _is_number(value):
        return str(value)
    return f"{value:,.12g} {name}" if name in ("heads", "kv_heads") else f"{name.replace('_', ' ')} {value:,.12g}"
