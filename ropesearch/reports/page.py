"""The page as a whole: sections, their data, style and scripts in one HTML file that may reach no network."""

import base64
import json
from collections.abc import Sequence
from hashlib import sha256
from importlib.resources import files
from typing import Any

from ropesearch._version import __version__

from .html import Html, tag
from .section import Section
from .theme import styles, variables

SCRIPTS = ("waves", "chart", "waveforms", "figures")
UPLOT = "uPlot 1.6.32, https://github.com/leeoniya/uPlot"


def make_page(sections: Sequence[Section], title: str) -> str:
    """Return the HTML of a page."""
    figures: list[dict[str, Any]] = []
    alone = len(sections) == 1 and sections[0].title == title
    parts = [_section(i, section, figures, alone=alone) for i, section in enumerate(sections)]
    data = _json({"styles": styles(), "figures": figures})
    sheets = [_asset("vendor/uplot/uPlot.min.css"), variables() + "\n" + _asset("page/page.css")]
    scripts = {"uplot": _asset("vendor/uplot/uPlot.iife.min.js")}
    scripts |= {name: _asset(f"page/{name}.js") for name in SCRIPTS}
    policy = (
        f"default-src 'none'; script-src {_hashes(scripts.values())}; style-src {_hashes(sheets)}; worker-src blob:; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="referrer", content="no-referrer"),
        tag("link", rel="icon", href="data:,"),
        tag("title", title),
        *(tag("style", Html(sheet)) for sheet in sheets),
    )
    body = tag(
        "body",
        tag("a", "Skip to the content", href="#content", class_="skip"),
        _header(title, sections),
        tag("main", tag("noscript", tag("p", "The charts need JavaScript; the tables do not.")), *parts, id="content"),
        _footer(),
        tag("script", Html(data), type="application/json", id="data"),
        Html(f"<!-- {UPLOT}\n{_asset('vendor/uplot/LICENSE')}-->"),
        *(tag("script", Html(code), id=name) for name, code in scripts.items()),
    )
    return f'<!DOCTYPE html>\n<html lang="en">\n{head}\n{body}\n</html>\n'


def _header(title: str, sections: Sequence[Section]) -> Html:
    links = [
        tag("li", tag("a", section.title, href=f"#s{i + 1}"), " ", tag("span", section.kind, class_="kind"))
        for i, section in enumerate(sections)
    ]
    contents = tag("nav", tag("ol", *links), aria_label="Contents")
    theme = tag("button", "light / dark", type="button", id="theme", aria_label="Switch between light and dark colours")
    return tag("header", tag("div", tag("h1", title), theme, class_="top"), contents if len(sections) > 1 else "")


def _section(i: int, section: Section, figures: list[dict[str, Any]], *, alone: bool) -> Html:
    parts = []
    for part in section.body:
        if isinstance(part, Html):
            parts.append(part)
        else:
            size = "half" if part.get("half") else None
            parts.append(tag("div", class_=size, data_figure=str(len(figures))))
            figures.append(part)
    kind = tag("span", section.kind, class_="kind")
    heading = tag("h2", section.kind.capitalize()) if alone else tag("h2", section.title, " ", kind)
    return tag("section", heading, *parts, id=f"s{i + 1}")


def _footer() -> Html:
    keys = {
        "+ and −": "zoom",
        "← and →": "move",
        "Shift with ← and →": "read the next value",
        "0": "show all",
        "b, m, h, e": "best head, mean, heads, peaks and valleys",
        "[ and ]": "let the next head stand out",
    }
    mouse = "Drag over a chart to zoom in, double-click to see all. "
    mouse += "The wheel zooms once you have clicked into the chart, or with Ctrl."
    made = f"Made by ropesearch {__version__}. This file holds all that it shows and loads nothing. "
    rows = [tag("div", tag("dt", tag("kbd", key)), tag("dd", what)) for key, what in keys.items()]
    return tag(
        "footer",
        tag("details", tag("summary", "Keys and mouse"), tag("p", mouse), tag("dl", *rows, class_="facts")),
        tag("p", made, f"Charts: {UPLOT} (MIT)."),
    )


def _asset(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def _hashes(texts: Any) -> str:
    digests = (base64.b64encode(sha256(text.encode()).digest()).decode() for text in texts)
    return " ".join(f"'sha256-{digest}'" for digest in digests)


def _json(content: Any) -> str:
    """JSON that no text can end: within a script element, < would begin a tag."""
    text = json.dumps(content, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
