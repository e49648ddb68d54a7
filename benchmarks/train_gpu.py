"""Training steps on a GPU against `train --plan`: peak memory, and time for each step, by the length of a row.

    python benchmarks/train_gpu.py [--lengths 8192,32768,131072] [--gpu h200]

The model has the shape of Llama-3.2-1B, random weights and a base per KV head. Four rows are trained. Needs the extra
`train` and a GPU with 80 GB.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from ropesearch import uniform_bases

COMMAND = [sys.executable, "-P", "-m", "ropesearch", "train", "model", "--scheme", "harpe:bases.json"]
RUN = """
import sys, time, torch
from transformers import Trainer
from ropesearch.cli import main

times = []
step = Trainer.training_step

def timed(*args, **options):
    torch.cuda.synchronize()
    start = time.perf_counter()
    result = step(*args, **options)
    torch.cuda.synchronize()
    times.append(time.perf_counter() - start)
    return result

Trainer.training_step = timed
code = main(sys.argv[1:])
peaks = torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()
print("RESULT", code, *peaks, sorted(times)[len(times) // 2])
"""


def make_model(folder):
    config = LlamaConfig(
        vocab_size=128256, hidden_size=2048, intermediate_size=8192, num_hidden_layers=16, num_attention_heads=32,
        num_key_value_heads=8, head_dim=64, rope_parameters={"rope_type": "default", "rope_theta": 500000.0},
        tie_word_embeddings=True, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    torch.manual_seed(0)
    with torch.device("cuda"):
        LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    tokenizer = Tokenizer(models.WordLevel({f"w{i}": i for i in range(1000)}, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="w0", pad_token="w0").save_pretrained(folder)


def make_text(path, length):
    words = np.random.default_rng(0).integers(0, 1000, (8, length))
    path.write_text("".join(json.dumps({"text": " ".join(f"w{i}" for i in row)}) + "\n" for row in words))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", default="8192,32768,131072")
    parser.add_argument("--gpu", default="h200", help="as `train --plan` knows it")
    arguments = parser.parse_args()
    lengths = [int(length) for length in arguments.lengths.split(",")]
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, 1.2 billion parameters")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_model(folder / "model")
        make_text(folder / "text.jsonl", max(lengths))
        uniform_bases(1e6, 5e6, 32, kv_heads=8, head_dim=64).save(folder / "bases.json")
        for length in lengths:
            options = ["--length", str(length), "--tokens", str(4 * length), "--batch-tokens", str(length)]
            planned = subprocess.run(
                [*COMMAND, "--plan", *options, "--gpu", arguments.gpu, "--json"],
                cwd=folder, check=True, capture_output=True, text=True,
            )  # fmt: skip
            plan = sum(json.loads(planned.stdout)["memory"].values())
            run = [
                sys.executable,
                "-P",
                "-c",
                RUN,
                *COMMAND[4:],
                "--data",
                "text.jsonl",
                *options,
                "-o",
                f"run{length}",
            ]
            done = subprocess.run(run, cwd=folder, check=True, capture_output=True, text=True)
            result = next(line for line in done.stdout.splitlines() if line.startswith("RESULT")).split()
            allocated, reserved, seconds = (float(word) for word in result[2:])
            print(
                f"  {length:7} tokens  {seconds:6.2f} s a step, {length / seconds:7.0f} tokens/s  "
                f"allocated {allocated / 1e9:5.1f} GB, reserved {reserved / 1e9:5.1f} GB, planned {plan / 1e9:5.1f} GB"
            )


if __name__ == "__main__":
    main()
