import ast
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = {"ropesearch": "ropesearch", "cli": "ropesearch.cli", "plots": "ropesearch.plots"}


def modules():
    """(dotted name, path) of every module of the package."""
    for folder, package in FOLDERS.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            name = ".".join((package, *parts)).removesuffix(".__init__")
            yield name, path


MODULES = dict(modules())


def laid_out(folder):
    """Copy the package into a folder as it is installed."""
    for source, package in FOLDERS.items():
        shutil.copytree(
            ROOT / source, folder.joinpath(*package.split(".")), ignore=shutil.ignore_patterns("__pycache__")
        )
    shutil.copy(ROOT / "pyproject.toml", folder)


def lint_imports(folder):
    """Exit code and report of import-linter, by the contracts in pyproject.toml."""
    code = "import sys; from importlinter.cli import lint_imports_command; lint_imports_command()"
    command = [sys.executable, "-c", code, "--no-cache"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def test_rooms_import_downwards(tmp_path):
    laid_out(tmp_path)
    code, report = lint_imports(tmp_path)
    assert code == 0, report


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("core/rope.py", "from ropesearch.curves import waveforms"),
        ("core/rope.py", "def late():\n    from ropesearch.curves import waveforms"),
        ("curves/coverage.py", "from ropesearch import search_bases"),
        ("curves/coverage.py", "from .. import search_bases"),
        ("exporters/table.py", "import ropesearch"),
        ("plots/style.py", "import ropesearch.cli.main"),
    ],
)
def test_an_upward_import_is_noticed(tmp_path, module, line):
    laid_out(tmp_path)
    path = tmp_path / "ropesearch" / module
    path.write_text(path.read_text() + line + "\n")
    code, report = lint_imports(tmp_path)
    assert code == 1, report
    assert "BROKEN" in report


def test_every_room_says_what_it_is_for():
    for name, path in modules():
        if path.name == "__init__.py":
            first = ast.get_docstring(ast.parse(path.read_text())).splitlines()[0]
            assert first.endswith("."), name


def test_no_room_has_the_name_of_something_public():
    # `from ropesearch import export` would give the one or the other, by what was imported before.
    import ropesearch

    assert not set(ropesearch.__all__) & {name.split(".")[1] for name in MODULES if "." in name}


def test_packages_are_those_of_the_folders():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    found = {name if path.name == "__init__.py" else name.rpartition(".")[0] for name, path in modules()}
    assert set(settings["packages"]) == found
    assert settings["package-dir"] == {package: folder for folder, package in FOLDERS.items()}


def test_importing_the_package_loads_little():
    code = "import sys, ropesearch; before = set(sys.modules); from ropesearch import search_bases, BaseSet, export;"
    code += "print(*before); print(*sys.modules)"
    out = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True).stdout
    alone, with_search = (set(line.split()) for line in out.splitlines())
    assert not alone & {"numpy", "numba", "scipy", "matplotlib", "rich", "torch", "transformers"}
    assert not with_search & {"scipy.signal", "matplotlib", "torch", "transformers"}


def test_everything_promised_is_there():
    import ropesearch

    assert len(ropesearch.__all__) == len(set(ropesearch.__all__)) > 20
    for name in ropesearch.__all__:
        assert getattr(ropesearch, name).__doc__
    assert set(ropesearch.__all__) <= set(dir(ropesearch))
    with pytest.raises(AttributeError, match="nonsense"):
        _ = ropesearch.nonsense
