"""The folder of a run: what was asked for, how far it came, what it measured."""

import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ropesearch.core.errors import InputError, shown
from ropesearch.core.files import (
    check_new_folder,
    lock_or_refuse,
    new_folder,
    read_file,
    read_versioned,
    remove_leftovers,
    write_whole,
)

FORMAT, VERSION = "ropesearch.run", 1
COMPLETE = "complete.json"
"""Written into a checkpoint last: without it, the checkpoint is what a crash left, and is ignored."""
IDENTITY = ("spec", "schemes", "model", "data", "arguments")
"""Keys of the settings that a resumed run must share."""
MEASURED = ("step", "stage", "length", "loss")
"""What every line of the metrics holds."""


@dataclass(frozen=True)
class RunFolder:
    """A run on disk: settings.json, metrics.jsonl, order-N.npz and stage-N/checkpoint-STEP."""

    path: Path

    @classmethod
    def start(cls, path: str | os.PathLike[str], settings: Mapping[str, Any], *, resume: bool) -> "RunFolder":
        """Make the folder, or find the one to resume.

        Raises
        ------
        FileExistsError, OSError
            If there is something of that name and `resume` is false, or it cannot be made.
        ValueError
            If it is not the folder of a run, or one of a run with other settings; the message names what differs.
        """
        folder = cls(Path(path))
        if not (resume and os.path.lexists(folder.path)):
            _check_new(folder.path)
            with new_folder(folder.path) as temporary:
                text = json.dumps({"format": FORMAT, "version": VERSION, **settings}, indent=2, allow_nan=False)
                write_whole(temporary / "settings.json", text + "\n")
            return folder
        before = folder.settings()
        differing = sorted(_differences(before, settings))
        if differing:
            msg = f"{path} is a run with other settings: {'; '.join(differing)}"
            raise InputError(msg)
        return folder

    @contextmanager
    def held(self) -> Iterator[None]:
        """Let no other process train in this folder, to the end of the block."""
        with (self.path / "settings.json").open("rb") as file:
            lock_or_refuse(file.fileno(), self.path, "run")
            yield

    def check_there(self) -> None:
        """Raise an OSError if the folder has vanished: whoever writes into it would make another one."""
        if not (self.path / "settings.json").exists():
            msg = f"the run folder {self.path} has vanished"
            raise FileNotFoundError(msg)

    def settings(self) -> dict[str, Any]:
        """Read settings.json; raises ValueError if this is no run's folder."""
        file = self.path / "settings.json"
        try:
            return read_versioned(read_file(file).decode(), FORMAT, VERSION, IDENTITY)
        except ValueError as error:
            msg = f"{file}: {error}"
            raise InputError(msg) from None
        except OSError:
            msg = f"{self.path} is not the folder of a run: it has no settings.json"
            raise InputError(msg) from None

    @property
    def metrics(self) -> Path:
        """One JSON object a line, one line for each logged step."""
        return self.path / "metrics.jsonl"

    def stage(self, number: int) -> Path:
        """Folder of a stage, counted from 0 and named from 1."""
        return self.path / f"stage-{number + 1}"

    def order(self, number: int) -> Path:
        """File of the rows of a stage."""
        return self.path / f"order-{number + 1}.npz"

    def checkpoint(self, number: int) -> tuple[Path, int] | None:
        """Last complete checkpoint of a stage and its step; those that a crash left incomplete are passed over."""
        complete = self._complete(number)
        return (complete[-1][1], complete[-1][0]) if complete else None

    def clean(self, number: int) -> None:
        """Remove what a crash left of checkpoints."""
        for _, folder in _checkpoints(self.stage(number)):
            if (folder / COMPLETE).exists():
                remove_leftovers(folder)
            else:
                shutil.rmtree(folder)

    def keep_last(self, number: int, keep: int) -> None:
        """Remove all but the last complete checkpoints of a stage."""
        for _, folder in self._complete(number)[:-keep]:
            # Unmarked first: what a crash leaves of it is then known as incomplete.
            (folder / COMPLETE).unlink()
            shutil.rmtree(folder)

    def _complete(self, number: int) -> list[tuple[int, Path]]:
        """Step and folder of every complete checkpoint of a stage, in order."""
        return [(step, folder) for step, folder in _checkpoints(self.stage(number)) if (folder / COMPLETE).exists()]

    def forget_after(self, step: int) -> None:
        """Cut the metrics to the first `step` steps of the whole run, those that the checkpoint knows of."""
        if self.metrics.exists():
            kept = "".join(json.dumps(line) + "\n" for line in self.read_metrics() if line["step"] <= step)
            write_whole(self.metrics, kept, overwrite=True)

    def read_metrics(self) -> list[dict[str, Any]]:
        """Lines of metrics.jsonl; one that a crash cut off is left out, as is all after it."""
        lines = []
        for text in read_file(self.metrics).split(b"\n"):
            try:
                line = json.loads(text)
                whole = all(isinstance(line[key], int | float) for key in MEASURED)
            except (ValueError, RecursionError, TypeError, KeyError):
                break
            if not whole:
                break
            lines.append(line)
        return lines


def _check_new(path: Path) -> None:
    try:
        check_new_folder(path)
    except FileExistsError:
        if not (path / "settings.json").exists():
            raise
        msg = f"{path} exists already: `resume=True` goes on with the run in it"
        raise FileExistsError(msg) from None


def _checkpoints(stage: Path) -> list[tuple[int, Path]]:
    found = []
    for folder in stage.glob("checkpoint-*") if stage.is_dir() else ():
        if name := re.fullmatch(r"checkpoint-(\d+)", folder.name):
            found.append((int(name[1]), folder))
    return sorted(found)


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs in the keys that make a run's identity, each with both values."""
    now = json.loads(json.dumps(now))  # tuples are lists in a file
    return [
        difference
        for key in IDENTITY
        for difference in _compared(key if key not in ("spec", "arguments") else "", before.get(key), now.get(key))
    ]


def _compared(name: str, before: Any, now: Any) -> list[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        found = []
        for key in sorted(before.keys() | now.keys()):
            inner = key if not name else f"{name}.{key}"
            found += _compared(inner, before.get(key), now.get(key))
        return found
    return [] if before == now else [f"{name} was {shown(before)} and is {shown(now)}"]
