"""Kill commands in their writes, and fail their disk: `python tests/faults/inject.py FOLDER [RUNS [SEED [NAME...]]]`.

Each run is one command in a process of its own. At the n-th call that changes its folder (see faults.c) the process is
killed, or the disk is full, broken or read-only from there on, or the folder vanishes, or the clock jumps by ten years;
or it is killed at any moment; or two of it run at once. Then the old file must be there, whole, or the new one, or what
`--resume` goes on with; an error must be one line. The same command, run again without faults, must end as it always
does and leave no temporary file. Prints a line of JSON for each run that went wrong, and a table of all.
"""

import json
import os
import random
import subprocess
import sys
from collections import Counter
from concurrent.futures import Executor, Future
from importlib import import_module
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path += [str(HERE), str(HERE.parent)]

from cluster import ClusterTrial  # noqa: E402
from trial import GRID, Command, Trial  # noqa: E402

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
    "report --overwrite": Command(
        ["report", "bases.json", "--max-distance", "900", "-o", "work/a.html", "--overwrite"],
        ["report", "bases8.json", "--max-distance", "900", "-o", "work/a.html"],
        ["ropesearch.reports.write"],
    ),
    "sweep --resume": Command(SWEEP),
    "apply": Command(["apply", "toy", "--bases", "bases.json", "-o", "work/model"], modules=FOR_MODELS),
    "measure": Command(MEASURE, modules=FOR_MODELS),
    "measure --overwrite": Command([*MEASURE, "--overwrite"], [*MEASURE, "--softmax"], FOR_MODELS),
    "train --resume": Command(TRAIN, modules=FOR_MODELS + FOR_TRAINING),
    "evaluate --resume": Command([*EVALUATE, "--resume"], modules=FOR_MODELS),
    "evaluate --overwrite": Command([*EVALUATE, "--overwrite"], [*EVALUATE, "--seed", "1"], FOR_MODELS),
}

CLUSTER = "sweep --scheduler"
"""The one command that is not killed alone: see cluster.py."""


class Here(Executor):
    """Runs the searches of a sweep in this process."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def submit(self, function: Any, /, *args: Any, **options: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(function(*args, **options))
        return future


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
    prepare(folder, [name for name in names if name != CLUSTER])
    trials = [ClusterTrial(name, folder) if name == CLUSTER else Trial(name, folder, COMMANDS[name]) for name in names]
    in_turn = [trial for i in range(max(trial.share for trial in trials)) for trial in trials if i < trial.share]
    chance = random.Random(seed)
    counts: dict[str, Counter[str]] = {name: Counter() for name in names}
    failed = 0
    try:
        for i in range(runs):
            trial = in_turn[i % len(in_turn)]
            (fault,) = chance.choices(list(trial.faults), list(trial.faults.values()))
            when, found = trial.disturb(fault, chance)
            counts[trial.name][fault] += 1
            if found:
                failed += 1
                print(json.dumps({"command": trial.name, "fault": fault, "when": when, "wrong": found}), flush=True)
    except KeyboardInterrupt:  # what is done counts
        runs = sum(count.total() for count in counts.values())
    finally:
        for trial in trials:
            trial.close()
    print(f"{runs} runs, seed {seed}: {failed} went wrong")
    for trial in trials:
        calls = f"{trial.calls} calls" if trial.calls else ""
        each = ", ".join(f"{fault} {counts[trial.name][fault]}" for fault in trial.faults)
        print(f"{trial.name:21}{calls:10} {each}")
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
    return inject(folder, int(runs), int(seed), list(names) or [*COMMANDS, CLUSTER]) > 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
