"""Settings of the site: `sphinx-build -W docs docs/_site` builds it from the pages of this folder.

Nothing that a page needs is loaded from elsewhere: formulas are MathML, the theme brings its own styles and scripts.
"""

import re
import shutil
import sys
from pathlib import Path

import click
from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.config import Config

from ropesearch import __version__

HERE = Path(__file__).parent
GENERATED = HERE / "generated"
sys.path.insert(0, str(HERE))  # the scripts that make pages

project, author, release = "ropesearch", "The ropesearch contributors", __version__
project_copyright = author
extensions = ["myst_parser", "sphinx.ext.autodoc", "numpydoc", "sphinx_click"]
exclude_patterns = ["_site"]
highlight_language = "text"
smartquotes = False  # `--` is an option

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3

autodoc_typehints = "none"
autodoc_member_order = "bysource"
default_role = "py:obj"
numpydoc_show_class_members = False
# Documented parameters that do not exist; sections unknown, or out of order.
numpydoc_validation_checks = {"PR02", "GL06", "GL07"}

html_math_renderer = "mathml"
html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_title = f"ropesearch {release}"
html_show_sourcelink = False

# On the site, sphinx-click shows the commands, from the same code that docs/make_cli.py prints the help of.
COMMANDS = """\
## Commands

```{eval-rst}
.. click:: ropesearch.cli.main:cli
   :prog: ropesearch
   :nested: full
```
"""


def read_source(app: Sphinx, docname: str, source: list[str]) -> None:
    """Fit two pages to the site, which are for reading in the repository, too."""
    if docname == "cli":
        source[0] = source[0].partition("## ropesearch\n")[0] + COMMANDS
    source[0] = source[0].replace("](../SECURITY.md)", "](security.md)")


def code_as_rst(app: Sphinx, ctx: click.Context, lines: list[str]) -> None:
    """Mark `code` in the help of a command as reStructuredText does, and keep its examples as they are."""
    if not lines:
        return
    text = re.sub(r"(?<!`)`([^`\n]+)`(?!`)", r"``\1``", "\n".join(lines))
    text = re.sub(r"docs/([\w-]+)\.md", r":doc:`docs/\1.md </\1>`", text)
    text = re.sub(
        r"(?:^\| .*\n?)+", lambda example: "::\n\n" + example[0].replace("| ", "    "), text, flags=re.MULTILINE
    )
    lines[:] = text.split("\n")


def defaults_in_a_line(app: Sphinx, ctx: click.Context, lines: list[str]) -> None:
    """Say default and choices of an option in a line below its help."""
    if not lines:
        return
    text = re.sub(r"^( +):default: ``'?(.*?)'?``$", r"\1Default: ``\2``.", "\n".join(lines), flags=re.MULTILINE)
    lines[:] = re.sub(r"^( +):options: (.*)$", r"\1One of: \2.", text, flags=re.MULTILINE).split("\n")


def usage_as_text(app: Sphinx, ctx: click.Context, lines: list[str]) -> None:
    """Leave brackets uncoloured: the line is no command."""
    lines[0] = ".. code-block:: text"


def drop_arguments(app: Sphinx, ctx: click.Context, lines: list[str]) -> None:
    """Of arguments sphinx-click knows only that there are some; the description says more."""
    lines.clear()


def make_pages(app: Sphinx, config: Config) -> None:
    """Write the pages that are not kept in the repository."""
    import make_gallery
    import make_library

    shutil.rmtree(GENERATED, ignore_errors=True)
    make_library.write(GENERATED)
    make_gallery.write(GENERATED)


def write_inline_math(translator, node: nodes.math) -> None:
    translator.body.append(tex2mathml(node.astext()))
    raise nodes.SkipNode


def write_math_block(translator, node: nodes.math_block) -> None:
    translator.body.append(f'<div class="math">{tex2mathml(node.astext(), as_block=True)}</div>')
    raise nodes.SkipNode


def setup(app: Sphinx) -> None:
    app.add_html_math_renderer("mathml", (write_inline_math, None), (write_math_block, None))
    app.connect("config-inited", make_pages)
    app.connect("source-read", read_source)
    app.connect("sphinx-click-process-description", code_as_rst)
    app.connect("sphinx-click-process-usage", usage_as_text)
    app.connect("sphinx-click-process-options", code_as_rst)
    app.connect("sphinx-click-process-options", defaults_in_a_line)
    app.connect("sphinx-click-process-arguments", drop_arguments)
