"""The page of `ropesearch report` in headless Chromium: how large it is, how long it computes, how long a zoom takes.

python benchmarks/report.py [HEADS ...]

A zoom step is timed from the key to the frame in which the chart stands. It needs selenium, chromium and chromedriver.
"""

import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from browser import chromium, open_page, wait

from ropesearch import uniform_bases, write_report

ROUNDS = 7
STEP = """
    const [plot] = plots;
    plot.host.dataset.ms = "";
    plot.show(arguments[0], arguments[1]);"""
SPANS = (131_071, 65_536, 16_384, 4096, 1024, 50)


def step(browser, span, shift):
    """Milliseconds until a range of so many distances is drawn."""
    first = (131_071 - span) // 2 + (shift if span < 131_071 else 0)
    browser.execute_script(STEP, first, first + span)
    return float(wait(browser, "return document.querySelector('.plot').dataset.ms"))


def main(heads):
    """Print one table."""
    print("| heads | page, kB | all waveforms, s | " + " | ".join(f"{span:,}" for span in SPANS) + " |")
    print("|---|---|---|" + "---|" * len(SPANS))
    for n in heads:
        with tempfile.TemporaryDirectory() as folder, chromium() as browser:
            path = Path(folder) / "report.html"
            write_report(uniform_bases(1e6, 5e6, n), path)
            began = time.perf_counter()
            open_page(browser, path)
            computed = time.perf_counter() - began
            steps = [[step(browser, span, i) for i in range(ROUNDS)] for span in SPANS]
            cells = [f"{statistics.median(times):.0f}" for times in steps]
            size = path.stat().st_size / 1000
        print(f"| {n} | {size:.0f} | {computed:.1f} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main([int(n) for n in sys.argv[1:]] or [7, 32, 128])
