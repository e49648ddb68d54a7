"""The plan against what runs really take."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import toys
from transformers import LlamaConfig, LlamaForCausalLM

from ropesearch.core.errors import InputError
from ropesearch.training.plan import GPUS, plan_run, require_fit
from ropesearch.training.spec import Stage, TrainSpec

MEASURE = """
import gc, json, sys, os, re, warnings
warnings.simplefilter("ignore")
import torch
torch.set_num_threads(1)
from ropesearch.training.run import train_model
from ropesearch.training.spec import Stage, TrainSpec

def train(name, length, rows, checkpointed):
    made = TrainSpec(stages=(Stage(None, length, 2 * rows * length),), batch_tokens=rows * length)
    arguments = {"activation_checkpointing": checkpointed}
    train_model(sys.argv[1], [sys.argv[1] + "/docs.jsonl"], f"{sys.argv[2]}/{name}", made, arguments=arguments)

def status(key):
    return int(re.search(key + r":\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024

train("warm", 64, 1, False)  # what is loaded once is no part of a run
gc.collect()
before = status("VmRSS")
with open("/proc/self/clear_refs", "w") as file:
    file.write("5")  # the highest is counted from here
train("run", int(sys.argv[3]), int(sys.argv[4]), sys.argv[5] == "True")
print(status("VmHWM") - before)
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Large enough that what it takes stands out beside what Python does."""
    folder = tmp_path_factory.mktemp("model")
    config = LlamaConfig(
        vocab_size=4096, hidden_size=256, intermediate_size=704, num_hidden_layers=6, num_attention_heads=8,
        num_key_value_heads=4, bos_token_id=None, eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    toys.save_with_tokenizer(LlamaForCausalLM(config), folder)
    words = np.random.default_rng(0).integers(1, 100, 20000)
    (folder / "docs.jsonl").write_text(json.dumps({"text": " ".join(f"w{i}" for i in words)}) + "\n")
    return folder


def spec(length, rows=1):
    return TrainSpec(stages=(Stage(None, length, 2 * rows * length),), batch_tokens=rows * length)


@pytest.mark.skipif(not os.path.exists("/proc/self/clear_refs"), reason="the peak is read from Linux's /proc")
@pytest.mark.slow
@pytest.mark.parametrize(
    ("length", "rows", "checkpointed"), [(2048, 1, False), (4096, 1, True), (8192, 2, True), (1024, 2, False)]
)
def test_a_run_takes_what_was_planned(model, tmp_path, length, rows, checkpointed):
    command = [
        sys.executable,
        "-P",
        "-c",
        MEASURE,
        str(model),
        str(tmp_path),
        str(length),
        str(rows),
        str(checkpointed),
    ]
    settings = {"OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1", "MALLOC_TRIM_THRESHOLD_": "0"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | settings)
    measured = int(done.stdout.split()[-1])
    planned = plan_run(model, spec(length, rows), checkpointed=checkpointed)
    assert planned.total == pytest.approx(measured, rel=0.2)


def test_operations_and_hours(model):
    made = plan_run(model, spec(512, 4), gpu="h100", devices=2, utilization=0.5)
    layer = 256 * 256 * 2 + 256 * 128 * 2 + 3 * 256 * 704
    assert made.parameters == 2 * 4096 * 256 + 6 * (layer + 2 * 256) + 256
    multiplied = made.parameters - 4096 * 256
    assert made.flops == 2 * 4 * 512 * (6 * multiplied + 6 * 6 * 256 * 512)
    assert made.hours == pytest.approx(made.flops / (2 * 0.5 * 989e12) / 3600)
    assert made.fits
    assert made.longest == 512
    one = plan_run(model, spec(512, 4), gpu="h100")
    for part in ("gradients", "optimizer"):
        assert made.memory[part] == pytest.approx(one.memory[part] / 2)


@pytest.mark.parametrize("name", ["gemma3_text", "phi"])
def test_families_with_other_ropes_can_be_planned(name, tmp_path):
    toys.save_with_tokenizer(toys.toy(name), tmp_path)
    assert plan_run(tmp_path, spec(512)).total > plan_run(tmp_path, spec(256)).total


@pytest.mark.parametrize("name", ["llama-grouped", "gemma3_text"])
def test_with_bases_of_layers_each_keeps_tables_of_its_own(name, tmp_path):
    toys.save_with_tokenizer(toys.toy(name), tmp_path)
    _, one = toys.sets(name)
    one.save(tmp_path / "one.json")
    toys.sets_by_layer(name)[1].save(tmp_path / "layers.json")

    def memory(bases, checkpointed):
        made = TrainSpec(stages=(Stage(f"harpe:{tmp_path}/{bases}.json", 512, 1024),), batch_tokens=512)
        return plan_run(tmp_path, made, checkpointed=checkpointed).memory

    tables = memory("one", False)["tables"]
    assert tables == 2 * 512 * len(one) * one.head_dim // 2 * 4
    for part, checkpointed, copies in (("activations", False, 3), ("layer", True, 1)):
        of_layers, of_one = (memory(bases, checkpointed) for bases in ("layers", "one"))
        assert of_layers[part] == of_one[part] + copies * tables
        assert of_layers["tables"] == 512 * 8  # positions


def test_the_length_that_would_fit(model):
    made = plan_run(model, spec(8192), available=300e6)
    assert not made.fits
    assert made.longest % 256 == 0
    assert 0 < made.longest < 8192
    assert plan_run(model, spec(made.longest), available=300e6, checkpointed=True).fits
    with pytest.raises(MemoryError, match=f"300 MB is free: {made.longest} tokens would fit"):
        require_fit(made)
    with pytest.raises(MemoryError, match="no length would fit"):
        require_fit(plan_run(model, spec(8192), available=1e6))
    require_fit(plan_run(model, spec(8192), available=1e12))


def test_what_cannot_be_planned(model):
    for options, message in [
        ({"gpu": "h1000"}, "gpu must be one of .*did you mean h100"),
        ({"devices": 0}, "devices must be an integer of at least 1"),
        ({"sequence_parallel": 2}, "sequence_parallel must be at most 1"),
        ({"utilization": 1.5}, "utilization must be a number above 0 and at most 1"),
    ]:
        with pytest.raises(InputError, match=message):
            plan_run(model, spec(512), **options)
    assert "h100" in GPUS
