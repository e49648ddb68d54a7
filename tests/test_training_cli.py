"""`ropesearch train` on the command line, and over several processes."""

import importlib.util
import json
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import toys
from torch.nn import functional
from transformers import AutoModelForCausalLM

from ropesearch.training.folder import RunFolder
from ropesearch.training.spec import Stage

pytestmark = pytest.mark.usefixtures("one_thread")
SHORT = ("--length", 32, "--tokens", 256, "--batch-tokens", 64)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    toys.save_with_tokenizer(toys.toy("llama-grouped"), folder)
    toys.sets("llama-grouped")[1].save(folder / "bases.json")
    random = np.random.default_rng(0)
    with open(folder / "docs.jsonl", "w") as file:
        for size in random.integers(3, 60, 100):
            file.write(json.dumps({"text": " ".join(f"w{i}" for i in random.integers(1, 100, size))}) + "\n")
    return folder


def test_train_prints_the_last_checkpoint(run, model, tmp_path):
    args = (
        "train",
        model,
        "--data",
        model / "docs.jsonl",
        *SHORT,
        "--scheme",
        f"harpe:{model}/bases.json",
        "-o",
        "run",
    )
    code, out, err = run(*args, "--seed", 3, "--mask-documents", "--learning-rate", 1e-4)
    assert (code, out) == (0, "run/stage-1/checkpoint-4\n"), err
    assert (tmp_path / "run" / "loss.png").stat().st_size > 10_000
    spec = RunFolder(tmp_path / "run").settings()["spec"]
    assert (spec["seed"], spec["mask_documents"], spec["learning_rate"]) == (3, True, 1e-4)
    code, _, err = run(*args)
    assert code == 1
    assert "run exists already" in err
    assert "--resume" in err
    code, _, err = run(*args, "--resume")
    assert code == 2
    assert "learning_rate was 0.0001 and is 2e-05; mask_documents was True and is False; seed was 3 and is 0" in err


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        ((), 2, "-o must name the run folder"),
        (("-o", "run"), 2, "--tokens must be given (or --stage, or --preset)"),
        (("-o", "run", "--tokens", "1e9"), 2, "--length must be given"),
        (("-o", "run", "--tokens", "many", "--length", 32), 2, "--tokens must be a whole number"),
        (("-o", "run", *SHORT), 2, "data must name text to train on"),
        (("-o", "run", *SHORT, "--data", "no.jsonl"), 2, "no.jsonl does not exist"),
        (("-o", "run", *SHORT, "--stage", "1e6:32:64"), 2, "--stage says it all"),
        (("-o", "run", "--stage", "1e6:64:64", "--stage", "1e6:32:64"), 2, "the length of a stage must not fall"),
        (("-o", "run", *SHORT, "--scheme", "yarnn:8", "--data", "DOCS"), 2, "position scheme 'yarnn'"),
        (("-o", "run", *SHORT, "--scheme", "table2", "--data", "DOCS"), 2, "32"),
        (
            ("-o", "run", *SHORT, "--scheme", "harpe:no.json", "--data", "DOCS"),
            2,
            "no.json cannot be read: No such file",
        ),
        (("-o", "run", *SHORT, "--data", "DOCS", "--text-key", "body"), 2, "only text (--text-key)"),
        (("-o", "run", "--length", 32, "--tokens", 64, "--data", "DOCS"), 2, "one step of 4194304 (--batch-tokens)"),
        (("-o", "train.yaml", *SHORT, "--data", "DOCS"), 1, "train.yaml already exists and"),
        (("-o", "run", *SHORT, "--args", "train.yaml", "--data", "DOCS"), 2, "did you mean optim?"),
        (("-o", "run", *SHORT, "--args", "no.yaml", "--data", "DOCS"), 2, "no.yaml cannot be read"),
        (("-o", "no/run", *SHORT, "--data", "DOCS"), 1, "the folder no "),
        (("-o", "run", "--length", 2**13, "--tokens", 2**22, "--data", "DOCS"), 2, "less than one row of 8192"),
    ],
)
def test_what_cannot_be_trained(run, model, tmp_path, args, code, message):
    (tmp_path / "train.yaml").write_text("optimm: sgd\n")
    found, out, err = run("train", model, *[model / "docs.jsonl" if arg == "DOCS" else arg for arg in args], "--quiet")
    assert (found, out) == (code, "")
    assert message in err
    assert err.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_plan_needs_neither_data_nor_weights(run, model, tmp_path):
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "config.json").write_text((model / "config.json").read_text())
    args = ("train", "bare", "--plan", "--stage", "1e6:1024:8388608", "--stage", "2e6:4096:8388608", "--gpu", "h100")
    code, out, err = run(*args, "--json")
    assert code == 0, err
    made = json.loads(out)
    assert made["length"] == 4096
    assert set(made["memory"]) >= {"weights", "gradients", "optimizer", "activations", "logits", "tables"}
    code, out, _ = run(*args, "--devices", 8)
    assert code == 0
    assert "hours" in out
    assert not (tmp_path / "run").exists()


def test_what_does_not_fit_says_what_would(run, model, monkeypatch):
    monkeypatch.setattr("ropesearch.training.run.available_memory", lambda: 5e6)
    args = ("train", model, "--data", model / "docs.jsonl", "--length", 2048, "--tokens", 4096, "--batch-tokens", 2048)
    code, _, err = run(*args, "-o", "run", "--quiet")
    assert code == 1
    assert "5 MB is free" in err
    assert "tokens would fit" in err or "no length would fit" in err


@pytest.mark.slow
def test_the_run_on_two_cores_learns_to_look_far_back(tmp_path):
    script = Path(__file__).parent.parent / "docs" / "make_training.py"
    command = [sys.executable, "-P", script, "--short", "--folder", tmp_path]
    subprocess.run(command, check=True, capture_output=True)
    runpy.run_path(str(script))["make_text"](tmp_path / "other.jsonl", 64)  # not a part of the text it was trained on
    texts = [json.loads(line)["text"].split() for line in (tmp_path / "other.jsonl").read_text().splitlines()]
    ids = torch.tensor([[int(word[1:]) for word in text] for text in texts])
    far = []
    for place in ("model", "run/stage-1/checkpoint-40", "run/stage-2/checkpoint-20"):
        with torch.no_grad():
            logits = AutoModelForCausalLM.from_pretrained(tmp_path / place)(ids).logits
        far.append(functional.cross_entropy(logits[:, 128:-1].flatten(0, 1), ids[:, 129:].flatten()).item())
    # The words are equally frequent: what is below log 64 = 4.16 was found by looking back.
    assert far[0] > 4.1 > far[1] > far[2] + 0.05


def start(model, output, config, *args):
    (output.parent / f"{output.name}.yaml").write_text(json.dumps(config))
    command = [sys.executable, "-P", "-m", "accelerate.commands.launch", "--config_file", f"{output}.yaml"]
    command += ["-m", "ropesearch", "train", str(model), "--data", str(model / "docs.jsonl"), "-o", str(output)]
    command += ["--quiet", "--learning-rate", "1e-3", "--warmup-steps", "0", *map(str, args)]
    # Not in the checkout, where `python -m ropesearch` would find the folder of that name.
    options = {"cwd": output.parent, "env": os.environ | {"OMP_NUM_THREADS": "1"}}
    return subprocess.run(command, capture_output=True, text=True, **options)


def launch(*args):
    done = start(*args)
    assert done.returncode == 0, done.stderr[-3000:]
    output = args[1]
    return [line["loss"] for line in RunFolder(output).read_metrics()]


ONE = {
    "compute_environment": "LOCAL_MACHINE", "distributed_type": "NO", "num_processes": 1, "num_machines": 1,
    "machine_rank": 0, "main_training_function": "main", "mixed_precision": "no", "use_cpu": True,
    "rdzv_backend": "static", "same_network": True,
}  # fmt: skip
TWO = ONE | {"distributed_type": "MULTI_CPU", "num_processes": 2, "main_process_port": 0}
FSDP2 = TWO | {
    "distributed_type": "FSDP",
    "fsdp_config": {
        "fsdp_version": 2, "fsdp_auto_wrap_policy": "TRANSFORMER_BASED_WRAP", "fsdp_reshard_after_forward": True,
        "fsdp_state_dict_type": "FULL_STATE_DICT", "fsdp_cpu_ram_efficient_loading": False,
    },
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("config", [TWO, FSDP2], ids=["data-parallel", "fsdp2"])
@pytest.mark.parametrize("scheme", ["abf:20000", "harpe"])
def test_two_processes_train_as_one(model, tmp_path, config, scheme):
    scheme = f"harpe:{model}/bases.json" if scheme == "harpe" else scheme
    stage = f"{scheme}:64:768"
    args = ("--stage", stage, "--batch-tokens", 256, "--save-every", 2)
    one = launch(model, tmp_path / "one", ONE, *args)
    two = launch(model, tmp_path / "two", config, *args)
    # The same rows in every step; only the order in which gradients are added up is another.
    assert two == pytest.approx(one, abs=1e-4)
    # What several processes have saved is a model as any other, and can be resumed.
    again = launch(model, tmp_path / "two", config, *args, "--resume")
    assert again == two


ULYSSES = TWO | {
    "distributed_type": "DEEPSPEED", "use_cpu": False,  # told to use the CPU, accelerate leaves DeepSpeed out
    "deepspeed_config": {"zero_stage": 1},
    "parallelism_config": {
        "parallelism_config_sp_size": 2, "parallelism_config_sp_attn_implementation": "sdpa",
    },
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="needs DeepSpeed (pip install deepspeed)")
@pytest.mark.skipif(shutil.which("c++") is None, reason="DeepSpeed compiles its collectives on a CPU: needs c++")
def test_two_processes_share_every_row(model, tmp_path):
    # Three rows in a step, so that a step ends amid the rows that the two processes read at once; two stages, with a
    # base per KV head and with one, each of them in a launch of its own.
    stages = ("--stage", f"harpe:{model}/bases.json:64:576", "--stage", "abf:20000:192:384")
    stages += ("--batch-tokens", 192, "--save-every", 2)
    launch(model, tmp_path / "one", ONE, *stages)
    done = start(model, tmp_path / "two", ULYSSES, *stages)
    assert done.returncode == 1
    assert "stage 1 is done; with DeepSpeed each stage takes a launch of its own" in done.stderr
    shutil.rmtree(tmp_path / "two" / "stage-1" / "checkpoint-3")
    assert "stage 1 is done" in start(model, tmp_path / "two", ULYSSES, *stages, "--resume").stderr
    launch(model, tmp_path / "two", ULYSSES, *stages, "--resume")
    one, two = (RunFolder(tmp_path / name).read_metrics() for name in ("one", "two"))
    for key in ("loss", "grad_norm"):
        assert [line[key] for line in two] == pytest.approx([line[key] for line in one], abs=1e-4)
    assert two[0]["loss_by_position"] == pytest.approx(one[0]["loss_by_position"], abs=1e-4)


@pytest.mark.parametrize(
    ("environment", "args", "message"),
    [
        ({"SP": 2}, ("--mask-documents",), "--mask-documents does not go with cp_size or sp_size"),
        ({"SP": 3}, ("--length", 96, "--batch-tokens", 96), "sp_size 3 does not divide the heads"),
        ({"CP": 2}, ("--length", 66, "--batch-tokens", 66), "a row of 66 tokens cannot be split evenly"),
    ],
)
def test_rows_that_cannot_be_shared(run, model, tmp_path, monkeypatch, environment, args, message):
    monkeypatch.setenv("ACCELERATE_USE_PARALLELISM_CONFIG", "true")
    monkeypatch.setattr("ropesearch.training.run._Run.require_fit", lambda *_: None)  # it knows of one process
    for kind, size in environment.items():
        monkeypatch.setenv(f"PARALLELISM_CONFIG_{kind}_SIZE", str(size))
    code, _, err = run("train", model, "--data", model / "docs.jsonl", *SHORT, *args, "-o", "run", "--quiet")
    assert code == 2
    assert message in err
    assert not (tmp_path / "run").exists()


def test_lengths_are_written_as_people_write_them():
    from ropesearch.cli.evaluate import parse_lengths
    from ropesearch.cli.train import chosen_stages

    assert chosen_stages("yarn:32", "128k", "2m", (), None) == (Stage("yarn:32", 131072, 2_000_000),)
    assert chosen_stages(None, None, None, ("1e6:32k:1e9",), None) == (Stage("abf:1e6", 32768, 10**9),)
    assert parse_lengths("2k, 4096,8k") == [2048, 4096, 8192]
