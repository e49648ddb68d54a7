"""The page of the study: tables, verdicts and a figure, all from the lines of its runs."""

import json
import math
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from extension_data import accuracy
from extension_schemes import PERMUTATIONS, SENSITIVITY, STRIDE, STRIDES, one_base_name, permuted_name, scaled_name
from extension_statistics import Estimate, estimate, holm, p_value, seeds_needed, verdict

Record = dict[str, Any]
MARGIN = 0.02
"""As good as: at most this much worse. Also the difference that numbers of seeds are given for: the paper's Table 6
orders schemes by one or two points."""
CURVES = ("YaRN", "NTK", "ABF high", "ABF multi-stage", "uniform", "peak-valley", "untouched")
"""Schemes in the figure."""


@dataclass(frozen=True)
class Claim:
    """A claim of the paper as a difference: `scheme` is better than `other`, or at most `margin` worse."""

    text: str
    scheme: str
    other: str
    margin: float = 0.0
    own_length: bool = False


CLAIMS = (
    Claim("Searched bases in one stage match ABF in several stages", "peak-valley", "ABF multi-stage", MARGIN),
    Claim("Searched bases beat one base for all heads: ABF at b_max", "peak-valley", "ABF high"),
    Claim("… one base for all heads: the set's own geometric mean", "peak-valley", one_base_name("peak-valley")),
    Claim("Searched bases beat PI", "peak-valley", "PI"),
    Claim("Searched bases beat NTK", "peak-valley", "NTK"),
    Claim("Searched bases beat YaRN", "peak-valley", "YaRN"),
    Claim("Searched bases beat uniform ones", "peak-valley", "uniform"),
    Claim("Searched bases beat uniform ones in descending order", "peak-valley", "uniform, descending"),
    Claim("Uniform bases do better in descending order", "uniform, descending", "uniform"),
    *(
        Claim(f"Stride {STRIDE}k beats {stride}k", "peak-valley", f"peak-valley, stride {stride}k")
        for stride in STRIDES
        if stride != STRIDE
    ),
    Claim("Searched bases keep what the model does at its own length", "peak-valley", "untouched", MARGIN, True),
)
SETS = ("peak-valley", "uniform", "floor", "ripple", "random subset", "log-spaced")
"""Sets that have controls."""


class Runs:
    """Accuracies by setting, scheme, step, length and seed."""

    def __init__(self, lines: Iterable[Record]) -> None:
        lines = list(lines)
        self.own = sorted((line for line in lines if line["kind"] == "own"), key=lambda line: int(line["seed"]))
        self.bands: dict[tuple[str, str, int, int], dict[int, list[list[int]]]] = {}
        self.bases: dict[tuple[str, str], tuple[float, ...]] = {}
        for line in lines:
            if line["kind"] == "run":
                if line["bases"]:
                    self.bases.setdefault((line["setting"], line["scheme"]), tuple(line["bases"]))
                for point in line["points"]:
                    key = line["setting"], line["scheme"], point["step"], point["length"]
                    self.bands.setdefault(key, {})[line["seed"]] = point["bands"]

    def seeds(self) -> list[int]:
        """Seeds of which there are runs."""
        return sorted({seed for found in self.bands.values() for seed in found})

    def by_seed(self, setting: str, scheme: str, step: int, length: int) -> dict[int, float]:
        """Accuracy of each seed."""
        return {seed: accuracy(bands) for seed, bands in self.bands.get((setting, scheme, step, length), {}).items()}

    def permuted(self, setting: str, scheme: str, step: int, length: int) -> tuple[dict[int, float], dict[int, float]]:
        """Mean over the other orders of a set, of each seed, and the standard deviation over all its orders."""
        orders = [self.by_seed(setting, permuted_name(scheme, i + 1), step, length) for i in range(PERMUTATIONS)]
        orders = [order for order in orders if order]
        own = self.by_seed(setting, scheme, step, length)
        seeds = sorted(set(own).intersection(*orders)) if orders else []
        means = {seed: float(np.mean([order[seed] for order in orders])) for seed in seeds}
        spread = {seed: float(np.std([own[seed], *(order[seed] for order in orders)], ddof=1)) for seed in seeds}
        return means, spread


@dataclass(frozen=True)
class Comparison:
    """Differences of two schemes over the seeds that both have; `null` is what they are tested against."""

    differences: tuple[float, ...]
    null: float = 0.0

    @classmethod
    def of(cls, first: Mapping[int, float], second: Mapping[int, float], null: float = 0.0) -> "Comparison":
        """First minus second, seed by seed."""
        return cls(tuple(first[seed] - second[seed] for seed in sorted(first.keys() & second.keys())), null)

    @property
    def estimate(self) -> Estimate:
        """Mean difference and its interval."""
        return estimate(self.differences)

    @property
    def p(self) -> float:
        """Two-sided p, not adjusted."""
        return p_value(self.differences, self.null)


def write_page(lines: Sequence[Record], settings: Sequence[Any], bed: Any, command: str, path: Path) -> None:
    """Write the page, its figure and its lines beside it; `command` is what makes it again."""
    lines = sorted(lines, key=lambda line: (line["seed"], line["kind"], line.get("setting"), line.get("scheme")))
    runs = Runs(lines)
    main = settings[0]
    original = bed.shape.original
    path.parent.mkdir(parents=True, exist_ok=True)
    draw(runs, main, original, path.with_suffix(".png"))
    kept = [{key: value for key, value in line.items() if key != "cpu_seconds"} for line in lines]
    path.with_suffix(".jsonl").write_text("".join(json.dumps(line) + "\n" for line in kept))
    path.write_text(page(runs, settings, bed, command, path.with_suffix(".png").name))


def page(runs: Runs, settings: Sequence[Any], bed: Any, command: str, figure: str) -> str:
    """Text of the page."""
    main, original = settings[0], bed.shape.original
    length = main.factor * original
    tokens = main.rows * length

    def primary(scheme: str, own_length: bool = False) -> dict[int, float]:
        return runs.by_seed(main.name, scheme, main.primary, original if own_length else length)

    parts = [
        *_head(runs, main, length, tokens, bed, command, figure),
        *_claims(primary),
        *_sets(runs, primary, main, length),
        *_curve(runs, main, length, tokens, figure),
        *_others(primary),
        *_distance(runs, main, original, length),
        *_range(primary),
        *(part for setting in settings[1:] for part in _saturation(runs, setting, original)),
        *_models(runs),
        "## What this cannot say",
        "",
        *(f"- {limit}" for limit in bed.limits),
        "- A verdict of “cannot be told apart” is no evidence that two schemes are equal.",
        "",
        *bed.further(),
    ]
    return "\n".join(map(_wrapped, parts))


def _wrapped(part: str) -> str:
    """Break lines of running text; those of tables and code stay whole."""
    if part.startswith(("|", "#", "!", "python", "```")):
        return part
    indent = "  " if part.startswith("- ") else ""
    return textwrap.fill(part, 120, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def _head(runs: Runs, main: Any, length: int, tokens: int, bed: Any, command: str, figure: str) -> list[str]:
    n = len(runs.seeds())
    return [
        "# The paper's claim in small",
        "",
        "Which position scheme extends a context soonest, and does a base for every head matter? HARPE"
        " (arXiv:2412.07171) trains one model for every scheme and prints no intervals. This study asks the same of"
        f" {bed.described}, with {n} seeds. It says nothing about other models or longer training.",
        "",
        "Every number and the figure come from one command, which goes on where it was stopped; its"
        f" [lines]({Path(figure).with_suffix('.jsonl')}), one for each run, are all that this page is made of:",
        "",
        "```sh",
        command,
        "```",
        "",
        bed.method(),
        "",
        f"All schemes of a seed start from the same checkpoint and read the same rows in the same order:"
        f" {main.rows} of {length:,} tokens a step, {main.factor} times the model's own length, at a learning rate of"
        f" {main.learning_rate:g}.",
        "",
        f"**Primary figure**, fixed before these seeds were run: accuracy at {length:,} tokens after {main.primary}"
        f" steps ({main.primary * tokens:,} tokens), the mean over equal bands of distance. Each key is bound once."
        " Differences are paired by seed; ± and brackets are 95 % intervals by Student's t over seeds.",
        "",
    ]


def _claims(primary: Callable[..., dict[int, float]]) -> list[str]:
    found = [
        (
            claim,
            Comparison.of(
                primary(claim.scheme, claim.own_length), primary(claim.other, claim.own_length), -claim.margin
            ),
        )
        for claim in CLAIMS
    ]
    found = [(claim, comparison) for claim, comparison in found if comparison.differences]
    adjusted = holm([comparison.p for _, comparison in found])
    rows = [
        [
            f"{claim.text}{f' (at most {100 * claim.margin:g} points worse)' if claim.margin else ''}",
            f"{claim.scheme} − {claim.other}",
            _difference(comparison.estimate),
            f"{p:.3f}",
            f"**{verdict(comparison.estimate.mean, p, comparison.null)}**",
            _needed(comparison.estimate.sd),
        ]
        for (claim, comparison), p in zip(found, adjusted, strict=True)
    ]
    n = max((len(comparison.differences) for _, comparison in found), default=0)
    return [
        "## The claims",
        "",
        f"In points of accuracy, n = {n} seeds. p is adjusted by Holm over all rows of this table: a claim holds, or"
        " does not, where p is below 0.05. The last column says how many seeds a difference of"
        f" {100 * MARGIN:g} points, the size that the paper's Table 6 orders strategies by, would take (power 80 %, at"
        " the standard deviation found, one comparison alone).",
        "",
        *_table(["claim", "difference of", "points", "p (Holm)", "verdict", "seeds needed"], rows, left=2),
    ]


def _sets(runs: Runs, primary: Callable[..., dict[int, float]], main: Any, length: int) -> list[str]:
    kinds: list[tuple[str, str, Comparison]] = []
    spreads: dict[str, str] = {}
    for name in SETS:
        means, spread = runs.permuted(main.name, name, main.primary, length)
        kinds.append((name, "one base", Comparison.of(primary(name), primary(one_base_name(name)))))
        kinds.append((name, "permuted", Comparison.of(primary(name), means)))
        spreads[name] = f"{100 * float(np.mean(list(spread.values()))):.1f}" if spread else "–"
    kinds = [(name, kind, comparison) for name, kind, comparison in kinds if comparison.differences]
    adjusted = dict(
        zip(
            [(name, kind) for name, kind, _ in kinds],
            holm([comparison.p for *_, comparison in kinds]),
            strict=True,
        )
    )
    found = {(name, kind): comparison for name, kind, comparison in kinds}

    def cells(name: str, kind: str) -> list[str]:
        if (name, kind) not in found:
            return ["–", "–"]
        return [_difference(found[name, kind].estimate), f"{adjusted[name, kind]:.3f}"]

    rows = []
    for name in SETS:
        if primary(name):
            bases = (
                "one set a seed"
                if name == "random subset"
                else ", ".join(f"{b:,.0f}" for b in runs.bases[main.name, name])
            )
            own = _share(estimate(list(primary(name).values())))
            rows.append([name, bases, own, *cells(name, "one base"), *cells(name, "permuted"), spreads[name]])
    return [
        "## Is it the spread of the bases, or their level?",
        "",
        "Each set against one base for all heads, the set's geometric mean; and against the mean of three other orders"
        " of the same bases over the heads. p is adjusted by Holm over this table. The last column is the standard"
        " deviation over the orders, in points: which heads retrieve is luck.",
        "",
        *_table(
            ["set", "bases", "accuracy, %", "− one base", "p", "− other orders", "p", "sd of orders"], rows, left=2
        ),
    ]


def _curve(runs: Runs, main: Any, length: int, tokens: int, figure: str) -> list[str]:
    schemes = _schemes(runs, main.name, main.steps[-1], length)
    rows = [
        [name, *(_share(estimate(list(runs.by_seed(main.name, name, step, length).values()))) for step in main.steps)]
        for name in schemes
    ]
    return [
        "## How soon",
        "",
        f"Accuracy in % at {length:,} tokens, by tokens of extension; the order of rows is that of the primary column"
        f" ({main.primary * tokens:,}).",
        "",
        *_table(["scheme", *(f"{step * tokens:,}" for step in main.steps)], _ordered(rows, main)),
        f"![Accuracy by tokens of extension, and by distance]({figure})",
        "",
    ]


def _ordered(rows: list[list[str]], main: Any) -> list[list[str]]:
    place = 1 + main.steps.index(main.primary)
    return sorted(rows, key=lambda row: -float(row[place].split(" ")[0]))


def _others(primary: Callable[..., dict[int, float]]) -> list[str]:
    names = [
        name for name in ("floor", "ripple", "random subset", "log-spaced", "ABF low", "ABF mean") if primary(name)
    ]
    compared = {name: Comparison.of(primary(name), primary("peak-valley")) for name in names}
    found = {name: comparison for name, comparison in compared.items() if comparison.differences}
    if not found:
        return []
    adjusted = holm([comparison.p for comparison in found.values()])
    rows = [
        [name, _difference(comparison.estimate), f"{p:.3f}", _needed(comparison.estimate.sd)]
        for (name, comparison), p in zip(found.items(), adjusted, strict=True)
    ]
    return [
        "## Other sets and bases, against the searched set",
        "",
        "Not in the paper. In points, minus `peak-valley`; p adjusted by Holm over this table.",
        "",
        *_table(["scheme", "points", "p", "seeds needed"], rows),
    ]


def _distance(runs: Runs, main: Any, original: int, length: int) -> list[str]:
    rows = []
    n_bands = 0
    for name in _schemes(runs, main.name, main.primary, length):
        found = runs.bands[main.name, name, main.primary, length]
        if (main.name, name, main.primary, original) not in runs.bands:
            continue
        sums = np.array(list(found.values())).sum(0)  # over seeds
        n_bands = len(sums)
        shares = [f"{100 * hits / n:.0f}" if n else "–" for hits, n in sums]
        others = [
            _share(estimate(list(runs.by_seed(main.name, name, main.primary, n).values())))
            for n in (original, length, 2 * length)
        ]
        rows.append([name, *others, *shares])
    if not rows:
        return []
    rows.sort(key=lambda row: -float(row[2].split(" ")[0]))
    edges = [f"to {round((i + 1) * length / 8):,}" for i in range(n_bands)]
    return [
        f"## By length and by distance, after {main.primary} steps",
        "",
        f"Accuracy in %: at the model's own length, the new one and twice that; then at {length:,} tokens by distance,"
        " all seeds together.",
        "",
        *_table(["scheme", *(f"{n:,} tokens" for n in (original, length, 2 * length)), *edges], rows),
    ]


def _range(primary: Callable[..., dict[int, float]]) -> list[str]:
    times = sorted([*SENSITIVITY, 1.0])

    def name(scheme: str, factor: float) -> str:
        if factor == 1:
            return scheme
        head, colon, tail = scheme.partition(":")
        return scaled_name(head, factor) + colon + tail

    rows = [
        [
            scheme,
            *(
                _share(estimate(list(values.values()))) if (values := primary(name(scheme, factor))) else "–"
                for factor in times
            ),
        ]
        for scheme in ("ABF high", "uniform", "peak-valley", one_base_name("peak-valley"))
    ]
    if all(cell == "–" for row in rows for cell in (row[1], row[-1])):
        return []
    return [
        "## The range of bases",
        "",
        "The paper's range is 1e6 to 5e6 for 128k tokens. Here its ends have the same ratio of the longest wavelength"
        " to the length: b = (r·L / 2π)^(d / (d − 2)), r = 38.63 and 188.35. Primary accuracy in % with both ends"
        " multiplied:",
        "",
        *_table(["scheme", *(f"× {factor:g}" for factor in times)], rows),
    ]


def _saturation(runs: Runs, setting: Any, original: int) -> list[str]:
    length = setting.factor * original
    rows = []
    for name in _schemes(runs, setting.name, setting.primary, length):
        found = estimate(list(runs.by_seed(setting.name, name, setting.primary, length).values()))
        rows.append([name, _share(found), f"{found.n}"])
    if not rows:
        return []
    rows.sort(key=lambda row: -float(row[1].split(" ")[0]))
    return [
        f"## Longer training, {setting.factor} times the length",
        "",
        f"Accuracy in % at {length:,} tokens after {setting.primary} steps of {setting.rows * length:,} tokens at"
        f" {setting.learning_rate:g}: what is left of the differences when training goes on.",
        "",
        *_table(["scheme", "accuracy, %", "seeds"], rows),
    ]


def _models(runs: Runs) -> list[str]:
    if not runs.own:
        return []
    rows = [
        [str(line["seed"]), f"{line['steps']:,}", f"{100 * line['accuracy']:.1f}", "yes" if line["retrieves"] else "no"]
        for line in runs.own
    ]
    return [
        "## The models before",
        "",
        "Trained from scratch until they retrieve; a seed whose model does not is left out above.",
        "",
        *_table(["seed", "steps", "accuracy, %", "retrieves"], rows),
    ]


def _schemes(runs: Runs, setting: str, step: int, length: int) -> list[str]:
    """Schemes of which there is a figure, controls left out."""
    found = [
        scheme
        for (own, scheme, at, n), values in runs.bands.items()
        if (own, at, n) == (setting, step, length) and values and ": " not in scheme
    ]
    return list(dict.fromkeys(found))


def _share(found: Estimate) -> str:
    if found.interval is None:
        return f"{100 * found.mean:.1f}"
    return f"{100 * found.mean:.1f} ± {100 * (found.interval[1] - found.mean):.1f}"


def _difference(found: Estimate) -> str:
    if found.interval is None:
        return _points(found.mean)
    return f"{_points(found.mean)} [{_points(found.interval[0])}, {_points(found.interval[1])}]"


def _points(value: float) -> str:
    return f"{100 * value:+.1f}".replace("-", "−")


def _needed(sd: float) -> str:
    return "–" if math.isnan(sd) else f"{seeds_needed(sd, MARGIN):,}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> list[str]:
    marks = ["---"] * left + ["---:"] * (len(head) - left)
    return [*(f"| {' | '.join(row)} |" for row in (head, marks, *rows)), ""]


def draw(runs: Runs, main: Any, original: int, path: Path) -> None:
    """Draw accuracy by tokens of extension, and by distance after the primary step."""
    from ropesearch.plots.style import line_style, save_figure, sheet

    length = main.factor * original
    with sheet() as page:
        figure = page.figure(10, 4.2)
        left, right = figure.subplots(1, 2, sharey=True)
        for i, name in enumerate(CURVES):
            style = line_style(i) | {"lw": page.lw(1.6)}
            steps = [step for step in main.steps if runs.by_seed(main.name, name, step, length)]
            if not steps:
                continue
            found = [estimate(list(runs.by_seed(main.name, name, step, length).values())) for step in steps]
            tokens = [step * main.rows * length for step in steps]
            left.plot(tokens, [each.mean for each in found], label=name, **style)
            if all(each.interval for each in found):
                low, high = zip(*(each.interval for each in found if each.interval), strict=True)
                left.fill_between(tokens, low, high, color=style["color"], alpha=0.12, lw=0)
            bands = np.array(list(runs.bands[main.name, name, main.primary, length].values())).sum(0)
            if len(bands):
                middles = (np.arange(len(bands)) + 0.5) * length / 8
                right.plot(middles, bands[:, 0] / np.maximum(bands[:, 1], 1), **style)
        left.set_xlabel("tokens of extension")
        left.set_ylabel("accuracy")
        left.set_ylim(-0.02, 1.02)
        left.yaxis.set_major_formatter("{x:.0%}")
        left.xaxis.set_major_formatter("{x:,.0f}")
        right.set_xlabel("distance (tokens)")
        left.set_title(f"At {length:,} tokens; shaded: 95 % intervals over seeds", fontsize=page.font, loc="left")
        right.set_title(f"By distance, after {main.primary} steps", fontsize=page.font, loc="left")
        figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=len(CURVES))
    save_figure(figure, path, overwrite=True)
