"""A command that is disturbed, and what its folder holds before and after it."""

import ctypes
import json
import mmap
import os
import random
import shutil
import signal
import time
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from forked import Ended, Forked, complaint

GRID = ["--bmin", "10000", "--bmax", "30000", "--head-dim", "16", "--max-distance", "2000"]
IN_C = {"kill": 1, "full": 2, "broken": 3, "gone": 4, "read-only": 5, "denied": 6, "clock": 7}
WEIGHTS = {"kill": 6, "moment": 3, "full": 2, "broken": 1, "read-only": 1, "denied": 1, "gone": 1, "clock": 1, "two": 2}
"""What happens to a command, and how often; in the two last cases nothing must go wrong."""

Tree = dict[str, Any]
NOT_COMPARED = ("README.md", "training_args.bin", "trainer_state.json")
"""Files of a run that hold times, or folders."""


@dataclass(frozen=True)
class Command:
    """What makes the new file, what makes the old one, if there is one, and what both import."""

    arguments: list[str]
    before: list[str] = field(default_factory=list)
    modules: list[str] = field(default_factory=list)

    @property
    def resumes(self) -> bool:
        return "--resume" in self.arguments


@dataclass
class Trial:
    """One command, and what its folder holds before and after it."""

    name: str
    place: Path
    command: Command
    faults = WEIGHTS
    share = 3

    @property
    def calls(self) -> int:
        """How many calls of the command change the folder."""
        return self.end[1]

    def close(self) -> None:
        """Nothing is open."""

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
        else:
            when = chance.randint(1, calls)
            ended = start(arguments, self.place, when, IN_C[fault]).wait()
        if (gone := self.work.with_name("work.gone")).exists():
            shutil.rmtree(self.work, ignore_errors=True)  # what transformers has made anew
            gone.rename(self.work)
        if fault != "two":
            found = self.wrong_end(fault, ended, new)
        left = tree(self.work)
        if fault in ("full", "broken", "clock", "two"):
            found += [f"it left {name}" for name in left if is_temporary(name)]
        shown = visible(left)
        complete = usable(shown, new)
        if not (complete or usable(shown, old) or self.may_be_between(shown, old, new)):
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

    def may_be_between(self, found: Tree, old: Tree, new: Tree) -> bool:
        """Whether this is something that the same command completes, and no file is half of one."""
        if self.name == "evaluate --overwrite":  # whose samples and results are two files
            return each_old_or_new(found, old, new)
        return self.command.resumes and resumable(found, new)

    def wrong_end(self, fault: str, ended: Ended, new: Tree) -> list[str]:
        if ended.code == -signal.SIGKILL and fault in ("kill", "moment"):
            return []
        if fault == "kill":
            return [f"it was not killed: {ended.code} {ended.err}"]
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


def start(arguments: list[str], place: Path, n: int = 0, action: int = 0, calls: mmap.mmap | None = None) -> Forked:
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
