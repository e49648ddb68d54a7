"""Kill commands inside their writes, and fail their disk: `python tests/faults/inject.py FOLDER [RUNS] [SEED]`.

Each run is one command in a process of its own. At the n-th call that changes its folder (see faults.c) the process is
killed, or the disk is full, fails, or vanishes. Then the old file must be there, whole, or the new one; a failing disk
must be an error of one line. The same command, run again without faults, must end as it always does and leave no
temporary file. Prints a line of JSON for each run that went wrong, and a table of all.
"""

import ctypes
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections import Counter
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
GIVE_UP_AFTER = 60

ACTIONS = {"kill": 1, "full": 2, "broken": 3, "gone": 4}
WEIGHTS = [5, 1, 1, 1]

GRID = ["--bmin", "10000", "--bmax", "30000", "--head-dim", "16", "--max-distance", "2000"]
SMALL = [*GRID, "--stride", "1000", "--heads", "2"]
OTHER = [*GRID, "--stride", "2000", "--heads", "4"]
MEASURE = ["measure", "../toy", "--length", "64", "-o", "a.json"]
# What makes the old file, if there is one, and what makes the new one.
COMMANDS: dict[str, tuple[list[str], list[str]]] = {
    "search": ([], ["search", *SMALL, "-o", "a.json"]),
    "search --overwrite": (["search", *OTHER, "-o", "a.json"], ["search", *SMALL, "-o", "a.json", "--overwrite"]),
    "export": ([], ["export", "../bases.json", "-o", "a.safetensors"]),
    "export --overwrite": (
        ["export", "../bases8.json", "-o", "a.npz"],
        ["export", "../bases.json", "-o", "a.npz", "--overwrite"],
    ),
    "plot": ([], ["plot", "coverage", "../bases.json", "--max-distance", "900", "-o", "a.svg"]),
    "sweep --resume": ([], ["sweep", *GRID, "--strides", "1000,2000", "--heads", "2,4", "-o", "a.jsonl", "--resume"]),
    "apply": ([], ["apply", "../toy", "--bases", "../bases.json", "-o", "model"]),
    "measure": ([], MEASURE),
    "measure --overwrite": ([*MEASURE, "--softmax"], [*MEASURE, "--overwrite"]),
}
NEED_TORCH = ("apply", "measure", "measure --overwrite")

Tree = dict[str, Any]


class Here(Executor):
    """Runs the searches of a sweep in this process."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def submit(self, function: Any, /, *args: Any, **options: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(function(*args, **options))
        return future


@dataclass
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str
    calls: int


@dataclass
class Trial:
    """One command, and what its folder holds before and after it."""

    name: str
    place: Path
    wrong: list[str] = field(default_factory=list)

    @property
    def work(self) -> Path:
        return self.place / "work"

    @cached_property
    def start(self) -> Path:
        """A folder as it is before the command."""
        folder = self.place / f"{self.name}.start"
        folder.mkdir()
        before, _ = COMMANDS[self.name]
        if before:
            self.undisturbed(before, folder)
        return folder

    @cached_property
    def end(self) -> tuple[Tree, int]:
        """What is in the folder after the command, and how many calls it made."""
        self.reset()
        calls = self.undisturbed(COMMANDS[self.name][1], self.work)
        return tree(self.work), calls

    def undisturbed(self, arguments: list[str], folder: Path) -> int:
        ended = run(arguments, folder)
        assert ended.code == 0, ended
        return ended.calls

    def reset(self) -> None:
        for folder in (self.work, self.work.with_name("work.gone")):
            shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self.start, self.work)

    def disturb(self, action: str, n: int) -> list[str]:
        """Run the command with a fault, and then without; return what is wrong."""
        new, _ = self.end
        old = tree(self.start)
        arguments = COMMANDS[self.name][1]
        self.reset()
        ended = run(arguments, self.work, n, ACTIONS[action])
        if not self.work.exists():
            self.work.with_name("work.gone").rename(self.work)
        found = self.wrong_end(action, ended, old, new)
        left = tree(self.work)
        found += [f"it left {name}" for name in left if name.startswith(".ropesearch") and action in ("full", "broken")]
        shown = visible(left)
        complete = usable(shown, new)
        if not (complete or usable(shown, old) or partial(shown, new)):
            found.append(f"neither the old nor the new: {sorted(shown)}")
        if complete and self.name == "apply":
            shutil.rmtree(self.work / "model")
        elif complete and "--resume" not in arguments and "--overwrite" not in arguments:
            arguments = [*arguments, "--overwrite"]
        again = run(arguments, self.work)
        if again.code != 0 or tree(self.work) != new:
            found.append(f"afterwards it ended otherwise: {again.code} {again.err} {sorted(tree(self.work))}")
        return found

    def wrong_end(self, action: str, ended: Ended, old: Tree, new: Tree) -> list[str]:
        if action == "kill":
            return [] if ended.code == -signal.SIGKILL else [f"it was not killed: {ended.code} {ended.err}"]
        if ended.code == 0:
            return [] if usable(visible(tree(self.work)), new) else ["it says that it is done, and is not"]
        lines = [line for line in ended.err.splitlines() if not line.startswith(("note: ", "wrote "))]
        if ended.code not in (1, 2) or len(lines) != 1 or not lines[0].startswith("Error: "):
            return [f"it ended with {ended.code}: {ended.err}"]
        if action == "full" and "cannot be written: " not in lines[0]:
            return [f"the line says not what cannot be written: {lines[0]}"]
        return []


def tree(folder: Path) -> Tree:
    """Return the files in a folder by name, with their content; rows of a sweep in any order, without their times."""
    found: Tree = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            data = path.read_bytes()
            found[str(path.relative_to(folder))] = rows(data) if path.suffix == ".jsonl" else data
        elif path.name.startswith(".ropesearch"):
            found[str(path.relative_to(folder))] = None
    return found


def visible(found: Tree) -> Tree:
    """Return what is no temporary file."""
    return {name: content for name, content in found.items() if not name.startswith(".ropesearch")}


def rows(data: bytes) -> list[str]:
    """Return the whole lines of a sweep file."""
    lines = [json.loads(line) for line in data.split(b"\n")[:-1]]
    return sorted(json.dumps({key: value for key, value in line.items() if key != "seconds"}) for line in lines)


def usable(found: Tree, expected: Tree) -> bool:
    """Whether all that is expected is there; beside a decay there may be arrays that belong to no file yet."""
    return all(found.get(name) == content for name, content in expected.items()) and all(
        name in expected or name.endswith(".npz") for name in found
    )


def partial(found: Tree, expected: Tree) -> bool:
    """Whether these are some rows of the sweep."""
    return set(found) == {"a.jsonl"} == set(expected) and set(found["a.jsonl"]) <= set(expected["a.jsonl"])


def run(arguments: list[str], folder: Path, n: int = 0, action: int = 0) -> Ended:
    """Run a command in a process of its own, in a folder."""
    out, err, calls = (os.memfd_create(name) for name in ("out", "err", "calls"))
    child = os.fork()
    if child == 0:
        from ropesearch.cli import main

        code = 99
        try:
            signal.alarm(GIVE_UP_AFTER)
            os.chdir(folder)
            os.dup2(out, 1)
            os.dup2(err, 2)
            faults = ctypes.CDLL(None)
            faults.faults_arm(ctypes.c_long(n), action, str(folder).encode())
            code = main(arguments)
            sys.stdout.flush()
            sys.stderr.flush()
            os.write(calls, str(faults.faults_seen()).encode())
        except BaseException:
            import traceback

            traceback.print_exc()
            sys.stderr.flush()
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    texts = [os.pread(file, 10**6, 0).decode(errors="replace") for file in (out, err, calls)]
    for file in (out, err, calls):
        os.close(file)
    return Ended(os.waitstatus_to_exitcode(status), texts[0], texts[1], int(texts[2] or 0))


def prepare(folder: Path, names: list[str]) -> None:
    """Load what the commands need, and make what they read."""
    import rich.table
    from ropesearch.plots import coverage

    from ropesearch import search_bases, uniform_bases
    from ropesearch.search import workers

    assert rich.table
    assert coverage
    workers.ProcessPoolExecutor = Here  # type: ignore[misc, assignment]
    search_bases(1e4, 2e4, 1e3, 2, head_dim=16, max_distance=2000)
    uniform_bases(1e4, 2e4, 4, head_dim=16).save(folder / "bases.json")
    uniform_bases(1e4, 2e4, 8, head_dim=16).save(folder / "bases8.json")
    if set(NEED_TORCH) & set(names):
        sys.path.insert(0, str(HERE.parent))
        import toys

        toys.save_with_tokenizer(toys.toy("llama-multi-head"), folder / "toy")


def build(folder: Path) -> Path:
    """Compile faults.c."""
    library = folder / "faults.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, HERE / "faults.c", "-ldl"], check=True)
    return library


def inject(folder: Path, runs: int, seed: int, names: list[str]) -> int:
    """Do all runs; return how many went wrong."""
    prepare(folder, names)
    trials = [Trial(name, folder) for name in names]
    chance = random.Random(seed)
    counts: Counter[tuple[str, str]] = Counter()
    failed = 0
    for i in range(runs):
        trial = trials[i % len(trials)]
        (action,) = chance.choices(list(ACTIONS), WEIGHTS)
        n = chance.randint(1, trial.end[1])
        found = trial.disturb(action, n)
        counts[trial.name, action] += 1
        if found:
            failed += 1
            print(json.dumps({"command": trial.name, "fault": action, "call": n, "wrong": found}), flush=True)
    print(f"{runs} runs, seed {seed}: {failed} went wrong")
    print(f"{'':20}{'calls':>7}" + "".join(f"{action:>8}" for action in ACTIONS))
    for trial in trials:
        numbers = "".join(f"{counts[trial.name, action]:8}" for action in ACTIONS)
        print(f"{trial.name:20}{trial.end[1]:7}{numbers}")
    return failed


def main(place: str, runs: str = "500", seed: str = "1", *names: str) -> int:
    """Run as from the command line; with the library of faults loaded before all else."""
    folder = Path(place).resolve()
    if "faults.so" not in os.environ.get("LD_PRELOAD", ""):
        folder.mkdir()
        more = {"LD_PRELOAD": str(build(folder)), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        more |= {"TQDM_DISABLE": "1", "TRANSFORMERS_VERBOSITY": "error"}  # as a command does that imports transformers
        os.execve(sys.executable, [sys.executable, "-P", __file__, place, runs, seed, *names], os.environ | more)
    return inject(folder, int(runs), int(seed), list(names) or list(COMMANDS)) > 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
