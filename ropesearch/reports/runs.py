"""The section of a training run: its loss by step, stage after stage, and by position in the row."""

import os
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from ropesearch.core.checks import is_whole
from ropesearch.core.errors import shown
from ropesearch.plots.training import losses_by_position, metrics_of
from ropesearch.training.folder import RunFolder
from ropesearch.training.spec import TrainSpec

from .html import Html, facts
from .section import Section, rounded

MOST_POINTS = 3000
"""Of a stage's losses; of more, the line has means of neighbouring steps, and a band from lowest to highest."""


def section_of_run(path: str | os.PathLike[str]) -> Section:
    """Make the section of a run folder."""
    settings = RunFolder(Path(path)).settings()
    lines = metrics_of(path)
    stages: dict[int, list[dict[str, Any]]] = {}
    for line in lines:
        stages.setdefault(line["stage"], []).append(line)
    last = lines[-1]
    about = {
        "model": _name_of(settings["model"]),
        "stages": _stages(settings["spec"]),
        "steps": _steps(settings["spec"], last["step"]),
        "tokens": f"{last['tokens']:,}" if is_whole(last.get("tokens")) else "–",
        "last loss": f"{last['loss']:.4f} nats per token",
    }
    marks = [
        {"x": a["step"] + 0.5, "text": f"stage {b['stage']}: {b['length']:,} tokens"}
        for a, b in pairwise(lines)
        if a["stage"] != b["stage"]
    ]
    by_step = {
        "kind": "lines",
        "title": "Loss by step",
        "x": {"label": "step", "log": 0},
        "y": {"label": "loss (nats per token)", "digits": 4},
        "lines": [_stage(number, own, len(stages)) for number, own in stages.items()],
        "marks": marks,
    }
    body: list[Html | dict[str, Any]] = [facts(about), by_step]
    stretches = losses_by_position(lines)
    if stretches:
        body.append(
            {
                "kind": "lines",
                "title": f"Loss by position, rows of {last['length']:,} tokens",
                "x": {"label": "position in the row, up to", "log": 2},
                "y": {"label": "loss (nats per token)", "digits": 4},
                "lines": [
                    {"name": name, "x": ends, "y": [rounded(value) for value in means]}
                    for name, ends, means in stretches
                ],
            }
        )
    return Section(str(path), "training run", body)


def _name_of(model: Any) -> str:
    name = model.get("name") if isinstance(model, Mapping) else model
    return name if isinstance(name, str) else shown(name)


def _stages(spec: Any) -> str:
    """Say which scheme each stage trained under, and at what length, as far as the settings hold it."""
    stages = spec.get("stages") if isinstance(spec, Mapping) else None
    named = [
        f"{stage.get('scheme') or 'own positions'} at {stage.get('length')} tokens"
        for stage in (stages if isinstance(stages, list) else [])
        if isinstance(stage, Mapping)
    ]
    return "; ".join(named) or "–"


def _steps(spec: Any, done: int) -> str:
    """Say how many steps were made; of how many, if the run has not ended."""
    try:
        run = TrainSpec(**spec)
        total = sum(map(run.steps, run.stages))
    except (TypeError, ValueError):  # the settings of another version, or no settings
        return f"{done:,}"
    return f"{done:,}" if done >= total else f"{done:,} of {total:,}: not finished"


def _stage(number: int, lines: list[dict[str, Any]], n_stages: int) -> dict[str, Any]:
    name = f"stage {number}, {lines[0]['length']:,} tokens" if n_stages > 1 else "loss"
    steps, losses = ([line[key] for line in lines] for key in ("step", "loss"))
    drawn = {"name": name, "bare": True, "plain": True}
    if len(lines) <= MOST_POINTS:
        return drawn | {"x": steps, "y": [rounded(loss) for loss in losses]}
    starts = np.unique(np.linspace(0, len(lines), MOST_POINTS // 3 + 1).astype(int))[:-1]
    parts = np.split(np.array(losses, dtype=float), starts[1:])
    return drawn | {
        "x": [rounded(np.mean(part), 9) for part in np.split(np.array(steps), starts[1:])],
        "y": [rounded(np.mean(part)) for part in parts],
        "low": [rounded(np.min(part)) for part in parts],
        "high": [rounded(np.max(part)) for part in parts],
    }
