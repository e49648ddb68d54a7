"""What training through `ropesearch train` costs, beside a bare loop of transformers' Trainer; run in turn.

Three trainings of the same rows of the same model: a bare Trainer, ours with the stock model, ours with a base per KV
head. Each takes its steps in turn with the others, in one process; of each step the processor's time counts (the
clock's on a GPU), and ratios are taken step by step. `--memory` instead trains a few steps at `--length`, and prints
the highest memory of the process.

    python benchmarks/train.py MODEL [--length 1024] [--steps 12]
    python benchmarks/train.py MODEL --memory --length 4096
"""

import argparse
import json
import resource
import statistics
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import torch
import transformers
from transformers import Trainer, TrainerCallback, TrainingArguments

from ropesearch import apply_bases, load_model, uniform_bases
from ropesearch.core.model_source import ModelSource
from ropesearch.training import models
from ropesearch.training.data import Rows, TokenFile
from ropesearch.training.run import train_model
from ropesearch.training.spec import Stage, TrainSpec
from ropesearch.training.trainer import Collator


def clock():
    if not torch.cuda.is_available():
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


class Turns(TrainerCallback):
    """Let several trainings take their steps in turn, each in a thread of its own, and time every step."""

    def __init__(self, n):
        self.n, self.turn, self.condition, self.seconds = n, 0, threading.Condition(), [[] for _ in range(n)]

    def of(self, i):  # noqa: D102
        turns = self

        class Own(TrainerCallback):
            def on_step_begin(self, *_, **__):
                with turns.condition:
                    turns.condition.wait_for(lambda: turns.turn == i)
                self.start = clock()

            def on_log(self, *_, **__):  # after the step, what our own line of metrics takes included
                if hasattr(self, "start"):
                    turns.seconds[i].append(clock() - self.start)
                    del self.start
                    turns.next(i)

        return Own()

    def next(self, i):  # noqa: D102
        with self.condition:
            self.turn = (i + 1) % self.n
            self.condition.notify_all()


def write_text(path, tokenizer, tokens):
    random = np.random.default_rng(0)
    ids = random.integers(1000, len(tokenizer), tokens)
    path.write_text(json.dumps({"text": tokenizer.decode(ids)}) + "\n")


def spec(arguments):
    length = arguments.length
    return TrainSpec(stages=(Stage(None, length, length * arguments.steps),), batch_tokens=length)


def bare(arguments, folder, file, rows, callback):
    model, _ = load_model(arguments.model, dtype="float32")
    collate = Collator(file, rows, mask_documents=False)
    on_gpu = torch.cuda.is_available()
    return Trainer(
        model.train(),
        TrainingArguments(
            folder / "bare", max_steps=arguments.steps, per_device_train_batch_size=1, learning_rate=2e-5,
            adam_beta2=0.95, warmup_steps=20, lr_scheduler_type="constant_with_warmup", logging_steps=1,
            save_strategy="no", train_sampling_strategy="sequential", remove_unused_columns=False, report_to="none",
            bf16=on_gpu, use_cpu=not on_gpu, dataloader_pin_memory=False, disable_tqdm=True,
            activation_checkpointing=on_gpu or arguments.length >= models.CHECKPOINTED_FROM,
        ),
        data_collator=lambda examples: {k: v for k, v in collate(examples).items() if k != "row"},
        train_dataset=[{"row": i} for i in range(len(rows))],
        callbacks=[callback],
    )  # fmt: skip


def compare(arguments, folder, text):
    from ropesearch.training.trainer import StageTrainer

    prepared = folder / "prepared"
    train_model(arguments.model, [text], prepared, spec(argparse.Namespace(**vars(arguments) | {"steps": 1})))
    file = TokenFile.open(next((prepared / "tokens").iterdir()))
    rows = Rows.load(prepared / "order-1.npz")
    rows = Rows(rows.length, np.arange(arguments.steps + 1), np.tile(rows.begin[:1], arguments.steps),
                np.full(arguments.steps, rows.length), 1.0)  # fmt: skip

    turns = Turns(3)
    config = models.stock_config(ModelSource.find(arguments.model))
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    base_set = uniform_bases(1e6, 5e6, heads, kv_heads=kv_heads, head_dim=head_dim)

    def ours(i, per_head):
        from ropesearch.training.folder import RunFolder
        from ropesearch.training.run import _Run

        place = folder / f"ours-{i}"
        place.mkdir()
        run = _Run(RunFolder(place), spec(arguments), {"use_cpu": not torch.cuda.is_available()}, 10**6, 1, None, print)
        model, tokenizer = load_model(arguments.model, dtype="float32")
        if per_head:
            apply_bases(model, base_set)
        trainer = StageTrainer(
            model.train(), run._config(0), tokenizer=tokenizer, file=file, rows=rows, order=range(len(rows)),
            folder=run.folder, number=0, mask_documents=False, keep=1, before=0,
            log_line=lambda line: run._log(0, 0, line), step_done=lambda step: None,
        )  # fmt: skip
        trainer.add_callback(turns.of(i))
        trainer.args.save_strategy = "no"
        return trainer

    # All are made before any begins: each sets up the devices anew.
    trainers = [bare(arguments, folder, file, rows, turns.of(0)), ours(1, per_head=False), ours(2, per_head=True)]
    trainers[0].remove_callback(transformers.PrinterCallback)
    threads = [threading.Thread(target=trainer.train, daemon=True) for trainer in trainers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    plain, stock, bases = (np.array(seconds[2:]) for seconds in turns.seconds)  # the first warm up
    print(f"{len(plain)} steps of {arguments.length} tokens, medians:")
    print(f"  bare Trainer              {statistics.median(plain):7.3f} s")
    for name, mine, other in [("train, stock", stock, plain), ("train, a base per KV head", bases, stock)]:
        ratio = statistics.median(mine / other)
        against = "bare Trainer" if other is plain else "stock"
        print(f"  {name:26}{statistics.median(mine):7.3f} s   {100 * (ratio - 1):+5.1f} % against {against}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--length", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--memory", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    where = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU, 1 thread"
    print(f"torch {torch.__version__}, transformers {transformers.__version__}, {where}")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_text(
            folder / "text.jsonl", models.load_tokenizer(ModelSource.find(arguments.model)), 2 * arguments.length
        )
        if arguments.memory:
            made = spec(argparse.Namespace(**vars(arguments) | {"steps": 2}))
            train_model(arguments.model, [folder / "text.jsonl"], folder / "run", made)
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
            print(f"2 steps of {arguments.length} tokens: at most {peak / 1e9:.2f} GB")
        else:
            compare(arguments, folder, folder / "text.jsonl")


if __name__ == "__main__":
    main()
