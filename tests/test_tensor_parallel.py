"""A checkpoint with bases split over two processes by transformers, on the CPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from toys import VOCABULARY, sets, sets_by_layer, tokens, toy
from transformers import AutoModelForCausalLM

from ropesearch import apply_to_checkpoint


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "by_layer"),
    [
        *((name, False) for name in ("llama-grouped", "qwen3-grouped", "olmo2", "phi3", "mixtral")),
        ("gemma3_text", True),
    ],
)
def test_split_over_processes_it_is_the_same(name, by_layer, tmp_path):
    """In a whole pass, and token by token with a cache. The code file comes with the checkpoint."""
    toy(name).save_pretrained(tmp_path / "stock")
    _, different = sets_by_layer(name) if by_layer else sets(name)
    apply_to_checkpoint(tmp_path / "stock", different, tmp_path / "out")
    ids, script = tokens(2, 24), Path(__file__).with_name("tensor_parallel.py")
    run = [sys.executable, "-P", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    here = os.environ | {"OMP_NUM_THREADS": "1", "HF_MODULES_CACHE": str(tmp_path / "modules")}
    command = [*run, script, tmp_path / "out", tmp_path / "result.pt", json.dumps(ids.tolist())]
    done = subprocess.run(command, env=here, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    found = torch.load(tmp_path / "result.pt")
    with torch.no_grad():
        expected = AutoModelForCausalLM.from_pretrained(tmp_path / "out")(ids).logits
    assert found["whole"].shape == (2, 24, VOCABULARY)
    assert found["split"]
    for logits in (found["whole"], found["steps"]):
        torch.testing.assert_close(logits, expected, rtol=0, atol=5e-5)
