"""The site: it builds without a warning, loads nothing from elsewhere, and says all there is to say."""

import os
import re
import runpy
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import click
import pytest
from ropesearch.cli.main import cli

import ropesearch
from ropesearch import parse_scheme
from ropesearch.schemes.grammar import SCHEMES

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
LOADS = {
    "link": "href",
    "script": "src",
    "img": "src",
    "iframe": "src",
    "object": "data",
    "source": "src",
    "use": "href",
}


@pytest.fixture(scope="module")
def schemes():
    return runpy.run_path(str(DOCS / "make_schemes.py"))


def test_the_page_of_schemes_is_current(schemes):
    assert (DOCS / "schemes.md").read_text() == schemes["page"]()


def test_every_option_and_formula_of_a_scheme_is_there(schemes):
    assert set(schemes["OPTIONS"]) == {key for kind in SCHEMES.values() for key in kind.keys}
    assert set(schemes["FORMULAS"]) == set(SCHEMES)


@pytest.mark.parametrize("name", SCHEMES)
def test_the_example_of_a_scheme_is_one(name, schemes, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    schemes["write_files"]()
    scheme = parse_scheme(SCHEMES[name].example)
    assert scheme.name.startswith(name)
    assert parse_scheme(scheme.name) == scheme


def test_the_gallery_has_every_figure():
    made = runpy.run_path(str(DOCS / "make_gallery.py"))
    pictures = [*made["QUICK"], *made["MEASURED"]]
    assert {picture.command.split()[0] for picture in pictures} == set(cli.commands["plot"].commands)
    assert {picture.file for picture in made["MEASURED"]} == {path.name for path in (DOCS / "gallery").iterdir()}


def test_every_page_stands_in_the_contents():
    contents = (DOCS / "index.md").read_text()
    for page in [*DOCS.glob("*.md"), *DOCS.glob("tutorials/*.md")]:
        name = page.relative_to(DOCS).with_suffix("").as_posix()
        assert name == "index" or f"\n{name}\n" in contents, name


class Loaded(HTMLParser):
    """What a page loads when it is opened."""

    def __init__(self, page):
        super().__init__()
        self.addresses = []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        if LOADS.get(tag) in found and found.get("rel") not in ("next", "prev", "search", "index"):
            self.addresses.append(found[LOADS[tag]])


@pytest.mark.slow
def test_the_site(tmp_path):
    pytest.importorskip("sphinx", reason="needs the extra `docs`")
    command = [sys.executable, "-P", "-m", "sphinx", "-W", "--keep-going", "-q", str(DOCS), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONWARNINGS": "default"})
    assert done.returncode == 0, done.stderr
    check_that_nothing_comes_from_elsewhere(tmp_path)
    check_the_library(tmp_path)
    check_the_commands((tmp_path / "cli.html").read_text())
    assert (tmp_path / "terms.html").read_text().count("<math") > 40  # formulas, without a script


def check_that_nothing_comes_from_elsewhere(site):
    pages = list(site.rglob("*.html"))
    n_loaded = 0
    for page in pages:
        for address in Loaded(page.read_text()).addresses:
            assert not re.match(r"\w+:|//", address), (page.name, address)
            assert (page.parent / address.split("?")[0].split("#")[0]).exists(), (page.name, address)
            n_loaded += 1
    assert n_loaded > 5 * len(pages) > 150
    for path in [*pages, *site.rglob("*.css"), *site.rglob("*.js")]:
        text = path.read_text()
        assert not re.search(r"(?:@import|url\(|import\(|fetch\()\s*[\"'`]?(?:https?:)?//", text), path.name


def check_the_library(site):
    text = "".join(page.read_text() for page in site.glob("generated/library-*.html"))
    assert set(re.findall(r'id="ropesearch\.(\w+)"', text)) == set(ropesearch.__all__) - {"__version__"}


def check_the_commands(text):
    commands = {f"ropesearch-{name}": command for name, command in cli.commands.items()}
    commands |= {f"ropesearch-plot-{name}": command for name, command in cli.commands["plot"].commands.items()}
    for path, command in commands.items():
        assert f'<section id="{path}">' in text
        for option in (option for option in command.params if isinstance(option, click.Option) and not option.hidden):
            assert f'id="cmdoption-{path}-{option.opts[0].lstrip("-")}"' in text, (path, option.name)
