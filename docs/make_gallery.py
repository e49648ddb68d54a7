"""Draw the gallery of the site: a picture for every figure, beside the command that draws it.

    python docs/make_gallery.py FOLDER
    python docs/make_gallery.py --measured FOLDER

The first writes the page into FOLDER, with the pictures that need no model; the site does that each time it is built. The
second draws the others, which are kept in docs/gallery. FOLDER has SmolLM2-135M-Instruct in it, which runs for some
minutes, and the perplexity.json of docs/tutorials/train.md. What was measured into FOLDER before is taken as it is.
"""

import argparse
import io
import shlex
import shutil
import tempfile
from contextlib import chdir, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

from ropesearch.cli import main

KEPT = Path(__file__).with_name("gallery")


@dataclass(frozen=True)
class Picture:
    """A picture of the gallery: its command without `ropesearch plot`, what there is to see, and a command before."""

    name: str
    command: str
    text: str
    before: str = ""

    @property
    def file(self) -> str:
        """Name of the file."""
        return f"{self.name}.png"

    @property
    def lines(self) -> list[str]:
        """All commands."""
        return [line for line in (self.before, f"ropesearch plot {self.command} -o {self.file}") if line]


QUICK = [
    Picture("coverage", "coverage table2",
            "The waveforms of a set. Where one head is weak another should be strong: the bold blue line is the best head, and "
            "the dot its lowest point."),
    Picture("coverage-logx", "coverage llama3:8,original=8192,base=5e5 --logx",
            "The same of a position scheme, here that of Llama 3.1, with distance on a log scale."),
    Picture("overlay", "overlay table2 uniform abf:5m yarn:32",
            "Several sets and schemes on shared axes: their best heads above, their means below."),
    Picture("extrema", "extrema 1m",
            "One waveform with the peaks and valleys that the search takes into account. The paper's idea is that the peaks of "
            "one base should fill the valleys of another."),
    Picture("alignment", "alignment table2",
            "Whose valleys lie on whose peaks, in the order of choice, and what Algorithm 1 scored each base by."),
    Picture("bases", "bases table2 uniform",
            "The bases of one or several sets, head by head."),
    Picture("sweep", "sweep sweep.jsonl --figure floor",
            "A figure of coverage over an option that a sweep varied. Any option goes: `--against max-distance`.",
            before="ropesearch sweep --bmin 1m --bmax 5m --strides 10k:60k:10k --heads 32 -o sweep.jsonl"),
]  # fmt: skip
"""What is drawn while the site is built."""

MODEL = "SmolLM2-135M-Instruct"
MEASURE = f"ropesearch measure {MODEL} -o decay.json"
RECALL = (
    f"ropesearch evaluate {MODEL} --suite recall --lengths 512 --limit 10 \\\n"
    "    --scheme own --scheme pi:2 -o recall.json"
)
NEEDLE = (
    f"ropesearch evaluate {MODEL} --suite needle --lengths 256,512 --depths 3 --limit 2 \\\n"
    "    --scheme own --scheme pi:2 -o needle.json"
)

MEASURED = [
    Picture("decay", "decay decay.json --layers 0,10,20,29",
            "Attention by distance in a real model, one head per cell: the measured score, the curve that follows from "
            "the mean query and key, and the slope as the tint. Without `--layers`, all of them.",
            before=MEASURE),
    Picture("head", "decay decay.json --head 10.3",
            "One head, large, with its standard error and what two texts agree on."),
    Picture("slopes", "decay decay.json --slopes",
            "The slope of every head, and the mean of each KV head, which `--order-by` goes by."),
    Picture("recall", "recall recall.json",
            "Recall of key-value pairs by distance, with 95 % intervals: a model under its own scheme and, without training, another.",
            before=RECALL),
    Picture("needle", "needle needle.json",
            "How often needles were found, by depth and length.",
            before=NEEDLE),
    Picture("perplexity", "perplexity perplexity.json",
            "Perplexity by position in the document, here of the three models of the tutorial [Train a small model to a "
            "longer context](../tutorials/train.md)."),
]  # fmt: skip
"""What needs a model, and is kept."""

INTRODUCTION = """\
# Gallery

Every figure of `ropesearch plot`, and the command that draws it; `train` draws its loss itself. Those of models are here
at `--dpi 100`. All take `--width single|double|INCHES`, `--dpi`,
`--title` and `--no-title`, and write .png, .svg or .pdf. In Python `plot_coverage` and the like return a figure:
{doc}`Figures <library-plots>`.
"""


def run(line: str) -> None:
    with redirect_stdout(io.StringIO()):
        code = main([*shlex.split(line.replace("\\\n", ""))[1:], "--quiet"])
    if code:
        raise SystemExit(code)


def entry(picture: Picture, folder: str) -> str:
    lines = "\n".join(picture.lines)
    return f"## {picture.name}\n\n{picture.text}\n\n```sh\n{lines}\n```\n\n![plot {picture.command}]({folder}/{picture.file})\n"


def write(folder: Path) -> None:
    """Write gallery.md, and draw what needs no model."""
    pictures = folder / "gallery"
    pictures.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch, chdir(scratch):
        for picture in QUICK:
            for line in picture.lines:
                run(line)
            shutil.copy(picture.file, pictures)
    entries = [entry(picture, "gallery") for picture in QUICK]
    entries += [entry(picture, "../gallery") for picture in MEASURED]
    (folder / "gallery.md").write_text("\n".join([INTRODUCTION, *entries]))


def draw_measured(folder: Path) -> None:
    """Draw, into docs/gallery, what needs a model."""
    KEPT.mkdir(exist_ok=True)
    with chdir(folder):
        for picture in MEASURED:
            if picture.before and not Path(picture.before.split()[-1]).exists():
                run(picture.before)
            run(f"{picture.lines[-1]} --dpi 100 --overwrite")
            shutil.copy(picture.file, KEPT)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--measured", action="store_true")
    arguments = parser.parse_args()
    (draw_measured if arguments.measured else write)(arguments.folder)
