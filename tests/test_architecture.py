import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = {"ropesearch": "ropesearch", "cli": "ropesearch.cli", "plots": "ropesearch.plots"}

# A file imports from its own floor and from those below.
FLOORS = [
    {"kernels"},
    {"_auto", "checks", "files", "memory", "model_config", "progress", "rope"},
    {"coverage", "device", "extrema", "waveforms"},
    {"base_set", "candidates", "matching", "optimize", "presets", "schemes", "search", "sweep"},
    {"compare", "decay", "exporters", "tables", "tensors"},
    {"checkpoints", "measure", "modeling_harpe", "models"},
    {"plots"},
    {"cli", "__main__"},
]
FLOOR = {name: floor for floor, names in enumerate(FLOORS) for name in names}


def modules():
    """(dotted name, path) of every module of the package."""
    for folder, package in FOLDERS.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            name = ".".join((package, *parts)).removesuffix(".__init__")
            yield name, path


MODULES = dict(modules())


def imports(name, path):
    """Modules of the package that a module imports, anywhere in it."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            levels = package.split(".")[: len(package.split(".")) - node.level + 1]
            source = ".".join([*levels, node.module] if node.module else levels) if node.level else node.module
            for alias in node.names:
                inner = f"{source}.{alias.name}"
                yield inner if inner in MODULES else source


def floor_of(name):
    return FLOOR[name.split(".")[1]]


@pytest.mark.parametrize("name", [n for n in MODULES if n != "ropesearch"])
def test_no_import_goes_up(name):
    for imported in imports(name, MODULES[name]):
        if imported.startswith("ropesearch."):
            assert floor_of(imported) <= floor_of(name), f"{name} imports {imported}"


def test_the_floors_name_what_there_is():
    assert {name.split(".")[1] for name in MODULES if "." in name} == set(FLOOR)


def test_no_imports_in_a_circle():
    graph = {name: {i for i in imports(name, path) if i in MODULES and i != "ropesearch"} for name, path in modules()}
    graph.pop("ropesearch")
    while graph:
        leaves = {name for name, sources in graph.items() if not sources & set(graph) - {name}}
        assert leaves, f"a circle among {sorted(graph)}"
        graph = {name: sources for name, sources in graph.items() if name not in leaves}


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

    for name in ropesearch.__all__:
        assert getattr(ropesearch, name).__doc__
    assert set(ropesearch.__all__) <= set(dir(ropesearch))
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = ropesearch.nonsense
