"""Training itself: against plain Trainer, through crashes, and what a run folder keeps."""

import json
import os
import shutil
import signal
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
import torch
import toys
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

from ropesearch import BaseSet, apply_bases
from ropesearch.core.errors import InputError
from ropesearch.training.arguments import make_config, read_arguments
from ropesearch.training.data import Rows, TokenFile
from ropesearch.training.folder import COMPLETE, RunFolder
from ropesearch.training.losses import LossByPosition, torch_loss
from ropesearch.training.run import order_for_parts, train_model
from ropesearch.training.spec import Stage, TrainSpec
from ropesearch.training.trainer import Collator, DivergenceError, StageTrainer

pytestmark = pytest.mark.usefixtures("one_thread")

LENGTH = 48


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A toy and its tokenizer, 300 short documents, and a base set."""
    folder = tmp_path_factory.mktemp("model")
    toys.save_with_tokenizer(toys.toy("llama-grouped"), folder)
    random = np.random.default_rng(0)
    with open(folder / "docs.jsonl", "w") as file:
        for size in random.integers(3, 60, 300):
            text = " ".join(f"w{i}" for i in random.integers(1, toys.VOCABULARY, size))
            file.write(json.dumps({"text": text}) + "\n")
    toys.sets("llama-grouped")[1].save(folder / "bases.json")
    toys.sets_by_layer("llama-grouped")[1].save(folder / "layers.json")
    return folder


def spec(steps=6, **options):
    stages = options.pop("stages", [(options.pop("scheme", None), LENGTH, steps)])
    batch = options.pop("batch_tokens", 2 * LENGTH)
    return TrainSpec(
        stages=tuple(Stage(scheme, length, batch * n) for scheme, length, n in stages),
        batch_tokens=batch,
        **{"learning_rate": 1e-3, "warmup_steps": 2} | options,
    )


def train(model, output, made, **options):
    return train_model(model, [model / "docs.jsonl"], output, made, **options)


def losses(output):
    return [line["loss"] for line in RunFolder(output).read_metrics()]


@pytest.mark.parametrize("scheme", [None, "bases.json", "layers.json"])
def test_losses_are_those_of_plain_trainer(model, tmp_path, scheme):
    made = spec(scheme=f"harpe:{model}/{scheme}" if scheme else None)
    last = train(model, tmp_path / "run", made)

    stock = AutoModelForCausalLM.from_pretrained(model)
    if scheme:
        apply_bases(stock, BaseSet.load(model / scheme))
    file = TokenFile.open(next((tmp_path / "run" / "tokens").iterdir()))
    rows = Rows.load(tmp_path / "run" / "order-1.npz")
    collate = Collator(file, rows, mask_documents=False)
    plain = Trainer(
        stock,
        TrainingArguments(
            tmp_path / "plain", max_steps=6, per_device_train_batch_size=2, learning_rate=1e-3, adam_beta2=0.95,
            warmup_steps=2, lr_scheduler_type="constant_with_warmup", logging_steps=1, save_strategy="no",
            train_sampling_strategy="sequential", remove_unused_columns=False, report_to="none", seed=0,
            dataloader_pin_memory=False, disable_tqdm=True,
        ),
        data_collator=lambda examples: {k: v for k, v in collate(examples).items() if k != "row"},
        train_dataset=[{"row": i} for i in range(len(rows))],
    )  # fmt: skip
    plain.train()
    expected = [line["loss"] for line in plain.state.log_history if "loss" in line]
    assert losses(tmp_path / "run") == pytest.approx(expected, abs=1e-6)

    # The checkpoint is a model that other commands take, with the bases in it.
    again = AutoModelForCausalLM.from_pretrained(last)
    assert again.config.model_type == ("harpe_llama" if scheme else "llama")
    ids = toys.tokens(1, 20)
    torch.testing.assert_close(again(ids).logits, stock.eval()(ids).logits, rtol=0, atol=2e-4)


def test_the_run_folder_says_what_was_done(model, tmp_path):
    made = spec(
        stages=[("abf:20000", LENGTH, 2), (f"harpe:{model}/bases.json", 2 * LENGTH, 3)], batch_tokens=2 * LENGTH
    )
    last = train(model, tmp_path / "run", made, save_every=2, keep=1)
    run = RunFolder(tmp_path / "run")
    settings = run.settings()
    assert TrainSpec(**settings["spec"]) == made
    assert settings["schemes"] == [[20000.0], list(toys.BASES[2])]
    lines = run.read_metrics()
    assert [(line["step"], line["stage"], line["length"], line["tokens"]) for line in lines] == [
        (1, 1, LENGTH, 96), (2, 1, LENGTH, 192), (3, 2, 96, 288), (4, 2, 96, 384), (5, 2, 96, 480),
    ]  # fmt: skip
    assert [line["learning_rate"] for line in lines] == [0, 5e-4, 0, 5e-4, 1e-3]  # each stage warms up
    assert list(lines[0]["loss_by_position"]) == ["16", "32", "64"]
    assert sorted(p.parent.name + "/" + p.name for p in run.path.glob("stage-*/checkpoint-*")) == [
        "stage-1/checkpoint-2", "stage-2/checkpoint-3",
    ]  # fmt: skip
    assert last == run.path / "stage-2" / "checkpoint-3"
    first, second = (AutoModelForCausalLM.from_pretrained(run.checkpoint(i)[0]).config for i in (0, 1))
    assert first.rope_parameters["rope_theta"] == 20000
    assert second.rope_parameters["bases"] == list(toys.BASES[2])

    # Done: resuming does nothing more.
    before = run.metrics.read_text()
    assert train(model, tmp_path / "run", made, resume=True) == last
    assert run.metrics.read_text() == before


def test_losses_by_position_add_up():
    log_probs, mask = -torch.rand(2, 99), torch.rand(2, 99) < 0.9
    positions = LossByPosition(100, torch.device("cpu"))
    positions.add(log_probs, mask)
    found = positions.take(lambda sums: sums)
    place = torch.arange(1, 100).expand(2, -1)
    for end, low in [(16, 1), (32, 16), (64, 32), (128, 64)]:
        chosen = mask & (place >= low) & (place < end)
        assert found[str(end)] == pytest.approx(-log_probs[chosen].mean().item(), rel=1e-6)
    assert positions.take(lambda sums: sums) == {}


@pytest.mark.parametrize("per_token", [False, True])
def test_the_loss_is_that_of_whole_logits(per_token):
    torch.manual_seed(0)
    hidden, head = torch.randn(300, 16, requires_grad=True), torch.randn(500, 16, requires_grad=True)
    labels = torch.randint(0, 500, (300,))
    labels[::7] = -100
    torch_loss(hidden, head, labels, per_token=per_token).sum().backward()
    found = [hidden.grad.clone(), head.grad.clone()]
    hidden.grad = head.grad = None
    (-torch.nn.functional.cross_entropy(hidden @ head.T, labels, reduction="sum")).backward()
    torch.testing.assert_close(found, [hidden.grad, head.grad], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["llama-grouped", "qwen3-grouped", "mistral-grouped"])
@pytest.mark.parametrize("per_head", [False, True])
def test_masked_documents_are_as_if_alone(name, per_head):
    model = toys.toy(name)
    if per_head:
        apply_bases(model, toys.sets(name)[1])
    sizes = [7, 1, 30, 10]
    starts = np.concatenate([[0], np.cumsum(sizes)])
    file = TokenFile("", toys.tokens(sum(sizes)).numpy().astype(np.uint16), starts, (("a", 0, 4),))
    rows = Rows(48, np.array([0, 4]), starts[:-1], np.array(sizes), 1.0)
    batch = Collator(file, rows, mask_documents=True)([{"row": 0}])
    with torch.no_grad():
        packed = model(input_ids=batch["input_ids"], position_ids=batch["position_ids"], use_cache=False).logits[0]
        alone = [model(batch["input_ids"][:, a:b], use_cache=False).logits[0] for a, b in pairwise(starts)]
    torch.testing.assert_close(packed, torch.cat(alone), rtol=0, atol=2e-5)
    assert (batch["labels"][0] == -100).nonzero().flatten().tolist() == [0, 7, 8, 38]
    full = Collator(file, rows, mask_documents=False)([{"row": 0}])
    with torch.no_grad():
        whole = model(input_ids=full["input_ids"], position_ids=full["position_ids"], use_cache=False).logits[0]
        plain = model(full["input_ids"], use_cache=False).logits[0]
    assert torch.equal(whole, plain)
    assert (whole[10:] - packed[10:]).abs().max() > 0.01


class StopError(Exception):
    """What a test stops a run with."""


def stop_at(step):
    def progress(what, done, total):
        if what.startswith("training") and done == step:
            raise StopError

    return progress


@pytest.mark.slow
@pytest.mark.parametrize("steps", [(4, 6), (1, 2, 3, 5, 7, 8, 9)])
def test_a_resumed_run_has_the_losses_of_one_that_never_stopped(model, tmp_path, steps):
    made = spec(stages=[("abf:20000", LENGTH, 5), ("abf:50000", 2 * LENGTH, 4)], mask_documents=True)
    train(model, tmp_path / "whole", made, save_every=2)
    for step in steps:
        run = tmp_path / f"run-{step}"
        with pytest.raises(StopError):
            train(model, run, made, save_every=2, progress=stop_at(step))
        # As after a crash in the middle of a save.
        half = RunFolder(run).stage(0 if step < 6 else 1) / "checkpoint-4"
        half.mkdir(parents=True, exist_ok=True)
        if not (half / COMPLETE).exists():
            (half / "model.safetensors").write_bytes(b"cut off")
        with (run / "metrics.jsonl").open("a") as file:
            file.write('{"step": 99, "loss')
        train(model, run, made, save_every=2, resume=True)
        assert losses(run) == losses(tmp_path / "whole")


@pytest.mark.slow
def test_an_interval_of_logging_that_does_not_fit_that_of_saving(model, tmp_path):
    made = spec(9)
    for name, stop in [("whole-3", None), ("run-3", 7)]:
        options = {"save_every": 2, "arguments": {"logging_steps": 3}}
        if stop:
            with pytest.raises(StopError):
                train(model, tmp_path / name, made, progress=stop_at(stop), **options)
        train(model, tmp_path / name, made, resume=True, **options)
    assert losses(tmp_path / "run-3") == losses(tmp_path / "whole-3")


KILLED = """
import os, signal, sys, torch
torch.set_num_threads(1)
from ropesearch.training import trainer, run, folder
from ropesearch.training.spec import Stage, TrainSpec

calls = 0
def killing(function):
    def call(*args, **options):
        global calls
        calls += 1
        if calls == int(sys.argv[3]):
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **options)
    return call

torch.save = killing(torch.save)                          # in the middle of a checkpoint
trainer.write_whole = killing(trainer.write_whole)        # before its mark
trainer.shutil.rmtree = folder.shutil.rmtree = killing(folder.shutil.rmtree)  # while an old one is removed
made = TrainSpec(stages=(Stage(None, 48, 96 * 6),), batch_tokens=96, learning_rate=1e-3, warmup_steps=2)
run.train_model(sys.argv[1], [sys.argv[1] + "/docs.jsonl"], sys.argv[2], made, save_every=2, keep=1, resume=True)
"""


@pytest.mark.parametrize("call", [2, pytest.param(5, marks=pytest.mark.slow), pytest.param(8, marks=pytest.mark.slow)])
def test_a_run_survives_being_killed_in_a_save(model, tmp_path, call):
    train(model, tmp_path / "whole", spec(), save_every=2, keep=1)
    command = [sys.executable, "-P", "-c", KILLED, str(model), str(tmp_path / "run")]
    killed = subprocess.run([*command, str(call)], capture_output=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert killed.returncode == -signal.SIGKILL
    train(model, tmp_path / "run", spec(), save_every=2, keep=1, resume=True)
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")


def test_two_runs_in_one_folder_take_turns(model, tmp_path):
    train(model, tmp_path / "run", spec(2))
    with RunFolder(tmp_path / "run").held(), pytest.raises(OSError, match=r"^another run is writing .*run$"):
        train(model, tmp_path / "run", spec(2), resume=True)
    train(model, tmp_path / "run", spec(2), resume=True)
    assert len(losses(tmp_path / "run")) == 2


def test_a_run_folder_that_vanishes_is_not_made_anew(model, tmp_path):
    def vanish(what, *_):
        if what.startswith("training") and (tmp_path / "run").exists():
            (tmp_path / "run").rename(tmp_path / "gone")

    with pytest.raises(OSError, match=r"run folder .*run has vanished$|No such file .*metrics\.jsonl"):
        train(model, tmp_path / "run", spec(2), progress=vanish)
    assert not (tmp_path / "run" / "stage-1" / "checkpoint-2").exists()


def test_a_kill_after_the_last_checkpoint_leaves_nothing(model, tmp_path):
    last = train(model, tmp_path / "run", spec(4), save_every=2)
    before = last.with_name("checkpoint-2")
    before.rename(last.with_name("checkpoint-3"))
    (last.with_name("checkpoint-3") / COMPLETE).unlink()
    (last / ".ropesearch-0123456789ab.tmp").touch()
    assert train(model, tmp_path / "run", spec(4), save_every=2, resume=True) == last
    assert [path.name for path in last.parent.glob("checkpoint-*")] == ["checkpoint-4"]
    assert not list(tmp_path.rglob(".ropesearch*"))


@pytest.mark.parametrize(
    "words", ["basic_ios::clear: iostream error", "[enforce fail at inline_container.cc:672] . unexpected pos"]
)
def test_a_disk_that_breaks_in_a_checkpoint_is_one_line(model, tmp_path, monkeypatch, words):
    def broken(*_, **__):
        raise RuntimeError(words)

    monkeypatch.setattr(torch, "save", broken)
    with pytest.raises(OSError, match=r"there is no space for the checkpoint .*checkpoint-2, or it cannot be written"):
        train(model, tmp_path / "run", spec(2))


def test_a_folder_of_other_settings_is_refused(model, tmp_path):
    train(model, tmp_path / "run", spec(2))
    with pytest.raises(FileExistsError, match="resume=True` goes on"):
        train(model, tmp_path / "run", spec(2))
    with pytest.raises(InputError, match=r"learning_rate was 0\.001 and is 0\.002; seed was 0 and is 1"):
        train(model, tmp_path / "run", spec(2, learning_rate=2e-3, seed=1), resume=True)
    other = tmp_path / "docs.jsonl"
    other.write_text(json.dumps({"text": "w1 " * 500}) + "\n")
    with pytest.raises(InputError, match=r"data\.digest was"):
        train_model(model, [other], tmp_path / "run", spec(2), resume=True)
    with pytest.raises(InputError, match="optim was None and is 'sgd'"):
        train(model, tmp_path / "run", spec(2), resume=True, arguments={"optim": "sgd"})
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="is not the folder of a run"):
        train(model, tmp_path / "empty", spec(2), resume=True)


def test_a_loss_that_is_not_finite_stops_the_run(model, tmp_path, monkeypatch):
    compute = StageTrainer.__mro__[1].compute_loss

    def broken(self, *args, **options):
        loss = compute(self, *args, **options)
        return loss * float("nan") if self.state.global_step == 3 else loss

    monkeypatch.setattr(StageTrainer.__mro__[1], "compute_loss", broken)
    with pytest.raises(DivergenceError, match=r"not finite at step 4, in document \d+ of .*docs\.jsonl.*checkpoint-2"):
        train(model, tmp_path / "run", spec(), save_every=2)
    monkeypatch.undo()
    train(model, tmp_path / "run", spec(), save_every=2, resume=True)
    assert len(losses(tmp_path / "run")) == 6


def test_no_space_for_a_checkpoint(model, tmp_path, monkeypatch):
    usage = shutil.disk_usage

    def full(path):
        done = (tmp_path / "run" / "stage-1" / "checkpoint-2" / COMPLETE).exists()
        return usage(path)._replace(free=10) if done else usage(path)

    monkeypatch.setattr("ropesearch.training.trainer.shutil.disk_usage", full)
    with pytest.raises(OSError, match=r"no space for the checkpoint .*checkpoint-4: it needs .*checkpoint-2 is whole"):
        train(model, tmp_path / "run", spec(), save_every=2)
    monkeypatch.undo()
    assert RunFolder(tmp_path / "run").checkpoint(0)[1] == 2


def test_arguments_are_those_of_transformers(tmp_path):
    file = tmp_path / "train.yaml"
    file.write_text("optim: adafactor\nlogging_steps: 5\nlearning_rate: 1e-4\nfsdp_config: {version: 2}\n")
    read = read_arguments(file)
    made = make_config(read, output_dir=str(tmp_path / "x"), activation_checkpointing=False, bf16=False)
    assert (made.optim, made.logging_steps, made.learning_rate) == ("adafactor", 5, 1e-4)
    for text, message in [
        ("learning_rat: 1", "no training argument 'learning_rat'; did you mean learning_rate"),
        ("max_steps: 3", "max_steps is not for a file: it is set by --tokens"),
        ("packing: true", "it is set by train itself"),
        ("parallelism_config: {}", "set by the configuration file of accelerate launch"),
        ("model_init_kwargs: 3", "model_init_kwargs must be a mapping"),
        ("- a", "must hold training arguments"),
        ("a: [", "is not YAML"),
    ]:
        file.write_text(text)
        with pytest.raises(InputError, match=message):
            read_arguments(file)
    with pytest.raises(InputError, match="logging_steps: invalid float value: 'often'"):
        make_config({"logging_steps": "often"})


def test_processes_that_share_rows_take_them_in_turn():
    assert order_for_parts(6, 0, 2, 1, 1) == [0, 1, 2, 3, 4, 5]
    assert order_for_parts(5, 3, 2, 1, 1) == [3, 4, 0, 1, 2, 3]
    rows, parts, groups, at_once = 37, 2, 3, 2
    read = order_for_parts(rows, 5, parts, groups, at_once)
    batches = [read[i : i + at_once] for i in range(0, len(read), at_once)]
    trained = []
    for begin in range(0, len(batches), parts * groups):  # what each process reads in one round
        own = batches[begin : begin + parts * groups]
        for part in range(parts):
            for group in range(groups):
                trained += own[group * parts + part]
    assert trained == [(i + 5) % rows for i in range(len(trained))]
    assert len(trained) >= rows


def test_the_model_is_loaded_as_asked(model, tmp_path, monkeypatch):
    seen = []
    step = StageTrainer.compute_loss

    def watched(self, *args, **options):
        seen.append(self.model.config._attn_implementation)
        return step(self, *args, **options)

    monkeypatch.setattr(StageTrainer, "compute_loss", watched)
    train(model, tmp_path / "run", spec(1), arguments={"model_init_kwargs": {"attn_implementation": "eager"}})
    assert set(seen) == {"eager"}
    train(model, tmp_path / "other", spec(1))
    assert losses(tmp_path / "other") == pytest.approx(losses(tmp_path / "run"), abs=1e-5)


def test_what_does_not_go_together(model, tmp_path):
    with pytest.raises(InputError, match="2 rows of 48, which do not go evenly into 1 processes with 4 rows"):
        train(model, tmp_path / "run", spec(2), arguments={"per_device_train_batch_size": 4})
    with pytest.raises(InputError, match="32"):
        train(model, tmp_path / "run2", spec(2, scheme="table2"))
    with pytest.raises(InputError, match="less than one row"):
        train(model, tmp_path / "run3", spec(stages=[(None, 48 * 2**12, 1)], batch_tokens=48 * 2**12))
