"""Which scheme extends a context soonest, and does a base for every head matter? A study with seeds and intervals.

python studies/extension.py [--quick | --full] [--device cuda] -o DIR [--page docs/evidence.md]
python studies/extension.py --model MODEL --data TEXT [--factor 4] --device cuda -o DIR

A small Llama is trained from scratch at 64 tokens until it looks up values by their keys, once for every seed. Each
copy is then trained at 16 times that length under another position scheme, on the same rows in the same order, for a
few steps, and asked at every distance. `--quick` takes 40 minutes on two cores, `--full` hours. With `--model` it is a
real model, real text, and the suite recall.

Every run becomes a line of DIR/runs.jsonl; the same command goes on where it was stopped. The page is made from these
lines.
"""

import argparse
import json
import os
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any

QUIET = {
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "OMP_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
    "TOKENIZERS_PARALLELISM": "false",
}
os.environ |= QUIET  # before torch is imported, here and in the processes that are started

from extension_bed import Bed, Setting, SmallBed, TextBed  # noqa: E402
from extension_page import Record, write_page  # noqa: E402
from extension_schemes import SENSITIVITY, Candidate, Schemes, slug  # noqa: E402

# All that shapes the figures, fixed before the seeds below were run. Primary: accuracy after `primary` steps at the
# new length of the first setting, the mean over equal bands of distance.
SMALL = (
    Setting(16, steps=(0, 5, 10, 20, 40), primary=20, learning_rate=2e-4),
    Setting(8, steps=(150,), primary=150, learning_rate=1e-3),
)
REAL_STEPS, REAL_PRIMARY, REAL_RATE, REAL_ROWS = (0, 10, 25, 50, 100), 50, 2e-5, 4
QUICK_SEEDS, FULL_SEEDS = range(100, 105), range(100, 110)
SATURATION_SEEDS = 2
"""Seeds of the second setting in a quick study."""
SATURATION = ("untouched", "PI", "NTK", "YaRN", "ABF high", "ABF multi-stage", "uniform", "peak-valley")


@dataclass(frozen=True)
class Task:
    """One run; those of a lower tier come first. `far` asks at other lengths too."""

    tier: int
    seed: int
    setting: Setting
    candidate: Candidate
    steps: tuple[int, ...]
    far: bool

    @property
    def key(self) -> tuple[str, str, int]:
        """What names the run."""
        return self.setting.name, self.candidate.name, self.seed


def plan(bed: Bed, settings: Sequence[Setting], seeds: Sequence[int], *, full: bool) -> list[Task]:
    """Return every run of a study, those that matter most first."""
    return sorted(_tasks(bed, settings, seeds, full), key=lambda task: (task.tier, task.seed))


def _tasks(bed: Bed, settings: Sequence[Setting], seeds: Sequence[int], full: bool) -> Iterator[Task]:
    main, *others = settings
    primary = (main.primary,)
    for number, seed in enumerate(seeds):
        schemes = Schemes(bed.shape, main.factor, seed, bed.folder / "sets")
        sets = schemes.sets()
        for candidate in schemes.main():
            yield Task(0, seed, main, candidate, main.steps, True)
        for name, candidate in sets.items():
            single, *permuted = schemes.controls(candidate)
            if name != "uniform, descending":  # of which uniform is the control
                yield Task(1, seed, main, single, primary, False)
                for other in permuted:
                    yield Task(2, seed, main, other, primary, False)
        for candidate in schemes.strides():
            yield Task(3, seed, main, candidate, primary, False)
        for times in SENSITIVITY:
            for candidate in schemes.scaled(times):
                yield Task(4, seed, main, candidate, primary, False)
        for setting in others:
            if full or number < SATURATION_SEEDS:
                for candidate in Schemes(bed.shape, setting.factor, seed, bed.folder / "sets").main():
                    if full or candidate.name in SATURATION:
                        yield Task(5, seed, setting, candidate, setting.steps, False)
        if full:
            for candidate in schemes.readings():
                yield Task(6, seed, main, candidate, primary, False)


def run_task(bed: Bed, task: Task) -> Record:
    """Train and ask; gives the line of the run."""
    start = time.process_time()
    folder = bed.folder / "work" / f"{task.setting.name}-{slug(task.candidate.name)}-{task.seed}"
    points = bed.curve(task.seed, task.setting, task.candidate, task.steps, folder, far=task.far)
    return {
        "kind": "run",
        "setting": task.setting.name,
        "scheme": task.candidate.name,
        "seed": task.seed,
        "stages": [text for text, _ in task.candidate.stages] if not task.candidate.bases else None,
        "bases": list(task.candidate.bases),
        "points": points,
        "cpu_seconds": round(time.process_time() - start, 1),
    }


def run_own(bed: SmallBed, seed: int) -> Record:
    """Train the model of a seed; gives its line."""
    start = time.process_time()
    found = bed.train_own(seed, lambda line: print(line, file=sys.stderr, flush=True))
    return {"kind": "own", **found, "cpu_seconds": round(time.process_time() - start, 1)}


def start_process() -> None:
    """One thread, and no bars: the study has its own lines of progress. It ends where the study is killed."""
    import torch
    from transformers.utils import logging

    if (parent := parent_process()) is not None:
        # Left to itself it would go on with its run, in a folder that the next start takes for its own.
        threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()
    torch.set_num_threads(1)
    logging.set_verbosity_error()
    logging.disable_progress_bar()


def run_study(bed: Bed, tasks: Sequence[Task], seeds: Sequence[int], processes: int) -> None:
    """Run what DIR/runs.jsonl does not hold yet; first the models of the seeds, where they are to be trained."""
    lines = read_lines(bed.folder)
    done = {(line["setting"], line["scheme"], line["seed"]) for line in lines if line["kind"] == "run"}
    own = {line["seed"]: line["retrieves"] for line in lines if line["kind"] == "own"}
    missing = [seed for seed in seeds if seed not in own] if isinstance(bed, SmallBed) else []
    if not isinstance(bed, SmallBed):
        own = dict.fromkeys(seeds, True)
    left = [task for task in tasks if task.key not in done]
    total, n_done = len(tasks), len(tasks) - len(left)
    running: dict[Future[Record], str] = {}

    def start(pool: ProcessPoolExecutor) -> bool:
        ready = next((task for task in left if own.get(task.seed)), None)
        if missing:
            seed = missing.pop(0)
            running[pool.submit(run_own, bed, seed)] = f"model of seed {seed}"
        elif ready is not None:
            left.remove(ready)
            bed.data(ready.seed, ready.setting)  # written here: two processes would do so at once
            running[pool.submit(run_task, bed, ready)] = ", ".join(map(str, ready.key))
        else:
            return False
        return True

    with ProcessPoolExecutor(processes, get_context("spawn"), start_process) as pool:
        while True:
            while len(running) < processes and start(pool):
                pass
            if not running:
                break
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                name, line = running.pop(future), future.result()
                add_line(bed.folder, line)
                if line["kind"] == "own":
                    own[line["seed"]] = line["retrieves"]
                    result = f"accuracy {line['accuracy']:.3f}"
                else:
                    n_done += 1
                    result = ", ".join(
                        f"{point['step']}: {sum(h for h, _ in point['bands']) / sum(n for _, n in point['bands']):.3f}"
                        for point in line["points"]
                    )
                print(f"[{n_done}/{total}] {name}: {result} ({line['cpu_seconds']} s)", file=sys.stderr, flush=True)


def read_lines(folder: Path) -> list[Record]:
    """Lines of a study; one that a crash cut off is left out."""
    path, found = folder / "runs.jsonl", []
    for text in path.read_text().splitlines() if path.exists() else ():
        try:
            found.append(json.loads(text))
        except ValueError:
            continue
    return found


def add_line(folder: Path, line: Record) -> None:
    """Add a line to those of a study, on a line of its own even after one that a crash cut off."""
    path = folder / "runs.jsonl"
    cut_off = path.exists() and not path.read_bytes().endswith(b"\n")
    with path.open("a") as file:
        file.write("\n" * cut_off + json.dumps(line) + "\n")


def check_settings(folder: Path, settings: dict[str, Any]) -> None:
    """Keep what shapes the figures beside them; exit if the folder's are of other settings."""
    path = folder / "settings.json"
    text = json.dumps(settings, indent=2) + "\n"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    elif path.read_text() != text:
        sys.exit(f"{folder} holds runs of other settings: choose another folder for -o, or remove it")


def parse_seeds(text: str) -> list[int]:
    """Seeds such as 1,2 or 100-104."""
    found: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    return found


def command(options: argparse.Namespace) -> str:
    """Return the command line that makes the page again."""
    words = ["python studies/extension.py", "--full" if options.full else "--quick"]
    if options.model is not None:
        words += ["--model", Path(options.model).name, "--data", *(path.name for path in options.data)]
        words += ["--factor", str(options.factor)]
    if options.device != "cpu":
        words += ["--device", options.device]
    return " ".join([*words, "-o DIR --page docs/evidence.md"])


def main(argv: Iterable[str] | None = None) -> None:
    """Run the study and write its page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="five seeds, the default")
    size.add_argument("--full", action="store_true", help="ten seeds, more readings of the rule, both settings whole")
    parser.add_argument("-o", dest="folder", type=Path, required=True, help="folder of the study")
    parser.add_argument(
        "--page", type=Path, help="the page, its figure and lines beside it; DIR/evidence.md if left out"
    )
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--processes", type=int, default=2, help="runs at once, each with one thread")
    parser.add_argument("--seeds", type=parse_seeds, help="other seeds, such as 1,2 or 1-3, to try something out")
    parser.add_argument("--models-only", action="store_true", help="train the seeds' own models, and stop")
    parser.add_argument("--page-only", action="store_true", help="make the page of the runs that there are")
    parser.add_argument("--model", help="a real model in place of the small ones")
    parser.add_argument("--data", type=Path, nargs="+", default=[], help="text that it is trained on")
    parser.add_argument("--factor", type=int, default=4, help="its new length, as a multiple of its own")
    options = parser.parse_args(None if argv is None else list(argv))
    folder = options.folder.resolve()
    seeds = options.seeds or list(FULL_SEEDS if options.full else QUICK_SEEDS)
    if options.model is None:
        bed: Bed = SmallBed(folder, options.device)
        settings: Sequence[Setting] = SMALL
    else:
        if not options.data:
            parser.error("--model needs --data: text to train it on")
        start_process()
        bed = TextBed(folder, options.device, options.model, [path.resolve() for path in options.data])
        settings = (Setting(options.factor, REAL_STEPS, REAL_PRIMARY, REAL_RATE, REAL_ROWS),)
    check_settings(folder, {"settings": [asdict(setting) for setting in settings], **bed.describe()})
    tasks = [] if options.models_only or options.page_only else plan(bed, settings, seeds, full=options.full)
    if not options.page_only:
        run_study(bed, tasks, seeds, options.processes)
    if not options.models_only:
        lines = [line for line in read_lines(folder) if line["seed"] in seeds]
        write_page(lines, settings, bed, command(options), options.page or folder / "evidence.md")


if __name__ == "__main__":
    main()
