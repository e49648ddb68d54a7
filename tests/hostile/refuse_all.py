"""Run a command on every hostile file: `python tests/hostile/refuse_all.py FOLDER`; prints a line of JSON for each.

Each command runs in a process of its own, forked from one that has loaded what all need, so that its time and memory
are those of the file alone.
"""

import json
import os
import shutil
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from forked import Forked
from hostile_files import Case, make

SECONDS, MEGABYTES = 1.0, 200
GIVE_UP_AFTER = 20


def load() -> None:
    """Load what the commands need."""
    for name in (
        "matplotlib.figure",
        "rich.table",
        "ropesearch.plots.decay",
        "ropesearch.evaluation.table_formats",
        "ropesearch.model.write",
        "gguf",
    ):
        import_module(name)
    from transformers import AutoModelForCausalLM

    from ropesearch import search_bases

    assert AutoModelForCausalLM
    search_bases(1e4, 2e4, 1e3, 2, head_dim=16, max_distance=2000)


def run(case: Case, others: float = 0) -> dict[str, object]:
    """Run one command in a process of its own; `others` is the memory in megabytes that any command would take."""
    from ropesearch.cli import main

    ended = vars(Forked(lambda: main(case.arguments)).wait(give_up_after=GIVE_UP_AFTER))
    return {"name": case.name} | ended | {"megabytes": round(ended["megabytes"] - others)}


def complaints(result: dict[str, object], folder: Path) -> list[str]:
    """Return what is wrong with how a command ended."""
    err, found = str(result["err"]), []
    if result["code"] not in (1, 2):
        found.append(f"it ended with {result['code']}")
    if result["out"]:
        found.append("it printed something")
    if not (err.startswith("Error: ") and err.endswith("\n") and err[:-1].isprintable()):
        found.append("its error is not one line")
    if float(str(result["seconds"])) > SECONDS:
        found.append(f"it took {result['seconds']} s")
    if int(str(result["megabytes"])) > MEGABYTES:
        found.append(f"it took {result['megabytes']} MB")
    if (folder / "code-ran").exists():
        found.append("code in a file ran")
        (folder / "code-ran").rmdir()
    for path in folder.iterdir():
        if path.name.startswith(("never", ".ropesearch")):
            found.append(f"it left {path.name}")
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    return found


def all_results(folder: Path) -> Iterator[tuple[dict[str, object], list[str]]]:
    """Make all files in a new folder, run all commands, and yield how each ended and what is wrong with that."""
    folder.mkdir()
    cases = list(make(folder))
    os.chdir(folder)
    load()
    others = float(str(run(Case("", ["show", "none.json"]))["megabytes"]))
    for case in cases:
        result = run(case, others)
        yield result, complaints(result, folder)


def main(place: str) -> int:
    """Make and run all; print what came of it."""
    folder = Path(place).resolve()
    os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": f"{folder}.cache"}
    n = failed = 0
    for result, wrong in all_results(folder):
        print(json.dumps(result | {"wrong": wrong}), flush=True)
        n, failed = n + 1, failed + bool(wrong)
    print(json.dumps({"files": n, "wrong": failed}))
    return failed > 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
