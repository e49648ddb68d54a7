"""HTML in which text from files is text: whatever is not HTML already is escaped."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape

from ropesearch.core.errors import printable


class Html(str):
    """Text that is HTML already."""

    __slots__ = ()


VOID = frozenset({"link", "meta"})


def escaped(text: str) -> Html:
    """Return text as HTML; HTML stays as it is."""
    return text if isinstance(text, Html) else Html(escape(printable(text)))


def tag(name: str, /, *children: str, **attributes: str | None) -> Html:
    """Return an element: `tag("a", "text", href="#top")`. A trailing underscore of an attribute's name is dropped."""
    named = [
        f' {key.rstrip("_").replace("_", "-")}="{escape(printable(value))}"'
        for key, value in attributes.items()
        if value is not None
    ]
    start = f"<{name}{''.join(named)}>"
    return Html(start if name in VOID else f"{start}{''.join(map(escaped, children))}</{name}>")


def facts(found: Mapping[str, str]) -> Html:
    """Return names and values, one pair after the other."""
    return tag("dl", *(tag("div", tag("dt", name), tag("dd", value)) for name, value in found.items()), class_="facts")


def table(
    caption: str,
    columns: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    labels: bool = False,
    remarks: Sequence[str] = (),
) -> Html:
    """Return a table that scrolls by itself where it is wider than the page; with `labels`, rows begin with a name."""
    head = tag("tr", *(tag("th", name, scope="col") for name in columns))
    lines = [
        tag("tr", *(tag("th" if labels and i == 0 else "td", cell, scope="row" if labels and i == 0 else None)
                    for i, cell in enumerate(row)))
        for row in rows
    ]  # fmt: skip
    body = tag("table", tag("thead", head), tag("tbody", *lines))
    above = tag("p", caption, class_="caption")
    notes = [tag("p", remark, class_="remark") for remark in remarks]
    region = tag("div", body, class_="wide", tabindex="0", role="region", aria_label=caption)
    return Html("".join([above, region, *notes]))


def folded(summary: str, *children: str) -> Html:
    """Return what opens at a click."""
    return tag("details", tag("summary", summary), *children)
