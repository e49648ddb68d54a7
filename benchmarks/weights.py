"""Memory that writing a checkpoint anew takes, beside transformers' from_pretrained and save_pretrained.

A Llama of random weights is made in a temporary folder, in float32 and one file; both write it in bfloat16, in shards,
in a process of their own. The peak is that of resident memory, with what of the old file is mapped into it.

    python benchmarks/weights.py [--gigabytes 4] [--max-shard-size 500MB]
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
import transformers

from ropesearch import uniform_bases

STOCK = """import sys
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype="bfloat16")
model.save_pretrained(sys.argv[2], max_shard_size=sys.argv[3])"""
OURS = """import sys
from ropesearch import BaseSet, apply_to_checkpoint
folder, output, size = sys.argv[1:]
apply_to_checkpoint(folder, BaseSet.load(folder + "/bases.json"), output, dtype="bfloat16", max_shard_size=size)"""
IMPORTS = "import torch, transformers.modeling_utils, ropesearch.model"


def peak(code, *arguments):
    """Peak memory of a process in bytes, and its seconds. One stands between: the peak is that of all its children."""
    measured = f"""import resource, subprocess, sys
subprocess.run([sys.executable, "-P", "-c", {code!r}, *sys.argv[1:]], check=True, stderr=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"""
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-P", "-c", measured, *map(str, arguments)], check=True, capture_output=True)
    return int(done.stdout) * 1024, time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=4)
    parser.add_argument("--max-shard-size", default="500MB")
    arguments = parser.parse_args()
    transformers.utils.logging.disable_progress_bar()
    layers = max(1, round(arguments.gigabytes * 1e9 / 4 / 67.1e6))
    config = transformers.LlamaConfig(
        vocab_size=1000, hidden_size=2048, intermediate_size=8192, num_hidden_layers=layers, num_attention_heads=16
    )
    print(f"torch {torch.__version__}, transformers {transformers.__version__}")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place, "model")
        transformers.LlamaForCausalLM(config).save_pretrained(folder)
        uniform_bases(1e6, 5e6, 16).save(folder / "bases.json")
        size = (folder / "model.safetensors").stat().st_size
        print(f"{size / 1e9:.2f} GB in float32, to bfloat16 in shards of {arguments.max_shard_size}; peak memory:")
        print(f"  {'imports alone':34} {peak(IMPORTS)[0] / 1e9:.2f} GB")
        for name, code in (("ropesearch apply", OURS), ("from_pretrained, save_pretrained", STOCK)):
            bytes_, seconds = peak(code, folder, Path(place, name), arguments.max_shard_size)
            print(f"  {name:34} {bytes_ / 1e9:.2f} GB   {seconds:.0f} s")


if __name__ == "__main__":
    main()
