"""Killed inside a write, or on a disk that fails, a command leaves the old file or the new."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

INJECT = Path(__file__).parent / "inject.py"

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or shutil.which("cc") is None, reason="needs a C compiler and LD_PRELOAD"
)


def inject(folder, *arguments):
    command = [sys.executable, "-P", INJECT, folder, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ, timeout=900)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    return done.stdout


def test_some_faults(tmp_path):
    names = ["search --overwrite", "sweep --resume", "report --overwrite"]
    assert "12 runs, seed 3: 0 went wrong" in inject(tmp_path / "faults", "12", "3", *names)


@pytest.mark.slow
def test_more_faults(tmp_path):
    assert "80 runs, seed 4: 0 went wrong" in inject(tmp_path / "faults", "80", "4")
