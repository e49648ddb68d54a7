"""Write the reference of the library, from its public names and their docstrings, for the site.

python docs/make_library.py FOLDER

The names are those of ropesearch/__init__.pyi, and the page of each is that of its room.
"""

import inspect
import re
import sys
from pathlib import Path

from sphinx.pycode import ModuleAnalyzer

import ropesearch

STUB = Path(ropesearch.__file__).with_suffix(".pyi")
NAME = re.compile(r"^from \.([\w.]+) import (\w+) as \w+$", re.MULTILINE)

PAGES = {
    "core": "Base sets and options",
    "search": "Search and comparison",
    "curves": "Curves and coverage",
    "schemes": "Position schemes",
    "exporters": "Export",
    "model": "Models",
    "decay": "Attention decay",
    "training": "Training",
    "evaluation": "Evaluation",
    "plots": "Figures",
    "reports": "Pages",
}
"""The title of the page of each room, in the order of the reference."""

INTRODUCTION = """\
Everything that :mod:`ropesearch` gives to ``from ropesearch import …``. A name is loaded when it is first used, so that
``import ropesearch`` takes no time. Arguments that are wrong raise a ``ValueError`` of one line, which names the argument,
shows its value and says what is valid; of a wrong type, a ``TypeError``, which is also a ``ValueError``.

The library takes numbers, where the command line also takes ``30k`` and ``128k``.
"""


def public_names() -> dict[str, dict[str, str]]:
    """Return the public names of each room and the module of each, in the order of `__init__.pyi`."""
    names: dict[str, dict[str, str]] = {room: {} for room in PAGES}
    for module, name in NAME.findall(STUB.read_text()):
        if module != "_version":
            names[module.split(".")[0]][name] = module  # a KeyError here is a room without a title in PAGES
    return names


def heading(text: str, underline: str = "=") -> str:
    return f"{text}\n{underline * len(text)}\n"


def described(name: str, module: str) -> str:
    """Return the docstring of a public name; data has its own below it, in its module."""
    thing = getattr(ropesearch, name)
    if callable(thing):
        return inspect.getdoc(thing) or ""
    return "\n".join(ModuleAnalyzer.for_module(f"ropesearch.{module}").find_attr_docs()["", name])


def entry(name: str, module: str) -> str:
    """Return the directive that shows a public name."""
    thing = getattr(ropesearch, name)
    if inspect.isclass(thing):
        return f".. autoclass:: {name}\n   :members:\n"
    if callable(thing):
        return f".. autofunction:: {name}\n"
    return f".. data:: {name}\n\n   {described(name, module)}\n"


def row(name: str, module: str) -> str:
    summary = re.split(r"[.:](?:\s|$)", described(name, module), maxsplit=1)[0].replace("\n", " ")
    return f"   * - :obj:`{name}`\n     - {summary}"


def write(folder: Path) -> None:
    """Write library.rst, a table of all names, and a page for each room."""
    folder.mkdir(parents=True, exist_ok=True)
    pages = "\n".join([".. toctree::", "   :hidden:", "", *(f"   library-{room}" for room in PAGES)])
    index = [heading("Library"), INTRODUCTION, ".. module:: ropesearch\n", pages + "\n"]
    for room, names in public_names().items():
        rows = [row(name, module) for name, module in names.items()]
        table = "\n".join([".. list-table::", "   :widths: 30 70", "", *rows])
        index += [heading(f":doc:`library-{room}`", "-"), table + "\n"]
        entries = [entry(name, module) for name, module in names.items()]
        page = [heading(PAGES[room]), ".. currentmodule:: ropesearch\n", *entries]
        (folder / f"library-{room}.rst").write_text("\n".join(page))
    (folder / "library.rst").write_text("\n".join(index))


if __name__ == "__main__":
    write(Path(sys.argv[1]))
