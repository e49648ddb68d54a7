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
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from forked import Ended, Forked, complaint
from hostile_files import Case, make

SECONDS, MEGABYTES = 1.0, 200
GIVE_UP_AFTER = 20


def load() -> None:
    """Load what the commands need."""
    for name in (
        "matplotlib.figure",
        "rich.table",
        "ropesearch.plots.decay",
        "ropesearch.evaluation.run",
        "ropesearch.evaluation.table_formats",
        "ropesearch.model.write",
        "ropesearch.training.trainer",
        "transformers.models.llama.modeling_llama",
        "datasets.packaged_modules.text.text",
        "gguf",
    ):
        import_module(name)
    from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

    from ropesearch import search_bases

    assert AutoModelForCausalLM
    assert AutoTokenizer
    assert PreTrainedTokenizerFast
    search_bases(1e4, 2e4, 1e3, 2, head_dim=16, max_distance=2000)


def run(case: Case) -> Ended:
    """Run one command in a process of its own."""
    from ropesearch.cli import main

    return Forked(lambda: main(case.arguments)).wait(give_up_after=GIVE_UP_AFTER)


def complaints(ended: Ended, folder: Path, others: float = 0, *, limited: bool = True) -> list[str]:
    """Return what is wrong with how a command ended; `others` is the memory in megabytes that any would take."""
    found = [] if (wrong := complaint(ended)) is None else [wrong]
    if ended.out:
        found.append("it printed something")
    if limited and ended.seconds > SECONDS:
        found.append(f"it took {ended.seconds} s")
    if limited and ended.megabytes - others > MEGABYTES:
        found.append(f"it took {ended.megabytes - others:.0f} MB")
    if (folder / "code-ran").exists():
        found.append("code in a file ran")
        (folder / "code-ran").rmdir()
    for path in folder.iterdir():
        if path.name.startswith(("never", ".ropesearch")):
            found.append(f"it left {path.name}")
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    return found


def all_results(folder: Path) -> Iterator[dict[str, Any]]:
    """Make all files in a new folder, run all commands, and yield how each ended and what is wrong with that."""
    folder.mkdir()
    cases = list(make(folder))
    os.chdir(folder)
    load()
    others = run(Case("", ["show", "none.json"])).megabytes
    for case in cases:
        ended = run(case)
        facts = vars(ended) | {"megabytes": round(ended.megabytes - others), "read_by_us": case.read_by_us}
        yield {"name": case.name} | facts | {"wrong": complaints(ended, folder, others, limited=case.read_by_us)}


def main(place: str) -> int:
    """Make and run all; print what came of it, and the most that a file took which we read ourselves."""
    folder = Path(place).resolve()
    os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": f"{folder}.cache"}
    os.environ |= {"TQDM_DISABLE": "1", "TRANSFORMERS_VERBOSITY": "error", "TOKENIZERS_PARALLELISM": "false"}
    os.environ |= {"HF_HOME": f"{folder}.cache"}
    results = []
    for result in all_results(folder):
        print(json.dumps(result), flush=True)
        results.append(result)
    ours = [result for result in results if result["read_by_us"]]
    most = {key: max(result[key] for result in ours) for key in ("seconds", "megabytes")}
    failed = sum(bool(result["wrong"]) for result in results)
    print(json.dumps({"files": len(results), "read_by_us": len(ours), "wrong": failed} | most))
    return failed > 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
