"""Kill commands inside their writes, and fail their disk: `python tests/faults/inject.py FOLDER [RUNS] [SEED] [NAME...]`.

Each run is one command in a process of its own. At the n-th call that changes its folder (see faults.c) the process is
killed, or the disk is full, broken or read-only from there on, or the folder vanishes, or the clock jumps by ten years;
or it is killed at any moment; or two of it run at once. Then the old file must be there, whole, or the new one, or what
`--resume` goes on with; an error must be one line. The same command, run again without faults, must end as it always
does and leave no temporary file. Prints a line of JSON for each run that went wrong, and a table of all.
"""

import ctypes
import json
import mmap
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from forked import Ended, Forked, complaint

IN_C = {"kill": 1, "full": 2, "broken": 3, "gone": 4, "read-only": 5, "denied": 6, "clock": 7}
WEIGHTS = {"kill": 6, "moment": 3, "full": 2, "broken": 1, "read-only": 1, "denied": 1, "gone": 1, "clock": 1, "two": 2}
"""What happens to a command, and how often; in the two last cases nothing must go wrong."""

GRID = ["--bmin", "10000", "--bmax", "30000", "--head-dim", "16", "--max-distance", "2000"]
SMALL = [*GRID, "--stride", "1000", "--heads", "2"]
OTHER = [*GRID, "--stride", "2000", "--heads", "4"]
SWEEP = ["sweep", *GRID, "--strides", "1000,2000", "--heads", "2,4", "-o", "work/a.jsonl", "--resume"]
MEASURE = ["measure", "toy", "--length", "64", "-o", "work/a.json"]
TRAIN = ["train", "toy", "--data", "docs.jsonl", "--length", "32", "--tokens", "256", "--batch-tokens", "64"]
TRAIN += ["--save-every", "2", "--keep", "1", "-o", "work/run", "--resume"]
EVALUATE = ["evaluate", "reader", "--suite", "recall", "--lengths", "128", "--pairs", "8", "--limit", "6"]
EVALUATE += ["--batch-size", "2", "-o", "work/a.json"]
SOME_MODULES = ["rich.table", "ropesearch.plots.coverage", "ropesearch.search.workers"]
FOR_MODELS = ["transformers", "transformers.models.llama.modeling_llama", "ropesearch.model.write"]
FOR_MODELS += ["ropesearch.decay.measure", "ropesearch.evaluation.run", "ropesearch.evaluation.table_formats"]
FOR_TRAINING = ["ropesearch.training.trainer", "ropesearch.plots.training", "datasets.packaged_modules.json.json"]


@dataclass(frozen=True)
class Command:
    """What makes the new file, what makes the old one, if there is one, and what both import."""

    arguments: list[str]
    before: list[str] = field(default_factory=list)
    modules: list[str] = field(default_factory=list)

    @property
    def resumes(self) -> bool:
        return "--resume" in self.arguments


COMMANDS = {
    "search": Command(["search", *SMALL, "-o", "work/a.json"]),
    "search --overwrite": Command(
        ["search", *SMALL, "-o", "work/a.json", "--overwrite"], ["search", *OTHER, "-o", "work/a.json"]
    ),
    "export": Command(["export", "bases.json", "-o", "work/a.safetensors"]),
    "export --overwrite": Command(
        ["export", "bases.json", "-o", "work/a.npz", "--overwrite"], ["export", "bases8.json", "-o", "work/a.npz"]
    ),
    "plot": Command(["plot", "coverage", "bases.json", "--max-distance", "900", "-o", "work/a.svg"]),
    "sweep --resume": Command(SWEEP),
    "apply": Command(["apply", "toy", "--bases", "bases.json", "-o", "work/model"], modules=FOR_MODELS),
    "measure": Command(MEASURE, modules=FOR_MODELS),
    "measure --overwrite": Command([*MEASURE, "--overwrite"], [*MEASURE, "--softmax"], FOR_MODELS),
    "train --resume": Command(TRAIN, modules=FOR_MODELS + FOR_TRAINING),
    "evaluate --resume": Command([*EVALUATE, "--resume"], modules=FOR_MODELS),
    "evaluate --overwrite": Command([*EVALUATE, "--overwrite"], [*EVALUATE, "--seed", "1"], FOR_MODELS),
}

Tree = dict[str, Any]
NOT_COMPARED = ("README.md", "training_args.bin", "trainer_state.json")
"""Files of a run that hold times, or folders."""


class Here(Executor):
    """Runs the searches of a sweep in this process."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def submit(self, function: Any, /, *args: Any, **options: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(function(*args, **options))
        return future


@dataclass
class Trial:
    """One command, and what its folder holds before and after it."""

    name: str
    place: Path

    @property
    def command(self) -> Command:
        return COMMANDS[self.name]

    @property
    def work(self) -> Path:
        return self.place / "work"

    @cached_property
    def start(self) -> Path:
        """A folder as it is before the command."""
        folder = self.place / f"{self.name}.start"
        shutil.rmtree(self.work, ignore_errors=True)
        self.work.mkdir()
        if self.command.before:
            self.undisturbed(self.command.before)
        return self.work.rename(folder)

    @cached_property
    def end(self) -> tuple[Tree, int, float]:
        """What is in the folder after the command, how many calls it made, and how long it took."""
        self.reset()
        calls = mmap.mmap(-1, 8)
        ended = self.undisturbed(self.command.arguments, calls)
        return tree(self.work), int.from_bytes(calls[:8], "little"), ended.wall

    def undisturbed(self, arguments: list[str], calls: mmap.mmap | None = None) -> Ended:
        ended = start(arguments, self.place, calls=calls).wait()
        assert ended.code == 0, ended
        return ended

    def reset(self) -> None:
        for folder in (self.work, self.work.with_name("work.gone")):
            shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self.start, self.work)

    def disturb(self, fault: str, chance: random.Random) -> tuple[float, list[str]]:
        """Run the command with a fault, and then without; return when the fault came, and what is wrong."""
        new, calls, seconds = self.end
        self.reset()
        old = tree(self.work)
        arguments = self.command.arguments
        if fault == "two":
            when = chance.uniform(0, seconds)
            found = self.wrong_of_two(when, new)
        elif fault == "moment":
            when = chance.uniform(0, seconds)
            ended = start(arguments, self.place).wait(when)
            found = [] if ended.code in (0, -signal.SIGKILL) else [f"it ended with {ended.code}: {ended.err}"]
        else:
            when = chance.randint(1, calls)
            found = self.wrong_end(fault, start(arguments, self.place, when, IN_C[fault]).wait(), new)
        if not self.work.exists():
            self.work.with_name("work.gone").rename(self.work)
        left = tree(self.work)
        if fault in ("full", "broken", "clock", "two"):
            found += [f"it left {name}" for name in left if is_temporary(name)]
        shown = visible(left)
        complete = usable(shown, new)
        if not (complete or usable(shown, old) or (self.command.resumes and resumable(shown, new))):
            if self.name != "evaluate --overwrite" or not each_old_or_new(shown, old, new):
                found.append(f"neither the old nor the new: {sorted(shown)}")
        if complete and self.name == "apply":
            shutil.rmtree(self.work / "model")
        elif complete and not self.command.resumes and "--overwrite" not in arguments:
            arguments = [*arguments, "--overwrite"]
        again = start(arguments, self.place).wait()
        end = tree(self.work)
        if again.code != 0 or end != new:
            differing = [name for name in new.keys() | end.keys() if new.get(name) != end.get(name)]
            found.append(f"afterwards it ended otherwise: {again.code} {again.err} {sorted(differing)}")
        return when, found

    def wrong_end(self, fault: str, ended: Ended, new: Tree) -> list[str]:
        if fault == "kill":
            return [] if ended.code == -signal.SIGKILL else [f"it was not killed: {ended.code} {ended.err}"]
        if ended.code == 0:
            return [] if usable(visible(tree(self.work)), new) else ["it says that it is done, and is not"]
        if fault == "clock":
            return [f"the clock stopped it: {ended.code} {ended.err}"]
        if wrong := complaint(ended):
            return [wrong]
        if fault == "full" and "cannot be written: " not in ended.err and "there is no space for" not in ended.err:
            return [f"the line says not what cannot be written: {ended.err}"]
        return []

    def wrong_of_two(self, later: float, new: Tree) -> list[str]:
        """Run the command twice at once; return what is wrong with how both ended."""
        first = start(self.command.arguments, self.place)
        time.sleep(later)
        ends = [start(self.command.arguments, self.place).wait(), first.wait()]
        found = [wrong for ended in ends if ended.code != 0 and (wrong := complaint(ended))]
        done = [ended.code for ended in ends].count(0)
        may_both = self.command.resumes or "--overwrite" in self.command.arguments
        if done == 0 or (done == 2 and not may_both):
            found.append(f"{done} of two succeeded: {[ended.err for ended in ends]}")
        if tree(self.work) != new:
            found.append("together they made something else")
        return found


def tree(folder: Path) -> Tree:
    """Return the files in a folder by name, with their content; lines of JSON in any order, without times."""
    found: Tree = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_file():
            data = b"" if path.name in NOT_COMPARED else path.read_bytes()
            found[name] = rows(data) if path.suffix == ".jsonl" else data
        elif path.name.startswith(".ropesearch"):
            found[name] = None
    return found


def is_temporary(name: str) -> bool:
    return any(part.startswith(".ropesearch") for part in Path(name).parts)


def visible(found: Tree) -> Tree:
    """Return what is no temporary file."""
    return {name: content for name, content in found.items() if not is_temporary(name)}


def rows(data: bytes) -> list[str]:
    """Return the whole lines of a file of JSON lines."""
    lines = [json.loads(line) for line in data.split(b"\n")[:-1]]
    return sorted(json.dumps({key: value for key, value in line.items() if key != "seconds"}) for line in lines)


def usable(found: Tree, expected: Tree) -> bool:
    """Whether all that is expected is there; beside a decay there may be arrays that belong to no file yet."""
    return all(found.get(name) == content for name, content in expected.items()) and all(
        name in expected or name.endswith(".npz") for name in found
    )


def each_old_or_new(found: Tree, old: Tree, new: Tree) -> bool:
    """Whether every file is an old one or a new one, or has some lines of a new one."""
    return all(content == old.get(name) or is_beginning(content, new.get(name)) for name, content in found.items())


def is_beginning(content: Any, expected: Any) -> bool:
    """Whether a file is as expected, or has some of the lines."""
    return content == expected or (
        isinstance(content, list) and isinstance(expected, list) and set(content) <= set(expected)
    )


def resumable(found: Tree, expected: Tree) -> bool:
    """Whether there is nothing that is not of the end, or of an earlier or unfinished checkpoint."""
    for name, content in found.items():
        if "/checkpoint-" in name:
            folder, _, file = name.rpartition("/")
            last = max((other for other in expected if other.endswith(f"/{file}")), default="")
            if f"{folder}/complete.json" in found and (not last or len(content) != len(expected[last])):
                return False
        elif not is_beginning(content, expected.get(name)):
            return False
    return True


def start(
    arguments: list[str], place: Path, n: int = 0, action: int = 0, calls: mmap.mmap | None = None
) -> Forked:
    """Start a command in a process of its own; `calls` gets how many calls it makes that change the work folder."""

    def body() -> int:
        from ropesearch.cli import main

        os.chdir(place)
        faults = ctypes.CDLL(None)
        faults.faults_arm(ctypes.c_long(n), action, str(place / "work").encode())
        code = main(arguments)
        if calls is not None:
            calls[:8] = int(faults.faults_seen()).to_bytes(8, "little")
        return code

    return Forked(body)


def prepare(folder: Path, names: list[str]) -> None:
    """Load what the commands need, and make what they read."""
    modules = dict.fromkeys(SOME_MODULES + [module for name in names for module in COMMANDS[name].modules])
    for module in modules:
        import_module(module)
    from ropesearch import search_bases, uniform_bases
    from ropesearch.search import workers

    workers.ProcessPoolExecutor = Here  # type: ignore[misc, assignment]
    search_bases(1e4, 2e4, 1e3, 2, head_dim=16, max_distance=2000)
    uniform_bases(1e4, 2e4, 4, head_dim=16).save(folder / "bases.json")
    uniform_bases(1e4, 2e4, 8, head_dim=16).save(folder / "bases8.json")
    if FOR_MODELS[0] in modules:
        prepare_models(folder)


def prepare_models(folder: Path) -> None:
    """Make two models, one of which reads English, and documents for the other."""
    import toys

    from ropesearch import shipped_texts
    from ropesearch.evaluation.recall import KEYS, PAIR, VALUES

    toys.save_with_tokenizer(toys.toy("llama-multi-head"), folder / "toy")
    tokenizer = toys.word_tokenizer(" ".join([PAIR, *KEYS, *VALUES]), *shipped_texts().values())
    toys.reader_toy(tokenizer).save_pretrained(folder / "reader")
    tokenizer.save_pretrained(folder / "reader")
    words = random.Random(0)
    texts = [" ".join(f"w{words.randrange(1, 100)}" for _ in range(words.randrange(3, 60))) for _ in range(100)]
    (folder / "docs.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))


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
        (fault,) = chance.choices(list(WEIGHTS), list(WEIGHTS.values()))
        when, found = trial.disturb(fault, chance)
        counts[trial.name, fault] += 1
        if found:
            failed += 1
            print(json.dumps({"command": trial.name, "fault": fault, "when": when, "wrong": found}), flush=True)
    print(f"{runs} runs, seed {seed}: {failed} went wrong")
    print(f"{'':20}{'calls':>6}" + "".join(f"{fault:>10}" for fault in WEIGHTS))
    for trial in trials:
        numbers = "".join(f"{counts[trial.name, fault]:10}" for fault in WEIGHTS)
        print(f"{trial.name:20}{trial.end[1]:6}{numbers}")
    return failed


def main(place: str, runs: str = "500", seed: str = "1", *names: str) -> int:
    """Run as from the command line; with the library of faults loaded before all else."""
    folder = Path(place).resolve()
    if "faults.so" not in os.environ.get("LD_PRELOAD", ""):
        folder.mkdir()
        more = {"LD_PRELOAD": str(build(folder)), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        more |= {"TQDM_DISABLE": "1", "TRANSFORMERS_VERBOSITY": "error"}  # as a command does that imports transformers
        more |= {"HF_HOME": f"{folder}/hub", "TOKENIZERS_PARALLELISM": "false"}
        os.execve(sys.executable, [sys.executable, "-P", __file__, place, runs, seed, *names], os.environ | more)
    return inject(folder, int(runs), int(seed), list(names) or list(COMMANDS)) > 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
